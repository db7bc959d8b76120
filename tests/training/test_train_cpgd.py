"""Training of the generating models: what is frozen stays, killed and resumed equals unbroken, what is asked for."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from support.clips import texture
from support.tiny_pipeline import folder
from unsmear.blur.camera import CameraRanges
from unsmear.blur.pack import PackConfig, Sources, build_pack
from unsmear.cli.main import run
from unsmear.errors import UsageError, WeightsError
from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.cpgd.pipeline import Sampling
from unsmear.models.loading import load_model, sampling_defaults
from unsmear.models.zoo import find
from unsmear.training.autoencoder import AutoencoderConfig, AutoencoderRecipe, AutoencoderTraining
from unsmear.training.config import read_config
from unsmear.training.control import ControlRecipe
from unsmear.training.cpgd import CPGDTraining, prepare
from unsmear.training.images import ImageConfig, ImageCrops, middle, spread, strip
from unsmear.training.loop import train
from unsmear.video.images import read_image, write_png

LOOP = {"steps": 4, "batch": 2, "checkpoint_every": 2, "validate_every": 4, "log_every": 1, "ema": 0.5}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("photos")
    for i in range(2):
        write_png(place / f"{i}.png", texture((160, 120), seed=i))
    return place


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("pack")
    camera = CameraRanges(size_px=64, frames=3)
    config = PackConfig(sequences=4, camera=camera, psnr_range=(5, 60))
    build_pack(Sources([texture((480, 480))], []), place, config, workers=1)
    return place


@pytest.fixture(scope="module")
def validation(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("valid")
    for kind in ("blur", "sharp"):
        (place / "clip" / kind).mkdir(parents=True)
        for i in range(5):
            write_png(
                place / "clip" / kind / f"{i:06d}.png", texture((96, 64), seed=3, smooth_px=3 if kind == "blur" else 1)
            )
    return place


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Networks alone, as earlier stages leave them: their schedule is what the configuration says."""
    place = folder(tmp_path_factory.mktemp("parts"))
    shutil.rmtree(place / "scheduler")
    return place


def written(place: Path, values: dict) -> Path:
    (place / "c.yaml").write_text(yaml.safe_dump(values))
    return place / "c.yaml"


def trained(config: Path, place: Path, *options: str) -> dict[str, torch.Tensor]:
    what = "autoencoder" if "model:" in config.read_text() else "cpgd"
    assert run(["train", what, str(config), "-o", str(place), *options]) == 0
    return load_file(place / "last" / "model.safetensors")


def halves_equal_the_whole(values: dict, place: Path) -> None:
    config = written(place, values)
    whole = trained(config, place / "whole")
    half = {**values, "loop": {**LOOP, "steps": 2}}
    trained(written(place, half), place / "parts")
    parts = trained(written(place, values), place / "parts", "--resume")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    log = [json.loads(line) for line in (place / "whole" / "log.jsonl").read_text().splitlines()]
    assert np.isfinite([row["loss"] for row in log if "loss" in row]).all()
    assert np.isfinite(log[-1]["validation"]["score"]) and (place / "whole" / "best" / "config.json").is_file()
    shown = read_image(place / "whole" / "pictures" / "000004-0.png")
    assert shown.shape[0] >= 32 and shown.shape[1] % 32 == 0 and shown.std() > 0


def test_autoencoder(photos, validation, tmp_path):
    data = {"photos": [str(photos)], "crop_px": 64, "validation": str(validation)}
    halves_equal_the_whole(
        {
            "model": {"channels": [16, 16, 16], "blocks": [0, 1, 1], "latent_channels": 4},
            "data": data,
            "perceptual": 0.1,
            "loop": LOOP,
        },
        tmp_path,
    )


def test_autoencoder_learns_a_picture(photos):
    """Shown one batch again and again, what comes out comes closer to what went in."""
    torch.manual_seed(0)
    config = AutoencoderTraining(data=ImageConfig(photos=[str(photos)], crop_px=32), perceptual=0.0)
    model = AutoencoderTraining.start(config)
    recipe = AutoencoderRecipe(model, config)
    batch = recipe.crops.batch(np.random.default_rng(0), 2)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    errors = []
    for _ in range(25):
        optimiser.zero_grad()
        loss, figures = recipe.loss(model, batch)
        loss.backward()
        optimiser.step()
        errors.append(figures["l1"])
    assert errors[-1] < 0.6 * errors[0]


