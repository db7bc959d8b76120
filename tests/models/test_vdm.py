"""The video diffusion model: its conditions, its windows and its pipeline, on tiny random networks."""

from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet3DConditionModel

from support.tiny_vdm import CONTEXT, WIDTH, V, folder, model, pipeline, tiny_vae, tokens, unet
from unsmear.models.common.latents import encode
from unsmear.models.common.tiles import by_windows, shot_spans, window_spans
from unsmear.models.vdm.conditions import START, BlurEncoder, ImageTokens, image_vectors
from unsmear.models.vdm.network import VDM, centre
from unsmear.models.vdm.pipeline import CarriedFrames, VDMPipeline, VDMSampling


def clip(count: int = 20, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(6))


def inputs(count: int = 3):
    g = torch.Generator().manual_seed(5)
    return (
        torch.randn(2, count, 6, 8, 8, generator=g),
        torch.tensor([500, 20]),
        torch.rand(2, count, 3, 32, 32, generator=g),
    )


# The network.


def test_the_layout_is_modelscopes_at_full_size():
    with torch.device("meta"):
        full = UNet3DConditionModel()
    assert len(full.state_dict()) == 1480
    assert round(sum(p.numel() for p in full.parameters()) / 1e6, 2) == 1411.23


@pytest.mark.parametrize("kl", [False, True])
def test_a_fresh_blur_encoder_gives_the_autoencoders_latents(kl):
    vae = pipeline(kl=kl).vae
    fresh, frames = BlurEncoder.beside(vae, WIDTH).eval(), clip(2)
    with torch.inference_mode():
        torch.testing.assert_close(fresh.latents(frames), encode(vae, frames), atol=1e-5, rtol=1e-5)
    first, second = fresh.projection[0].weight, fresh.last.weight
    assert tuple(first.shape[:2]) == (2 * fresh.channels, fresh.channels)
    assert tuple(second.shape[:2]) == (WIDTH, 2 * fresh.channels)
    assert 0 < second.abs().max() <= START / (2 * fresh.channels * 9) ** 0.5


def test_the_encoder_has_a_gradient_from_the_first_step():
    vae = tiny_vae()
    made = VDM(unet(6), BlurEncoder.beside(vae, WIDTH), tokens())
    noisy, t, blurred = inputs()
    made(noisy, t, blurred).square().mean().backward()
    still = [n for n, p in made.blur_encoder.named_parameters() if not p.grad.abs().sum() > 0]
    assert not still


def test_what_is_projected_is_added_to_the_first_convolution():
    """As eight further channels of that convolution would be."""
    made = model()
    noisy, t, blurred = inputs()
    wide = UNet3DConditionModel.from_config({**made.unet.config, "in_channels": 18})
    state = made.unet.state_dict()
    state["conv_in.weight"] = torch.cat([state["conv_in.weight"], made.blur_encoder.last.weight], 1)
    wide.load_state_dict(state)
    with torch.inference_mode():
        told = made.image_tokens(made.image_tokens.embed(centre(blurred)))
        hidden = made.blur_encoder.projection[0](made.blur_encoder.latents(blurred.flatten(0, 1))).unflatten(0, (2, 3))
        # the second layer pads its own input, as the wide convolution does
        expected = wide.eval()(torch.cat([noisy, hidden], 2).transpose(1, 2), t, told).sample.transpose(1, 2)
        torch.testing.assert_close(made(noisy, t, blurred), expected, atol=1e-4, rtol=1e-4)


def test_a_split_unet_predicts_the_same():
    """TF-T2V's first convolution reads 12 channels: four of the latent, eight that become the projection's."""
    vae = pipeline(kl=True).vae
    wide = unet(12, out=4)
    made = VDM.assembled(wide, vae, image_tokens=tokens()).eval()
    assert made.unet.config.in_channels == 4
    torch.testing.assert_close(made.blur_encoder.last.weight, wide.conv_in.weight[:, 4:])
    noisy, frames = torch.randn(1, 2, 4, 16, 16), clip(2)[None]
    with torch.inference_mode():
        hidden = made.blur_encoder.projection[0](made.blur_encoder.latents(frames[0]))[None]
        told = made.image_tokens(made.image_tokens.embed(centre(frames)))
        expected = wide(torch.cat([noisy, hidden], 2).transpose(1, 2), 7, told).sample.transpose(1, 2)
        torch.testing.assert_close(made(noisy, torch.tensor([7]), frames), expected, atol=1e-4, rtol=1e-4)


