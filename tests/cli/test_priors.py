"""``unsmear priors``, ``data augment`` and ``data check``: what they write and say, and how they leave."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

import unsmear
from support.clips import frame_times, make_clip, moving_frames
from unsmear.cli.main import run
from unsmear.priors.archive import PriorArchive

NATIVE = {"x264-params": "bframes=0:ref=1:weightp=0"}


@pytest.fixture
def call(capfd):
    """Run ``unsmear`` → (exit status, lines on stdout, lines on stderr)."""

    def run_it(*arguments: object) -> tuple[int, list[str], list[str]]:
        status = run([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()

    return run_it


@pytest.fixture
def clip(tmp_path) -> Path:
    return make_clip(tmp_path / "a.mp4", frames=10)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_video_becomes_an_archive(call, clip, tmp_path):
    status, out, err = call("priors", clip, "-o", tmp_path / "out", "--report", tmp_path / "r.json")
    assert (status, err) == (0, []) and len(out) == 1 and "re-encoded (it has" in out[0]
    assert names(tmp_path / "out") == ["a.priors.npz"]
    [report] = json.loads((tmp_path / "r.json").read_text())
    assert report["frames"] == 10 and report["native_frames"] == 0 and "reference frames" in report["reason"]
    assert [cost["source"] for cost in report["costs"]] == ["mv", "mv"]
    with PriorArchive(tmp_path / "out" / "a.priors.npz") as archive:
        assert archive.provenance["settings"]["mode"] == "auto" and archive.provenance["reason"] == report["reason"]
        for stored, (_, prior) in zip(archive, unsmear.extract_priors(clip), strict=True):
            assert np.array_equal(stored.motion_q, prior.motion_q) and np.array_equal(stored.residual, prior.residual)


def test_modes(call, clip, tmp_path):
    plain = make_clip(tmp_path / "p.mp4", frames=6, options=NATIVE)
    status, out, _ = call("priors", plain, "-o", tmp_path / "out")
    assert status == 0 and "native (H.264 with P-frames only" in out[0]
    status, out, _ = call("priors", plain, "-o", tmp_path / "out", "--mode", "reencode", "--overwrite")
    assert status == 0 and "re-encoded (requested)" in out[0]
    status, out, err = call("priors", clip, "-o", tmp_path / "refused", "--mode", "native")
    assert status == 1 and out == [] and len(err) == 1 and "reference frames" in err[0] and "--mode auto" in err[0]
    assert not (tmp_path / "refused").exists()
    assert call("priors", clip, "-o", tmp_path, "--mode", "other")[0] == 2


def test_one_failure_does_not_stop_the_others(call, clip, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    status, out, err = call("priors", tmp_path / "none.mp4", tmp_path / "bad.mp4", clip, "-o", tmp_path / "out")
    assert status == 1 and len(out) == 1 and len(err) == 2
    assert names(tmp_path / "out") == ["a.priors.npz"]


def test_outputs_are_kept_unless_told(call, clip, tmp_path):
    arguments = ("priors", clip, "-o", tmp_path / "out", "--quiet", "--preview", tmp_path / "p.mp4")
    assert call(*arguments) == (0, [], [])
    status, _, err = call(*arguments)
    assert status == 1 and len(err) == 1 and "--overwrite" in err[0]
    assert call(*arguments, "--overwrite") == (0, [], [])
    status, _, err = call("priors", clip, "-o", tmp_path / "new", "--preview", tmp_path / "p.mp4")
    assert status == 1 and "p.mp4 exists already" in err[0] and names(tmp_path / "new") == []


def test_a_damaged_video_leaves_no_half_archive(call, clip, tmp_path):
    data = clip.read_bytes()
    cut = make_clip(tmp_path / "cut.mkv", frames=60, codec="mjpeg", pix_fmt="yuvj420p")
    data = cut.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    status, _, err = call("priors", cut, "-o", tmp_path / "out", "--preview", tmp_path / "p.mp4")
    assert status == 1 and len(err) == 1 and "cut.mkv" in err[0]
    assert not (tmp_path / "p.mp4").exists() and [n for n in names(tmp_path) if "partial" in n] == []
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == []


@pytest.mark.parametrize("vfr", [False, True])
def test_the_preview_has_every_frame_at_its_time(call, tmp_path, vfr):
    clip = make_clip(tmp_path / "a.mp4", frames=9, vfr=vfr, size=(96, 64))
    assert call("priors", clip, "-o", tmp_path, "--preview", tmp_path / "p.mp4")[0] == 0
    times = frame_times(tmp_path / "p.mp4")
    assert [t - times[0] for t in times] == pytest.approx([float(t) for t in frame_times(clip)], abs=1e-3)
    with av.open(str(tmp_path / "p.mp4")) as container:
        frame = next(container.decode(video=0))
        assert frame.width >= 2 * 96 and frame.height >= 2 * 64


def test_wrong_usage(call, clip, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    other = shutil.copy(clip, tmp_path / "a.mkv")
    for arguments in (
        (clip,),
        (clip, "-o", tmp_path / "file"),
        (clip, "-o", tmp_path, "--motion", "guess"),
        (clip, "-o", tmp_path, "--qp", "99"),
        (clip, "-o", tmp_path, "--chunk", "0"),
        (clip, other, "-o", tmp_path),
        (clip, make_clip(tmp_path / "b.mp4"), "-o", tmp_path, "--preview", tmp_path / "p.mp4"),
    ):
        status, _, err = call("priors", *arguments)
        assert status == 2 and len(err) == 1, arguments
    assert not list(tmp_path.glob("*.npz"))


def test_other_sources_of_motion(call, clip, tmp_path):
    arguments = ("--motion", "dis", "--motion-back", "none", "--report", tmp_path / "r.json")
    assert call("priors", clip, "-o", tmp_path, *arguments)[0] == 0
    [report] = json.loads((tmp_path / "r.json").read_text())
    forward, backward = report["costs"]
    assert forward["source"] == "dis" and forward["fields"] == 9 and forward["gflops_a_field"] > 0
    assert backward["source"] == "none" and backward["gflops_a_field"] == 0
    with PriorArchive(tmp_path / "a.priors.npz") as archive:
        assert archive[3].motion_q.any() and not archive[3].motion_back_q.any()


def test_a_killed_run_goes_on(call, tmp_path):
    data, whole = tmp_path / "set", tmp_path / "whole"
    data.mkdir()
    for n in range(3):
        make_clip(data / f"{n}.mp4", frames=60, size=(160, 96), content=moving_frames((160, 96), 60, seed=n))
    shutil.copytree(data, whole)
    assert call("data", "augment", whole, "--workers", "1")[0] == 0
    first = data / "0.mp4.priors.npz"
    process = subprocess.Popen([sys.executable, "-m", "unsmear", "data", "augment", str(data), "--workers", "1"])
    try:
        deadline = time.monotonic() + 60
        while not first.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    assert first.exists() and call("data", "check", data, "--workers", "1")[0] == 0  # what is there is whole
    assert call("data", "augment", data, "--workers", "1")[0] == 0
    assert [n for n in names(data) if "partial" in n] == []
    for archive in whole.glob("*.npz"):
        assert archive.read_bytes() == (data / archive.name).read_bytes()


def test_augment_and_check(call, tmp_path):
    data = tmp_path / "set"
    data.mkdir()
    make_clip(data / "one.mp4", frames=4)
    make_clip(data / "two.mp4", frames=5)
    status, out, err = call("data", "augment", data, "--workers", "1")
    assert (status, err) == (0, []) and out[-1].endswith("2 clips augmented, 0 were, 0 failed")
    assert call("data", "augment", data, "--workers", "1")[1][-1].endswith("0 clips augmented, 2 were, 0 failed")
    status, out, err = call("data", "check", data, "--workers", "1")
    assert (status, err) == (0, []) and "2 clips, 9 frames, 0 with a sharp partner, 2 with priors" in out[-1]
    (data / "two.mp4.priors.npz").write_bytes(b"PK")
    status, out, err = call("data", "check", data, "--workers", "1")
    assert status == 1 and len(err) == 1 and "two.mp4.priors.npz" in err[0] and "1 with problems" in out[-1]
    status, _, err = call("data", "augment", data, "--workers", "1")
    assert status == 1 and len(err) == 1
    assert call("data", "augment", data, "--workers", "1", "--overwrite")[0] == 0
    status, _, err = call("data", "check", tmp_path / "nothing")
    assert status == 1 and "no such folder" in err[0]