def test_an_autoencoder_starts_from_a_folder_of_weights(tmp_path):
    before = AutoencoderConfig(channels=(16, 16, 16), blocks=(0, 1, 1), latent_channels=4).build()
    before.save_pretrained(tmp_path)
    started = AutoencoderTraining(data=ImageConfig(), init=str(tmp_path)).start()
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in started.state_dict().items())
    assert all(parameter.requires_grad for parameter in started.parameters())
    with pytest.raises(WeightsError, match=r"expected a folder with config\.json"):
        AutoencoderTraining(data=ImageConfig(), init="somebody/model").start()


def test_prior(photos, parts, validation, tmp_path):
    images = {"photos": [str(photos)], "crop_px": 64, "validation": str(validation)}
    unet = {"channels": [32, 32, 64, 64], "text_width": 16}
    values = {"stage": "prior", "autoencoder": str(parts / "vae"), "unet": unet, "images": images, "loop": LOOP}
    halves_equal_the_whole(values, tmp_path)


@pytest.fixture
def control(photos, pack, parts, validation) -> dict:
    return {
        "autoencoder": str(parts / "vae"),
        "prior": str(parts / "unet"),
        "data": {"packs": [str(pack)], "crop_px": 64, "frames": 3, "validation": str(validation)},
        "images": {"photos": [str(photos)], "crop_px": 64},
        "hybrid": 0.5,
        "loop": LOOP,
    }


def test_control(control, tmp_path):
    halves_equal_the_whole(control, tmp_path)
    shown = read_image(tmp_path / "whole" / "pictures" / "000004-0.png")
    given = [read_image(file) for file in sorted((Path(control["data"]["validation"]) / "clip" / "sharp").iterdir())]
    panels = np.split(shown, 3, axis=1)
    assert any(np.array_equal(panels[2], frame) for frame in given), "the last panel is the sharp frame"
    assert not np.array_equal(panels[0], panels[1])


def test_a_trained_control_network_comes_with_its_pipeline(control, tmp_path):
    trained(written(tmp_path, {**control, "prediction": "v_prediction", "latest": 400}), tmp_path / "run")
    entry = find(str(tmp_path / "run" / "pipeline"))
    pipe, best = load_model(entry), load_file(tmp_path / "run" / "best" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(v, best[k]) for k, v in pipe.control.state_dict().items())
    assert pipe.scheduler.config["prediction_type"] == "v_prediction"
    assert sampling_defaults(entry, Sampling)["start"] == 0.4


def test_phase_two_trains_the_control_network_only(control, parts, tmp_path):
    config = written(tmp_path, {**control, "hybrid": 0.0, "loop": {**LOOP, "steps": 6, "optimiser": {"lr": 0.01}}})
    job = prepare(config, False)
    assert isinstance(job.recipe, ControlRecipe)
    start = {k: v.clone() for k, v in job.model.state_dict().items()}
    train(job.model, job.recipe, job.loop, tmp_path / "run")
    frozen = {"unet": job.recipe.unet, "vae": job.recipe.diffusion.vae}
    for name, model in frozen.items():
        before = load_file(parts / name / "diffusion_pytorch_model.safetensors")
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    still = [k for k, v in job.model.state_dict().items() if torch.equal(v, start[k])]
    # the empty prompt is zero, and so is what cross-attention's keys could learn from it
    assert all("attn2" in k or "norm2" in k for k in still), still


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_perceptual_loss_can_be_trained(prediction, control, parts, tmp_path):
    """On one batch the loss falls, through a frozen decoder and a frozen denoiser that get no gradient."""
    values = {**control, "hybrid": 0.0, "perceptual": 1.0, "prediction": prediction, "latest": 300}
    job = prepare(written(tmp_path, values), False)
    recipe = job.recipe
    frozen = [*recipe.unet.parameters(), *recipe.diffusion.vae.parameters()]
    before = [p.clone() for p in frozen]
    batch = next(recipe.batches(range(1)))
    optimiser = torch.optim.Adam(recipe.parameter_groups()[0]["params"], 3e-3)
    totals, seen = [], []
    for _ in range(12):
        optimiser.zero_grad()
        loss, figures = recipe.loss(job.model, batch)
        loss.backward()
        optimiser.step()
        totals.append(loss.item())
        seen.append(figures["perceptual"])
        assert loss.item() == pytest.approx(figures["noise"] + figures["perceptual"], rel=1e-5)
    assert totals[-1] < 0.8 * totals[0] and seen[-1] < 0.95 * seen[0]
    assert all(p.grad is None and torch.equal(p, old) for p, old in zip(frozen, before, strict=True))
    assert {"noise", "perceptual", "share"} <= recipe.validate(job.model).keys()


