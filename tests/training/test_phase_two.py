"""Phase II of CPGD-Net: what a control network was trained with is what its pipeline samples with."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDIMScheduler, DDPMScheduler
from test_average import random
from test_train_datasets import make

import unsmear
from support import fake_transformers
from support.command import unsmear as command
from support.fake_transformers import TOKENS, embedding, text_folders
from support.tiny_pipeline import control, folder
from unsmear.datasets.augment import augment
from unsmear.errors import DataLayoutError, UsageError, WeightsError
from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.loading import load_model
from unsmear.models.zoo import ModelEntry, find
from unsmear.restore.job import restore_video
from unsmear.restore.options import Options
from unsmear.training.batches import open_batches
from unsmear.training.config import from_mapping
from unsmear.training.control import ControlRecipe
from unsmear.training.cpgd import prepare
from unsmear.training.sequences import DataConfig

WIDTH = 16
LOOP = {"steps": 1, "batch": 2, "checkpoint_every": 9, "validate_every": 9, "log_every": 1, "ema": 0.5}
ZERO_SNR = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A base model with text encoder and schedule, a stage 1, and a data set with priors."""
    top = tmp_path_factory.mktemp("phase2")
    folder(top / "base")
    text_folders(top / "base", WIDTH)
    shutil.rmtree(top / "base" / "scheduler")
    DDPMScheduler(**ZERO_SNR, timestep_spacing="trailing").save_pretrained(top / "base" / "scheduler")
    random(0).save_pretrained(top / "first")
    make(top / "GoPro", "GoPro")
    augment(top / "GoPro", role="blur")
    return top


@pytest.fixture(autouse=True)
def text(monkeypatch) -> None:
    fake_transformers.install(monkeypatch)


def values(place: Path, **changes) -> dict:
    return {
        "autoencoder": str(place / "base" / "vae"),
        "prior": str(place / "base" / "unet"),
        "first_stage": str(place / "first"),
        "data": {"pairs": [{"dataset": str(place / "GoPro"), "role": "blur"}], "crop_px": 64, "frames": 3},
        "loop": LOOP,
        **changes,
    }


def written(tmp_path: Path, values: dict) -> Path:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "c.yaml"


def recipe(place: Path, tmp_path: Path, **changes) -> ControlRecipe:
    return prepare(written(tmp_path, values(place, **changes)), False).recipe


def test_a_pipeline_samples_with_what_it_was_trained_with(place, tmp_path):
    """Stage 1, prompt, empty prompt and schedule; another stage 1 in their place is refused in one line."""
    told = command("train", "cpgd", written(tmp_path, values(place, prompt="sharp")), "-o", tmp_path / "run")
    assert told.exit_code == 0, told.output
    made = tmp_path / "run" / "pipeline"
    loaded = unsmear.load(str(made), device="cpu", dtype="fp32")
    assert loaded.first.fingerprint == find(str(place / "first")).checksum()
    assert torch.equal(loaded.prompts[0], embedding("sharp", WIDTH))
    assert torch.equal(loaded.prompts[1], embedding("", WIDTH)) and loaded.pipe.text_encoder is not None
    other = unsmear.load(str(made), device="cpu", dtype="fp32", prompt="")
    assert torch.equal(other.prompts[0], embedding("", WIDTH))
    sampler, trained = loaded.pipe.scheduler, recipe(place, tmp_path, prompt="sharp").diffusion
    assert isinstance(sampler, DDPMScheduler) and sampler.config["timestep_spacing"] == "trailing"
    assert torch.equal(sampler.alphas_cumprod, trained.schedule.alphas_cumprod) and sampler.alphas_cumprod[-1] == 0
    assert sampler.config["prediction_type"] == trained.prediction == "v_prediction"

    shutil.rmtree(made / "cpfp")
    random(1).save_pretrained(made / "cpfp")
    with pytest.raises(WeightsError, match=r"is another stage 1 .* than the control network in .* was trained with"):
        unsmear.load(str(made))
    shutil.rmtree(made / "cpfp")
    with pytest.raises(WeightsError, match="is another stage 1"):
        unsmear.load(str(made))


def test_a_network_trained_on_blurred_frames_has_no_stage_one(place, tmp_path):
    config = written(tmp_path, values(place, first_stage=None))
    assert command("train", "cpgd", config, "-o", tmp_path / "run").exit_code == 0
    assert unsmear.load(str(tmp_path / "run" / "pipeline"), device="cpu").first is None


