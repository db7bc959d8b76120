"""Alpha of videos: past the restoration as it is, where codec and container hold it."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import unsmear
from support.clips import make_clip, moving_frames
from support.restorers import Negative
from unsmear.video import open_video, probe

LEVELS = [np.full((64, 96), 0, np.uint8) + (np.arange(96) * 2 + 7 * i).astype(np.uint8)[None] for i in range(19)]
# Name, encoder, pixel format, options, and how far alpha may be off after the trip, of 255.
CLIPS = {
    "prores": ("a.mov", "prores_ks", "yuva444p10le", {"profile": "4444"}, 1),
    "ffv1": ("a.mkv", "ffv1", "yuva444p10le", {}, 0),
    "ffv1-rgb": ("a.mkv", "ffv1", "bgra", {}, 0),
    "png": ("a.mov", "png", "rgba", {}, 0),
    "png-of-16-bits": ("a.mov", "png", "rgba64be", {}, 0),
    "animation": ("a.mov", "qtrle", "argb", {}, 0),
    "utvideo": ("a.avi", "utvideo", "gbrap", {}, 0),
    "ffvhuff": ("a.avi", "ffvhuff", "yuva420p", {}, 0),
    "huffyuv": ("a.avi", "huffyuv", "bgra", {}, 0),
    "magicyuv": ("a.avi", "magicyuv", "gbrap", {}, 0),
    "jpeg2000": ("a.mov", "jpeg2000", "rgba", {"flags": "+qscale", "global_quality": "118"}, 2),
    "cineform": ("a.mov", "cfhd", "gbrap12le", {}, 2),
    "vp9": ("a.webm", "libvpx-vp9", "yuva420p", {"auto-alt-ref": "0", "crf": "4", "b": "0"}, 8),
    "vp8": ("a.webm", "libvpx", "yuva420p", {"auto-alt-ref": "0", "crf": "4", "b": "9M"}, 8),
}


def clip_of(folder: Path, kind: str) -> Path:
    name, codec, pixels, options, _ = CLIPS[kind]
    return make_clip(folder / name, codec=codec, pix_fmt=pixels, options=options, frames=19, alpha=LEVELS)


def alpha_of(path: Path) -> np.ndarray:
    """(T, H, W), of 255."""
    with open_video(path) as reader:
        found = [frame.alpha for frame in reader]
    return np.stack(found).astype(float) / (257 if found[0].dtype == np.uint16 else 1)


@pytest.mark.parametrize("kind", CLIPS)
def test_alpha_comes_out_as_it_went_in(kind, tmp_path):
    source, tolerance = clip_of(tmp_path, kind), CLIPS[kind][4]
    assert probe(source).alpha
    given = alpha_of(source)
    assert np.abs(given - np.stack(LEVELS)).max() <= max(tolerance, 2)
    report = unsmear.deblur(source, model=Negative(), window=8)
    written = alpha_of(report.output)
    assert np.abs(written - given).max() <= tolerance
    assert probe(report.output).alpha and probe(report.output).codec == probe(source).codec
    assert "the alpha channel is kept as it is" in report.note


@pytest.mark.parametrize("kind", ["prores", "vp9", "png"])
def test_frames_have_alpha(kind, tmp_path):
    source = clip_of(tmp_path, kind)
    report = unsmear.deblur(source, tmp_path / "out", model=Negative(), window=8, strength=0, frames=True)
    deep = kind == "prores"
    for i, frame in enumerate(open_video(source)):
        png = cv2.imread(str(tmp_path / "out" / f"{i:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert png.dtype == (np.uint16 if deep else np.uint8)
        assert np.array_equal(png[..., 3], frame.alpha)
        assert np.array_equal(png[..., 2::-1], frame.rgb)
    assert "the alpha channel is kept as it is" in report.note


def test_frames_of_16_bits_have_alpha_of_16_bits(tmp_path):
    source = clip_of(tmp_path, "png")
    unsmear.deblur(source, tmp_path / "out", model=Negative(), window=8, frames=True, deep_frames=True)
    png = cv2.imread(str(tmp_path / "out" / "000003.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(png[..., 3], LEVELS[3].astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [("vp9", "b.mp4", {}), ("vp9", "b.mkv", {"codec": "h264"}), ("prores", "b.mov", {"codec": "hevc"})],
)
def test_alpha_that_cannot_be_kept_is_named(kind, name, options, tmp_path):
    source = clip_of(tmp_path, kind)
    report = unsmear.deblur(source, tmp_path / name, model=Negative(), window=8, **options)
    assert "the alpha channel is dropped" in report.note and "is kept" not in report.note
    assert not probe(report.output).alpha
    with av.open(report.output) as container:  # nor does a tag promise it
        assert "ALPHA_MODE" not in {key.upper() for key in container.streams.video[0].metadata}


def test_alpha_goes_with_other_codecs(tmp_path):
    source = clip_of(tmp_path, "prores")
    report = unsmear.deblur(source, tmp_path / "b.webm", model=Negative(), window=8, crf=4)
    assert np.abs(alpha_of(report.output) - np.stack(LEVELS)).max() < 16
    assert probe(report.output).codec == "vp9"


def test_comparison_has_no_alpha(tmp_path):
    unsmear.deblur(clip_of(tmp_path, "png"), model=Negative(), window=8, compare=True)
    assert not probe(tmp_path / "a.deblurred.compare.mp4").alpha


@pytest.mark.parametrize("transparent", [True, False])
def test_transparency_of_gifs(transparent, tmp_path):
    pictures = [np.dstack([frame, np.full((64, 96), 255, np.uint8)]) for frame in moving_frames(frames=9)]
    if transparent:
        for picture in pictures:
            picture[:20, :20] = 0
    path = write_gif(tmp_path / "a.gif", pictures)
    assert probe(path).alpha is transparent
    note = unsmear.deblur(path, model=Negative(), window=8).note
    assert ("the alpha channel is dropped" in note) is transparent
    report = unsmear.deblur(path, tmp_path / "b.mov", model=Negative(), window=8, codec="png")
    assert probe(report.output).alpha is transparent


def write_gif(path: Path, pictures: list[np.ndarray]) -> Path:
    from PIL import Image

    first, *rest = [Image.fromarray(picture) for picture in pictures]
    first.save(path, save_all=True, append_images=rest, duration=40, loop=0, disposal=2)
    return path