def test_parts_that_do_not_belong_together_are_refused():
    vae = tiny_vae()
    with pytest.raises(ValueError, match="latent channels is 4, that of its conditions 6"):
        VDM(unet(4), BlurEncoder.beside(vae, WIDTH), tokens())
    with pytest.raises(ValueError, match="width"):
        VDM(unet(6), BlurEncoder.beside(vae, 8), tokens())
    with pytest.raises(ValueError, match="context"):
        VDM(unet(6), BlurEncoder.beside(vae, WIDTH), tokens(token_width=8))


def test_the_centre_frame_is_a_condition_that_can_be_dropped():
    made = model()
    noisy, t, blurred = inputs()
    torch.testing.assert_close(centre(blurred), blurred[:, 1])
    other = made.image_tokens.embed(torch.rand(2, 3, 32, 32))
    with torch.inference_mode():
        known, changed = made(noisy, t, blurred), made(noisy, t, blurred, other)
        half = made(noisy, t, blurred, known=torch.tensor([True, False]))
        again = made(noisy, t, blurred, other, known=torch.tensor([True, False]))
    assert not torch.allclose(known, changed)
    torch.testing.assert_close(half[0], known[0])
    torch.testing.assert_close(half[1], again[1])
    assert not torch.allclose(half[1], known[1])


def test_tokens_are_the_empty_prompts_and_then_the_images():
    made = ImageTokens(vector_width=12, token_width=10, tokens=4, prompt_tokens=7)
    made.empty_prompt.copy_(torch.arange(70.0).reshape(7, 10))
    got = made(torch.randn(2, 12))
    assert got.shape == (2, 11, 10)
    assert torch.equal(got[0, :7], made.empty_prompt)
    with pytest.raises(ValueError, match="no embedding of their own"):
        made.embed(clip(1))
    assert torch.equal(image_vectors(made, None, clip(2)), torch.zeros(2, 12))


class Clip:
    """Stands for CLIP's vision tower: the mean of each channel of what it is shown."""

    dtype = torch.float32

    class config:  # noqa: N801  # an attribute of transformers' models
        image_size = 8

    def __call__(self, pixels: torch.Tensor):
        self.shown = pixels
        return type("Out", (), {"image_embeds": pixels.mean((2, 3))})


def test_clip_gets_its_normalised_square():
    tower, made = Clip(), ImageTokens(vector_width=3, token_width=4, prompt_tokens=0)
    vectors = image_vectors(made, tower, torch.full((2, 3, 40, 24), 0.5))
    assert tower.shown.shape == (2, 3, 8, 8)
    torch.testing.assert_close(vectors[0], torch.tensor([0.06903, 0.16139, 0.33284]), atol=1e-4, rtol=0)