@pytest.mark.parametrize("perceptual", [0.0, 1.0])
def test_the_uncontrolled_loss_is_computed_at_validation_only(perceptual, control, tmp_path):
    """A step asks the frozen denoiser once. A control network that adds nothing does as well as none: share 1."""
    recipe = prepare(written(tmp_path, {**control, "perceptual": perceptual}), False).recipe
    asked = []
    recipe.unet.register_forward_hook(lambda *_: asked.append(1))
    silent = CPControlNet.beside(recipe.unet)
    _, figures = recipe.loss(silent, next(recipe.batches(range(1))))
    assert len(asked) == 1 and "share" not in figures
    told = recipe.validate(silent)
    assert told["share"] == 1 and told["score"] == -told["loss"]
    with torch.no_grad():
        for name, parameter in silent.named_parameters():
            if name.startswith("controlnet_"):
                parameter.normal_(std=1.0)
    heard, part = recipe.validate(silent), "noise" if perceptual else "loss"
    assert heard["share"] == pytest.approx(heard[part] / told[part], rel=0.02) and abs(heard["share"] - 1) > 0.03


def test_the_training_picture_equals_the_samplers(control, tmp_path):
    """Where the estimate is the hint's own latent, cancelling leaves the hint: L1 is that of hint and sharp."""
    for cancel in (True, False):
        values = {**control, "perceptual": 1.0, "hybrid": 0.0, "cancel_autoencoder": cancel}
        recipe = prepare(written(tmp_path, values), False).recipe
        batch = recipe.hinted(next(recipe.batches(range(1))))
        with torch.no_grad():
            hint = recipe.diffusion.encode(batch.hint)
            made = batch.hint if cancel else recipe.diffusion.decode(hint)
            sharp = batch.sharp.float() / 255
            distance = recipe.lpips(made.clamp(0, 1) * 2 - 1, sharp * 2 - 1)
            wanted = torch.tensor([0.5, 1.0]) * ((made - sharp).abs().mean((1, 2, 3)) + distance)
            found = recipe._perceptual(batch, hint, hint, torch.tensor([0.5, 1.0]))
        torch.testing.assert_close(found, wanted.mean())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_estimate_of_a_perfect_prediction_is_the_clean_latent(prediction, control, tmp_path):
    """And its slope by the prediction is −√(1−ᾱ), times what ``gain`` takes away, for ε too."""
    diffusion = prepare(written(tmp_path, {**control, "prediction": prediction}), False).recipe.diffusion
    clean = torch.randn(16, 4, 4, 4)
    noisy, t, target = diffusion.noised(clean, 3)
    target.requires_grad_()
    found = diffusion.clean(noisy, target, t)
    torch.testing.assert_close(found, clean, atol=2e-3, rtol=1e-3)
    (slope,) = torch.autograd.grad((diffusion.gain(t)[:, None, None, None] * found).sum(), target)
    spread = (1 - diffusion.schedule.alphas_cumprod[t]).sqrt()
    torch.testing.assert_close(-slope[:, 0, 0, 0], spread)


def test_a_timestep_beyond_the_latest_is_never_drawn(control, tmp_path):
    config = read_config(CPGDTraining, written(tmp_path, {**control, "latest": 50}))
    job = prepare(tmp_path / "c.yaml", False)
    drawn = torch.cat([job.recipe.diffusion.noised(torch.zeros(64, 4, 2, 2), i)[1] for i in range(5)])
    assert config.latest == 50 and drawn.max() < 50 and drawn.min() >= 0 and len(drawn.unique()) > 25


