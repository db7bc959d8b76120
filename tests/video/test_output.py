"""A video through decode, segments and join: every frame at its time, everything else untouched."""

import os
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from support.clips import frame_times, make_clip, moving_frames, packets_of
from support.joining import rewrite, write_segments
from unsmear.errors import OutputError
from unsmear.video import (
    SegmentWriter,
    choose_encoding,
    join_segments,
    open_video,
    probe,
)

LOOKS = (
    "width",
    "height",
    "pixel_format",
    "bit_depth",
    "codec",
    "rotation",
    "display_matrix",
    "sample_aspect_ratio",
    "color_range",
    "color_primaries",
    "color_trc",
    "colorspace",
)


def assert_same_looks(one: Path, other: Path) -> None:
    first, second = probe(one), probe(other)
    assert {name: getattr(first, name) for name in LOOKS} == {name: getattr(second, name) for name in LOOKS}


def mean_difference(one: Path, other: Path) -> float:
    with open_video(one) as first, open_video(other) as second:
        return max(
            float(np.abs(a.rgb.astype(float) - b.rgb).mean()) / (257 if a.rgb.dtype == np.uint16 else 1)
            for a, b in zip(first, second, strict=True)
        )


CLIPS = {
    "h264 with B-frames and AAC": ("a.mp4", {"audio": "aac", "frames": 17}),
    "variable rate": ("vfr.mp4", {"vfr": True, "audio": "aac", "frames": 17}),
    "variable rate in Matroska": ("vfr.mkv", {"vfr": True, "audio": "libopus"}),
    "a start that is not 0": ("start.mp4", {"start": 7, "time_base": Fraction(1, 30000), "rate": 30}),
    "29.97 in its own unit": ("ntsc.mp4", {"time_base": Fraction(1001, 30000), "rate": 30}),
    "HEVC": ("h.mp4", {"codec": "libx265"}),
    "10-bit HEVC with HDR tags": (
        "h10.mp4",
        {"codec": "libx265", "pix_fmt": "yuv420p10le", "colour": (9, 16, 9, 1)},
    ),
    "VP9 with Opus": ("v.webm", {"codec": "libvpx-vp9", "audio": "libopus", "colour": (1, 1, 1, 1)}),
    "AV1": ("av1.mp4", {"codec": "libsvtav1"}),
    "rotated": ("rotated.mp4", {"rotation": 90}),
    "rotated in Matroska": ("rotated.mkv", {"rotation": -90}),
    "odd sizes": ("odd.mkv", {"codec": "libvpx-vp9", "size": (97, 65)}),
    "odd sizes in 4:4:4": ("odd.mp4", {"pix_fmt": "yuv444p", "size": (97, 65)}),
    "MJPEG in AVI": ("m.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "audio": "libmp3lame"}),
    "ProRes with PCM": (
        "p.mov",
        {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "audio": "pcm_s16le", "start": 3},
    ),
    "transport stream": ("t.ts", {"audio": "aac"}),
    "MPEG-2": ("m2.mkv", {"codec": "mpeg2video", "audio": "mp2"}),
    "aspect ratio and BT.709": ("sar.mp4", {"sample_aspect_ratio": Fraction(4, 3), "colour": (1, 1, 1, 1)}),
    "aspect ratio and BT.601": ("sar.mkv", {"sample_aspect_ratio": Fraction(4, 3), "colour": (5, 6, 5, 1)}),
    "full range": ("full.mp4", {"pix_fmt": "yuvj420p"}),
    "gray": ("gray.mp4", {"pix_fmt": "gray"}),
    "subtitles in Matroska": ("s.mkv", {"subtitles": "subrip", "audio": "aac"}),
    "subtitles in MP4": (
        "s.mp4",
        {"subtitles": "mov_text", "chapters": [(0, 0.2, "One"), (0.2, 0.4, "Two")]},
    ),
}


@pytest.mark.parametrize("name", CLIPS)
def test_everything_but_the_pixels_survives(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, options = CLIPS[name]
    source = make_clip(tmp_path / file, **options)  # type: ignore[arg-type]
    capfd.readouterr()
    output, report = rewrite(source)
    assert capfd.readouterr().err == ""
    assert report.notes == []
    assert report.frames == len(frame_times(source))
    assert frame_times(output) == frame_times(source)
    assert_same_looks(source, output)
    for kind in ("audio", "subtitle"):
        with av.open(str(source)) as container:
            count = sum(stream.type == kind for stream in container.streams)
        for number in range(count):
            assert packets_of(output, kind, number) == packets_of(source, kind, number)
    assert mean_difference(source, output) < 6  # lossy codecs at transparent settings, on noise
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "colour"),
    [
        ("libx264", "yuv420p", (1, 1, 1, 1)),
        ("libx264", "yuv420p", (6, 6, 6, 1)),
        ("libx264", "yuv420p", None),
        ("libx264", "yuvj420p", None),
        ("ffv1", "yuv420p", (1, 1, 1, 1)),
        ("ffv1", "yuv444p", None),
    ],
)
def test_unchanged_frames_keep_their_colours(
    codec: str, pix_fmt: str, colour: tuple[int, int, int, int] | None, tmp_path: Path
) -> None:
    smooth = moving_frames(smooth_px=8)
    lossless = {"crf": "0"} if codec == "libx264" else {}
    source = make_clip(
        tmp_path / "c.mkv", codec=codec, pix_fmt=pix_fmt, colour=colour, options=lossless, content=smooth
    )
    output, _ = rewrite(source, crf=0 if codec == "libx264" else None)
    with open_video(source) as first, open_video(output) as second:
        for a, b in zip(first, second, strict=True):
            assert np.abs(a.rgb.astype(int) - b.rgb).max() <= 2
            assert np.abs(a.luma.astype(int) - b.luma).max() <= 1


