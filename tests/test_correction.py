"""No pattern of cells and no low frequencies in what is added to a frame."""

import torch
import torch.nn.functional as F

from spectrum import line_strengths
from unsmear.nn.correction import LOW_CELL, LOW_CELLS, motion_gate, pinned, shuffled


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


def everywhere(change: torch.Tensor) -> torch.Tensor:
    return pinned(change, torch.ones_like(change[:, :1]))


def test_low_frequencies_are_pinned_and_fine_ones_are_not():
    y = torch.arange(512).float()[:, None].expand(512, 640)
    slow, fine = 0.02 + 0.01 * torch.sin(y / 1000), 0.05 * torch.sin(2 * torch.pi * y / 8)
    assert everywhere(slow[None, None]).abs().max() < 5e-3
    assert everywhere(slow[None, None]).mean().abs() < 5e-4
    torch.testing.assert_close(everywhere(fine[None, None])[0, 0], fine, atol=5e-3, rtol=0)


def test_pinning_reaches_as_far_as_it_says():
    change = torch.zeros(1, 1, 16, 1024)
    change[..., 8, 512] = 1.0
    reached = (everywhere(change)[0, 0].nonzero()[:, 1] - 512).abs().max()
    assert LOW_CELL * (LOW_CELLS - 3) < reached <= LOW_CELL * (LOW_CELLS + 1)


def test_nothing_is_added_where_the_gate_is_shut_and_the_mean_stays_where_it_is_open():
    torch.manual_seed(0)
    change = 0.02 + 0.1 * torch.randn(1, 3, 128, 256)
    gate = torch.zeros(1, 1, 128, 256)
    gate[..., 128:] = 1
    kept = pinned(change, gate)
    assert not kept[..., :128].any()
    assert kept[..., 128:].mean().abs() < 1e-3
    assert not pinned(change, torch.zeros_like(gate)).any()


def test_the_gate_is_open_where_something_moves_or_lies_beside_it():
    motion, back = torch.zeros(1, 2, 8, 16), torch.zeros(1, 2, 8, 16)
    motion[..., 12:], back[..., :, 0] = 3.0, 9.0
    no, yes = torch.tensor([False]), torch.tensor([True])
    gate = motion_gate(motion, back, no, yes, (64, 128))  # what goes on is unknown: only V counts
    assert gate.shape == (1, 1, 64, 128)
    assert (gate[..., 96:] == 1).all() and (gate[..., 84:96] == 1).all()
    assert not gate[..., :72].any()
    assert not motion_gate(motion, back, yes, yes, (64, 128)).any()
    fine = torch.nn.functional.interpolate(motion, scale_factor=2)
    assert torch.equal(motion_gate(fine, fine, no, no, (64, 128))[..., 96:], gate[..., 96:])