def test_gradient_checkpointing_changes_memory_alone():
    plain = model()
    twice = deepcopy(plain)
    twice.enable_gradient_checkpointing()
    twice = deepcopy(twice)  # as the average of a training run is made
    noisy, t, blurred = inputs()
    kept = []
    for made in (plain, twice):
        kept.append(0)

        def count(x: torch.Tensor) -> torch.Tensor:
            kept[-1] += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            out = made(noisy, t, blurred)
        out.square().mean().backward()
    assert kept[1] < 0.5 * kept[0]
    for (name, a), b in zip(plain.named_parameters(), twice.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


# Windows.


def test_windows_cover_and_overlap():
    assert window_spans(28, 16, 4) == [(0, 16), (12, 28)]
    assert window_spans(10, 16, 4) == [(0, 10)]
    assert window_spans(1, 16, 4) == [(0, 1)]
    for count in range(1, 90):
        spans = window_spans(count, 16, 4)
        assert spans[0][0] == 0 and spans[-1][1] == count
        assert all(a[1] - b[0] >= 4 for a, b in pairwise(spans))
        assert all(b - a == min(16, count) for a, b in spans)
    with pytest.raises(ValueError, match="overlap 16"):
        window_spans(20, 16, 16)
    assert shot_spans([False, False, True, False, True]) == [(0, 2), (2, 4), (4, 5)]


def test_windows_of_a_pointwise_denoiser_equal_the_whole_exactly():
    latents = torch.randn(37, 4, 5, 6)
    for frames, overlap in ((16, 4), (16, 12), (5, 0), (40, 3)):
        spans = window_spans(37, frames, overlap)
        made = by_windows(spans, lambda span: torch.sin(3 * latents[slice(*span)]), latents)
        assert torch.equal(made, torch.sin(3 * latents))


def test_where_windows_disagree_one_fades_into_the_other():
    made = by_windows(
        [(0, 6), (3, 9)], lambda span: torch.full((6, 1, 1, 1), float(span[0] > 0)), torch.zeros(9, 1, 1, 1)
    )
    torch.testing.assert_close(made.flatten(), torch.tensor([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]))


# The pipeline.


class Pointwise(UNet3DConditionModel):
    """A denoiser that looks at each value alone."""

    def forward(self, sample, timestep, encoder_hidden_states, **others):
        del timestep, encoder_hidden_states
        return (torch.sin(3 * sample),)


def pointwise(scheduler=None) -> VDMPipeline:
    pipe = pipeline(scheduler)
    pipe.unet.__class__ = Pointwise
    pipe.blur_encoder.forward = lambda frames: torch.zeros(*frames.shape[:2], WIDTH, 8, 8)
    return pipe


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler])
def test_pieces_windows_and_tiles_of_a_pointwise_denoiser_are_the_whole(scheduler):
    """So noise belongs to frames and pixels, and what one piece hands to the next is enough."""
    settings = {k: v for k, v in V.items() if scheduler is not DPMSolverMultistepScheduler or k != "clip_sample"}
    pipe, frames = pointwise(scheduler(**settings)), clip(30)
    whole = pipe(frames, options=VDMSampling(steps=4, window=40)).frames
    cut = VDMSampling(steps=4, window=7, overlap=3, tile=5, stride=3, tile_batch=2)
    assert torch.equal(pipe(frames, options=cut).frames, whole)
    first = pipe(frames[:15], wanted=12, options=cut)
    assert first.carried.frame == 12 and first.carried.path.shape == (5, 3, 6, 8, 8)
    rest = pipe(frames[12:], options=cut, carried=first.carried)
    assert torch.equal(torch.cat([first.frames, rest.frames]), whole) and rest.carried.path is None
    assert not torch.equal(pipe(frames[12:], options=cut, carried=CarriedFrames(11)).frames, rest.frames)


