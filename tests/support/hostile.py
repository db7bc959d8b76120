"""Small whole files of many formats, and the child that mutates them and puts them through a task of the library."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from support.clips import make_clip, moving_frames
from unsmear.video.pictures import encode_picture

CHILD = Path(__file__).with_name("fuzz.py")
MEMORY_MB, SECONDS_A_FILE = 4096, 30

Clip = tuple[str, dict[str, str], str]

CLIPS: dict[str, Clip] = {
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
"""Encoder, its options and pixel format of clips, whose ending names the container."""
MORE_CLIPS: dict[str, Clip] = {
    "flash.flv": ("flv", {}, "yuv420p"),
    "windows.wmv": ("wmv2", {}, "yuv420p"),
    "exchange.mxf": ("mpeg2video", {}, "yuv420p"),
    "lossless.nut": ("ffv1", {}, "yuv420p"),
    "plain.y4m": ("rawvideo", {}, "yuv420p"),
    "animated.gif": ("gif", {}, "rgb8"),
}
PICTURES = ("png", "jpg", "tif", "bmp", "webp", "avif", "ppm", "pam", "tga", "qoi", "dpx", "exr", "hdr", "pfm")
ANIMATIONS = {"animated.webp": {"lossless": True}, "animated.png": {}, "pages.tif": {}}


WITH_SOUND = (".mp4", ".mov", ".mkv", ".ts", ".flv")


def make_clips(folder: Path, clips: Mapping[str, Clip], size: tuple[int, int], *, sound: bool = False) -> None:
    """A file for each of ``clips``, of six frames; with ``sound`` where the container takes AAC."""
    for name, (codec, options, pixels) in clips.items():
        audio = "aac" if sound and name.endswith(WITH_SOUND) else None
        make_clip(folder / name, codec=codec, options=options, pix_fmt=pixels, frames=6, size=size, audio=audio)


def make_pictures(folder: Path, size: tuple[int, int]) -> None:
    """A file for each of ``PICTURES``, with 16 bits where they have them, and the ``ANIMATIONS``."""
    frames = moving_frames(size, 4)
    for ending in PICTURES:
        deep = ending in ("png", "tif", "ppm", "dpx")
        pixels = frames[0].astype(np.uint16) * 257 if deep else frames[0]
        (folder / f"picture.{ending}").write_bytes(encode_picture(pixels, f".{ending}"))
    first, *rest = map(Image.fromarray, frames)
    for name, options in ANIMATIONS.items():
        first.save(folder / name, save_all=True, append_images=rest, duration=60, **options)


def run_mutants(task: str, seeds: Path, work: Path, first: int, last: int) -> list[str]:
    """The lines of the child, one a mutant; fails with the mutant's number where it ended early, or where a library
    wrote to stderr by itself."""
    names = sorted(path.name for path in seeds.iterdir())
    limits = [str(value) for value in (first, last, MEMORY_MB, SECONDS_A_FILE)]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(CHILD), task, str(seeds), str(work), *limits],
        capture_output=True,
        text=True,
        timeout=SECONDS_A_FILE * 20 + (last - first),
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    lines = done.stdout.splitlines()
    reached = first + len(lines)
    assert done.returncode == 0, (
        f"mutant {reached} of {names[reached % len(names)]} ended the process with {done.returncode}: "
        f"{done.stderr[-2000:]}"
    )
    assert len(lines) == last - first
    assert done.stderr == ""
    return lines


def assert_mixed(lines: list[str]) -> None:
    """Mutants reach both ends: some still give frames, some do not."""
    errors = [line for line in lines if " error " in line]
    assert len(lines) / 20 < len(errors) < len(lines) * 19 / 20
