"""The contract of restorers, which every one of them keeps: sizes, depth, resuming, tiles, memory, a single picture."""

import json
import shutil
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

import unsmear
from support import tiny_pipeline, tiny_vdm
from support.clips import moving_frames
from support.restorers import documented
from unsmear.restore.baselines import BASELINES, find_baseline
from unsmear.restore.restorer import Clip, OutOfMemory
from unsmear.video import write_png
from unsmear.video.images import read_image

NETWORKS = ("cpfp", "cpgd", "vdm")


def sampled(folder: Path, **sampling: object) -> Path:
    (folder / "sampling.json").write_text(json.dumps({"steps": 2, **sampling}))
    return folder


@pytest.fixture(scope="module", params=[*NETWORKS, *BASELINES, "documented"])
def restorer(request, tiny_model, tmp_path_factory) -> unsmear.Restorer:
    """Each kind of model with small random weights, each baseline, and the one that CONTRIBUTING.md shows."""
    if request.param == "documented":
        return documented()
    baseline = find_baseline(request.param)
    if baseline is not None:
        return baseline
    folder = tiny_model
    if request.param == "cpgd":
        folder = sampled(tiny_pipeline.folder(tmp_path_factory.mktemp("cpgd")), start=0.5, carry_noise=True)
        shutil.copytree(tiny_model, folder / "cpfp")
    elif request.param == "vdm":
        folder = sampled(tiny_vdm.folder(tmp_path_factory.mktemp("vdm")), window=8, overlap=2)
    return unsmear.load(str(folder), device="cpu", dtype="fp32")


def pictures(folder: Path, frames: list[np.ndarray]) -> Path:
    folder.mkdir()
    for i, frame in enumerate(frames):
        write_png(folder / f"{i:06d}.png", frame)
    return folder


def written(folder: Path) -> np.ndarray:
    return np.stack([read_image(file) for file in sorted(folder.iterdir())])


def test_it_says_what_it_is(restorer):
    assert isinstance(restorer, unsmear.Restorer)
    assert restorer.name and (restorer.device, restorer.dtype) == ("cpu", "float32")
    assert isinstance(restorer.fingerprint, str) and 0 <= restorer.frames_after <= 8
    assert repr(restorer) == f"{type(restorer).__name__}({restorer.name!r}, cpu, float32)"


@pytest.mark.parametrize("size", [(48, 32), (51, 35)], ids=["even", "odd"])
def test_frames_keep_size_and_depth_and_the_clip_is_left_alone(size, restorer):
    clip = Clip.of(moving_frames(size, 4), 0.5, output_frames=3)
    kept = clip.frames.copy()
    restored, state = restorer.restore(clip, None, None)
    assert restored.shape == (3, *size[::-1], 3) and restored.dtype == np.uint8
    assert np.array_equal(restorer(clip), restored) and np.array_equal(clip.frames, kept)
    assert all(isinstance(name, str) and value.device.type == "cpu" for name, value in state.items())
    deep = restorer(Clip(clip.frames.astype(np.uint16) * np.uint16(257), clip.priors, 0.5, 3))
    # Stage 1 of cpgd rounds to the depth of the frames, and random networks make more of such differences.
    assert deep.dtype == np.uint16 and np.abs(deep / 257 - restored).mean() < (2 if restorer.sampling else 0.5)


def test_a_resumed_job_equals_an_unbroken_one(restorer, tmp_path):
    source = pictures(tmp_path / "odd", moving_frames((51, 35), 34))
    unsmear.deblur(source, tmp_path / "whole", model=restorer, window=8)
    chunks = count(1)

    def stop(_: object) -> None:
        if next(chunks) == 5:
            raise KeyboardInterrupt

    with pytest.raises(unsmear.Interrupted):
        unsmear.deblur(source, tmp_path / "broken", model=restorer, window=8, progress=stop)
    assert not (tmp_path / "broken").exists()
    report = unsmear.deblur(source, tmp_path / "broken", model=restorer, window=8)
    assert (report.model, report.frames) == (restorer.name, 34)
    assert report.resumed_frames == 32, "a segment is four windows of eight frames"
    whole = written(tmp_path / "whole")
    assert whole.shape == (34, 35, 51, 3) and np.array_equal(written(tmp_path / "broken"), whole)
    assert np.array_equal(whole, written(source)) == (restorer.name == "identity")


@pytest.mark.parametrize("frames", [1, 2])
def test_what_is_shorter_than_a_window(frames, restorer, tmp_path):
    source = pictures(tmp_path / "in", moving_frames((51, 35), frames))
    report = unsmear.deblur(source, tmp_path / "out", model=restorer)
    assert written(tmp_path / "out").shape == (frames, 35, 51, 3)
    assert ("single picture" in report.note) == (frames == 1)


def test_tiles_stay_close_to_the_whole(restorer):
    clip = Clip.of(moving_frames((224, 32), 1), 0.5)
    whole, tiled = (restorer.restore(clip, None, tile)[0].astype(float) for tile in (None, 160))
    apart = np.abs(whole - tiled).mean()
    assert apart < 4 if restorer.sampling else apart < 0.1
    small = restorer.default_tile_px(64, 64, 8)
    assert small is None or small >= 64


def test_a_full_device_leads_to_smaller_tiles(restorer, tmp_path, monkeypatch):
    network = getattr(restorer, "model", None) or getattr(getattr(restorer, "pipe", None), "unet", None)
    if network is None:
        pytest.skip("has no network")
    calls, forward = count(), network.forward

    def full_at_first(*args, **kwargs):
        if not next(calls):
            raise RuntimeError("can't allocate memory: you tried to allocate 12 bytes")
        return forward(*args, **kwargs)

    monkeypatch.setattr(network, "forward", full_at_first)
    frames = moving_frames((336, 32), 2)
    with pytest.raises(OutOfMemory, match="allocate 12 bytes"):
        restorer(Clip.of(frames, 0.5))
    calls = count()
    report = unsmear.deblur(pictures(tmp_path / "in", frames), tmp_path / "out", model=restorer, tile=336)
    assert report.tile_px == 160 and "went on with tiles of 160 px" in report.note
    assert written(tmp_path / "out").shape == (2, 32, 336, 3)


def test_the_state_survives_a_file(restorer, tmp_path):
    """What a job stores between its runs leads on as what it had in memory."""
    from safetensors.torch import load_file, save_file

    clip = Clip.of(moving_frames((48, 32), 8), 0.5)
    _, state = restorer.restore(Clip(clip.frames, clip.priors, 0.5, 4), None, None)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "state.safetensors")
    stored = load_file(tmp_path / "state.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in state.items())
    rest = Clip(clip.frames[4:], clip.priors[4:], 0.5, first=4)
    assert np.array_equal(restorer.restore(rest, stored, None)[0], restorer.restore(rest, state, None)[0])
