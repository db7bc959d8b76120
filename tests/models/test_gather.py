"""Reads the fast way, without gradients, equal reads the general way."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unsmear.models.common.gather import corners_of, fast, read_rows
from unsmear.models.common.warp import deform_conv2d, pixel_grid, sample
from unsmear.models.cpfp.alignment import CPFA
from unsmear.models.cpfp.motion_line import LineBlock


def both(function, *arguments: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    """(the general way, the fast way)."""
    with torch.enable_grad():
        assert not fast(arguments[0])
        general = function(*arguments).detach()
    with torch.inference_mode():
        assert fast(arguments[0])
        return general, function(*arguments)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["zeros", "border"]), st.integers(2, 12), st.integers(2, 12), st.integers(0, 99))
def test_samples_agree_inside_at_and_outside_the_border(padding: str, height: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    image = torch.randn(1, 8, height, width)
    positions = pixel_grid(height, width, image)[None] + 4 * torch.randn(1, 2, height, width)
    whole = positions.round() if seed % 2 else positions
    general, quick = both(lambda i, p: sample(i, p, padding), image, whole)
    assert torch.allclose(general, quick, atol=2e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_deformable_convolution_agrees(groups: int) -> None:
    torch.manual_seed(groups)
    x, weight, bias = torch.randn(1, 16, 9, 13), torch.randn(6, 16, 3, 3), torch.randn(6)
    offset, mask = 3 * torch.randn(1, groups * 18, 9, 13), torch.rand(1, groups * 9, 9, 13)
    general, quick = both(deform_conv2d, x, offset, mask, weight, bias)
    assert torch.allclose(general, quick, atol=1e-4)


@pytest.mark.parametrize("order", [1, 2])
def test_alignment_agrees(order: int) -> None:
    torch.manual_seed(0)
    block = CPFA(8, 2, order)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    sources = [torch.randn(1, 8, 10, 12) for _ in range(order)]
    motions = [3 * torch.randn(1, 2, 10, 12) for _ in range(order)]
    general, quick = both(lambda r: block(sources, motions, r), torch.rand(1, 1, 10, 12))
    assert torch.allclose(general, quick, atol=1e-4)


def test_blocks_along_the_line_agree() -> None:
    torch.manual_seed(1)
    block = LineBlock(8)
    blur = 5 * torch.randn(1, 2, 10, 12)
    general, quick = both(lambda x: block(x, blur), torch.randn(1, 8, 10, 12))
    assert torch.allclose(general, quick, atol=1e-4)


def test_bfloat16_is_read_without_leaving_it() -> None:
    image = torch.randn(1, 8, 6, 7, dtype=torch.bfloat16)
    with torch.inference_mode():
        still = sample(image, pixel_grid(6, 7, image.float())[None], "border")
    assert still.dtype == torch.bfloat16
    assert torch.equal(still, image)


def test_a_read_between_four_pixels_is_their_mean() -> None:
    table = torch.arange(6.0)[:, None]  # 2×3 pixels
    corners = corners_of(torch.tensor([1.5]), torch.tensor([0.5]), 2, 3)
    assert read_rows(table, corners).item() == pytest.approx((1 + 2 + 4 + 5) / 4)
