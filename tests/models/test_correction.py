"""No pattern of cells and no low frequencies in what is added to a frame."""

import torch
import torch.nn.functional as F

from support.spectrum import line_strengths
from unsmear.models.cpfp.correction import LOW_CELL, LOW_CELLS, motion_gate, pinned, shuffled


def test_a_pattern_shared_by_all_cells_is_removed():
    torch.manual_seed(0)
    values = 0.1 * torch.randn(1, 48, 40, 64)
    pattern = torch.randn(1, 48, 1, 1)
    plain = F.pixel_shuffle(values + pattern, 4)[0, 0]
    cured = shuffled(values + pattern, 4)[0, 0]
    assert max(line_strengths(plain.numpy())) > 100
    assert max(line_strengths(cured.numpy())) < 2


def test_variation_between_cells_and_their_means_are_kept():
    torch.manual_seed(0)
    values = torch.randn(2, 32, 24, 24)
    out, plain = shuffled(values, 4), F.pixel_shuffle(values, 4)
    torch.testing.assert_close(F.avg_pool2d(out, 4), F.avg_pool2d(plain, 4), atol=1e-5, rtol=0)
    assert (out - plain).std() < 0.15 * plain.std()


def everywhere(frame: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    return pinned(frame, restored, torch.ones_like(frame[:, :1]))


def test_the_light_of_wide_areas_is_kept_and_detail_changes():
    torch.manual_seed(0)
    frame = 0.3 + 0.4 * torch.rand(1, 3, 1, 1).expand(1, 3, 256, 320)
    y = torch.arange(256).float()[:, None].expand(256, 320)
    brighter = frame + 0.02 + 0.01 * torch.sin(y / 1000)
    assert (everywhere(frame, brighter) - frame).abs().max() < 2e-3
    striped = (frame**2 + 0.08 * torch.sin(2 * torch.pi * y / 8)).sqrt()  # of the same mean light, darker as values
    assert (striped - frame).mean() < -0.002
    torch.testing.assert_close(everywhere(frame, striped), striped, atol=3e-3, rtol=0)


def test_pinning_has_the_documented_reach():
    frame = torch.full((1, 1, 16, 1024), 0.5)
    other = frame.clone()
    other[..., 8, 512] = 1.0
    reached = ((everywhere(frame, other) - frame)[0, 0].nonzero()[:, 1] - 512).abs().max()
    assert LOW_CELL * (LOW_CELLS - 3) < reached <= LOW_CELL * (LOW_CELLS + 1)


def test_a_closed_gate_adds_nothing_and_an_open_one_keeps_the_light():
    torch.manual_seed(0)
    frame = torch.full((1, 3, 128, 256), 0.5)
    restored = frame + 0.02 + 0.1 * torch.randn(frame.shape)
    gate = torch.zeros(1, 1, 128, 256)
    gate[..., 128:] = 1
    kept = pinned(frame, restored, gate)
    assert torch.equal(kept[..., :128], frame[..., :128])
    assert (kept**2 - frame**2)[..., 128:].mean().abs() < 2e-3
    assert torch.equal(pinned(frame, restored, torch.zeros_like(gate)), frame)


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