def test_same_seed_same_frames():
    pipe, frames = pipeline(), clip(5)
    a, b, c = (pipe(frames, options=VDMSampling(steps=2, seed=s)).frames for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.allclose(a, c)


def test_nothing_crosses_a_cut():
    pipe, frames, options = pipeline(), clip(9), VDMSampling(steps=2)
    cut = [i == 4 for i in range(9)]
    made = pipe(frames, cut, options=options).frames
    torch.testing.assert_close(made[:4], pipe(frames[:4], options=options).frames)
    torch.testing.assert_close(made[4:], pipe(frames[4:], options=options, carried=CarriedFrames(4)).frames)
    other = torch.cat([frames[:4], 1 - frames[4:]])
    assert torch.equal(pipe(other, cut, options=options).frames[:4], made[:4])
    assert not torch.equal(pipe(other, options=options).frames[:4], pipe(frames, options=options).frames[:4])
    # a cut where two pieces meet, and one among the frames that are only looked at
    first = pipe(frames[:8], cut[:8], wanted=4, options=options)
    assert torch.equal(first.frames, made[:4]) and first.carried.path is None
    early = pipe(frames[:6], cut[:6], wanted=2, options=options)
    assert early.carried.path.shape[1] == 2
    rest = pipe(frames[2:], cut[2:], options=options, carried=early.carried).frames
    torch.testing.assert_close(rest[2:], made[4:])
    stale = CarriedFrames(4, torch.randn(3, 2, 6, 8, 8))
    assert torch.equal(pipe(frames[4:], [True] + [False] * 4, options=options, carried=stale).frames, rest[2:])


@pytest.mark.parametrize("count", [1, 2, 15, 17])
def test_short_clips(count):
    made = pipeline()(clip(count), options=VDMSampling(steps=2)).frames
    assert made.shape == (count, 3, 32, 32) and made.isfinite().all()


def test_frames_of_a_window_are_coupled():
    pipe, frames, options = pipeline(), clip(6), VDMSampling(steps=2, colour=False, cancel_autoencoder=False)
    other = frames.clone()
    other[5] = 0
    near, far = (pipe(x, options=options).frames for x in (frames, other))
    assert not torch.allclose(near[0], far[0], atol=1e-6)


def test_guidance_moves_away_from_the_unconditional_prediction():
    pipe, frames = pipeline(), clip(3)
    made = {g: pipe(frames, options=VDMSampling(steps=1, guidance=g)).frames for g in (0.0, 1.0, 2.0)}
    torch.testing.assert_close(made[1.0] - made[0.0], made[2.0] - made[1.0], atol=2e-2, rtol=0.2)
    assert not torch.allclose(made[0.0], made[1.0])


def test_a_late_start_stays_near_the_blurred_frames():
    pipe, frames = pipeline(), clip(3)
    near, far = (
        (pipe(frames, options=VDMSampling(steps=3, start=s, colour=False)).frames - frames).abs().mean()
        for s in (0.02, 1)
    )
    assert near < 0.5 * far


def test_the_autoencoders_own_error_is_cancelled():
    """Started so late that the latent is that of the frames, they come back."""
    pipe, frames = pipeline(), clip(2)
    away = [
        (pipe(frames, options=VDMSampling(1, start=0.002, colour=False, cancel_autoencoder=c)).frames - frames)
        .abs()
        .mean()
        for c in (True, False)
    ]
    assert away[0] < 0.3 * away[1]


def test_colour_comes_from_the_blurred_frames():
    pipe, frames = pipeline(), torch.full((2, 3, 64, 64), 0.4)
    frames[:, 0] = 0.8
    made = pipe(frames, options=VDMSampling(steps=2)).frames
    torch.testing.assert_close(made.mean((0, 2, 3)), frames.mean((0, 2, 3)), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"start": 0.0}, "start"), ({"steps": 0}, "steps"), ({"overlap": 16}, "overlap"), ({"window": 0}, "window")],
)
def test_invalid_options_are_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        VDMSampling(**wrong)
    with pytest.raises(ValueError, match="multiples of 8"):
        pipeline()(clip(1, 30))


def test_save_and_load(tmp_path):
    pipe, frames, options = pipeline(), clip(3), VDMSampling(steps=2)
    pipe.save_pretrained(tmp_path)
    again = VDMPipeline.from_pretrained(tmp_path)
    torch.testing.assert_close(again(frames, options=options).frames, pipe(frames, options=options).frames)
    assert again.unet.__class__ is UNet3DConditionModel and again.unet.config.cross_attention_dim == CONTEXT


def test_a_folder_saved_by_training_loads_unchanged(tmp_path):
    from unsmear.models.loading import load_model
    from unsmear.models.zoo import ModelEntry

    place = folder(tmp_path / "x", kl=True)
    frames, options = clip(2), VDMSampling(steps=2)
    loaded = load_model(ModelEntry("x", place))
    torch.testing.assert_close(
        loaded(frames, options=options).frames, pipeline(kl=True)(frames, options=options).frames
    )
    assert loaded.image_encoder is None
