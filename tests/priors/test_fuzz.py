"""Hostile files: thousands of mutants of real ones end in priors or in one clear line, never in a crash or a hang."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.clips import make_clip

CHILD = Path(__file__).parents[1] / "support" / "fuzz_priors.py"
MEMORY_MB, SECONDS_A_FILE = 4096, 30

SEEDS = {
    "native.mp4": ("libx264", {"x264-params": "bframes=0:ref=1:weightp=0:keyint=4"}, "yuv420p"),
    "native.h264": ("libx264", {"x264-params": "bframes=0:ref=1:weightp=0:slices=2:repeat-headers=1"}, "yuv420p"),
    "native.avi": ("libx264", {"x264-params": "bframes=0:ref=1:weightp=0"}, "yuv420p"),
    "ordinary.mkv": ("libx264", {"preset": "medium"}, "yuv420p"),
    "interlaced.ts": ("libx264", {"x264-params": "tff=1"}, "yuv420p"),
    "hevc.mp4": ("libx265", {"x265-params": "log-level=none"}, "yuv420p"),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, "yuv420p"),
    "av1.mp4": ("libsvtav1", {"preset": "12", "svtav1-params": "lp=1"}, "yuv420p"),
    "mpeg4.avi": ("mpeg4", {}, "yuv420p"),
    "mpeg2.mpg": ("mpeg2video", {}, "yuv420p"),
    "prores.mov": ("prores_ks", {}, "yuv422p10le"),
    "mjpeg.avi": ("mjpeg", {}, "yuvj420p"),
}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    for name, (codec, options, pixels) in SEEDS.items():
        make_clip(folder / name, codec=codec, options=options, pix_fmt=pixels, frames=6, size=(80, 48))
    return folder


def run_mutants(seeds: Path, work: Path, first: int, last: int) -> list[str]:
    """The lines of the child, one a mutant; fails with the mutant's number where it ended early."""
    limits = [str(value) for value in (first, last, MEMORY_MB, SECONDS_A_FILE)]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(CHILD), str(seeds), str(work), *limits],
        capture_output=True,
        text=True,
        timeout=SECONDS_A_FILE * 20 + (last - first),
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    lines = done.stdout.splitlines()
    reached = first + len(lines)
    assert done.returncode == 0, (
        f"mutant {reached} of {sorted(SEEDS)[reached % len(SEEDS)]} ended the process with {done.returncode}: "
        f"{done.stderr[-2000:]}"
    )
    assert len(lines) == last - first
    return lines


def assert_mixed(lines: list[str]) -> None:
    """Mutants reach both ends: some are still videos, some are not."""
    errors = [line for line in lines if " error " in line]
    assert len(lines) / 20 < len(errors) < len(lines) * 19 / 20
    assert not [line for line in errors if "Error: " not in line and "Video: " not in line]


def test_two_hundred_mutants(seeds, tmp_path):
    assert_mixed(run_mutants(seeds, tmp_path, 0, 204))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("block", range(10))
def test_six_thousand_mutants(seeds, tmp_path, block):
    assert_mixed(run_mutants(seeds, tmp_path, 600 * block, 600 * (block + 1)))
