"""Stage 2 on whole videos: same seed, same frames, whatever the windows; folders that do not fit."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import unsmear
from support.clips import make_clip
from support.tiny_pipeline import folder
from unsmear.cli.main import run
from unsmear.models.cpfp.network import CPFP, CPFPConfig
from unsmear.restore.restorer import Clip
from unsmear.video import open_video

FRAMES = 12


@pytest.fixture(scope="module")
def weights(tmp_path_factory, tiny_model):
    made = folder(tmp_path_factory.mktemp("weights") / "cpgd")
    shutil.copytree(tiny_model, made / "cpfp")
    (made / "sampling.json").write_text(json.dumps({"steps": 2, "start": 0.5, "carry_noise": True}))
    return made


@pytest.fixture(scope="module")
def restorer(weights):
    return unsmear.load(str(weights), device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", size=(98, 66), frames=FRAMES)


def frames_of(path) -> np.ndarray:
    with open_video(path) as reader:
        return np.stack([frame.rgb for frame in reader])


def test_what_one_window_hands_to_the_next_is_enough(weights, clip, tmp_path):
    """Windows change nothing for a stage 1 that neither sees later frames nor measures the blur of its clip."""
    shutil.copytree(weights, tmp_path / "causal")
    sizes = {"encoder_depth": 1, "body_depth": 1, "decoder_depth": 1, "line_blocks": 1, "offset_groups": 2}
    causal = CPFP.build(CPFPConfig(channels=8, passes=["forward"], deconvolve=[], **sizes))
    for parameter in causal.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    causal.save_pretrained(tmp_path / "causal" / "cpfp")
    restorer = unsmear.load(str(tmp_path / "causal"), device="cpu", dtype="fp32")
    with open_video(clip) as reader:
        given = Clip.of(list(reader), 0.5)
    pixels, priors = given.frames, given.priors
    whole, _ = restorer.restore(given, None, None)
    first, state = restorer.restore(Clip(pixels, priors, 0.5, 5), None, None)
    rest, _ = restorer.restore(Clip(pixels[5:], priors[5:], 0.5, first=5), state, None)
    apart = np.abs(np.concatenate([first, rest]).astype(int) - whole.astype(int))
    assert apart.max() <= 1
    other, _ = restorer.restore(Clip(pixels[5:], priors[5:], 0.5, first=9), None, None)
    assert np.abs(other.astype(int) - rest.astype(int)).max() > 1
    assert {name.split(".")[0] for name in state} == {"noise", "first"}


def test_large_frames_take_tiles(restorer):
    assert restorer.default_tile_px(64, 96, 24) is None
    assert restorer.default_tile_px(720, 1280, 24) == 200 * restorer.pipe.cell


def test_the_benchmark_takes_steps(weights, capsys):
    small = ["--size", "64x64", "--frames", "8", "--steps", "2", "--json"]
    assert run(["benchmark", "--model", str(weights), *small]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["model"] == weights.name and row["total_s"] > 0
    assert run(["benchmark", "--model", "cpfp", *small]) == 2


def test_options_reach_the_sampler(weights, clip, tmp_path):
    runs = {}
    for name, options in {"a": [], "b": ["--seed", "1"], "near": ["--fidelity", "1"], "c": ["--seed", "0"]}.items():
        target = tmp_path / f"{name}.mp4"
        given = ["deblur", str(clip), "-o", str(target), "--model", str(weights), "--quiet", "--steps", "2"]
        assert run([*given, "--dtype", "fp32", "--crf", "1", *options]) == 0
        runs[name] = frames_of(target).astype(int)
    assert np.array_equal(runs["a"], runs["c"]) and not np.array_equal(runs["a"], runs["b"])
    first = tmp_path / "first.mp4"
    unsmear.deblur(clip, first, model=str(weights / "cpfp"), dtype="fp32", crf=1)
    away = {name: np.abs(frames - frames_of(first)).mean() for name, frames in runs.items()}
    assert away["near"] < 2 < away["a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "cpfp", "--steps", "4"], "steps: cpfp does not sample"),
        (["--model", "{weights}", "--prompt", "a cat"], "has no text encoder"),
        (["--model", "{weights}", "--fidelity", "2"], "--fidelity 2: expected 0 to 1"),
        (["--model", "{weights}", "--steps", "0"], "--steps 0: expected 1 or more"),
    ],
)
def test_options_that_cannot_be(options, message, weights, clip, tmp_path, capsys):
    given = [option.format(weights=weights) for option in options]
    assert run(["deblur", str(clip), "-o", str(tmp_path / "out.mp4"), *given]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def broken(what: str, weights, place):
    shutil.copytree(weights, place)
    if what == "no vae":
        shutil.rmtree(place / "vae")
    elif what == "missing key":
        file = place / "control" / "diffusion_pytorch_model.safetensors"
        state = load_file(file)
        save_file({k: v for k, v in state.items() if k != "conv_in.bias"}, file)
    elif what == "truncated":
        file = place / "unet" / "diffusion_pytorch_model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
    elif what == "no scheduler":
        shutil.rmtree(place / "scheduler")
    elif what == "sampler":
        (place / "sampling.json").write_text('{"stepz": 3}')
    elif what == "another width":
        from diffusers import UNet2DConditionModel

        config = json.loads((place / "unet" / "config.json").read_text())
        UNet2DConditionModel.from_config(config | {"block_out_channels": [64, 64]}).save_pretrained(place / "unet")
    elif what == "checksum":
        (place / "card.json").write_text(json.dumps({"sha256": "0" * 64}))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no vae", "has no vae"),
        ("missing key", "lacks conv_in.bias"),
        ("truncated", "no safetensors file"),
        ("no scheduler", "does not describe a scheduler"),
        ("sampler", "does not describe a sampler"),
        ("another width", "block_out_channels"),
        ("checksum", "is damaged"),
    ],
)
def test_folders_that_do_not_fit_are_refused(what, message, weights, tmp_path):
    broken(what, weights, tmp_path / "x")
    with pytest.raises(unsmear.WeightsError, match=message) as caught:
        unsmear.load(str(tmp_path / "x"))
    assert len(str(caught.value).splitlines()) == 1


def test_without_a_control_network_it_starts_from_the_denoisers_encoder(weights, tmp_path, caplog):
    shutil.copytree(weights, tmp_path / "x")
    shutil.rmtree(tmp_path / "x" / "control")
    loaded = unsmear.load(str(tmp_path / "x"), dtype="fp32")
    assert "no control network" in caplog.text
    assert torch.equal(
        loaded.pipe.control.time_embedding.linear_1.weight, loaded.pipe.unet.time_embedding.linear_1.weight
    )
