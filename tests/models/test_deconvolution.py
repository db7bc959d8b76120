"""Richardson–Lucy along the motion line: what it undoes, what it leaves alone, and both ways of running it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from support.clips import texture
from unsmear.models.cpfp import deconvolution
from unsmear.models.cpfp.deconvolution import MOST_SAMPLES, line_samples, richardson_lucy


def image(width: int = 96, height: int = 64, seed: int = 0) -> Tensor:
    return torch.from_numpy(texture((width, height), seed)).permute(2, 0, 1)[None].float() / 255


def line(dx: float, dy: float, height: int = 8, width: int = 12) -> Tensor:
    return torch.tensor([dx, dy])[None, :, None, None].expand(1, 2, height, width).contiguous()


def smeared(sharp: Tensor, length_px: int) -> Tensor:
    """Light averaged over a horizontal line of odd length."""
    padded = F.pad(sharp**2, (length_px // 2, length_px // 2, 0, 0), mode="replicate")
    return F.avg_pool2d(padded, (1, length_px), stride=1).sqrt()


def db(x: Tensor, y: Tensor) -> float:
    inner = (..., slice(12, -12), slice(12, -12))
    return float(-10 * torch.log10(((x[inner] - y[inner]) ** 2).mean()))


def test_a_known_blur_is_undone_further_with_every_iteration() -> None:
    sharp = image(seed=1)
    blurred = smeared(sharp, 9)
    blur = line(8, 0)
    results = richardson_lucy(blurred, blur, 9, (1, 3, 6))
    gains = [db(x, sharp) - db(blurred, sharp) for x in results]
    assert gains == sorted(gains)
    assert gains[0] > 0.5
    assert gains[-1] > 2.5


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 6).map(lambda k: 2 * k + 1))
def test_without_motion_nothing_changes(samples: int) -> None:
    still = image()
    [after] = richardson_lucy(still, torch.zeros(1, 2, 8, 12), samples, (6,))
    assert torch.allclose(after, still, atol=2e-3)


@pytest.mark.parametrize("samples", [3, 7, 13])
def test_opencv_and_torch_agree(samples: int) -> None:
    torch.manual_seed(0)
    frame, blur = image(), F.interpolate(torch.randn(1, 2, 4, 6) * 6, (64, 96), mode="bilinear")
    fast = deconvolution._on_cpu(frame, blur, samples, (3, 6))
    exact = deconvolution._on_device(frame, blur, deconvolution.line_points(samples), (3, 6))
    for a, b in zip(fast, exact, strict=True):
        assert float((a - b).abs().quantile(0.999)) < 2e-3  # half a level; OpenCV may read at 1/32 pixel


def test_every_frame_of_a_batch_is_on_its_own() -> None:
    frames = torch.cat([image(seed=1), image(seed=2)])
    blur = torch.cat([line(6, 0), line(0, 4)])
    both = richardson_lucy(frames, blur, 5, (2, 4))
    for i in range(2):
        for x, alone in zip(both, richardson_lucy(frames[i : i + 1], blur[i : i + 1], 5, (2, 4)), strict=True):
            assert torch.equal(x[i : i + 1], alone)


def test_results_are_pictures_even_where_the_line_is_wrong() -> None:
    harsh = (image() > 0.5).float()
    for x in richardson_lucy(harsh, line(25, 13), 13, (8,)):
        assert torch.isfinite(x).all()
        assert 0 <= float(x.min()) <= float(x.max()) <= 1


@pytest.mark.parametrize(("length", "samples"), [(0.0, 3), (2.0, 3), (5.0, 5), (10.0, 9), (200.0, MOST_SAMPLES)])
def test_longer_lines_are_read_at_more_points(length: float, samples: int) -> None:
    assert line_samples(line(length, 0)) == samples
    assert samples % 2 == 1
    several = torch.stack([line(0, 0), line(length, 0)])
    assert line_samples(several) == samples


def test_one_stray_vector_does_not_count() -> None:
    blur = torch.zeros(1, 2, 20, 20)
    blur[0, 0, 3, 3] = 90.0
    assert line_samples(blur) == 3