def test_captions_and_the_prompt_are_dropped_half_of_the_time(place, tmp_path, monkeypatch):
    """Embeddings are computed once, before training; where dropped, it is the base model's empty prompt."""
    data = tmp_path / "set"
    shutil.copytree(place / "GoPro", data)
    shutil.copytree(data / "train" / "GOPR1", data / "train" / "GOPR3")
    (data / "captions.json").write_text('{"GOPR1": "a cat"}')
    given = {"pairs": [{"dataset": str(data), "role": "blur"}], "crop_px": 64, "frames": 1}
    asked = []
    ahead = fake_transformers.CLIPTextModel.forward
    monkeypatch.setattr(
        fake_transformers.CLIPTextModel, "forward", lambda self, tokens: (asked.append(1), ahead(self, tokens))[1]
    )
    taught = recipe(place, tmp_path, data=given, prompt="any", first_stage=None)
    assert len(asked) == 3
    prompts = []
    for batch in taught.batches(range(60)):
        hinted = taught.hinted(batch)
        prompts += hinted.prompts
        text = taught._inputs(hinted).text
        assert all(torch.equal(row, embedding(p, WIDTH)[0]) for row, p in zip(text, hinted.prompts, strict=True))
    assert set(prompts) == {"", "a cat", "any"} and 40 < prompts.count("") < 80 and len(asked) == 3
    assert text.shape == (2, TOKENS, WIDTH)
    (data / "captions.json").write_text('{"GOPR9": "a cat"}')
    with pytest.raises(DataLayoutError, match=r"captions.json: names no clip; they are called GOPR1 and the like"):
        recipe(place, tmp_path, data=given)


def test_a_prompt_needs_a_text_encoder(place, tmp_path):
    for part in ("unet", "vae"):
        shutil.copytree(place / "base" / part, tmp_path / "bare" / part)
    with pytest.raises(UsageError, match="has no text encoder; leave the prompt out"):
        recipe(place, tmp_path, prior=str(tmp_path / "bare" / "unet"), prompt="sharp")


