"""The stage-1 network: known answers, propagation, tiles' requirement, saving."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from unsmear.models.common import bands
from unsmear.models.common.warp import warp
from unsmear.models.cpfp.alignment import CPFA
from unsmear.models.cpfp.deconvolution import richardson_lucy
from unsmear.models.cpfp.full_size import neighbour_changes
from unsmear.models.cpfp.network import CPFP, DECONVOLVED, CPFPConfig, PriorTensors

TINY = CPFPConfig(
    channels=8,
    encoder_depth=1,
    body_depth=1,
    decoder_depth=1,
    offset_groups=2,
    line_taps=5,
    line_blocks=1,
    neighbours=True,
)

DEEP = {"deep_channels": [8, 12, 16], "deep_depths": [1, 2, 1], "coarse_deconvolve": [3], "line_taps": 0}


def tiny(**changes) -> CPFP:
    torch.manual_seed(0)
    model = CPFP.build(CPFPConfig(**{**vars(TINY), **changes}))
    for parameter in model.parameters():  # away from the start values, so that every path counts
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model.eval()


def priors(t: int, h: int, w: int, *, seed: int = 0, motion: float = 1.0, duty: float = 0.5) -> PriorTensors:
    g = torch.Generator().manual_seed(seed)
    reset, reset_back = torch.zeros(1, t, dtype=torch.bool), torch.zeros(1, t, dtype=torch.bool)
    reset[:, 0], reset_back[:, -1] = True, True
    return PriorTensors(
        torch.randn(1, t, 2, h // 8, w // 8, generator=g) * motion,
        torch.randn(1, t, 2, h // 8, w // 8, generator=g) * motion,
        torch.rand(1, t, 1, h // 4, w // 4, generator=g),
        reset,
        reset_back,
        torch.full((1, t), duty),
    )


def cut(p: PriorTensors, where: slice) -> PriorTensors:
    return PriorTensors(*(field[:, where] for field in p))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("limit", [None, 4.0])
def test_an_untrained_block_is_a_warp_scaled_by_the_residual(order, limit):
    torch.manual_seed(1)
    block = CPFA(8, 2, order, limit)
    sources = [torch.randn(2, 8, 10, 12) for _ in range(order)]
    motions = [torch.randn(2, 2, 10, 12) * 3 for _ in range(order)]
    residual = torch.rand(2, 1, 10, 12)
    expected = torch.sigmoid(residual) * warp(sources[0], motions[0])
    torch.testing.assert_close(block(sources, motions, residual), expected, atol=1e-5, rtol=1e-5)


def test_an_untrained_network_returns_nearly_its_input_or_the_deconvolved_input():
    torch.manual_seed(0)
    frames, p = torch.rand(1, 3, 3, 32, 48), priors(3, 32, 48)
    for iterations in ([], [2]):
        model = CPFP.build(replace(TINY, deconvolve=iterations)).eval()
        start = frames.clone()
        for i in range(3) if iterations else ():
            line = model._blur(model._to_feature_grid(p, (8, 12)), i)
            [undone] = richardson_lucy(frames[:, i], line, model.line_samples(p), (2,))
            start[:, i] += DECONVOLVED * (undone - frames[:, i])
        assert (model(frames, p).frames - start).abs().mean() < 0.02


@pytest.mark.parametrize(
    "changes", [{}, {"passes": ["forward", "backward", "forward", "backward"]}, DEEP], ids=["two", "four", "deep"]
)
def test_every_frame_depends_on_past_and_future_frames(changes):
    model = tiny(**changes)
    frames = torch.rand(1, 4, 3, 32, 32)
    p = priors(4, 32, 32)
    base = model(frames, p).frames
    for changed in (0, 3):
        other = frames.clone()
        other[:, changed] += 0.2
        moved = (model(other, p).frames - base).abs().amax((0, 2, 3, 4))
        assert (moved > 0).all(), f"frame {changed} does not reach all frames: {moved}"


@pytest.mark.parametrize("changes", [{}, DEEP], ids=["flat", "deep"])
def test_a_frame_without_motion_is_unchanged(changes):
    p = priors(3, 32, 32)
    p.reset[:, 1], p.reset_back[:, 1] = True, True
    frames = (torch.rand(1, 3, 3, 32, 32) * 255).byte()
    restored = tiny(**changes)(frames, p).frames
    assert torch.equal(restored[:, 1], frames[:, 1].float() / 255)
    assert not torch.equal(restored[:, 0], frames[:, 0].float() / 255)


def test_a_deep_network_accepts_sides_that_are_no_multiple_of_its_coarsest_cell():
    assert tiny(**DEEP)(torch.rand(1, 2, 3, 48, 80), priors(2, 48, 80)).frames.shape == (1, 2, 3, 48, 80)


def test_a_reset_separates_shots():
    model = tiny()
    frames = torch.rand(1, 4, 3, 32, 32)
    p = priors(4, 32, 32)
    p.reset[:, 2] = True
    p.reset_back[:, 1] = True
    base = model(frames, p).frames
    other = frames.clone()
    other[:, :2] = torch.rand(1, 2, 3, 32, 32)
    torch.testing.assert_close(model(other, p).frames[:, 2:], base[:, 2:], atol=0, rtol=0)


@pytest.mark.parametrize("changes", [{}, DEEP], ids=["flat", "deep"])
def test_state_carries_the_first_forward_pass_exactly(changes):
    """Chunks with look-ahead to the end of the video equal the whole: nothing but the state links them."""
    model = tiny(**changes)
    frames = torch.rand(1, 1, 3, 32, 32) + 0.02 * torch.rand(1, 8, 3, 32, 32)
    p = priors(8, 32, 32)
    whole = model(frames, p).frames
    first = model(frames, p, None, output_frames=3)
    second = model(frames[:, 3:], cut(p, slice(3, None)), first.state, look=first.look)
    joined = torch.cat([first.frames, second.frames], 1)
    torch.testing.assert_close(joined, whole, atol=1e-6, rtol=1e-6)
    blind = model(frames[:, 3:], cut(p, slice(3, None)), first.state)
    assert not torch.allclose(blind.frames[:, 0], whole[:, 3], atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"deconvolve": []}, DEEP], ids=["flat", "plain", "deep"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("levels", [1, 255, 65535])
def test_full_size_planes_are_the_same_on_a_cpu(changes, threads, levels, monkeypatch):
    """In bands, by several threads, with OpenCV, without gradients: as torch makes them, look and state included."""
    monkeypatch.setattr(bands, "_BAND_PIXELS", 64 * 8)
    torch.set_num_threads(threads)
    model, p = tiny(**changes), priors(4, 48, 64, motion=6.0)
    p.reset[:, 2], p.reset_back[:, 1] = True, True
    frames = F.avg_pool2d(torch.rand(4, 3, 48, 64), 5, 1, 2)[None]
    if levels > 1:
        frames = (frames * levels).to(torch.uint8 if levels == 255 else torch.int32)
    expected = model(frames, p, None, 2)
    others = model(frames[:, 2:], cut(p, slice(2, None)), expected.state, look=expected.look)
    with torch.inference_mode():
        made = model(frames, p, None, 2)
        torch.testing.assert_close(made.frames, expected.frames, atol=2e-3, rtol=0)
        torch.testing.assert_close(made.state, expected.state, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(made.look, expected.look, atol=2e-3, rtol=0)
        made = model(frames[:, 2:], cut(p, slice(2, None)), expected.state, look=expected.look)
        torch.testing.assert_close(made.frames, others.frames, atol=2e-3, rtol=0)


def test_neighbours_are_used_where_they_match():
    """Of a still scene the difference itself; of another scene, or beyond a cut, nothing."""
    p = priors(3, 32, 32, motion=0.0)
    frames = 0.5 + 0.002 * torch.rand(3, 3, 32, 32)
    looks = [torch.cat([f, f + 0.1 * k])[None] for k, f in enumerate(frames)]
    before, after = neighbour_changes(looks, p, 1)
    torch.testing.assert_close(before, frames[:1] - frames[1:2] - 0.1, atol=2e-3, rtol=0)
    torch.testing.assert_close(after, frames[2:] - frames[1:2] + 0.1, atol=2e-3, rtol=0)
    other = [looks[0], looks[1], torch.cat([1 - looks[2][:, :3], looks[2][:, 3:]], 1) + 0.3]
    assert neighbour_changes(other, p, 1)[1].abs().max() < 1e-6
    assert not neighbour_changes([None, *looks[1:]], p, 1)[0].any()
    p.reset[:, 1] = True
    assert not neighbour_changes(looks, p, 1)[0].any()


def test_ablations_ignore_motion_or_residual():
    frames = torch.rand(1, 3, 3, 32, 32)
    without_motion = tiny(use_motion=False)
    a, b = priors(3, 32, 32, seed=1), priors(3, 32, 32, seed=2)
    same_residual = b._replace(residual=a.residual)
    torch.testing.assert_close(without_motion(frames, a).frames, without_motion(frames, same_residual).frames)
    without_residual = tiny(use_residual=False)
    torch.testing.assert_close(
        without_residual(frames, a).frames, without_residual(frames, a._replace(residual=b.residual)).frames
    )
    assert not torch.equal(tiny()(frames, a).frames, tiny()(frames, same_residual).frames)


def test_the_receptive_field_is_bounded():
    """No frame-wide statistics: a change beyond the receptive field changes nothing."""
    model = tiny()
    frames = torch.rand(1, 2, 3, 32, 768)
    p = priors(2, 32, 768, motion=0.5)
    other = frames.clone()
    other[..., 656:] = torch.rand_like(other[..., 656:])  # beyond what low frequencies reach
    base, moved = model(frames, p).frames, model(other, p).frames
    torch.testing.assert_close(moved[..., :200], base[..., :200], atol=0, rtol=0)
    assert not torch.equal(moved, base)


@pytest.mark.parametrize("changes", [{}, DEEP], ids=["flat", "deep"])
def test_save_and_load(tmp_path, changes):
    model = tiny(**changes)
    model.save_pretrained(tmp_path)
    again = CPFP.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    frames, p = torch.rand(1, 2, 3, 32, 32), priors(2, 32, 32)
    torch.testing.assert_close(again(frames, p).frames, model(frames, p).frames, atol=0, rtol=0)


@pytest.mark.parametrize("changes", [{}, DEEP], ids=["flat", "deep"])
def test_one_step_of_training_reaches_every_parameter(changes):
    model = tiny(**changes).train()
    frames = torch.rand(1, 3, 3, 32, 32)
    model(frames, priors(3, 32, 32)).frames.square().mean().backward()
    dead = [n for n, q in model.named_parameters() if q.grad is None or not q.grad.abs().sum() > 0]
    assert not dead


def test_the_papers_preset_has_the_size_of_the_release():
    with torch.device("meta"):
        model = CPFP.build(CPFPConfig.preset("paper"))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(31.6e6, rel=2e-3)
    with pytest.raises(ValueError, match="preset 'pap'"):
        CPFPConfig.preset("pap")


def test_second_order_runs():
    small = tiny(order=2, passes=["forward", "backward", "forward", "backward"], offset_limit=None)
    assert small(torch.rand(1, 3, 3, 32, 32), priors(3, 32, 32)).frames.shape == (1, 3, 3, 32, 32)


def test_wrong_configurations_are_refused():
    with pytest.raises(ValueError, match="forward as the first"):
        tiny(passes=["backward", "forward"])
    with pytest.raises(ValueError, match="order"):
        tiny(order=3)
    with pytest.raises(ValueError, match="odd"):
        tiny(line_taps=4)


@pytest.mark.parametrize("changes", [{}, DEEP], ids=["flat", "deep"])
def test_bfloat16_stays_close_to_float32(changes):
    model = tiny(**changes)
    frames, p = torch.rand(1, 3, 3, 32, 32), priors(3, 32, 32)
    exact = model(frames, p).frames
    coarse = torch.nn.Module.to(model, torch.bfloat16)(frames, p).frames
    assert (coarse - exact).abs().max() < 0.03


def test_diverging_features_are_set_to_zero():
    """Weights that amplify what is handed on overflow in a long clip; with a limit every frame stays finite."""
    frames = torch.rand(1, 40, 3, 32, 32)
    for limit, finite in ((None, False), (4.0, True)):
        model = tiny(state_limit=limit)
        with torch.no_grad():
            for body in model.body:
                for parameter in body.parameters():
                    parameter.mul_(30)
        restored = model(frames, priors(40, 32, 32)).frames
        assert bool(torch.isfinite(restored).all()) is finite