def test_pictures_show_the_same_part_of_frames_and_fields():
    y, x = torch.meshgrid(torch.arange(384), torch.arange(640), indexing="ij")
    frame, field = torch.stack([y, x, x])[None].float(), torch.stack([y, x, x])[None, :, ::4, ::4].float()
    shown, told = middle(frame, 64), middle(field, 64, 4)
    assert shown.shape == (1, 3, 256, 256) and told.shape == (1, 3, 64, 64)
    assert torch.equal(shown[..., ::4, ::4], told)
    assert middle(frame[..., :40], 64).numel() == 0
    assert spread(list(range(11))) == [0, 5, 10] and spread([1, 2]) == [1, 2] and spread([]) == []
    assert np.array_equal(strip(shown / 255, shown / 0.1)[:, 256:].ravel()[:3], [255] * 3)


def test_crops_depend_on_the_pictures_and_the_seed(photos):
    crops = ImageCrops(ImageConfig(photos=[str(photos)], crop_px=48, shrink=(0.5, 1.0)))
    first, again = (crops.batch(np.random.default_rng(5), 3) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (3, 3, 48, 48) and first.dtype == torch.uint8
    assert not torch.equal(first[0], first[1])
    with pytest.raises(UsageError, match=r"photos and data\.clips"):
        ImageCrops(ImageConfig())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "both"}, "stage both: expected prior or control"),
        ({"autoencoder": ""}, "autoencoder '': expected a folder"),
        ({"prior": ""}, "prior '': expected the folder of the frozen UNet"),
        ({"prior": "nowhere"}, "nowhere"),
        ({"init": "somebody/model"}, "expected a folder with config.json"),
        ({"perceptual": -1.0}, "perceptual -1: expected 0 or more"),
        ({"data": {}}, "data.packs"),
    ],
)
def test_invalid_configurations_are_refused(change, message, control, tmp_path, capsys):
    config = written(tmp_path, {**control, **change})
    assert run(["train", "cpgd", str(config), "-o", str(tmp_path / "x")]) != 0
    told = capsys.readouterr().err.strip()
    assert message in told and len(told.splitlines()) == 1


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_samples_that_start_from_the_hint(prediction, control, tmp_path):
    """They are noised from the hint, as by the sampler, and the clean latents of their targets are the sharp ones."""
    values = {**control, "prediction": prediction, "from_hint": 0.5}
    diffusion = prepare(written(tmp_path, values), False).recipe.diffusion
    clean, given = torch.randn(64, 4, 2, 2), torch.randn(64, 4, 2, 2)
    plain, t, _ = diffusion.noised(clean, 5)
    noisy, same, target, weights = diffusion.noised_from(clean, given, 0.5, 5)
    assert torch.equal(same, t)
    chosen = (noisy != plain).flatten(1).any(1)
    assert 20 < chosen.sum() < 44
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    expected = diffusion.schedule.add_noise(given, noise, t)
    torch.testing.assert_close(noisy[chosen], expected[chosen], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(diffusion.clean(noisy, target, t), clean, atol=5e-3, rtol=1e-3)
    # the weighted error of the target is that of the clean latents
    off = diffusion.clean(noisy, target + 0.1, t) - clean
    signal2 = diffusion.schedule.alphas_cumprod[t].reshape(-1, 1, 1, 1) if prediction == "epsilon" else 1.0
    weighted = (0.01 * weights).expand_as(off)
    torch.testing.assert_close(((off**2) * signal2)[chosen], weighted[chosen], atol=1e-4, rtol=0.05)
    assert (weights[~chosen] == 1).all()


@pytest.mark.parametrize("name", ["paper", "release"])
def test_the_papers_configurations_take_a_step_with_small_networks(name, parts, pack, tmp_path):
    changes = [f"autoencoder={parts / 'vae'}", f"prior={parts / 'unet'}", "init=null", "first_stage=null"]
    changes += ["data.pairs=[]", f"data.packs=[{pack}]", "data.validation=null", "data.crop_px=64", "data.frames=2"]
    changes += ["loop.steps=1", "loop.batch=1", "loop.precision='no'"]
    trained(Path(__file__).parents[2] / "configs" / f"cpgd-{name}.yaml", tmp_path / "run", *changes)
    pipe = load_model(find(str(tmp_path / "run" / "pipeline")))
    assert pipe.control.config["prior_form"] == ("released" if name == "release" else "fixed")
    assert pipe.group(pipe.sampling) == (6 if name == "release" else 1) and not pipe.sampling.cancel_autoencoder
