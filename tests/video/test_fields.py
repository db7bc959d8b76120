"""Interlaced video: which field comes first, frames made progressive, and flags that come out as they went in."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import unsmear
from support.clips import frame_times, interlaced_frames, make_clip
from support.restorers import Negative
from unsmear.errors import UnsupportedVideo
from unsmear.video import open_video, probe
from unsmear.video.colour import luma_of_rgb

TOP, BOTTOM = {2, 4}, {3, 5}
# Name, encoder, pixel format and options of interlaced clips; how their flags are stated differs.
CLIPS = {
    "h264": ("a.mp4", "libx264", "yuv420p", {"flags": "+ildct+ilme"}),
    "h264-ts": ("a.ts", "libx264", "yuv420p", {"flags": "+ildct+ilme", "bf": "0"}),
    "mpeg2": ("a.mpg", "mpeg2video", "yuv420p", {"flags": "+ildct+ilme-global_header", "qscale": "2"}),
    "mpeg4": ("a.avi", "mpeg4", "yuv420p", {"flags": "+ildct+ilme+qscale", "global_quality": "118"}),
    "prores": ("a.mov", "prores_ks", "yuv422p10le", {"flags": "+ildct"}),
    "dv": ("a.avi", "dvvideo", "yuv420p", {}),
    "ffv1": ("a.mkv", "ffv1", "yuv420p", {}),
    "mjpeg-in-mov": ("a.mov", "mjpeg", "yuvj420p", {"flags": "+qscale", "global_quality": "118"}),
    "uncompressed-in-mov": ("a.mov", "rawvideo", "uyvy422", {}),
    "v210-in-mov": ("a.mov", "v210", "yuv422p10le", {}),
}
UNCOMPRESSED = "uncompressed-in-mov"


def clip_of(folder: Path, kind: str, fields: str, frames: int = 6) -> tuple[Path, list[np.ndarray]]:
    """An interlaced clip, and what it shows at the moments of its first fields."""
    name, codec, pixels, options = CLIPS[kind]
    size = (720, 576) if kind == "dv" else (96, 64)
    woven, truth = interlaced_frames(size, 3 if kind == "dv" else frames, top_first=fields == "tff")
    return make_clip(folder / name, codec=codec, pix_fmt=pixels, options=options, content=woven, fields=fields), truth


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(one.astype(float) - other).mean()))


def read(path: Path, *, deinterlace: bool = True) -> list[np.ndarray]:
    with open_video(path, deinterlace=deinterlace) as reader:
        return [unsmear.video.eight_bit(frame.rgb) for frame in reader]


@pytest.mark.parametrize("fields", ["tff", "bff"])
@pytest.mark.parametrize("kind", CLIPS)
def test_frames_are_made_progressive_and_times_stay(kind, fields, tmp_path):
    path, truth = clip_of(tmp_path, kind, fields)
    info = probe(path)
    assert info.interlaced and info.field_order in (TOP if fields == "tff" else BOTTOM)
    with open_video(path) as reader:
        frames = list(reader)
        assert reader.deinterlaced and reader.info.field_order == 1 and reader.info.interlaced
    woven = read(path, deinterlace=False)
    assert len(frames) == len(woven) == len(truth)
    assert [frame.pts * info.time_base for frame in frames] == frame_times(path)
    for i in range(1, len(truth) - 1):
        seen, mixed, shown = (luma_of_rgb(picture) for picture in (frames[i].rgb, woven[i], truth[i]))
        assert psnr(seen, shown) > psnr(mixed, shown) + 5, "closer to the moment of the first field than both are"


@pytest.mark.parametrize("fields", ["tff", "bff"])
@pytest.mark.parametrize("kind", [kind for kind in CLIPS if kind != UNCOMPRESSED])
def test_kept_frames_come_out_flagged_as_they_went_in(kind, fields, tmp_path):
    path, _ = clip_of(tmp_path, kind, fields, frames=19)
    report = unsmear.deblur(path, model=Negative(), strength=0, window=8, deinterlace="keep")
    output = Path(report.output)
    before, after = probe(path), probe(output)
    assert after.codec == before.codec and after.interlaced
    assert {before.field_order, after.field_order} <= (TOP if fields == "tff" else BOTTOM)
    given, written = read(path, deinterlace=False), read(output, deinterlace=False)
    assert min(psnr(a, b) for a, b in zip(given, written, strict=True)) > 30
    assert f"{'top' if fields == 'tff' else 'bottom'} field first" in report.note
    # Whoever deinterlaces the output sees the same as of the source: fields are still where they were.
    assert min(psnr(a, b) for a, b in zip(read(path), read(output), strict=True)) > 30


@pytest.mark.parametrize("kind", ["h264", "mpeg2", "prores", "mjpeg-in-mov"])
def test_output_of_frames_made_progressive_is_flagged_so(kind, tmp_path):
    path, _ = clip_of(tmp_path, kind, "tff", frames=19)
    report = unsmear.deblur(path, model=Negative(), strength=0, window=8)
    after = probe(report.output)
    assert not after.interlaced
    assert frame_times(report.output) == frame_times(path)
    assert "made progressive" in report.note


def test_pictures_of_hevc_are_fields_and_stay_so(tmp_path):
    fields = [picture[::2] for picture in interlaced_frames((96, 128), 20)[1]]
    options = {"x265-params": "log-level=none:interlace=bff"}
    path = make_clip(tmp_path / "a.mkv", codec="libx265", content=fields, options=options, rate=50)
    assert probe(path).field_order in BOTTOM
    with open_video(path) as reader, open_video(path, deinterlace=False) as plain:
        for one, other in zip(reader, plain, strict=True):
            assert np.array_equal(one.rgb, other.rgb)
        assert not reader.deinterlaced
    report = unsmear.deblur(path, model=Negative(), strength=0, window=8)
    after = probe(report.output)
    assert after.field_order in BOTTOM and (after.width, after.height) == (96, 64)
    assert "single fields, bottom field first" in report.note


def test_a_codec_that_cannot_say_so_is_named(tmp_path):
    path, _ = clip_of(tmp_path, "h264", "tff")
    report = unsmear.deblur(path, tmp_path / "b.webm", model=Negative(), window=8, deinterlace="keep")
    assert "libvpx-vp9 in .webm files does not state the top field first" in report.note


def test_fields_that_begin_in_mid_stream_are_found(tmp_path):
    parts = []
    for fields, content in ((None, interlaced_frames(frames=8)[1]), ("tff", interlaced_frames(frames=8)[0])):
        options = {"bf": "0", **({"flags": "+ildct+ilme"} if fields else {})}
        parts.append(make_clip(tmp_path / f"{fields}.h264", content=content, options=options, fields=fields))
    (tmp_path / "a.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_video(tmp_path / "a.h264") as reader:
        frames = [frame.rgb for frame in reader]
        assert reader.deinterlaced
    assert np.array_equal(frames[:8], read(parts[0])), "progressive frames are given as they are"
    truth = interlaced_frames(frames=8)[1]
    assert min(psnr(frames[8 + i], truth[i]) for i in range(1, 7)) > 25
    report = unsmear.deblur(tmp_path / "a.h264", tmp_path / "b.mp4", model=Negative(), window=8)
    assert "made progressive" in report.note
    with pytest.raises(UnsupportedVideo, match="interlaced"):
        unsmear.deblur(tmp_path / "a.h264", tmp_path / "c.mp4", model=Negative(), window=8, deinterlace="refuse")
    assert not (tmp_path / "c.mp4").exists()


def test_refused_where_that_is_asked_for(tmp_path):
    path, _ = clip_of(tmp_path, "mpeg2", "tff")
    with pytest.raises(UnsupportedVideo, match="is interlaced; give `deinterlace` auto") as raised:
        unsmear.deblur(path, model=Negative(), deinterlace="refuse")
    assert "\n" not in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mpg"]
    progressive = make_clip(tmp_path / "b.mp4", frames=9)
    assert unsmear.deblur(progressive, model=Negative(), window=8, deinterlace="refuse").frames == 9


def test_dv_says_that_it_marks_all_frames(tmp_path):
    path, _ = clip_of(tmp_path, "dv", "bff")
    report = unsmear.deblur(path, model=Negative(), strength=0, window=8)
    assert "dvvideo marks all frames as interlaced" in report.note


@pytest.mark.parametrize("fields", ["top", "bottom"])
def test_what_is_not_flagged_is_deinterlaced_on_request(fields, tmp_path):
    woven, truth = interlaced_frames(frames=9, top_first=fields == "top")
    path = make_clip(tmp_path / "a.avi", codec="huffyuv", pix_fmt="yuv422p", content=woven)
    assert not probe(path).interlaced
    with open_video(path, deinterlace=fields) as reader:
        frames = [frame.rgb for frame in reader]
    unsmear.deblur(path, tmp_path / "f", model=Negative(), window=8, strength=0, deinterlace=fields, frames=True)
    for i in range(1, 8):
        assert (
            psnr(luma_of_rgb(frames[i]), luma_of_rgb(truth[i])) > psnr(luma_of_rgb(woven[i]), luma_of_rgb(truth[i])) + 5
        )
        assert np.array_equal(unsmear.video.read_image(tmp_path / "f" / f"{i:06d}.png"), frames[i])


def test_a_part_is_deinterlaced_as_in_the_whole(tmp_path):
    path, _ = clip_of(tmp_path, "h264", "tff", frames=30)
    with open_video(path) as reader:
        whole = [frame.rgb for frame in reader.frames()]
        part = [frame.rgb for frame in reader.frames(first=11, last=17)]
    assert np.array_equal(whole[11:17], part)
    unsmear.deblur(path, tmp_path / "p", model=Negative(), window=8, strength=0, start_s=0.5, end_s=0.8, frames=True)
    assert len(list((tmp_path / "p").iterdir())) == 7
    assert np.array_equal(unsmear.video.read_image(tmp_path / "p" / "000015.png"), whole[15])


def test_tiny_and_single_frames(tmp_path):
    one = make_clip(tmp_path / "one.mkv", codec="ffv1", content=interlaced_frames((16, 8), 1)[0], fields="tff")
    low = make_clip(tmp_path / "low.mkv", codec="ffv1", content=interlaced_frames((16, 2), 3)[0], fields="bff")
    assert [len(read(path)) for path in (one, low)] == [1, 3]
    assert frame_times(low) == [Fraction(i, 25) for i in range(3)]