def test_deep_frames_keep_their_colours(tmp_path: Path) -> None:
    smooth = [frame.astype(np.uint16) * 257 for frame in moving_frames(smooth_px=8)]
    source = make_clip(tmp_path / "d.mkv", codec="ffv1", pix_fmt="yuv420p10le", content=smooth)
    output, _ = rewrite(source)
    with open_video(source) as first, open_video(output) as second:
        for a, b in zip(first, second, strict=True):
            assert a.rgb.dtype == np.uint16
            assert np.abs(a.rgb.astype(int) - b.rgb).max() <= 2 * 257


def test_the_matrix_of_the_stream_is_used(tmp_path: Path) -> None:
    red = [np.full((64, 96, 3), (200, 40, 40), np.uint8)] * 3
    for colour in ((1, 1, 1, 1), (6, 6, 6, 1), (1, 1, 1, 2)):
        source = make_clip(tmp_path / "red.mkv", codec="ffv1", pix_fmt="yuv444p", colour=colour, content=red)
        frame = next(iter(open_video(source)))
        assert np.abs(frame.rgb.astype(int) - red[0]).max() <= 2, colour


def test_one_segment_or_many_hold_the_same_times_and_streams(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", vfr=True, audio="aac", frames=20)
    one, _ = rewrite(source, length=100)
    whole = frame_times(one), packets_of(one, "audio"), len(packets_of(one))
    many, _ = rewrite(source, length=3)
    assert (frame_times(many), packets_of(many, "audio"), len(packets_of(many))) == whole


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".nut"])
def test_decoding_times_increase_across_segments(suffix: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / f"a{suffix}", vfr=True, frames=23)
    output, _ = rewrite(source, length=7)
    with av.open(str(output)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    times = [packet.dts for packet in packets if packet.dts is not None]
    assert all(later > earlier for earlier, later in pairwise(times))
    assert all(packet.dts is None or packet.dts <= packet.pts for packet in packets)
    assert sum(packet.is_keyframe for packet in packets) >= 4


def test_tags_chapters_dispositions_and_attachments(tmp_path: Path) -> None:
    plain = make_clip(tmp_path / "plain.mp4", audio="aac")
    source = tmp_path / "rich.mkv"
    with av.open(str(plain)) as original, av.open(str(source), "w") as target:
        target.metadata.update({"title": "A title", "comment": "kept"})
        copies = {s.index: target.add_stream_from_template(s, opaque=True) for s in original.streams}
        copies[1].metadata.update({"language": "deu", "title": "Ton"})
        copies[1].disposition = av.stream.Disposition.forced | av.stream.Disposition.default
        target.add_attachment("font.ttf", "application/x-truetype-font", b"abc" * 50)
        target.set_chapters(
            [
                {
                    "id": 1,
                    "start": 0,
                    "end": 200,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": "One"},
                }
            ]
        )
        for packet in original.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
    output, report = rewrite(source)
    assert (report.copied_streams, report.notes) == (2, [])
    with av.open(str(output)) as container:
        assert container.metadata["title"] == "A title"
        assert container.metadata["COMMENT"] == "kept"
        audio = container.streams.audio[0]
        assert (audio.metadata["language"], audio.metadata["title"]) == ("deu", "Ton")
        assert int(audio.disposition) == 65
        assert container.streams.attachments[0].data == b"abc" * 50
        (chapter,) = container.chapters()
        assert chapter["metadata"] == {"title": "One"}
        assert (chapter["end"] - chapter["start"]) * chapter["time_base"] == Fraction(1, 5)
    into_mp4, report = rewrite(source, ".mp4")
    assert report.notes == [".mp4 files cannot hold the attachment stream 2 (font.ttf), so it is left out"]
    assert packets_of(into_mp4, "audio") == packets_of(source, "audio")


def test_cover_picture_is_kept(tmp_path: Path) -> None:
    plain = make_clip(tmp_path / "plain.mp4")
    cover = make_clip(tmp_path / "cover.mkv", codec="mjpeg", pix_fmt="yuvj420p", frames=1)
    source = tmp_path / "covered.mp4"
    with av.open(str(plain)) as a, av.open(str(cover)) as b, av.open(str(source), "w") as target:
        video = target.add_stream_from_template(a.streams.video[0], opaque=True)
        picture = target.add_stream_from_template(b.streams.video[0], opaque=True)
        picture.disposition = av.stream.Disposition.attached_pic
        for container, stream in ((a, video), (b, picture)):
            for packet in container.demux():
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    output, report = rewrite(source)
    assert report.notes == []
    assert packets_of(output, "video", 1)[0][1] == packets_of(source, "video", 1)[0][1]
    assert frame_times(output) == frame_times(source)


def test_part_of_a_video(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "a.mp4",
        audio="aac",
        frames=50,
        vfr=True,
        subtitles="mov_text",
        chapters=[(0, 1, "One"), (1, 2, "Two")],
    )
    with open_video(source) as reader:
        info = reader.info
        part = list(reader.frames(20, 40))
    assert [frame.index for frame in part] == list(range(20, 40))
    encoding = choose_encoding(info, container_suffix=".mp4")
    segments = [tmp_path / "0", tmp_path / "1"]
    for path, frames in zip(segments, (part[:8], part[8:]), strict=True):
        with SegmentWriter(path, info, encoding, info.width, info.height) as writer:
            for frame in frames:
                writer.write(frame.rgb, frame.pts, frame.duration)
    output = tmp_path / "part.mp4"
    join_segments(source, segments, output, start_s=part[0].time_s, end_s=part[-1].time_s + 0.04)
    assert info.time_base is not None
    assert frame_times(output) == [(frame.pts - part[0].pts) * info.time_base for frame in part]
    whole, kept = packets_of(source, "audio"), packets_of(output, "audio")
    begin = [data for _, data in whole].index(kept[0][1])
    assert [data for _, data in whole[begin : begin + len(kept)]] == [data for _, data in kept]
    assert 0 <= kept[0][0] < Fraction(1, 40)
    assert abs(kept[0][0] + part[0].time_s - whole[begin][0]) < 1e-4
    assert abs(len(kept) * 1024 / 48000 - 0.83) < 0.05
    with av.open(str(output)) as container:
        titles = {c["metadata"]["title"]: float(c["end"] * c["time_base"]) for c in container.chapters()}
    assert titles.keys() == {"One", "Two"}
    assert titles["One"] == pytest.approx(0.2, abs=0.001)


def test_segments_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4")
    with open_video(source) as reader:
        frames, info = list(reader), reader.info
    encoding = choose_encoding(info)
    with pytest.raises(RuntimeError), SegmentWriter(tmp_path / "seg", info, encoding, 96, 64) as writer:
        writer.write(frames[0].rgb, frames[0].pts)
        raise RuntimeError("killed")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    with SegmentWriter(tmp_path / "seg", info, encoding, 96, 64) as writer:
        writer.write(frames[0].rgb, 10)
        with pytest.raises(ValueError, match="must increase"):
            writer.write(frames[1].rgb, 10)
        with pytest.raises(ValueError, match="expected a frame"):
            writer.write(frames[1].rgb[:-1], 20)


def test_joining_what_does_not_belong_together_leaves_nothing_behind(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4")
    small = make_clip(tmp_path / "small.mp4", size=(64, 64))
    segments = write_segments(source, tmp_path, ".mp4")
    (tmp_path / "b").mkdir()
    other = write_segments(small, tmp_path / "b", ".mp4")
    before = sorted(tmp_path.iterdir())
    for wrong, words in (
        ([*segments, other[0]], "other settings"),
        ([segments[1], segments[0]], "does not follow"),
        ([source], "not a segment"),
    ):
        with pytest.raises(OutputError, match=words) as error:
            join_segments(source, wrong, tmp_path / "out.mp4")
        assert "\n" not in str(error.value)
    with pytest.raises(OutputError, match="no video can be written"):
        join_segments(source, segments, tmp_path / "out.xyz")
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_times_are_made_to_increase(tmp_path: Path) -> None:
    good = make_clip(tmp_path / "good.nut", codec="mpeg4", time_base=Fraction(1, 100))
    source = tmp_path / "repeated.mkv"
    with av.open(str(good)) as original, av.open(str(source), "w") as target:
        copy = target.add_stream_from_template(original.streams.video[0], opaque=True)
        for number, packet in enumerate(original.demux(video=0)):
            if packet.size:
                packet.pts = packet.dts = 40 * (number // 2 * 2)  # pairs share a time
                packet.time_base, packet.stream = Fraction(1, 1000), copy
                target.mux(packet)
    with open_video(source) as reader:
        times = [frame.pts for frame in reader]
    assert len(times) == 12
    assert all(later > earlier for earlier, later in pairwise(times))


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="only Linux tells how threads are scheduled")
def test_an_encoder_does_not_leave_the_thread_with_other_scheduling(tmp_path):
    """SVT-AV1 makes it a real-time thread where it may; what it starts later would starve the rest."""
    before = os.sched_getscheduler(0)
    source = make_clip(tmp_path / "a.mkv", codec="libsvtav1", frames=6)
    assert os.sched_getscheduler(0) == before
    info = probe(source)
    with SegmentWriter(
        tmp_path / "s.nut", info, choose_encoding(info, codec="libsvtav1"), info.width, info.height
    ) as w:
        with open_video(source) as reader:
            for i, frame in enumerate(reader):
                w.write(frame.rgb, i)
        assert os.sched_getscheduler(0) == before
