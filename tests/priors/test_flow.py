"""Motion from other sources in the codec's place, and priors as pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.clips import moving_frames
from support.foreign_layouts import raft_names
from unsmear.errors import UsageError
from unsmear.models.motion_sources import find_source
from unsmear.models.raft import renamed
from unsmear.priors import Prior, PriorSettings, stream
from unsmear.priors.flow import CodecMotion, DisFlow, MotionSource, NoMotion, ReplacedMotion, flow_to_grid
from unsmear.priors.pictures import colour_wheel, motion_picture, sheet
from unsmear.video import Frame
from unsmear.video.colour import luma_of_rgb


def shot_of(rgb: np.ndarray) -> Frame:
    return Frame(0, None, 0.0, rgb, luma_of_rgb(rgb))


STEP = (4, -2)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Frame, Prior]]:
    """Two shots of four frames."""
    dark = [rgb // 3 for rgb in moving_frames((128, 96), 4, step_px=STEP, seed=5)]
    frames = moving_frames((128, 96), 4, step_px=STEP) + dark
    return list(stream(map(shot_of, frames), PriorSettings(chunk_frames=3)))


def replaced(pairs, forward: MotionSource, backward: MotionSource) -> tuple[list[Prior], ReplacedMotion]:
    both = ReplacedMotion(forward, backward)
    out = list(both.of(iter(pairs)))
    assert all(shot is other for (shot, _), (other, _) in zip(out, pairs, strict=True))
    return [prior for _, prior in out], both


def test_the_codecs_motion_is_left_alone(pairs):
    priors, _ = replaced(pairs, CodecMotion(), CodecMotion())
    assert all(prior is old for prior, (_, old) in zip(priors, pairs, strict=True))


@pytest.mark.parametrize("forward", ["mv", "dis", "none"])
@pytest.mark.parametrize("backward", ["mv", "dis", "none"])
def test_either_way_can_be_replaced_by_itself(pairs, forward, backward):
    priors, both = replaced(pairs, find_source(forward), find_source(backward))
    for prior, (_, old) in zip(priors, pairs, strict=True):
        assert (prior.reset, prior.reset_back, prior.origin) == (old.reset, old.reset_back, old.origin)
        assert np.array_equal(prior.residual, old.residual)
        for now, before, source, sign, reset in (
            (prior.motion_q, old.motion_q, forward, -1, prior.reset),
            (prior.motion_back_q, old.motion_back_q, backward, 1, prior.reset_back),
        ):
            if source == "mv":
                assert np.array_equal(now, before)
            elif source == "none" or reset:
                assert not now.any()
            else:
                np.testing.assert_allclose(np.median(now, (0, 1)) / 4, np.multiply(sign, STEP), atol=0.25)
    for cost, name in zip(both.costs, (forward, backward), strict=True):
        report = cost.as_dict()
        assert report["source"] == name and report["fields"] == (0 if name == "mv" else 6)
        assert (report["gflops_a_field"] > 0) == (name == "dis")
        assert report["seconds_a_field"] >= 0


def test_a_stream_takes_its_motion_from_the_sources_asked_for(pairs):
    frames = [shot for shot, _ in pairs]
    found = stream(frames, PriorSettings(motion="dis", motion_back="none", chunk_frames=3))
    expected, both = replaced(pairs, DisFlow(), NoMotion())
    for (shot, prior), other, frame in zip(found, expected, frames, strict=True):
        assert shot is frame
        for name in ("motion_q", "motion_back_q", "valid", "residual", "reset", "motion_source"):
            assert np.array_equal(getattr(prior, name), getattr(other, name)), name
    assert [(cost.source, cost.fields) for cost in found.costs] == [(cost.source, cost.fields) for cost in both.costs]


def test_a_source_gets_the_codecs_motion(pairs):
    class Recorder(NoMotion):
        seen: list[np.ndarray] = []  # noqa: RUF012

        def motion(self, picture, other, codec_q):
            self.seen.append(codec_q)
            return codec_q * 2

    priors, _ = replaced(pairs, Recorder(), CodecMotion())
    assert len(Recorder.seen) == 6 and np.array_equal(Recorder.seen[0], pairs[1][1].motion_q)
    assert np.array_equal(priors[1].motion_q, 2 * pairs[1][1].motion_q) and priors[1].valid.all()


def test_unknown_sources_are_named():
    for name in ("raft", "raft-0x", "farneback", ""):
        with pytest.raises(UsageError) as raised:
            find_source(name)
        assert "\n" not in str(raised.value)
    with pytest.raises(UsageError):
        DisFlow("slow")


def test_flow_becomes_the_mean_of_each_cell():
    flow = np.zeros((20, 30, 2), np.float32)
    flow[:8, :8] = (1.0, -2.13)
    grid = flow_to_grid(flow)
    assert grid.shape == (4, 4, 2) and tuple(grid[0, 0]) == (4, -9) and not grid[1:].any()
    with pytest.raises(ValueError, match="finite"):
        flow_to_grid(np.full((16, 16, 2), np.inf, np.float32))
    assert not DisFlow().motion(*[shot_of(np.zeros((8, 8, 3), np.uint8))] * 2, grid).any()


# RAFT.


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_rafts_own_layout_is_renamed(prefix):
    names = raft_names()
    state = {prefix + theirs: torch.tensor(float(i)) for i, theirs in enumerate(names)}
    found = renamed(state)
    assert found == {ours: state[prefix + theirs] for theirs, ours in names.items() if ours}
    assert renamed(found) == found, "torchvision's own is left as it is"


# RAFT, where torchvision is there.


@pytest.fixture(scope="module")
def raft():
    try:
        from torchvision.models.optical_flow import raft_small
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision is not installed or does not fit torch ({error})")
    torch.manual_seed(0)
    return raft_small(weights=None).eval()


def test_rafts_own_weights_fit_torchvisions_network(raft, tmp_path):
    from torchvision.models.optical_flow import raft_large

    state = raft_large(weights=None).state_dict()
    torch.save({f"module.{theirs}": state[ours] for theirs, ours in raft_names().items() if ours}, tmp_path / "t.pth")
    one, other = (torch.rand(1, 3, 128, 136) * 2 - 1 for _ in range(2))
    torch.save(state, tmp_path / "own.pth")
    own, theirs = (find_source("raft-2", tmp_path / name).flow(one, other) for name in ("own.pth", "t.pth"))
    assert torch.equal(own, theirs)


def test_our_loop_gives_torchvisions_flow(raft):
    from unsmear.models.raft import RaftFlow

    one, other = (torch.rand(1, 3, 128, 136) * 2 - 1 for _ in range(2))
    with torch.inference_mode():
        found, expected = RaftFlow(raft, 3).flow(one, other), raft(one, other, num_flow_updates=3)[-1]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_raft_starts_where_the_codec_points(raft, pairs):
    from unsmear.models.raft import RaftFlow

    with torch.no_grad():
        for parameter in raft.update_block.flow_head.parameters():
            parameter.zero_()  # every refinement is zero now, so the start is the result
    codec_q = pairs[1][1].motion_q
    found = RaftFlow(raft, 4, warm=True).motion(pairs[1][0], pairs[0][0], codec_q)
    np.testing.assert_allclose(np.median(found, (0, 1)), np.median(codec_q, (0, 1)), atol=1)
    assert not RaftFlow(raft, 4).motion(pairs[1][0], pairs[0][0], codec_q).any()
    few, many = (RaftFlow(raft, n).flops(96, 128) for n in (4, 20))
    assert 1e8 < few < many
    with pytest.raises(UsageError):
        RaftFlow(raft, 0)


# Pictures.


def test_colours_show_where_content_goes():
    def colour(dx: float, dy: float) -> tuple[int, ...]:
        return tuple(int(v) for v in motion_picture(np.float32([dx, dy]).reshape(2, 1, 1))[0, 0])

    assert colour(0, 0) == (255, 255, 255)
    red, cyan = colour(-16, 0), colour(16, 0)  # went right, went left
    assert red == (255, 0, 0) and cyan == (0, 255, 255)
    assert colour(-160, 0) == red and colour(-8, 0) != red
    wheel, inside = colour_wheel(33)
    for x, expected in ((32, red), (0, cyan), (16, (255, 255, 255))):
        np.testing.assert_allclose(wheel[16, x], expected, atol=2)
    assert inside[16, 16] and not inside[0, 0]


@pytest.mark.parametrize("size", [(128, 96), (33, 17), (1, 1)])
def test_sheets_hold_four_panels_of_any_size(size):
    frames = [shot_of(rgb) for rgb in moving_frames(size, 2)]
    for shot, prior in stream(frames):
        picture = sheet(shot.rgb, shot.luma, prior, "7")
        height, width = shot.luma.shape
        assert picture.dtype == np.uint8 and picture.shape[0] >= 2 * height and picture.shape[1] >= 2 * width
        assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
        assert np.array_equal(picture[22 : 22 + height, :width], shot.rgb)