def expected_signal(prediction: str) -> np.ndarray:
    """√ᾱ of Stable Diffusion's schedule; for v shifted and scaled to end at zero (Lin et al. 2023, Algorithm 1)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    signal = np.sqrt(np.cumprod(1 - betas))
    if prediction == "epsilon":
        return signal
    return (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_schedules_are_those_of_the_formulae(prediction, place, tmp_path):
    shutil.copytree(place / "base" / "unet", tmp_path / "alone" / "unet")
    alone = {"prior": str(tmp_path / "alone" / "unet"), "prediction": prediction, "first_stage": None}
    diffusion = recipe(place, tmp_path, **alone).diffusion
    clean = torch.randn(64, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    noisy, t, target = diffusion.noised(clean, 5)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    a = torch.from_numpy(expected_signal(prediction)[t]).float().reshape(-1, 1, 1, 1)
    s = (1 - a**2).clamp(min=0).sqrt()
    torch.testing.assert_close(noisy, a * clean + s * noise, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(
        target, noise if prediction == "epsilon" else a * noise - s * clean, atol=2e-5, rtol=1e-4
    )
    sampler = diffusion.sampler()
    sampler.set_timesteps(50)
    spaced = np.linspace(0, 999, 50).round()[::-1] if prediction == "epsilon" else np.arange(1000, 0, -20) - 1
    assert isinstance(sampler, DDPMScheduler) and sampler.timesteps.tolist() == spaced.tolist()
    np.testing.assert_allclose(sampler.alphas_cumprod.sqrt().numpy(), expected_signal(prediction), atol=1e-5)
    other = {**alone, "schedule": {"sampler": "ddim", "spacing": "leading"}}
    sampler = recipe(place, tmp_path, **other).diffusion.sampler()
    sampler.set_timesteps(50)
    assert isinstance(sampler, DDIMScheduler) and sampler.timesteps.tolist() == list(range(980, -1, -20))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"prediction": "epsilon"}, "`prediction` epsilon: expected v_prediction, as in "),
        ({"schedule": {"zero_snr": False}}, "`schedule.zero_snr` False: expected true, as in "),
    ],
)
def test_another_schedule_than_the_base_models_is_refused(change, line, place, tmp_path):
    with pytest.raises(UsageError) as raised:
        recipe(place, tmp_path, **change)
    assert str(raised.value).startswith(line)


def outputs(network: CPControlNet, frames: int = 1) -> list[torch.Tensor]:
    latent, hint = torch.randn(2, 4, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    priors = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        out = network(latent, torch.tensor(500), torch.ones(4, 3, WIDTH), hint, priors, frames=frames)
    return [*out.down_block_res_samples, out.mid_block_res_sample]


def differ(a: CPControlNet, b: CPControlNet) -> bool:
    return any(not torch.allclose(x, y, atol=1e-5) for x, y in zip(outputs(a), outputs(b), strict=True))


@pytest.mark.parametrize(
    ("own", "wanted", "same"),
    [
        ({}, {"guided": False, "joint_time_attention": True}, True),  # as imported from DiffBIR: the priors add nothing
        ({}, {"shared_query": True, "prior_width": 1}, True),
        ({"guided": False}, {"guided": True, "prior_width": 1}, True),
        ({"opened": True}, {"guided": False}, False),
        ({"opened": True, "prior_width": 1}, {"prior_width": "layer"}, True),
        ({"opened": True, "shared_query": True}, {"shared_query": False}, True),
    ],
)
def test_options_are_applied_to_initial_weights(own, wanted, same, place, tmp_path):
    before = control(**own)
    if own.get("shared_query"):
        for name, parameter in before.named_parameters():
            if ".mask." in name:
                torch.nn.init.normal_(parameter, std=1.0)
    before.save_pretrained(tmp_path / "init")
    config = written(tmp_path, values(place, init=str(tmp_path / "init"), control=wanted))
    after = prepare(config, False).model
    stored = {name: None if value == "layer" else value for name, value in wanted.items()}
    assert {name: after.config[name] for name in stored} == stored
    assert differ(before, after.eval()) is not same
    assert all(parameter.requires_grad for parameter in after.parameters())


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ({"shared_query": True}, "`control.shared_query` True: expected false: L_qm was trained"),
        ({"prior_width": 1}, "`control.prior_width` 1: expected layer: A was trained"),
    ],
)
def test_options_that_trained_priors_cannot_have_are_refused(wanted, line, place, tmp_path):
    control(opened=True).save_pretrained(tmp_path / "init")
    config = written(tmp_path, values(place, init=str(tmp_path / "init"), control=wanted))
    with pytest.raises(UsageError) as raised:
        prepare(config, False)
    assert str(raised.value).startswith(line)


def test_joint_attention_is_trained_as_it_is_run(place, tmp_path):
    """All frames of a clip together, at one timestep, with their own hints and priors."""
    taught = recipe(place, tmp_path, control={"joint_time_attention": True})
    seen = []
    taught.model.register_forward_hook(lambda _, args, kwargs, out: seen.append((args, kwargs)), with_kwargs=True)
    [batch] = taught.batches(range(1))
    loss, _ = taught.loss(taught.model, batch)
    loss.backward()
    (sample, t, _, _, priors), options = seen[0]
    assert sample.shape[0] == priors.shape[0] == 6 and options["frames"] == 3
    assert len(t.reshape(2, 3).unique(dim=1)[0]) == 1 and len(t) == 6
    clips = batch.clips
    restored = taught.first(clips.blurred.float() / 255, clips.priors).frames.clamp(0, 1)
    hinted = taught.hinted(batch)
    assert torch.equal(hinted.hint[4], restored[1, 1]) and torch.equal(hinted.sharp[4], clips.sharp[1, 1])
    whole = {"pairs": [{"dataset": str(place / "GoPro"), "role": "blur"}], "crop_px": 64, "frames": 9}
    whole["validation"] = {"dataset": str(place / "GoPro"), "role": "blur"}
    taught = recipe(place, tmp_path, control={"joint_time_attention": True}, data=whole)
    assert [taught.hinted(batch).together for batch in taught.batches(range(1))] == [5], "clips are no longer"
    assert {len(hint) for hint, _, _ in taught.clips} == {3} and taught.validate(taught.model)["loss"] > 0
    assert taught.pictures(taught.model)
    with pytest.raises(UsageError, match="hybrid: still images are no clips for joint_time_attention"):
        recipe(place, tmp_path, control={"joint_time_attention": True}, hybrid=0.5)


def test_joint_frames_equal_a_naive_attention():
    layer = control(joint_time_attention=True, guided=False).down_blocks[0].attentions[0].transformer_blocks[0].attn1
    tokens = torch.randn(4, 30, 32, generator=torch.Generator().manual_seed(0))
    width = 32 // layer.heads
    with torch.inference_mode():
        made = layer(tokens, frames=2)
        for group in range(2):
            together = tokens[2 * group : 2 * group + 2].reshape(60, 32)
            query, key, value = (project(together) for project in (layer.to_q, layer.to_k, layer.to_v))
            heads = []
            for h in range(layer.heads):
                part = slice(h * width, (h + 1) * width)
                weights = (query[:, part] @ key[:, part].T / width**0.5).softmax(-1)
                heads.append(weights @ value[:, part])
            expected = layer.to_out[0](torch.cat(heads, -1)).reshape(2, 30, 32)
            torch.testing.assert_close(made[2 * group : 2 * group + 2], expected, atol=1e-5, rtol=1e-5)


def config(pairs: list, **more) -> DataConfig:
    return from_mapping(DataConfig, {"pairs": pairs, "crop_px": 32, "frames": 2, **more}, "c")


def test_batches_do_not_depend_on_the_threads(place):
    pairs = [{"dataset": str(place / "GoPro"), "role": "blur"}]
    one, many = (list(open_batches(config(pairs, workers=n, ahead=n), 3, 2).at(range(5))) for n in (1, 4))
    assert len(one) == len(many) == 5
    for a, b in zip(one, many, strict=True):
        assert torch.equal(a.blurred, b.blurred) and torch.equal(a.priors.motion, b.priors.motion)


def test_gradients_are_the_same_with_less_memory(place, tmp_path):
    gradients = []
    for less in (False, True):
        taught = recipe(place, tmp_path, gradient_checkpointing=less)
        [batch] = taught.batches(range(1))
        taught.loss(taught.model.train(), batch)[0].backward()
        gradients.append([p.grad for p in taught.model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_stage_one_runs_once_over_a_data_set(place, tmp_path):
    """The frames are those of the restoration of videos; the rest is linked, and training reads the copy."""
    out, source = tmp_path / "restored", place / "GoPro"
    words = ("data", "restore", source, "-o", out, "--model", place / "first", "--role", "blur", "--device", "cpu")
    told = command(*words, "--dtype", "fp32")
    assert told.exit_code == 0, told.output
    clip = out / "train" / "GOPR1"
    assert (clip / "sharp").resolve() == source / "train" / "GOPR1" / "sharp" and not (clip / "blur").is_symlink()
    frames = unsmear.load(str(place / "first"), device="cpu", dtype="fp32")
    options = Options(frames=True, priors=str(source / "train/GOPR1/blur.priors.npz"))
    restore_video(source / "train/GOPR1/blur", tmp_path / "whole", frames, options)
    names = [path.name for path in sorted((clip / "blur").iterdir())]
    assert names == [path.name for path in sorted((source / "train/GOPR1/blur").iterdir())]
    assert all((clip / "blur" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)

    facts = json.loads((out / "restored.json").read_text())
    (out / "restored.json").write_text(json.dumps(facts | {"complete": False}))
    data = {"pairs": [{"dataset": str(out), "role": "blur"}], "crop_px": 64, "frames": 3}
    with pytest.raises(DataLayoutError, match="is not restored completely; run `unsmear data restore` again"):
        recipe(place, tmp_path, data=data)
    shutil.rmtree(out / "test" / "GOPR2" / "blur")
    kept = (clip / "blur" / names[0]).stat().st_mtime_ns
    assert command(*words, "--dtype", "fp32").exit_code == 0
    assert (out / "test/GOPR2/blur").is_dir() and (clip / "blur" / names[0]).stat().st_mtime_ns == kept

    for words_of in (("data", "augment", out, "--overwrite"), ("data", "check", out)):
        assert (
            f"is a restored copy, with the priors of the blurred frames; name {source}" in command(*words_of).complaint
        )
    again = command("data", "restore", out, "-o", tmp_path / "twice")
    assert "is restored already" in again.complaint and not (tmp_path / "twice").exists()
    taught = recipe(place, tmp_path, data=data)
    taught.first = None  # it is not asked
    [batch] = taught.batches(range(1))
    assert torch.equal(taught.hinted(batch).hint, batch.clips.blurred[:, batch.first].float() / 255)
    random(1).save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match=r"expected .*, that of first_stage"):
        recipe(place, tmp_path, data=data, first_stage=str(tmp_path / "other"))
    told = command("data", "restore", source, "-o", out, "--model", tmp_path / "other", "--role", "blur")
    assert told.exit_code != 0 and "was restored by another stage 1" in told.complaint


def test_the_shipped_pipeline_states_no_conditions():
    """It was trained with the shipped stage 1, and runs after it."""
    entry = find("cpgd")
    assert entry.trained == {} and entry.first_stage.folder == find("cpfp").folder
    assert load_model(ModelEntry("cpgd", entry.folder)).prompt == ""
