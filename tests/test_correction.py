"""No pattern of cells and no low frequencies in what is added to a frame."""

import pytest
import torch
import torch.nn.functional as F

from spectrum import line_strengths
from unsmear.nn.correction import LOW_CELL, LOW_CELLS, pinned, shuffled


def test_a_pattern_that_all_cells_share_is_taken_out():
    torch.manual_seed(0)
    values = 0.1 * torch.randn(1, 48, 40, 64)
    pattern = torch.randn(1, 48, 1, 1)
    plain = F.pixel_shuffle(values + pattern, 4)[0, 0]
    cured = shuffled(values + pattern, 4)[0, 0]
    assert max(line_strengths(plain.numpy())) > 100
    assert max(line_strengths(cured.numpy())) < 2


def test_what_varies_from_cell_to_cell_and_the_mean_of_a_cell_stay():
    torch.manual_seed(0)
    values = torch.randn(2, 32, 24, 24)
    out, plain = shuffled(values, 4), F.pixel_shuffle(values, 4)
    torch.testing.assert_close(F.avg_pool2d(out, 4), F.avg_pool2d(plain, 4), atol=1e-5, rtol=0)
    assert (out - plain).std() < 0.15 * plain.std()


def test_low_frequencies_are_pinned_and_fine_ones_are_not():
    y = torch.arange(512).float()[:, None].expand(512, 640)
    slow, fine = 0.02 + 0.01 * torch.sin(y / 1000), 0.05 * torch.sin(2 * torch.pi * y / 8)
    assert pinned(slow[None]).abs().max() < 5e-3
    assert pinned(slow[None]).mean().abs() < 5e-4
    torch.testing.assert_close(pinned(fine[None])[0], fine, atol=5e-3, rtol=0)


def test_pinning_reaches_as_far_as_it_says():
    change = torch.zeros(1, 16, 1024)
    change[0, 8, 512] = 1.0
    reached = (pinned(change)[0].nonzero()[:, 1] - 512).abs().max()
    assert LOW_CELL * (LOW_CELLS - 3) < reached <= LOW_CELL * (LOW_CELLS + 1)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 3, 32, 48)])
def test_shapes_stay(shape):
    assert pinned(torch.rand(shape)).shape == shape
