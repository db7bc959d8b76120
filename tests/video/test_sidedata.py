"""What a stream holds beside pictures: in the output as it was, or one note that it is not."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

import unsmear
from support.clips import make_clip
from support.marks import (
    CROPPING,
    HDR,
    LIGHT,
    MASTERING,
    SPHERE,
    STEREO,
    captions_of,
    dolby_vision,
    put_boxes,
    put_captions,
)
from support.restorers import Negative
from unsmear.video import open_video, probe
from unsmear.video.sidedata import hdr_parameters

HDR_COLOUR = (9, 16, 9, 1)
DISPLAY, LIGHT_LEVEL, SPHERICAL, STEREO_3D, CROP, DOLBY = (
    "HDR mastering display",
    "HDR content light level",
    "360° projection",
    "stereo 3D layout",
    "cropping",
    "Dolby Vision",
)


def restored(source: Path, name: str | None = None, **options) -> tuple[Path, str]:
    """The output, and what is said of it."""
    target = None if name is None else source.with_name(name)
    report = unsmear.deblur(source, target, model=Negative(), window=8, strength=0, **options)
    return Path(report.output), report.note


def hdr_clip(path: Path, boxes: bytes = HDR) -> Path:
    clip = make_clip(path, codec="libx265", pix_fmt="yuv420p10le", frames=9, colour=HDR_COLOUR)
    return put_boxes(clip, boxes, b"hev1") if boxes else clip


def side_data_types(path: Path) -> set[str]:
    """Of the first frame, as a decoder gives it."""
    with av.open(str(path)) as container:
        return {data.type.name for data in next(container.decode(video=0)).side_data}


@pytest.mark.parametrize("name", ["b.mp4", "b.mov", "b.mkv", "b.ts"])
def test_hdr_values_are_kept(name, tmp_path):
    source = hdr_clip(tmp_path / "a.mp4")
    output, note = restored(source, name)
    assert probe(source).side_data[DISPLAY][8:] == HDR[8:32]
    assert probe(output).side_data == probe(source).side_data
    assert (probe(output).color_primaries, probe(output).color_trc) == HDR_COLOUR[:2]
    assert "left out" not in note
    parameters = hdr_parameters("libx265", probe(source).side_data)
    with av.open(str(output)) as container:  # in the bitstream, too, for players that look there
        assert f"cll={LIGHT[0]},{LIGHT[1]}" in sei_of_x265(container)
    assert parameters.endswith(f"L({MASTERING[8]},{MASTERING[9]}):max-cll={LIGHT[0]},{LIGHT[1]}")


def sei_of_x265(container) -> str:
    frame = next(container.decode(video=0))
    texts = [bytes(data) for data in frame.side_data if data.type.name == "SEI_UNREGISTERED"]
    return b"".join(texts).decode("latin-1")


@pytest.mark.parametrize(
    ("codec", "name"),
    [*(("av1", name) for name in ("b.mp4", "b.mkv")), ("vp9", "b.webm"), ("h264", "b.mp4"), ("prores", "b.mov")],
)
def test_hdr_values_go_with_other_codecs(codec, name, tmp_path):
    source = hdr_clip(tmp_path / "a.mp4")
    output, note = restored(source, name, codec=codec)
    before, after = probe(source).side_data, probe(output).side_data
    assert np.allclose(np.frombuffer(after[DISPLAY][8:24], ">u2"), MASTERING[:8], atol=1)
    assert after[LIGHT_LEVEL] == before[LIGHT_LEVEL]
    assert "left out" not in note


def test_hdr_values_of_the_bitstream_alone_are_kept(tmp_path):
    values = hdr_parameters("libx265", {DISPLAY: HDR[:32], LIGHT_LEVEL: HDR[32:]})
    options = {"x265-params": f"log-level=none:{values}"}
    source = make_clip(tmp_path / "a.ts", codec="libx265", pix_fmt="yuv420p10le", options=options, frames=9)
    assert probe(source).side_data == {DISPLAY: HDR[:32], LIGHT_LEVEL: HDR[32:]}
    output, _ = restored(source)
    assert probe(output).side_data == probe(source).side_data


@pytest.mark.parametrize(
    ("boxes", "kinds"), [(SPHERE + STEREO, {SPHERICAL, STEREO_3D}), (CROPPING, {CROP})], ids=["3D", "cropping"]
)
def test_marks_of_360_degrees_3d_and_cropping_are_kept(boxes, kinds, tmp_path):
    source = put_boxes(make_clip(tmp_path / "a.mp4", frames=9), boxes)
    assert set(probe(source).side_data) == kinds
    for name in ("b.mp4", "b.mov", "b.mkv", "b.webm", "b.ts"):
        output, note = restored(source, name)
        if name == "b.mp4":  # of two words on 3D FFmpeg's reader takes the other one
            assert all(probe(source).side_data[kind] in output.read_bytes() for kind in kinds)
        for kind in kinds:
            assert (kind in probe(output).side_data) != (f"left out: {kind}" in note)
            assert kind in probe(output).side_data or name == "b.ts"
    assert {"SPHERICAL", "STEREO3D"} <= side_data_types(tmp_path / "b.mkv") or CROP in kinds
    assert ("STEREO3D" in side_data_types(tmp_path / "b.ts")) == (STEREO_3D in kinds), "by H.264 itself"
    _, note = restored(source, "frames", frames=True)
    assert all(f"left out: {kind}" in note for kind in kinds)


def test_comparison_is_no_sphere(tmp_path):
    source = put_boxes(make_clip(tmp_path / "a.mp4", frames=9), SPHERE + STEREO + CROPPING)
    restored(source, compare=True)
    assert probe(tmp_path / "a.deblurred.compare.mp4").side_data == {}


@pytest.mark.parametrize("compatible", [1, 0])
def test_dolby_vision_is_left_out_with_a_note(compatible, tmp_path):
    source = hdr_clip(tmp_path / "a.mp4", HDR + dolby_vision(compatible))
    output, note = restored(source)
    assert f"left out: {DOLBY}" in note
    assert ("colours are wrong" in note) == (not compatible), "there is a base layer for other displays, or none"
    assert set(probe(output).side_data) == {DISPLAY, LIGHT_LEVEL}


@pytest.mark.parametrize(
    ("name", "options"), [("b.ts", {}), ("b.mp4", {}), ("b.mkv", {"codec": "hevc"}), ("b.mpg", {})]
)
def test_captions_of_each_frame_are_kept(name, options, tmp_path):
    stream = make_clip(tmp_path / "a.h264", frames=19, options={"bf": "0", "x264-params": "slices=1:sliced-threads=0"})
    put_captions(stream)
    captions = captions_of(stream)
    assert len(set(captions)) == 19 and all(captions)
    output, note = restored(stream, name, **options)
    assert captions_of(output) == captions
    assert "captions" not in note


@pytest.mark.parametrize(("name", "options"), [("b.webm", {}), ("b.mov", {"codec": "prores"}), ("b", {"frames": True})])
def test_captions_that_cannot_be_kept_are_named(name, options, tmp_path):
    stream = make_clip(tmp_path / "a.h264", frames=19, options={"bf": "0", "x264-params": "slices=1:sliced-threads=0"})
    put_captions(stream)
    _, note = restored(stream, name, **options)
    assert note.count("left out: closed captions") == 1


def colour_difference(one: Path, other: Path) -> float:
    """Mean over all frames. Chroma that is half a pixel of luma off makes more than 2 levels of it."""
    with open_video(one) as first, open_video(other) as second:
        return float(np.mean([np.abs(a.rgb.astype(int) - b.rgb) for a, b in zip(first, second, strict=True)]))


@pytest.mark.parametrize(("place", "number"), [("topleft", 2), ("center", 1), ("top", 3)])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_place_of_chroma_is_kept(codec, place, number, tmp_path):
    parameters = {"libx264": "x264-params", "libx265": "x265-params"}.get(codec)
    if parameters is None and place != "topleft":
        pytest.skip("AV1 has no other")
    quiet = "log-level=none:" if codec == "libx265" else ""
    options = {parameters: f"{quiet}chromaloc={number}"} if parameters else {"chroma_sample_location": place}
    source = make_clip(tmp_path / "a.mkv", codec=codec, options=options, frames=9)
    assert probe(source).chroma_siting == place
    output, note = restored(source, crf=1)
    assert probe(output).chroma_siting == place
    assert colour_difference(source, output) < 1.5
    assert "chroma" not in note


def test_chroma_moves_with_a_note_where_its_place_cannot_be_stated(tmp_path):
    options = {"x265-params": "log-level=none:chromaloc=2"}
    source = make_clip(tmp_path / "a.mkv", codec="libx265", options=options, frames=9)
    output, note = restored(source, "b.webm", crf=1)
    assert "moved from topleft to left" in note
    assert colour_difference(source, output) < 1.5


def test_frames_with_side_data_that_pyav_cannot_name(tmp_path):
    """Exif of MJPEG, since FFmpeg 8."""
    source = make_clip(tmp_path / "a.mjpeg", codec="mjpeg", pix_fmt="yuvj420p", frames=3)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x0f\0\2\0\0\0\2a\0\0\0\0\0\0\0"
    block = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    source.write_bytes(source.read_bytes().replace(b"\xff\xd8", b"\xff\xd8" + block))
    assert probe(source).codec == "mjpeg"
    output, _ = restored(source, "b.avi")
    assert probe(output).codec == "mjpeg"
