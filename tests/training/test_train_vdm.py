"""Training of the video diffusion model: its losses by hand, its stages, what is frozen, resumed runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDIMScheduler, UNet3DConditionModel
from safetensors.torch import load_file

from support.clips import make_clip, texture
from support.tiny_vdm import CONTEXT, folder, tiny_vae
from unsmear.blur.camera import CameraRanges
from unsmear.blur.pack import PackConfig, Sources, build_pack
from unsmear.cli.main import run
from unsmear.errors import DataLayoutError
from unsmear.models.common.latents import decode, encode
from unsmear.models.common.schedule import Prediction
from unsmear.models.zoo import WEIGHTS_FILE
from unsmear.training.clips import SharpClips
from unsmear.training.config import read_config
from unsmear.training.loop import train
from unsmear.training.vdm import VDMRecipe, VDMTraining, prepare
from unsmear.training.vdm_losses import vdm_loss
from unsmear.video.images import write_png

LOOP = {"steps": 4, "batch": 2, "checkpoint_every": 2, "validate_every": 4, "log_every": 1, "ema": 0.5}
FRAMES = 3
CONFIGS = Path(__file__).parents[2] / "configs"
COMPACT = {"channels": [32, 32], "head_px": 8, "token_width": CONTEXT, "tokens": 2, "embedding_channels": [8, 8]}


# Losses.


def test_loss_of_a_case_computed_by_hand():
    """F = 3, one value a frame: errors 1, 3, 2, so their steps are 2 and −1."""
    wanted = torch.tensor([0.5, -1.0, 2.0]).reshape(1, 3, 1, 1, 1)
    predicted = wanted + torch.tensor([1.0, 3.0, 2.0]).reshape(1, 3, 1, 1, 1)
    terms = vdm_loss(predicted, wanted)
    assert float(terms.base) == pytest.approx((1 + 9 + 4) / 3)
    assert float(terms.coherence) == pytest.approx((4 + 1) / 3)
    assert float(terms.total()) == pytest.approx(14 / 3 + 0.1 * 5 / 3)


def test_both_terms_are_divided_by_the_number_of_values():
    predicted, wanted = torch.randn(2, 2, 5, 4, 3, 3).double()
    terms = vdm_loss(predicted, wanted)
    base, coherence = 0.0, 0.0
    for v, o in zip(wanted, predicted, strict=True):
        base += float(((v - o) ** 2).sum()) / v.numel() / 2
        for j in range(4):
            coherence += float((((v[j + 1] - v[j]) - (o[j + 1] - o[j])) ** 2).sum()) / v.numel() / 2
    assert (float(terms.base), float(terms.coherence)) == (pytest.approx(base), pytest.approx(coherence))


def test_a_constant_error_and_a_single_frame_have_no_coherence_loss():
    wanted = torch.randn(1, 4, 2, 3, 3)
    assert float(vdm_loss(wanted + 0.7, wanted).coherence) < 1e-12
    assert float(vdm_loss(wanted[:, :1] + 0.7, wanted[:, :1]).coherence) == 0
    assert float(vdm_loss(wanted, wanted).total()) == 0


# Data.


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("videos")
    make_clip(place / "a.mp4", size=(96, 80), frames=8)
    make_clip(place / "b.mp4", size=(96, 80), frames=2)
    return place


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("pack")
    config = PackConfig(sequences=4, camera=CameraRanges(size_px=64, frames=FRAMES), psnr_range=(5, 60))
    build_pack(Sources([texture((480, 480))], []), place, config, workers=1)
    return place


@pytest.fixture(scope="module")
def validation(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("valid")
    for kind, smooth in (("blur", 3), ("sharp", 1)):
        (place / "clip" / kind).mkdir(parents=True)
        for i in range(5):
            write_png(place / "clip" / kind / f"{i:06d}.png", texture((96, 80), seed=i, smooth_px=smooth))
    return place


def test_clips_depend_on_the_seed_and_contain_motion(videos):
    clips = SharpClips([str(videos)], 64, FRAMES, 480)
    assert len(clips.clips) == 1  # the other one is too short
    first, again = (clips.batch(np.random.default_rng(5), 3) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (3, FRAMES, 3, 64, 64) and first.dtype == torch.uint8
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0, 0], first[0, 1])
    with pytest.raises(DataLayoutError, match="no video has 9 frames of 64 pixels"):
        SharpClips([str(videos)], 64, 9, 480)


# Stages.


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return folder(tmp_path_factory.mktemp("start"))


@pytest.fixture
def encoder(start, pack, validation) -> dict:
    data = {"packs": [str(pack)], "crop_px": 64, "frames": FRAMES, "validation": str(validation)}
    return {"stage": "encoder", "init": str(start), "data": data, "loop": LOOP}


@pytest.fixture
def pretrain(pack, validation, videos, tmp_path) -> dict:
    tiny_vae().save_pretrained(tmp_path / "vae")
    data = {"packs": [str(pack)], "crop_px": 64, "frames": FRAMES, "validation": str(validation)}
    rest = {"compact": COMPACT, "data": data, "clips": [str(videos)], "clips_share": 0.5, "loop": LOOP}
    return {"stage": "pretrain", "autoencoder": str(tmp_path / "vae"), **rest}


def written(place: Path, values: dict) -> Path:
    (place / "c.yaml").write_text(yaml.safe_dump(values))
    return place / "c.yaml"


def trained(config: Path, place: Path, *options: str) -> dict[str, torch.Tensor]:
    assert run(["train", "vdm", str(config), "-o", str(place), *options]) == 0
    return load_file(place / "last" / "model.safetensors")


@pytest.mark.parametrize("stage", ["pretrain", "encoder", "all"])
def test_a_resumed_run_equals_an_uninterrupted_one(stage, encoder, pretrain, tmp_path, capsys):
    started = {"from_blurred": 0.5, "perceptual": 1.0} if stage == "all" else {}
    values = pretrain if stage == "pretrain" else {**encoder, **started, "stage": stage}
    whole = trained(written(tmp_path, values), tmp_path / "whole")
    trained(written(tmp_path, {**values, "loop": {**LOOP, "steps": 2}}), tmp_path / "parts")
    parts = trained(written(tmp_path, values), tmp_path / "parts", "--resume")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert np.isfinite([row[k] for row in log if "loss" in row for k in ("loss", "base", "coherence")]).all()
    assert np.isfinite(log[-1]["validation"]["score"])
    assert "M parameters are trained" in capsys.readouterr().out


def test_the_papers_two_configurations_follow_each_other_on_small_networks(start, pack, tmp_path):
    small = [
        "data.pairs=[]",
        f"data.packs=[{pack}]",
        "data.validation=null",
        "data.crop_px=64",
        f"data.frames={FRAMES}",
    ]
    small += ["loop.steps=1", "loop.precision='no'"]
    first, second = (tmp_path / name for name in ("encoder", "all"))
    trained(CONFIGS / "vdm-paper-encoder.yaml", first, f"init={start}", *small)
    trained(CONFIGS / "vdm-paper-all.yaml", second, f"init={first / 'best'}", *small)
    unets = [load_file(place / "unet" / WEIGHTS_FILE) for place in (start, first / "best", second / "best")]
    assert all(torch.equal(unets[0][key], unets[1][key]) for key in unets[0])
    assert not all(torch.equal(unets[0][key], unets[2][key]) for key in unets[0])


@pytest.mark.parametrize("tokens", [True, False])
def test_stage_1_trains_the_blur_encoder_only(encoder, tokens, tmp_path):
    loop = {**LOOP, "steps": 3, "optimiser": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}}
    job = prepare(written(tmp_path, {**encoder, "image_tokens": tokens, "drop_image": 0.0, "loop": loop}), False)
    moved = ("blur_encoder.", "image_tokens.") if tokens else ("blur_encoder.",)
    counted = sum(p.numel() for group in job.recipe.parameter_groups() for p in group["params"])
    assert counted == sum(p.numel() for n, p in job.model.named_parameters() if n.startswith(moved))
    before = {k: v.clone() for k, v in job.model.state_dict().items()}
    frozen = {k: v.clone() for k, v in job.recipe.vae.state_dict().items()}
    average = train(job.model, job.recipe, job.loop, tmp_path / "run")
    for state in (job.model.state_dict(), average.state_dict()):
        changed = {k for k, v in state.items() if not torch.equal(v, before[k])}
        assert changed == {k for k in before if k.startswith(moved) and before[k].numel()}
    assert all(torch.equal(v, frozen[k]) for k, v in job.recipe.vae.state_dict().items())


def test_stage_2_trains_everything(encoder, tmp_path):
    loop = {**LOOP, "steps": 3, "optimiser": {"lr": 0.01}}
    job = prepare(written(tmp_path, {**encoder, "stage": "all", "loop": loop}), False)
    before = {k: v.clone() for k, v in job.model.named_parameters()}
    train(job.model, job.recipe, job.loop, tmp_path / "run")
    assert [k for k, v in job.model.named_parameters() if torch.equal(v, before[k])] == []


def test_pretraining_uses_sharp_clips_only(pretrain, tmp_path):
    job = prepare(written(tmp_path, {**pretrain, "loop": {**LOOP, "steps": 3, "optimiser": {"lr": 0.01}}}), False)
    assert isinstance(job.recipe, VDMRecipe)
    assert all(batch.blurred is None for batch in job.recipe.batches(range(4)))
    before = {k: v.clone() for k, v in job.model.named_parameters()}
    train(job.model, job.recipe, job.loop, tmp_path / "run")
    same = [k for k, v in job.model.named_parameters() if torch.equal(v, before[k])]
    unheard = ("blur_encoder.", "image_tokens.embedding.", "image_tokens.pre_image_condition.0.weight")
    assert same == [k for k in before if k.startswith(unheard)]  # the vector of an unknown image is zero


def test_training_lowers_the_loss_on_one_batch(encoder, tmp_path):
    """Shown one batch again and again, it does better at it than at first."""
    job = prepare(written(tmp_path, {**encoder, "stage": "all", "temporal_dropout": 0.0}), False)
    batch = next(job.recipe.batches(range(1)))
    optimiser = torch.optim.Adam(job.model.parameters(), 3e-3)
    losses = []
    for _ in range(20):
        loss, _ = job.recipe.loss(job.model, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_gradient_checkpointing_trains_to_the_same_weights(encoder, tmp_path):
    values = {**encoder, "stage": "all", "loop": {**LOOP, "steps": 2}}
    plain = trained(written(tmp_path, values), tmp_path / "plain")
    twice = trained(written(tmp_path, {**values, "gradient_checkpointing": True}), tmp_path / "twice")
    assert plain.keys() == twice.keys()
    assert all(torch.allclose(plain[k], twice[k], atol=1e-5) for k in plain)


def test_the_saved_folder_restores_videos(encoder, pretrain, tmp_path):
    """Stage by stage, each from what the one before left; the last one's folder goes to ``unsmear deblur``."""
    trained(written(tmp_path, pretrain), tmp_path / "one")
    trained(written(tmp_path, {**encoder, "init": str(tmp_path / "one" / "best")}), tmp_path / "two")
    best = tmp_path / "two" / "best"
    scheduler = DDIMScheduler.from_pretrained(best / "scheduler").config
    assert (scheduler.prediction_type, scheduler.rescale_betas_zero_snr) == ("v_prediction", True)
    assert UNet3DConditionModel.from_pretrained(best / "unet").config.in_channels == 6
    source = make_clip(tmp_path / "a.mp4", size=(66, 34), frames=3)
    given = ["deblur", str(source), "-o", str(tmp_path / "out.mp4"), "--model", str(best), "--steps", "1", "--quiet"]
    assert run(given) == 0 and (tmp_path / "out.mp4").exists()


