"""Priors of real files in every coding of the paper and of practice."""

from __future__ import annotations

import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

import unsmear
from support.clips import make_clip, moving_frames
from unsmear.errors import UnsmearError, UnsupportedVideo
from unsmear.priors import Prior
from unsmear.priors.archive import PriorArchive
from unsmear.priors.extract import extract
from unsmear.priors.settings import PriorSettings

SIZE, FRAMES, STEP = (128, 96), 6, (5, -3)

# Coding → file, encoder and its options, pixel format.
CODINGS = {
    "h264": ("a.mp4", "libx264", {}, "yuv420p"),
    "hevc": ("a.mp4", "libx265", {"x265-params": "log-level=none"}, "yuv420p"),
    "hevc 10 bit": ("a.mp4", "libx265", {"x265-params": "log-level=none"}, "yuv420p10le"),
    "vp9": ("a.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, "yuv420p"),
    "vp8": ("a.webm", "libvpx", {"deadline": "realtime", "cpu-used": "8", "b": "2M"}, "yuv420p"),
    "av1": ("a.mp4", "libsvtav1", {"preset": "12", "svtav1-params": "lp=1"}, "yuv420p"),
    "mpeg4": ("a.avi", "mpeg4", {"b": "4M"}, "yuv420p"),
    "mpeg2": ("a.mpg", "mpeg2video", {"b": "4M"}, "yuv420p"),
    "prores": ("a.mov", "prores_ks", {}, "yuv422p10le"),
    "mjpeg": ("a.avi", "mjpeg", {}, "yuvj420p"),
    "ffv1": ("a.mkv", "ffv1", {}, "yuv444p"),
}


def all_priors(path: Path, **options) -> list[Prior]:
    return [prior for _, prior in unsmear.extract_priors(path, **options)]


def assert_follows(priors: list[Prior], step: tuple[int, int] = STEP, frames: int = FRAMES) -> None:
    """The motion that was put in comes out, both ways, as quarter-pel exact as the coding allows."""
    assert [p.reset for p in priors] == [True] + [False] * (frames - 1)
    for prior in priors[1:]:
        np.testing.assert_allclose(np.median(prior.motion(), (1, 2)), np.negative(step), atol=0.25)
        assert prior.coverage > 0.8
    for prior in priors[:-1]:
        np.testing.assert_allclose(np.median(prior.motion_back(), (1, 2)), step, atol=0.25)


@pytest.mark.parametrize("coding", CODINGS)
def test_every_coding_gives_its_motion(tmp_path, coding):
    name, codec, options, pixels = CODINGS[coding]
    path = make_clip(
        tmp_path / name, codec=codec, options=options, pix_fmt=pixels, content=moving_frames(SIZE, FRAMES, step_px=STEP)
    )
    assert_follows(all_priors(path))
    if coding != "h264":
        with pytest.raises(UnsupportedVideo, match="exports no motion vectors"):
            all_priors(path, mode="native")


def test_vvc_gives_its_motion(tmp_path):
    """The paper's own coding, by the FFmpeg with libvvenc that the wheel of imageio-ffmpeg holds."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed")
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    encoders = subprocess.run([ffmpeg, "-hide_banner", "-encoders"], capture_output=True, text=True).stdout
    if "libvvenc" not in encoders:
        pytest.skip("the FFmpeg of imageio-ffmpeg has no libvvenc on this platform")
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", options={}, content=moving_frames(SIZE, FRAMES, step_px=STEP))
    target = tmp_path / "a.vvc.mp4"
    command = [ffmpeg, "-v", "error", "-i", str(source), "-c:v", "libvvenc", "-preset", "faster", "-qp", "27"]
    subprocess.run([*command, "-threads", "1", str(target)], check=True, timeout=120)
    assert_follows(all_priors(target))
    done = extract(target, tmp_path / "a.priors.npz", PriorSettings())
    assert "vvc" in done.reason and done.native_frames == 0
    with PriorArchive(tmp_path / "a.priors.npz") as archive:
        assert archive.provenance["codec"] == "vvc" and len(archive) == FRAMES


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_folders_of_frames_give_their_motion(tmp_path, suffix):
    for i, frame in enumerate(moving_frames(SIZE, FRAMES, step_px=STEP)):
        cv2.imwrite(str(tmp_path / f"{i:05d}{suffix}"), frame[..., ::-1])
    assert_follows(all_priors(tmp_path))


@pytest.mark.parametrize("size", [(97, 51), (33, 47)])
def test_odd_sizes(tmp_path, size):
    path = make_clip(tmp_path / "a.mkv", codec="ffv1", pix_fmt="yuv444p", content=moving_frames(size, 4))
    for prior in all_priors(path):
        assert (prior.width, prior.height) == size


def test_interlaced_input_is_made_progressive(tmp_path):
    """Its own vectors are of fields and are refused; frames are re-encoded."""
    path = make_clip(
        tmp_path / "a.mp4",
        options={"x264-params": "tff=1:bframes=0:ref=1:weightp=0"},
        content=moving_frames(SIZE, FRAMES, step_px=STEP),
    )
    assert_follows(all_priors(path))
    with pytest.raises(UnsupportedVideo):
        all_priors(path, mode="native")


def test_one_frame_has_neither_past_nor_future(tmp_path):
    [prior] = all_priors(make_clip(tmp_path / "a.mp4", frames=1))
    assert prior.reset and prior.reset_back and not prior.motion_q.any() and not prior.residual.any()


def test_a_change_of_size_in_mid_stream_is_refused(tmp_path):
    parts = [make_clip(tmp_path / f"{n}.h264", size=size, frames=5) for n, size in enumerate([(96, 64), (64, 96)])]
    (tmp_path / "a.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    for mode in ("auto", "reencode"):
        with pytest.raises(UnsmearError, match="64x96") as raised:
            all_priors(tmp_path / "a.h264", mode=mode)
        assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_one_pair_of_8k_frames(tmp_path):
    frames = [
        np.roll(np.kron(moving_frames((480, 270), 1)[0], np.ones((16, 16, 1), np.uint8)), 8 * t, 1) for t in (0, 1)
    ]
    first, second = all_priors(make_clip(tmp_path / "a.mp4", content=frames, options={"preset": "ultrafast"}))
    assert (second.width, second.height) == (7680, 4320) and not second.reset
    np.testing.assert_allclose(np.median(second.motion(), (1, 2)), (-8, 0), atol=0.25)
    np.testing.assert_allclose(np.median(first.motion_back(), (1, 2)), (8, 0), atol=0.25)


def test_one_8k_frame(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((4320, 7680), 90, np.uint8))
    [prior] = all_priors(path)
    assert (prior.width, prior.height) == (7680, 4320) and prior.reset
