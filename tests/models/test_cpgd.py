"""CPGD-Net stage 2: the control network, its guided attention and the sampler pipeline, on tiny random models."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
)

from support.tiny_pipeline import BETAS, control, pipeline, unet
from unsmear.models.common.latents import transfer_colour
from unsmear.models.common.prompts import PromptEmbeddings
from unsmear.models.common.schedule import Prediction, carried_noise, frame_generator, start_timesteps
from unsmear.models.common.tiles import by_latent_tiles, tile_boxes
from unsmear.models.cpgd.attention import control_priors, prior_tokens, watched_attention
from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.cpgd.pipeline import CPGDPipeline, Sampling


def inputs(count: int = 2, size: tuple[int, int] = (16, 16)):
    g = torch.Generator().manual_seed(5)
    latent, hint = torch.randn(2, count, 4, *size, generator=g)
    return latent, torch.tensor(500), torch.randn(count, 3, 16, generator=g), hint


def clip(count: int = 3, size: int = 32):
    g = torch.Generator().manual_seed(6)
    frames = torch.rand(1, 3, size, size, generator=g).expand(count, -1, -1, -1).contiguous()
    return frames, torch.randn(count, 2, size // 8, size // 8, generator=g), torch.rand(count, 1, 8, 8, generator=g) / 4


def residuals(out) -> list[torch.Tensor]:
    return [*out.down_block_res_samples, out.mid_block_res_sample]


@pytest.mark.parametrize("options", [{}, {"shared_query": True}, {"prior_width": 1}, {"joint_time_attention": True}])
def test_initial_prior_layers_leave_the_output_unchanged_bit_for_bit(options):
    guided, priors = control(**options), torch.rand(2, 3, 20, 20)
    plain = control(guided=False, joint_time_attention=options.get("joint_time_attention", False))
    plain.load_state_dict({k: v for k, v in guided.state_dict().items() if ".mask." not in k and ".to_qm." not in k})
    with torch.inference_mode():
        for a, b in zip(residuals(guided(*inputs(), priors)), residuals(plain(*inputs(), None)), strict=True):
            assert torch.equal(a, b)


def test_the_plain_network_is_diffusers_own():
    ours = control(guided=False)
    with torch.no_grad():
        ours.conv_in.weight[:, 4:] = torch.randn_like(ours.conv_in.weight[:, 4:])
    keys = ("block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim", "norm_num_groups")
    same = {k: ours.config[k] for k in (*keys, "attention_head_dim", "use_linear_projection")}
    theirs = ControlNetModel(in_channels=8, **same).eval()
    theirs.controlnet_cond_embedding = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    latent, t, text, hint = inputs()
    with torch.inference_mode():
        expected = theirs(torch.cat([latent, hint], 1), t, text, torch.zeros(()))
        for a, b in zip(residuals(ours(latent, t, text, hint)), residuals(expected), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_initial_weights_are_the_unets_encoder_with_a_zero_hint():
    fresh = CPControlNet.beside(unet())
    latent, t, text, hint = inputs()
    with torch.inference_mode():
        assert all(not r.any() for r in residuals(fresh(latent, t, text, hint)))
        assert torch.equal(fresh.conv_in(torch.cat([latent, hint], 1)), fresh.conv_in(torch.cat([latent, -hint], 1)))
        torch.testing.assert_close(fresh.conv_in(torch.cat([latent, hint], 1)), unet().conv_in(latent))
    state, source = fresh.state_dict(), unet().state_dict()
    shared = [k for k in source if k in state and k != "conv_in.weight"]
    assert any("mid_block" in k for k in shared) and all(torch.equal(state[k], source[k]) for k in shared)


@pytest.mark.parametrize("options", [{}, {"shared_query": True}, {"prior_width": 1}])
def test_every_prior_weight_has_a_gradient_after_one_step(options):
    model = control(**options).train()
    priors = torch.rand(2, 3, 20, 20)
    weights = {n: p for n, p in model.named_parameters() if ".mask." in n or ".to_qm." in n}
    assert len(weights) == {True: 2, False: 6}[bool(options.get("shared_query"))]
    optimiser = torch.optim.SGD(weights.values(), lr=0.1)
    for step in range(2):
        optimiser.zero_grad()
        sum(r.square().mean() for r in residuals(model(*inputs(), priors))).backward()
        still = [n for n, p in weights.items() if not p.grad.abs().sum() > 0]
        assert not still or step == 0
        optimiser.step()


def test_the_guided_query_is_the_papers():
    """Eq. 6–7, one layer by hand."""
    model = control(prior_width=None)
    layer = model.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    torch.nn.init.normal_(layer.to_qm.weight)
    tokens, prior = torch.randn(2, 30, 32), torch.rand(2, 30, 3)
    with torch.inference_mode():
        made = layer(tokens, priors={30: prior})
        query = layer.to_q(tokens) + layer.to_qm(tokens * layer.mask(prior))
        q, k, v = (t.reshape(2, 30, 2, 16).transpose(1, 2) for t in (query, layer.to_k(tokens), layer.to_v(tokens)))
        attended = ((q @ k.transpose(-1, -2) / 4).softmax(-1) @ v).transpose(1, 2).reshape(2, 30, 32)
        torch.testing.assert_close(made, layer.to_out[0](attended), atol=1e-5, rtol=1e-5)


def test_joint_time_attention_couples_the_frames_of_a_group():
    latent, t, text, hint = inputs(4)
    other = latent.clone()
    other[1] += 1
    for joint in (False, True):
        model = control(joint_time_attention=joint)
        with torch.inference_mode():
            a, b = (residuals(model(x, t, text, hint, None, frames=2))[-1] for x in (latent, other))
        assert torch.equal(a[0], b[0]) is not joint
        assert torch.equal(a[2:], b[2:])


def test_full_size_counts():
    with torch.device("meta"):
        plain = CPControlNet(guided=False)
        release = CPControlNet(shared_query=True, joint_time_attention=True)
    assert sum(p.numel() for p in plain.parameters()) == pytest.approx(363.15e6, rel=1e-4)
    extra = {k: v.shape for k, v in release.state_dict().items() if k not in plain.state_dict()}
    assert set(extra) == {k.replace("to_q.", "mask.") for k in plain.state_dict() if "attn1.to_q." in k}
    assert all(shape[1] == 3 for shape in extra.values())


def test_priors_of_every_grid():
    priors = control_priors(
        torch.tensor([64.0, -16.0]).reshape(1, 2, 1, 1).expand(1, 2, 12, 20), torch.ones(1, 1, 12, 20)
    )
    assert priors[0, :, 0, 0].tolist() == [1.0, -0.5, 1.0]
    tokens = prior_tokens(priors, (9, 15), 3)
    assert {n: tuple(t.shape) for n, t in tokens.items()} == {n: (1, n, 3) for n in (135, 40, 12)}
    torch.testing.assert_close(tokens[12], priors[0, :, 0, 0].expand(1, 12, 3))


def test_attention_heat_has_mean_one():
    model = control()
    with torch.inference_mode(), watched_attention(model) as layers:
        model(*inputs())
        heats = {name: p.heat for name, p in layers.items()}
    assert len(heats) == 2
    for heat in heats.values():
        torch.testing.assert_close(heat.mean(1), torch.ones(2), atol=1e-4, rtol=0)
        assert heat.std() > 0
    assert not any(p.watched for p in layers.values())


def test_tiles_of_a_pointwise_denoiser_equal_the_whole_exactly():
    latents = torch.randn(2, 4, 37, 53)
    boxes = tile_boxes(37, 53, 16, 9)
    covered = torch.zeros(37, 53)
    for a, b, c, d in boxes:
        covered[a:b, c:d] += 1
    assert covered.min() >= 1 and covered.max() > 1

    def denoise(some):
        return torch.cat([torch.sin(3 * latents[..., a:b, c:d]) for a, b, c, d in some])

    for batch in (1, 3, 100):
        assert torch.equal(by_latent_tiles(latents.shape, boxes, denoise, batch, latents), torch.sin(3 * latents))
    assert tile_boxes(12, 14, 16, 8) == [(0, 12, 0, 14)]
    with pytest.raises(ValueError, match="stride 17"):
        tile_boxes(32, 32, 16, 17)


def test_a_frame_that_fits_one_tile_is_unchanged_by_tiling():
    pipe, given = pipeline(), clip()
    a, b = (pipe(*given, options=Sampling(steps=2, tile=t, stride=t // 2)).frames for t in (16, 400))
    assert torch.equal(a, b)
    smaller = pipe(*given, options=Sampling(steps=2, tile=8, stride=4)).frames
    assert not torch.equal(a, smaller) and smaller.isfinite().all()


def across_borders(image: torch.Tensor, borders: list[int], cell: int) -> float:
    """Mean gradient across columns where tiles end, over that at the other borders of latent cells."""
    gradient = (image[..., 1:] - image[..., :-1]).abs().mean((0, 1, 2))[cell - 1 :: cell]
    at = torch.zeros(len(gradient), dtype=torch.bool)
    at[[border - 1 for border in borders]] = True
    return float(gradient[at].mean() / gradient[~at].mean())


def test_borders_of_tiles_do_not_show():
    """Attention makes what tiles say differ; tiles side by side leave edges of it, Gaussian weights do not."""
    pipe, g = pipeline(opened=True), torch.Generator().manual_seed(3)
    frames = torch.nn.functional.interpolate(torch.rand(3, 3, 6, 8, generator=g), (96, 128), mode="bicubic").clamp(0, 1)
    given = frames, 8 * torch.randn(3, 2, 12, 16, generator=g), torch.rand(3, 1, 24, 32, generator=g)

    def made(side: int, stride: int) -> torch.Tensor:
        plain = Sampling(steps=2, tile=side, stride=stride, colour=False, cancel_autoencoder=False)
        return pipe(*given, options=plain).frames

    whole, edges = made(64, 32), {}
    for stride in (8, 16):
        tiled, boxes = made(16, stride), tile_boxes(96 // pipe.cell, 128 // pipe.cell, 16, stride)
        columns, rows = (sorted({b[i] for b in boxes} | {b[i + 1] for b in boxes})[1:-1] for i in (2, 0))
        both = [(x, x.transpose(-1, -2)) for x in (tiled, tiled - whole)]
        edges[stride] = [
            (across_borders(x, columns, pipe.cell) + across_borders(y, rows, pipe.cell)) / 2 for x, y in both
        ]
    assert edges[8][0] < 1.1 and edges[8][1] < 1.15
    assert edges[16][1] > 1.5, "the measure sees edges where there are some"


def test_batched_tiles_equal_single_tiles():
    pipe, given = pipeline(opened=True), clip(2)
    one, some = (
        pipe(*given, options=Sampling(steps=2, tile=8, stride=4, guidance=2.0, tile_batch=count)).frames
        for count in (1, 4)
    )
    torch.testing.assert_close(one, some, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_depends_on_the_frame_number_not_on_batches_or_windows(scheduler, prediction):
    made = scheduler(**{k: v for k, v in BETAS.items() if k != "clip_sample"}, prediction_type=prediction)
    pipe, (frames, motion, residual) = pipeline(made), clip(3)
    options = Sampling(steps=3, seed=4, guidance=1.5)
    whole = pipe(frames, motion, residual, options=options)
    first = pipe(frames[:1], motion[:1], residual[:1], options=options)
    rest = pipe(frames[1:], motion[1:], residual[1:], options=options, carried=first.carried)
    assert torch.equal(torch.cat([first.frames, rest.frames]), whole.frames)
    assert rest.carried.frame == whole.carried.frame == 3
    assert not torch.equal(whole.frames[0], whole.frames[1])
    assert not torch.equal(pipe(frames[:1], motion[:1], residual[:1], options=Sampling(steps=3)).frames, first.frames)


@pytest.mark.parametrize("carried", [{"carry_noise": True}, {"carry_detail": 0.5}])
def test_carried_noise_and_detail_make_neighbours_similar_and_resume(carried):
    pipe, (frames, _, residual) = pipeline(), clip(3)
    motion, residual = torch.zeros(3, 2, 4, 4), residual * 0
    plain = pipe(frames, motion, residual, options=Sampling(steps=3)).frames
    options = Sampling(steps=3, **carried)
    whole = pipe(frames, motion, residual, options=options).frames
    assert (whole[1] - whole[0]).abs().mean() < 0.6 * (plain[1] - plain[0]).abs().mean()
    first = pipe(frames[:2], motion[:2], residual[:2], options=options)
    last = pipe(frames[2:], motion[2:], residual[2:], options=options, carried=first.carried).frames
    assert torch.equal(last, whole[2:])
    cut = pipe(frames, motion, residual, torch.tensor([True, True, True]), Sampling(steps=3, **carried)).frames
    torch.testing.assert_close(cut, plain, atol=1e-4, rtol=1e-4)


def test_no_detail_is_added_to_static_parts():
    pipe, (frames, motion, residual) = pipeline(), clip(2)
    motion = torch.zeros_like(motion)
    motion[:, 0, :, 2:] = 2.0  # the right half moves by two pixels
    options = Sampling(steps=2, still_px=2.0)
    free, held = (pipe(frames, motion, residual, options=o).frames for o in (Sampling(steps=2), options))
    middle = frames.shape[-1] // 2
    edge = frames.shape[-1] // 4
    assert torch.equal(held[..., :edge], frames[..., :edge]) and not torch.equal(free[..., :edge], frames[..., :edge])
    torch.testing.assert_close(held[..., middle + edge :], free[..., middle + edge :])
    with pytest.raises(ValueError, match="`still_px` -1: expected 0 or more"):
        Sampling(still_px=-1)


def test_fidelity_limits_the_difference_from_the_input():
    """At 1 the latent is that of the frames, and with the autoencoder's error cancelled the frames come back."""
    pipe, given = pipeline(), clip(1)
    away = [
        (pipe(*given, options=Sampling(steps=4, fidelity=a, colour=False)).frames - given[0]).abs().mean()
        for a in (0.0, 0.3, 1.0)
    ]
    assert away[0] > away[1] > away[2] and away[2] < 1e-4