def test_validations_have_pictures(encoder, pretrain, tmp_path):
    job = prepare(written(tmp_path, encoder), False)
    (name, image), *others = job.recipe.pictures(job.model)
    assert not others and name == "0"
    assert image.shape == (64, 3 * 64, 3) and image.dtype == np.uint8
    pair = job.recipe.validation[0]
    for place, frames in ((0, pair.blurred), (2, pair.sharp)):
        shown = image[:, 64 * place : 64 * (place + 1)]
        assert np.array_equal(shown, frames[0, FRAMES // 2].permute(1, 2, 0).numpy())
    assert prepare(written(tmp_path, pretrain), False).recipe.pictures(job.model) == []


def test_timesteps_beyond_the_latest_are_never_drawn(encoder, tmp_path):
    job = prepare(written(tmp_path, {**encoder, "latest": 50}), False)
    drawn = []
    job.recipe._loss = lambda model, batch, t, known, generator: drawn.append(t)
    batch = next(job.recipe.batches(range(1)))
    for seed in range(60):
        job.recipe.loss(job.model, batch._replace(seed=torch.tensor(seed)))
    t = torch.cat(drawn)
    assert t.max() < 50 and t.min() >= 0 and len(t.unique()) > 25


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_perfect_prediction_has_no_loss_for_either_starting_point(share, encoder, tmp_path):
    """What is left of the loss is that of the picture of the right latents, as the sampler would make it."""
    values = {**encoder, "from_blurred": share, "perceptual": 2.0, "latest": 400}
    recipe = prepare(written(tmp_path, values), False).recipe
    batch, asked = next(recipe.batches(range(1))), []
    sharp, blurred = batch.sharp / 255, batch.blurred / 255
    clean, given = (torch.stack([encode(recipe.vae, clip) for clip in clips]) for clips in (sharp, blurred))

    def right(noisy, t, *_):
        step = Prediction(recipe.schedule, t.repeat_interleave(FRAMES))
        asked.append((noisy.flatten(0, 1) - step.signal * (given if share else clean).flatten(0, 1)) / step.noise)
        return step.of_clean(noisy.flatten(0, 1), clean.flatten(0, 1)).unflatten(0, clean.shape[:2])

    loss, figures = recipe.loss(right, batch)
    assert figures["base"] < 1e-8 and figures["coherence"] < 1e-8
    assert asked[0].mean().abs() < 0.1 and asked[0].std() == pytest.approx(1, abs=0.1)  # white noise on those latents
    i = int(batch.seed) % FRAMES
    made = blurred[:, i] + decode(recipe.vae, clean[:, i]) - decode(recipe.vae, given[:, i])
    seen = (made - sharp[:, i]).abs().mean() + recipe.lpips(made.clamp(0, 1) * 2 - 1, sharp[:, i] * 2 - 1).mean()
    assert figures["perceptual"] == pytest.approx(float(seen), rel=1e-3)
    assert float(loss) == pytest.approx(2 * figures["perceptual"], rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"from_blurred": 2}, "from_blurred 2"),
        ({"perceptual": -1}, "perceptual -1"),
        ({"stage": "pretrain", "perceptual": 1}, "leave them out of stage pretrain"),
        ({"stage": "both"}, "stage both: expected pretrain, encoder or all"),
        ({"init": None}, "init null: expected for stage encoder a folder"),
        ({"stage": "pretrain", "init": None}, "autoencoder '': expected a folder"),
        ({"init": "nowhere"}, "nowhere has no unet"),
        ({"data": {}}, "data.packs"),
        ({"drop_image": 1.5}, "drop_image 1.5"),
        ({"loop": {"channels_last": True}}, "channels_last"),
        ({"lambda": 0.1}, "unknown key 'lambda'"),
    ],
)
def test_invalid_configurations_are_refused(change, message, encoder, tmp_path, capsys):
    config = written(tmp_path, {**encoder, **change})
    assert run(["train", "vdm", str(config), "-o", str(tmp_path / "x")]) != 0
    told = capsys.readouterr().err.strip()
    assert message in told and len(told.splitlines()) == 1


def test_the_compact_model_has_its_size():
    chosen = read_config(VDMTraining, Path(__file__).parents[2] / "configs" / "vdm-compact.yaml").compact
    with torch.device("meta"):
        parts = chosen.unet(16), chosen.image_tokens()
    assert sum(p.numel() for part in parts for p in part.parameters()) < 13.2e6
