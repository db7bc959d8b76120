"""Which encoder, pixel format and quality a source gets."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from support.clips import make_clip
from support.restorers import Negative
from unsmear import deblur
from unsmear.errors import UsageError
from unsmear.video import SegmentWriter, VideoInfo, choose_encoding, join_segments, open_video, probe

PLAIN = VideoInfo(
    path=Path("x.mkv"),
    kind="video",
    width=320,
    height=240,
    pixel_format="yuv420p",
    bit_depth=8,
    codec="h264",
    time_base=Fraction(1, 25),
    frame_rate=Fraction(25),
)


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix", "encoder", "kept"),
    [
        ("h264", "yuv420p", ".mp4", "libx264", "yuv420p"),
        ("h264", "yuvj420p", ".mp4", "libx264", "yuv420p"),
        ("h264", "yuv422p10le", ".mov", "libx264", "yuv422p10le"),
        ("hevc", "yuv420p10le", ".mp4", "libx265", "yuv420p10le"),
        ("hevc", "yuv444p12le", ".mkv", "libx265", "yuv444p12le"),
        ("av1", "yuv420p10le", ".mkv", "libsvtav1", "yuv420p10le"),
        ("vp9", "yuv420p", ".webm", "libvpx-vp9", "yuv420p"),
        ("prores", "yuv444p10le", ".mov", "prores_ks", "yuv444p10le"),
        ("ffv1", "yuv422p", ".mkv", "ffv1", "yuv422p"),
        ("hevc", "p010le", ".mp4", "libx265", "yuv420p10le"),
    ],
)
def test_the_source_is_followed(codec: str, pixel_format: str, suffix: str, encoder: str, kept: str) -> None:
    depth = 12 if "12" in pixel_format else 10 if "10" in pixel_format else 8
    info = replace(PLAIN, codec=codec, pixel_format=pixel_format, bit_depth=depth)
    encoding = choose_encoding(info, container_suffix=suffix)
    assert (encoding.codec, encoding.pixel_format, encoding.note) == (encoder, kept, None)


@pytest.mark.parametrize("codec", ["vvc", "theora", "vc1", "svq3"])
def test_codecs_without_an_encoder_become_hevc(codec: str) -> None:
    info = replace(PLAIN, codec=codec, pixel_format="yuv420p10le", bit_depth=10)
    encoding = choose_encoding(info, container_suffix=".mp4")
    assert (encoding.codec, encoding.pixel_format) == ("libx265", "yuv420p10le")
    assert encoding.note == f"{codec} has no encoder here, so the output is hevc (libx265)"


def test_containers_that_do_not_hold_the_codec() -> None:
    assert choose_encoding(PLAIN, container_suffix=".webm").codec == "libvpx-vp9"
    with pytest.raises(UsageError, match="cannot hold"):
        choose_encoding(PLAIN, codec="h264", container_suffix=".webm")
    with pytest.raises(UsageError, match="mkv"):
        choose_encoding(PLAIN, container_suffix=".xyz")


def test_odd_sizes_keep_their_size(tmp_path: Path) -> None:
    encoding = choose_encoding(replace(PLAIN, width=321, height=241), container_suffix=".mp4")
    assert (encoding.codec, encoding.pixel_format) == ("libx264", "yuv444p")
    assert encoding.note is not None
    assert "yuv444p" in encoding.note
    source = make_clip(tmp_path / "odd.mp4", pix_fmt="yuv444p", size=(97, 65), frames=3)
    with open_video(source) as reader:
        info = replace(reader.info, pixel_format="yuv420p")
        chosen = choose_encoding(info, container_suffix=".mp4")
        with SegmentWriter(tmp_path / "0", info, chosen, 97, 65) as writer:
            for frame in reader:
                writer.write(frame.rgb, frame.pts, frame.duration)
    join_segments(source, [tmp_path / "0"], tmp_path / "out.mp4")
    assert (probe(tmp_path / "out.mp4").width, probe(tmp_path / "out.mp4").height) == (97, 65)


def test_what_the_user_asks_for() -> None:
    assert choose_encoding(PLAIN, codec="hevc", crf=28).options["crf"] == "28"
    assert choose_encoding(PLAIN, codec="libx265").codec == "libx265"
    assert choose_encoding(PLAIN, pix_fmt="yuv422p10le").pixel_format == "yuv422p10le"
    assert "crf" in (choose_encoding(PLAIN, codec="ffv1", crf=20).note or "")
    for wrong in ({"codec": "nonsense"}, {"crf": 99}, {"pix_fmt": "nonsense"}, {"codec": "aac"}):
        with pytest.raises(UsageError) as error:
            choose_encoding(PLAIN, **wrong)  # type: ignore[arg-type]
        assert str(next(iter(wrong.values()))) in str(error.value)
    with pytest.raises(UsageError):
        choose_encoding(PLAIN, codec="libsvtav1", pix_fmt="yuv444p")


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix", "encoder", "kept"),
    [
        ("prores", "yuva444p12le", ".mov", "prores_ks", "yuva444p10le"),
        ("ffv1", "yuva422p10le", ".mkv", "ffv1", "yuva422p10le"),
        ("ffv1", "bgra", ".mkv", "ffv1", "bgra"),
        ("png", "rgba", ".mov", "png", "rgba"),
        ("qtrle", "argb", ".mov", "qtrle", "argb"),
        ("utvideo", "gbrap", ".avi", "utvideo", "gbrap"),
        ("vp9", "yuva420p", ".webm", "libvpx-vp9", "yuva420p"),
        ("vp8", "yuva420p", ".mkv", "libvpx", "yuva420p"),
        ("apng", "rgba", ".apng", "apng", "rgba"),
    ],
)
def test_alpha_is_kept_where_codec_and_container_hold_it(codec, pixel_format, suffix, encoder, kept) -> None:
    depth = 12 if "12" in pixel_format else 10 if "10" in pixel_format else 8
    info = replace(PLAIN, codec=codec, pixel_format=pixel_format, bit_depth=depth, alpha=True)
    encoding = choose_encoding(info, container_suffix=suffix)
    assert (encoding.codec, encoding.pixel_format) == (encoder, kept)
    assert "alpha" not in (encoding.note or "")


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix", "chosen"),
    [
        ("vp9", "yuva420p", ".mp4", {}),  # MP4 has no place for it
        ("prores", "yuva444p12le", ".mov", {"codec": "h264"}),
        ("ffv1", "bgra", ".mkv", {"pix_fmt": "bgr0"}),
        ("gif", "bgra", ".gif", {}),
    ],
)
def test_alpha_is_dropped_with_a_note(codec, pixel_format, suffix, chosen) -> None:
    depth = 12 if "12" in pixel_format else 8
    info = replace(PLAIN, codec=codec, pixel_format=pixel_format, bit_depth=depth, alpha=True)
    encoding = choose_encoding(info, container_suffix=suffix, **chosen)
    assert "the alpha channel is dropped" in (encoding.note or "")
    assert not any(part.is_alpha for part in av.VideoFormat(encoding.pixel_format).components)


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix", "encoder"),
    [
        ("vp9", "yuv420p10le", ".webm", "libsvtav1"),
        ("vp9", "yuv420p10le", ".mkv", "libx265"),
        ("vp9", "yuv420p10le", ".mp4", "libx265"),
    ],
)
def test_another_encoder_is_taken_before_10_bits_become_8(codec, pixel_format, suffix, encoder) -> None:
    info = replace(PLAIN, codec=codec, pixel_format=pixel_format, bit_depth=10)
    encoding = choose_encoding(info, container_suffix=suffix)
    assert (encoding.codec, encoding.pixel_format) == (encoder, pixel_format)
    assert "vp9 does not fit" in (encoding.note or "")


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix", "encoder", "kept"),
    [
        ("huffyuv", "yuv422p", ".mkv", "huffyuv", "yuv422p"),
        ("ffvhuff", "yuv420p10le", ".mkv", "ffvhuff", "yuv420p10le"),
        ("utvideo", "yuv444p", ".mkv", "utvideo", "yuv444p"),
        ("magicyuv", "gbrp", ".mkv", "magicyuv", "gbrp"),
        ("ffv1", "yuv420p", ".avi", "ffv1", "yuv420p"),
        ("lagarith", "gbrp", ".avi", "ffv1", "bgr0"),
        ("h264", "gbrp", ".mkv", "libx264rgb", "bgr24"),
        ("h264", "yuv420p10le", ".mp4", "libx264", "yuv420p10le"),
        ("v210", "yuv422p10le", ".mov", "v210", "yuv422p10le"),
        ("dvvideo", "yuv420p", ".avi", "dvvideo", "yuv420p"),
    ],
)
def test_what_was_coded_without_loss_or_for_editing_stays_so(codec, pixel_format, suffix, encoder, kept) -> None:
    depth = 10 if "10" in pixel_format else 8
    size = {"width": 720, "height": 576} if codec == "dvvideo" else {}
    info = replace(PLAIN, codec=codec, pixel_format=pixel_format, bit_depth=depth, lossless=True, **size)
    encoding = choose_encoding(info, container_suffix=suffix)
    assert (encoding.codec, encoding.pixel_format) == (encoder, kept)
    if codec == "h264":
        assert encoding.options["qp"] == "0" and "crf" not in encoding.options
        assert choose_encoding(info, crf=20, container_suffix=suffix).options.get("qp") is None


@pytest.mark.parametrize(
    ("encoder", "pixels"),
    [("huffyuv", "yuv422p"), ("ffvhuff", "yuv420p"), ("utvideo", "gbrp"), ("magicyuv", "yuv444p")],
)
def test_matroska_takes_the_codecs_of_avi(encoder, pixels, tmp_path) -> None:
    source = make_clip(tmp_path / "a.avi", codec=encoder, pix_fmt=pixels, frames=19, audio="pcm_s16le")
    report = deblur(source, tmp_path / "b.mkv", model=Negative(), window=8, strength=0)
    before, after = probe(source), probe(report.output)
    assert (after.codec, after.pixel_format) == (before.codec, before.pixel_format)
    assert report.note == ""
    with open_video(source) as one, open_video(report.output) as other:
        for a, b in zip(one, other, strict=True):
            assert np.abs(a.rgb.astype(int) - b.rgb).max() <= (0 if pixels == "gbrp" else 6)


def test_uncompressed_rgb_stays_so_in_avi(tmp_path) -> None:
    source = make_clip(tmp_path / "a.avi", codec="rawvideo", pix_fmt="bgr24", size=(94, 62), frames=9)
    report = deblur(source, model=Negative(), strength=0)
    assert probe(report.output).codec == "rawvideo"
    with open_video(source) as one, open_video(report.output) as other:
        assert all((a.rgb == b.rgb).all() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options", "lossless"),
    [
        ("a.mp4", "libx264", "yuv420p", {"qp": "0"}, True),
        ("a.ts", "libx264", "yuv444p", {"qp": "0"}, True),
        ("a.mkv", "libx264rgb", "rgb24", {"qp": "0"}, True),
        ("a.mp4", "libx264", "yuv444p", {}, False),
        ("a.mp4", "libx264", "yuv420p", {"qp": "1"}, False),
        ("a.mp4", "libx265", "yuv420p", {"x265-params": "log-level=none:lossless=1"}, True),
        ("a.mp4", "libx265", "yuv420p", {}, False),
        ("a.avi", "huffyuv", "yuv422p", {}, True),
        ("a.avi", "mjpeg", "yuvj420p", {}, False),
        ("a.mov", "rawvideo", "uyvy422", {}, False),
    ],
)
def test_lossless_sources_are_known(tmp_path, name, codec, pixels, options, lossless) -> None:
    clip = make_clip(tmp_path / name, codec=codec, pix_fmt=pixels, options=options, frames=2)
    assert probe(clip).lossless is lossless
