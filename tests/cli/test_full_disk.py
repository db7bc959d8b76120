"""A disk that takes no more: one line, whole files or none, and what was finished before stays."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from support.clips import make_clip, moving_frames, texture
from support.command import unsmear
from support.full_disk import largest_file
from unsmear.video import write_png


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(-40, 40, (30, 120, 160, 3))
    noisy = np.clip(np.stack(moving_frames((160, 120), 30)) + noise, 0, 255).astype(np.uint8)
    make_clip("a.mp4", content=list(noisy), options={"crf": "5"})
    return tmp_path


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def complaint(*arguments: object, size: int) -> str:
    with largest_file(size):
        done = unsmear(*arguments)
    assert done.exit_code == 1, done.output
    line = done.stderr.splitlines()[-1]
    assert "cannot be written" in line and done.stderr.count("unsmear:") == 1
    return line


@pytest.mark.parametrize("size", [1000, 4000, 20_000])
def test_priors_leave_nothing(size, here):
    assert "out/a.priors.npz" in complaint("priors", "a.mp4", "-o", "out", size=size)
    assert listing(here) == ["a.mp4"]


def test_a_preview_leaves_nothing(here):
    complaint("priors", "a.mp4", "-o", "out", "--preview", "p.mp4", size=9000)
    assert listing(here) == ["a.mp4"]


def test_reports_leave_nothing_and_take_nothing(here, tiny_model):
    inputs = [f"{i}.png" for i in range(5)]
    for name in inputs:
        write_png(name, np.zeros((16, 16, 3), np.uint8))
    command = ["deblur", *inputs, "--model", tiny_model, "--device", "cpu", "--frames", "-o", "out/"]
    assert unsmear(*command, "--report", "r.json").exit_code == 0
    report = (here / "r.json").read_bytes()
    for name in ("r.json", "new.json"):
        assert name in complaint(*command, "--overwrite", "--report", name, size=len(report) // 3 * 2)
    assert (here / "r.json").read_bytes() == report
    assert listing(here) == sorted(["a.mp4", *inputs, *(f"out/{i}.deblurred/000000.png" for i in range(5)), "r.json"])


def test_pairs_leave_only_whole_clips(here):
    make_clip("flat.mp4", frames=9, content=[np.full((120, 160, 3), 99, np.uint8)] * 9)
    for command in (["blur", "--crf", "none"], ["degrade"]):
        out = here / command[0]
        assert "/a/" in complaint("data", *command, "flat.mp4", "a.mp4", "-o", out, "--workers", 1, size=30_000)
        names = listing(out)
        assert names and {name.split("/")[0] for name in names} == {"flat", "manifest.json"}


def test_a_pack_leaves_nothing(here):
    photos = here / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "a.png"), texture((480, 480)))
    arguments = ["--photos", photos, "--photo-share", 1, "--sequences", 3, "--size", 64, "--frames", 3, "--workers", 1]
    complaint("data", "pack", "-o", "pack", *arguments, size=60_000)
    assert not (here / "pack").exists()
    assert unsmear("data", "pack", "-o", "pack", *arguments).exit_code == 0
    whole = {path: path.stat().st_size for path in (here / "pack").iterdir()}
    complaint("data", "restore", "pack", "-o", "restored", size=60_000)
    assert not [path for path in here.iterdir() if "restored" in path.name]
    assert {path: path.stat().st_size for path in (here / "pack").iterdir()} == whole


def test_an_evaluation_keeps_what_was_measured(here):
    for kind in ("blur", "sharp"):
        (here / "set" / "a" / kind).mkdir(parents=True)
        for i, picture in enumerate(moving_frames((64, 48), 4)):
            write_png(here / "set" / "a" / kind / f"{i}.png", picture)
    arguments = [
        "evaluate",
        "--data",
        "set",
        "--model",
        "identity",
        "--metrics",
        "psnr",
        "-o",
        "out",
        "--device",
        "cpu",
    ]
    complaint(*arguments, size=2500)
    assert listing(here / "out") == ["clips/basicsr/input/a~blur.json"]
    assert "out/index.html" in complaint(*arguments, size=16_000)
    assert "results.csv" in listing(here / "out") and not [name for name in listing(here / "out") if "partial" in name]
    assert unsmear(*arguments).exit_code == 0


def test_a_restoration_leaves_no_part_of_a_file(here, tiny_model):
    options = ["--model", tiny_model, "--device", "cpu", "--window", 8]
    complaint("deblur", "a.mp4", "-o", "out.mp4", *options, "--crf", 0, size=20_000)
    complaint("deblur", "a.mp4", "-o", "frames", "--frames", *options, size=20_000)
    assert not (here / "out.mp4").exists() and not (here / "frames").exists()
    assert not [name for name in listing(here) if "partial" in name]
