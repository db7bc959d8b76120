"""The video diffusion model on whole videos: windows, cuts, options, folders that do not fit."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import unsmear
from support.clips import make_clip, moving_frames
from support.tiny_vdm import folder
from unsmear.cli.main import run
from unsmear.restore.restorer import Clip
from unsmear.video import open_video

FRAMES = 8


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    made = folder(tmp_path_factory.mktemp("weights") / "vdm")
    (made / "sampling.json").write_text(json.dumps({"steps": 2, "window": 8, "overlap": 2}))
    return made


@pytest.fixture(scope="module")
def restorer(weights):
    return unsmear.load(str(weights), device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", size=(50, 34), frames=FRAMES)


def frames_of(path) -> np.ndarray:
    with open_video(path) as reader:
        return np.stack([frame.rgb for frame in reader])


def moving(count: int, cuts: tuple[int, ...] = ()) -> Clip:
    """Frames with their priors; a cut begins another picture, a dark one."""
    frames: list[np.ndarray] = []
    for i, (first, end) in enumerate(zip((0, *cuts), (*cuts, count), strict=True)):
        frames += [f // (1 + 3 * i) for f in moving_frames((48, 32), end - first, seed=7 * i)]
    return Clip.of(frames, 0.5)


def part(clip: Clip, first: int, end: int, wanted: int | None = None) -> Clip:
    return Clip(clip.frames[first:end], clip.priors[first:end], clip.duty, wanted, first)


def test_what_one_piece_hands_to_the_next(restorer):
    clip = moving(14)
    first, state = restorer.restore(part(clip, 0, 8, 6), None, None)
    assert first.shape == (6, 32, 48, 3) and state["path"].shape[:2] == (3, 2)
    rest, end = restorer.restore(part(clip, 6, 14), state, None)
    alone, _ = restorer.restore(part(clip, 6, 14), None, None)
    assert end == {}
    # The first shared frame is mostly the earlier piece's: it would have been its next one.
    next_one = restorer.restore(part(clip, 0, 8), None, None)[0][6].astype(int)
    assert np.abs(rest[0] - next_one).mean() < np.abs(alone[0] - next_one).mean()
    assert not np.array_equal(rest, alone)


def test_noise_is_that_of_the_frames_number(restorer):
    clip = moving(4)
    here, there = (restorer.restore(Clip(clip.frames, clip.priors, first=n), None, None)[0] for n in (0, 9))
    assert not np.array_equal(here, there)
    assert np.array_equal(here, restorer(clip))


def test_a_cut_inside_a_window(restorer):
    """Both shots come out as they would alone."""
    clip = moving(8, cuts=(5,))
    assert [p.reset for p in clip.priors] == [True, *[False] * 4, True, False, False]
    whole, _ = restorer.restore(clip, None, None)
    before, _ = restorer.restore(part(clip, 0, 5), None, None)
    after, _ = restorer.restore(part(clip, 5, 8), None, None)
    assert np.abs(whole.astype(int) - np.concatenate([before, after])).max() <= 1
    mixed = [*clip.priors[:5], *[clip.priors[4]] * 3]
    assert np.abs(restorer(Clip(clip.frames, mixed)).astype(int)[4] - whole[4]).max() > 1


def test_memory_is_a_windows(restorer):
    """What the UNet is given never holds more than a window of frames, however many a piece has."""
    seen = []
    unet = restorer.pipe.unet
    hook = unet.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2]))
    restorer.restore(moving(20), None, None)
    hook.remove()
    assert max(seen) == 8 and len(seen) == 2 * 3


def test_large_frames_take_tiles(restorer):
    assert restorer.default_tile_px(480, 640, 24) is None or restorer.pipe.cell < 8
    assert restorer.default_tile_px(4000, 4000, 24) == 128 * restorer.pipe.cell


def test_options_reach_the_sampler(weights, clip, tmp_path):
    runs = {}
    for name, options in {"a": [], "b": ["--seed", "1"], "c": ["--seed", "0"], "g": ["--guidance", "4"]}.items():
        target = tmp_path / f"{name}.mp4"
        given = ["deblur", str(clip), "-o", str(target), "--model", str(weights), "--quiet", "--end", "0.2"]
        assert run([*given, "--dtype", "fp32", "--crf", "1", *options]) == 0
        runs[name] = frames_of(target)
    assert np.array_equal(runs["a"], runs["c"])
    assert not np.array_equal(runs["a"], runs["b"]) and not np.array_equal(runs["a"], runs["g"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "a cat"], "prompt: vdm takes none"),
        (["--fidelity", "0.5"], "option 'fidelity' is unknown to vdm"),
        (["--steps", "0"], "--steps 0: expected 1 or more"),
    ],
)
def test_options_that_cannot_be(options, message, weights, clip, tmp_path, capsys):
    assert run(["deblur", str(clip), "-o", str(tmp_path / "out.mp4"), "--model", str(weights), *options]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def spoil(what: str, place) -> None:
    weights = place / "blur_encoder" / "diffusion_pytorch_model.safetensors"
    if what == "no vae":
        shutil.rmtree(place / "vae")
    elif what == "missing key":
        state = load_file(weights)
        save_file({k: v for k, v in state.items() if k != "projection.1.weight"}, weights)
    elif what == "truncated":
        weights.write_bytes(weights.read_bytes()[:500])
    elif what == "another width":
        from support.tiny_vdm import tokens

        tokens(token_width=8).save_pretrained(place / "image_tokens")
    elif what == "sampler":
        (place / "sampling.json").write_text('{"fidelity": 0.3}')
    elif what == "checksum":
        (place / "card.json").write_text(json.dumps({"sha256": "0" * 64}))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no vae", "has no vae"),
        ("missing key", r"lacks projection\.1\.weight"),
        ("truncated", "no safetensors file"),
        ("another width", "context is 16, that of its conditions 8"),
        ("sampler", "does not describe a sampler"),
        ("checksum", "is damaged"),
    ],
)
def test_folders_that_do_not_fit_are_refused(what, message, weights, tmp_path):
    shutil.copytree(weights, tmp_path / "x")
    spoil(what, tmp_path / "x")
    with pytest.raises(unsmear.WeightsError, match=message) as caught:
        unsmear.load(str(tmp_path / "x"))
    assert len(str(caught.value).splitlines()) == 1


def test_without_its_conditions_it_starts_from_the_autoencoders_encoder(weights, tmp_path, caplog):
    shutil.copytree(weights, tmp_path / "x")
    for name in ("blur_encoder", "image_tokens"):
        shutil.rmtree(tmp_path / "x" / name)
    pipe = unsmear.load(str(tmp_path / "x"), dtype="fp32").pipe
    assert "no blur_encoder: it starts untrained" in caplog.text and "no text encoder" in caplog.text
    ours, theirs = pipe.blur_encoder.encoder.state_dict(), pipe.vae.encoder.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert pipe.image_tokens.empty_prompt.shape == (77, 16)