def test_a_start_below_one_takes_the_schedules_later_steps():
    scheduler = DDIMScheduler(**BETAS, timestep_spacing="linspace")
    steps = start_timesteps(scheduler, 4, 0.25, torch.device("cpu"))
    assert len(steps) == 4 and steps[0] <= 250 and (steps.diff() < 0).all()
    assert start_timesteps(scheduler, 4, 1.0, torch.device("cpu"))[0] == 999
    pipe, given = pipeline(), clip(1)
    near, far = (
        (pipe(*given, options=Sampling(steps=3, start=s, colour=False)).frames - given[0]).abs().mean()
        for s in (0.05, 1)
    )
    assert near < far
    for wrong in ({"start": 0.0}, {"start": 1.5}, {"steps": 0}, {"fidelity": 1.1}):
        with pytest.raises(ValueError, match=r"start|steps|fidelity"):
            Sampling(**wrong)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_predictions_and_clean_latents_convert_both_ways(prediction):
    scheduler = DDIMScheduler(**BETAS, prediction_type=prediction)
    clean, noise, t = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([600])
    sample = scheduler.add_noise(clean, noise, t)
    predicted = noise if prediction == "epsilon" else scheduler.get_velocity(clean, noise, t)
    step = Prediction(scheduler, t[0])
    torch.testing.assert_close(step.clean(sample, predicted), clean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(step.of_clean(sample, clean), predicted, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="EulerDiscreteScheduler"):
        Prediction(EulerDiscreteScheduler(), t[0])


def test_carried_noise_stays_noise_and_moves_with_the_picture():
    before, fresh = (torch.randn(4, 40, 50, generator=frame_generator(0, i)) for i in (0, 1))
    motion = torch.zeros(2, 40, 50)
    motion[0], motion[1] = 3.2, -2.0
    kept = torch.ones(40, 50, dtype=torch.bool)
    kept[20:] = False
    moved = carried_noise(before, fresh, motion, kept)
    assert torch.equal(moved[:, 2:20, :47], before[:, :18, 3:])
    assert torch.equal(moved[:, 20:], fresh[:, 20:]) and torch.equal(moved[:, :, 47:], fresh[:, :, 47:])
    squeezed = carried_noise(before, fresh, torch.zeros(2, 40, 50) - torch.arange(50) / 2, torch.ones_like(kept))
    values = squeezed[0].flatten()
    assert len(values.unique()) == len(values), "a value that two cells share makes them dependent"
    assert abs(values.mean()) < 0.1 and 0.9 < values.std() < 1.1


def test_colour_comes_from_the_reference_and_detail_from_the_image():
    g = torch.Generator().manual_seed(0)
    detail = 0.1 * torch.randn(1, 3, 96, 96, generator=g)
    reference = torch.full((1, 3, 96, 96), 0.5)
    made = transfer_colour(detail + torch.tensor([0.3, 0.5, 0.9]).reshape(1, 3, 1, 1), reference)
    torch.testing.assert_close(made.mean((0, 2, 3)), torch.full((3,), 0.5), atol=5e-3, rtol=0)
    assert torch.nn.functional.cosine_similarity((made - 0.5).flatten(), detail.flatten(), 0) > 0.98


def test_inputs_that_do_not_fit_are_refused():
    pipe, (frames, motion, residual) = pipeline(), clip(1, 24)
    with pytest.raises(ValueError, match="multiples of 4"):
        pipe(frames[..., :22], motion, residual)
    with pytest.raises(ValueError, match="no text encoder"):
        pipe.embed("a cat")
    with pytest.raises(ValueError, match="prior_width 7"):
        control(prior_width=7)


class Tokens:
    """A tokenizer whose own padding is not that of Stable Diffusion 2, and whose length is unknown."""

    model_max_length = 10**30

    def __call__(self, text, truncation, max_length):
        assert truncation
        return SimpleNamespace(input_ids=[40, *(ord(c) for c in text[: max_length - 2]), 41])


class Encoder:
    config, device = SimpleNamespace(max_position_embeddings=8), torch.device("cpu")

    def __init__(self):
        self.read: list[list[int]] = []

    def __call__(self, tokens):
        self.read += tokens.tolist()
        return (torch.sin(tokens[..., None] * torch.arange(1.0, 17)),)


def with_text(encoder: Encoder) -> CPGDPipeline:
    pipe = pipeline()
    pipe.embeddings = PromptEmbeddings(encoder, Tokens(), 16)
    return pipe


def test_a_prompt_is_embedded_once():
    encoder, given = Encoder(), clip(3)
    pipe = with_text(encoder)
    options = Sampling(steps=2, guidance=2.0)
    for _ in range(2):
        empty = pipe(*given, options=options).frames
    assert encoder.read == [[40, 41, 0, 0, 0, 0, 0, 0]], "the end of the prompt is followed by zeros"
    said = pipe(*given, options=options, prompt_embeds=pipe.embed("ab")).frames
    pipe(*given, options=options, prompt_embeds=pipe.embed("ab"), negative_prompt_embeds=pipe.embed(""))
    assert encoder.read[1:] == [[40, 97, 98, 41, 0, 0, 0, 0]] and not torch.equal(empty, said)
    assert pipe.embed("a very long prompt").shape == (1, 8, 16) and encoder.read[-1][-1] == 41


def test_without_a_text_encoder_the_stored_empty_prompt_is_used():
    given, options = clip(1), Sampling(steps=2)
    stored = torch.randn(1, 77, 16)
    parts = pipeline().components
    made = CPGDPipeline(**{**parts, "empty_prompt": stored})
    made.set_progress_bar_config(disable=True)
    heard, silent = made(*given, options=options).frames, pipeline()(*given, options=options).frames
    assert torch.equal(heard, pipeline()(*given, options=options, prompt_embeds=stored).frames)
    assert not torch.equal(heard, silent)
    with pytest.raises(ValueError, match=r"expected \(1, tokens, 16\)"):
        CPGDPipeline(**{**parts, "empty_prompt": stored[..., :8]})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_step_at_full_size_fits_a_desktop():
    """In a process of its own, for the peak is a process's."""
    script = Path(__file__).parents[1] / "support" / "full_size_step.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=script.parent)
    told = json.loads(done.stdout.splitlines()[-1])
    wanted = {"unet": 865.9e6, "control without priors": 363.15e6, "vae": 83.65e6}
    assert {name: told["parameters"][name] for name in wanted} == pytest.approx(wanted, rel=1e-4)
    assert told["shape"] == [1, 3, 512, 512] and told["finite"] and told["changed"] > 0.01
    assert told["peak_gb"] < 12


def test_save_and_load(tmp_path):
    pipe, given = pipeline(), clip(1)
    pipe.save_pretrained(tmp_path)
    again = CPGDPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    options = Sampling(steps=2)
    torch.testing.assert_close(again(*given, options=options).frames, pipe(*given, options=options).frames)
