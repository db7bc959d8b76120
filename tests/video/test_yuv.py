"""Raw YUV and Y4M: names, what is read back, and files that are not what they claim to be."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.clips import make_clip, make_yuv, moving_frames
from unsmear.blur.pack import load_sources
from unsmear.errors import DamagedVideo, DataLayoutError, UnsmearError, UnsupportedVideo, UsageError
from unsmear.video import RawFormat, find_inputs, open_video, parse_raw_format, probe
from unsmear.video.seek import first_frame_at


@pytest.mark.parametrize(
    ("name", "size", "rate", "depth"),
    [
        ("BasketballDrive_1920x1080_50", (1920, 1080), 50, 8),
        ("B_Kimono_1920x1080_24", (1920, 1080), 24, 8),
        ("CatRobot_3840x2160_60fps_10bit_420_jvet", (3840, 2160), 60, 10),
        ("ArenaOfValor_1920x1080_60_8bit_420", (1920, 1080), 60, 8),
        ("Campfire_3840x2160_30fps_10bit_420_bt709_videoRange", (3840, 2160), 30, 10),
        ("crowd8_420_1920x1080_50", (1920, 1080), 50, 8),
        ("S02_4x4_sheet_832x480_29.97fps_10b", (832, 480), Fraction("29.97"), 10),
        ("clip_96x64_yuv420p10le", (96, 64), 25, 10),
        ("clip_96x64_420_8bit", (96, 64), 25, 8),
        ("96x64", (96, 64), 25, 8),
        ("clip_96x64_25_8bit.deblurred", (96, 64), 25, 8),
    ],
)
def test_names_of_test_sequences_are_understood(name, size, rate, depth):
    form = parse_raw_format(name)
    assert form is not None
    assert ((form.width, form.height), form.frame_rate, form.bit_depth, form.chroma) == (size, rate, depth, "420")


def test_matrix_and_chroma_are_taken_from_names():
    assert parse_raw_format("Campfire_3840x2160_30fps_bt709_420").colorspace == 1
    assert parse_raw_format("Campfire_3840x2160_30fps_420").colorspace == 2
    assert parse_raw_format("a_96x64_30_yuv444p").pixel_format == "yuv444p"
    assert parse_raw_format("a_96x64_30_10bit_422").pixel_format == "yuv422p10le"


@settings(deadline=None)
@given(
    st.integers(1, 8192),
    st.integers(1, 8192),
    st.integers(1, 240),
    st.sampled_from([8, 10, 12, 16]),
    st.text("abcdefgXYZ0123456789-", max_size=12),
    st.sampled_from(["", "fps"]),
)
def test_a_name_that_was_put_together_is_taken_apart(width, height, rate, depth, title, unit):
    assert parse_raw_format(f"take_10b_{width}x{height}_8bit").bit_depth == 8
    form = parse_raw_format(f"{title}_{width}x{height}_{rate}{unit}_{depth}bit_420")
    assert form == RawFormat(width, height, depth, Fraction(rate))


@settings(deadline=None)
@given(st.text(max_size=30))
def test_no_name_breaks_the_parser(name):
    try:
        parse_raw_format(name)
    except UsageError as error:
        assert "raw video" in str(error)


@pytest.mark.parametrize("text", ["0x10", "17000x10", "a_10x10_11bit"])
def test_what_no_file_can_be_is_refused(text):
    with pytest.raises(UsageError, match="expected"):
        parse_raw_format(text)
    assert parse_raw_format("holiday") is None


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(8, 40),
    st.integers(8, 40),
    st.integers(1, 4),
    st.sampled_from(["yuv420p", "yuv420p10le", "yuv422p", "yuv444p12le"]),
)
def test_yuv_there_and_back(tmp_path, width, height, frames, pix_fmt):
    rgb = moving_frames((width, height), frames)
    path, planes = make_yuv(tmp_path / "clip.yuv", rgb, pix_fmt=pix_fmt)
    bits = int(pix_fmt.partition("p")[2].removesuffix("le") or 8)
    form = RawFormat(width, height, bits, Fraction(30), pix_fmt[3:6])
    assert path.stat().st_size == frames * form.frame_bytes
    with open_video(path, form) as reader:
        assert (reader.info.frames, reader.info.bit_depth, reader.info.frame_rate) == (frames, bits, 30)
        read = list(reader)
    assert [frame.index for frame in read] == list(range(frames))
    for frame, (luma, *_) in zip(read, planes, strict=True):
        wide = luma.view("<u2") >> (bits - 8) if bits > 8 else luma
        assert np.array_equal(frame.luma, wide)
        assert frame.rgb.dtype == (np.uint16 if bits > 8 else np.uint8)
        assert frame.rgb.shape == (height, width, 3)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("suffix", ["_96x64_30fps_8bit.yuv", "_96x64_30fps_10bit.yuv", ".y4m"])
def test_the_name_is_enough_and_the_colours_are_right(tmp_path, suffix):
    rgb = moving_frames((96, 64), 5, smooth_px=4)
    path = tmp_path / f"clip{suffix}"
    if suffix == ".y4m":
        make_clip(path, codec="wrapped_avframe", content=rgb, rate=30)
    else:
        make_yuv(path, rgb, pix_fmt="yuv420p10le" if "10bit" in suffix else "yuv420p")
    info = probe(path)
    assert (info.kind, info.width, info.height, info.frames, info.frame_rate) == ("video", 96, 64, 5, 30)
    assert info.bit_depth == (10 if "10bit" in suffix else 8)
    with open_video(path) as reader:
        frames = list(reader)
        assert [frame.index for frame in reader.frames(2, 4)] == [2, 3]
    for frame, truth in zip(frames, rgb, strict=True):
        got = frame.rgb / 257 if frame.rgb.dtype == np.uint16 else frame.rgb
        assert psnr(got, truth) > 34
    assert [round(frame.time_s * 30) for frame in frames] == [0, 1, 2, 3, 4]
    assert first_frame_at(info, 2 / 30) == 2
    assert find_inputs(tmp_path) == [path]


def test_the_matrix_that_a_name_states_is_used(tmp_path):
    rgb = [np.full((64, 96, 3), (200, 40, 40), np.uint8)]
    plain, _ = make_yuv(tmp_path / "a_96x64_25.yuv", rgb)
    other, _ = make_yuv(tmp_path / "a_96x64_25_bt709.yuv", rgb)
    as_601, as_709 = (next(iter(open_video(path))).rgb[30, 30].astype(int) for path in (plain, other))
    assert np.abs(as_601 - (200, 40, 40)).max() <= 3
    assert np.abs(as_601 - as_709).max() > 5


def refused(path: Path, raw: RawFormat | None = None) -> UnsmearError:
    with pytest.raises(UnsmearError) as error, open_video(path, raw) as reader:
        list(reader)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return error.value


def test_a_cut_yuv_file_is_refused_at_once(tmp_path):
    path, _ = make_yuv(tmp_path / "clip_96x64_30_8bit.yuv", moving_frames((96, 64), 3), cut_bytes=500)
    error = refused(path)
    assert isinstance(error, DamagedVideo)
    assert "holds 2 frames of 96x64 8-bit 4:2:0 and 8716 bytes of another of 9216" in str(error)
    assert "copy it again" in str(error)


def test_a_yuv_file_without_a_size_says_how_to_state_it(tmp_path):
    path, _ = make_yuv(tmp_path / "clip.yuv", moving_frames((96, 64), 2))
    error = refused(path)
    assert isinstance(error, UnsupportedVideo)
    assert "NAME_1920x1080_50fps_8bit.yuv" in str(error)
    with open_video(path, RawFormat(96, 64)) as reader:
        assert len(list(reader)) == 2
    (tmp_path / "clip.yuv").rename(tmp_path / "clip_96x64_11bit.yuv")
    assert "11 bits" in str(refused(tmp_path / "clip_96x64_11bit.yuv"))


def test_a_wrong_bit_depth_is_found(tmp_path):
    deep, _ = make_yuv(tmp_path / "deep_96x64_30_8bit.yuv", moving_frames((96, 64), 2), pix_fmt="yuv420p10le")
    assert "two bytes wide" in str(refused(deep))
    flat, _ = make_yuv(tmp_path / "flat_96x64_30_10bit.yuv", moving_frames((96, 64), 2))
    assert "10 bits end at 1023" in str(refused(flat))
    black = [np.zeros((64, 96, 3), np.uint8)] * 2
    dark, _ = make_yuv(tmp_path / "dark_96x64_30_8bit.yuv", black)
    assert len(list(open_video(dark))) == 2


def test_a_cut_y4m_file_does_not_pass(tmp_path):
    whole = make_clip(tmp_path / "clip.y4m", codec="wrapped_avframe", frames=4)
    data = whole.read_bytes()
    for cut in (1, 700, 9215):
        path = tmp_path / f"cut{cut}.y4m"
        path.write_bytes(data[:-cut])
        assert probe(path).frames == 3
        got = []
        with pytest.raises(DamagedVideo, match=r"after frame 2 \(3 frames read\)"):
            got.extend(frame.index for frame in open_video(path))
    (tmp_path / "fields.y4m").write_bytes(data.replace(b"FRAME\n", b"FRAME Ip\n"))
    assert probe(tmp_path / "fields.y4m").frames == 4


def test_packs_read_raw_video_and_refuse_cut_files(tmp_path):
    frames = moving_frames((96, 64), 3, smooth_px=4)
    yuv, _ = make_yuv(tmp_path / "a_96x64_30_10bit.yuv", frames, pix_fmt="yuv420p10le")
    make_clip(tmp_path / "b.y4m", codec="wrapped_avframe", content=frames)
    sources = load_sources(None, tmp_path)
    for clip in sources.clips:
        assert [frame.dtype for frame in clip] == [np.uint8] * 3
        assert all(psnr(frame, truth) > 34 for frame, truth in zip(clip, frames, strict=True))
    yuv.write_bytes(yuv.read_bytes()[:-2])
    with pytest.raises(DataLayoutError, match="and 18430 bytes of another"):
        load_sources(None, tmp_path)
