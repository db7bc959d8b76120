"""Streams beside the picture: copied, repaired, cut, or left out with a word."""

import struct
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from support.blocks import move_packet
from support.clips import frame_times, hide_first, make_clip, packets_of
from support.joining import rewrite, tone_of, write_segments
from unsmear.video import join_segments, open_video
from unsmear.video.service import service_tags
from unsmear.video.timecode import later


@pytest.mark.parametrize(
    ("by_ms", "into"), [(-23, ".mp4"), (-60, ".mkv"), (-60, ".avi"), (2000, ".mkv"), (5000, ".mp4")]
)
def test_a_packet_of_sound_at_a_wrong_time(by_ms: int, into: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", audio="aac", frames=25)
    true = [float(time) for time, _ in packets_of(source, "audio")]
    data = [data for _, data in packets_of(source, "audio")]
    output, report = rewrite(move_packet(source, 2, 10, by_ms), into)
    assert any("1 packet was out of order in time" in note for note in report.notes)
    found = packets_of(output, "audio")
    missing = len(data) - len(found)
    assert missing <= (into == ".avi")
    assert [packet for _, packet in found] == data[missing:]
    apart = [
        float(time - found[0][0]) - (known - true[missing])
        for (time, _), known in zip(found, true[missing:], strict=True)
    ]
    assert max(map(abs, apart)) < 0.03
    assert all(a < b for (a, _), (b, _) in pairwise(found))


def with_timecode(path: Path, code: str = "01:00:00:00") -> Path:
    """A clip with a track for its time code, as cameras write it."""
    plain = make_clip(path.with_name("plain.mkv"), codec="mpeg4", frames=30)
    with av.open(str(plain)) as original, av.open(str(path), "w") as target:
        copy = target.add_stream_from_template(original.streams.video[0], opaque=True)
        copy.codec_context.framerate = 25
        copy.metadata["timecode"] = code
        for packet in original.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    return path


def timecodes(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [stream.metadata["timecode"] for stream in container.streams if "timecode" in stream.metadata]


@pytest.mark.parametrize("suffix", [".mov", ".mp4"])
def test_time_codes_are_written_anew(suffix: str, tmp_path: Path) -> None:
    source = with_timecode(tmp_path / f"a{suffix}")
    assert timecodes(source) == ["01:00:00:00"] * 2
    output, report = rewrite(source)
    assert report.notes == []
    assert timecodes(output) == ["01:00:00:00"] * 2
    into_avi, report = rewrite(source, ".avi")
    assert report.notes == [".avi files cannot hold the tags timecode, left out"]
    assert timecodes(into_avi) == []


def test_the_time_code_of_a_part_is_that_of_its_first_frame(tmp_path: Path) -> None:
    source = with_timecode(tmp_path / "a.mov", "10:59:59:20")
    segments = write_segments(source, tmp_path, ".mov", length=10)
    join_segments(source, segments[1:2], tmp_path / "part.mov", start_s=0.4, end_s=0.8)
    assert timecodes(tmp_path / "part.mov") == ["11:00:00:05"] * 2


def test_time_codes_that_drop_numbers() -> None:
    rate = Fraction(30000, 1001)
    assert later("00:00:59;29", 1, rate) == "00:01:00;02"
    assert later("00:09:59;29", 1, rate) == "00:10:00;00"
    assert later("00:00:00;00", 17982 * 6 * 24, rate) == "00:00:00;00", "a day, in frames"
    assert later("00:00:59;59", 1, Fraction(60000, 1001)) == "00:01:00;04"
    assert later("00:00:00:24", 1, Fraction(25)) == "00:00:01:00"
    assert later("00:00:00:25", 1, Fraction(25)) is None
    assert later("an hour", 1, Fraction(25)) is None


def with_data(path: Path, codec: str, data: Callable[[int], bytes], chapters: bool = False) -> Path:
    """A clip with three packets of data."""
    parts = [(0, 0.2, "One"), (0.2, 0.4, "Two")] if chapters else []
    plain = make_clip(path.with_name("plain.mp4"), audio="aac", chapters=parts)
    with av.open(str(plain)) as original, av.open(str(path), "w") as target:
        copies = {
            s.index: target.add_stream_from_template(s, opaque=True) for s in original.streams if s.type != "data"
        }
        stream = target.add_data_stream(codec)
        stream.time_base = Fraction(1, 1000)
        target.set_chapters(original.chapters())
        for packet in original.demux([original.streams[index] for index in copies]):
            if packet.size:
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
        for number in range(3):
            packet = av.Packet(data(number))
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = 120 * number
            packet.duration, packet.is_keyframe = 120, True
            target.mux(packet)
    return path


def data_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux() if packet.stream.type == "data" and packet.size]


def test_telemetry_beside_chapters_is_kept(tmp_path: Path) -> None:
    source = with_data(tmp_path / "a.mp4", "bin_data", lambda number: b"DEVC" + bytes([0, 0, 0, number]), chapters=True)
    output, report = rewrite(source)
    assert report.notes == []
    assert data_of(output) == data_of(source)
    assert len(data_of(output)) == 3
    with av.open(str(output)) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["One", "Two"]
    assert rewrite(source, ".mkv")[1].notes == [
        ".mkv files cannot hold the data stream 2 (bin_data), so it is left out"
    ]


def test_timed_metadata_is_kept_or_named(tmp_path: Path) -> None:
    source = with_data(tmp_path / "a.ts", "timed_id3", lambda number: b"ID3\4" + bytes([0, 0, 0, 0, 0, number]))
    output, report = rewrite(source)
    assert report.notes == []
    assert data_of(output) == data_of(source)
    output, report = rewrite(source, ".mp4")
    assert report.notes == [".mp4 files cannot hold the data stream 2 (timed_id3), so it is left out"]
    assert len(packets_of(output, "audio")) == len(packets_of(source, "audio"))


@pytest.mark.parametrize("suffix", [".ts", ".m2ts"])
def test_the_name_of_a_service(suffix: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / f"a{suffix}", metadata={"service_name": "Küche 1", "service_provider": "Funk"})
    assert service_tags(source) == {"service_name": "Küche 1", "service_provider": "Funk"}
    output, report = rewrite(source)
    assert report.notes == []
    assert service_tags(output) == service_tags(source)
    assert any("Küche 1 is left out" in note for note in rewrite(source, ".mkv")[1].notes)
    assert service_tags(make_clip(tmp_path / "a.mkv")) == {}


def with_long_line(path: Path, codec: str) -> Path:
    """A clip of a second with one subtitle of half a minute."""
    plain = make_clip(path.with_name("plain.mp4"), audio="aac", frames=25)
    with av.open(str(plain)) as original, av.open(str(path), "w") as target:
        copies = {s.index: target.add_stream_from_template(s, opaque=True) for s in original.streams}
        line = target.add_mux_stream(codec)
        line.time_base = Fraction(1, 1000)
        for packet in original.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
        packet = av.Packet(b"long" if codec == "subrip" else b"\0\4long")
        packet.stream, packet.time_base = line, Fraction(1, 1000)
        packet.pts = packet.dts = 100
        packet.duration = 30_000
        target.mux(packet)
    return path


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "subrip"), (".mp4", "mov_text")])
def test_a_long_subtitle_ends_with_its_part(suffix: str, codec: str, tmp_path: Path) -> None:
    source = with_long_line(tmp_path / f"a{suffix}", codec)
    segments = write_segments(source, tmp_path, suffix)
    output = tmp_path / f"part{suffix}"
    join_segments(source, segments[2:4], output, start_s=0.4, end_s=0.8)
    with av.open(str(output)) as container:
        assert container.duration / 1e6 < 0.5
        (line,) = [p for p in container.demux(subtitles=0) if p.size > 2]
        assert line.pts == 0
        assert line.duration * line.time_base == pytest.approx(0.4, abs=0.025)


@pytest.mark.parametrize("frames", [5, 40])
def test_sound_in_mxf_ends_with_the_picture(frames: int, tmp_path: Path) -> None:
    """Shorter sound would cost frames, longer sound is cut with a word."""
    sound = make_clip(tmp_path / "sound.mov", codec="mpeg4", audio="pcm_s16le", frames=20)
    picture = make_clip(tmp_path / "picture.mov", codec="mpeg4", frames=frames)
    source = tmp_path / "a.mov"
    with av.open(str(sound)) as one, av.open(str(picture)) as other, av.open(str(source), "w") as target:
        streams = (other.streams.video[0], one.streams.audio[0])
        copies = [target.add_stream_from_template(stream, opaque=True) for stream in streams]
        for stream, copy in zip(streams, copies, strict=True):
            for packet in stream.container.demux(stream):
                if packet.size:
                    packet.stream = copy
                    target.mux(packet)
    output, report = rewrite(source, ".mxf")
    assert any("ends with the picture" in note for note in report.notes) is (frames == 5)
    assert len(frame_times(output)) == frames
    with av.open(str(output)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == frames * 1920


def test_sound_without_times_for_its_packets_keeps_its_last_one(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", codec="mpeg4", audio="alac", frames=15)
    output, _ = rewrite(source, ".mp4")
    assert [data for _, data in packets_of(output, "audio")] == [data for _, data in packets_of(source, "audio")]
    assert tone_of(output) == pytest.approx(tone_of(source), rel=0.01, abs=0.01)


def test_sound_without_a_sample_rate_is_left_out(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", audio="pcm_s16le")
    data, rate = source.read_bytes(), b"\xb5\x88" + struct.pack(">d", 48000)
    assert data.count(rate) == 1
    source.write_bytes(data.replace(rate, b"\xb5\x88" + struct.pack(">d", 0)))
    output, report = rewrite(source, ".mp4")
    assert len(packets_of(output)) == 12 and "audio" in "; ".join(report.notes)


def test_sound_that_begins_long_before_the_picture(tmp_path: Path) -> None:
    """As an editor leaves it that cuts without a new encode."""
    source = hide_first(make_clip(tmp_path / "whole.mp4", audio="aac", frames=25), tmp_path / "a.mp4", 15)
    output, report = rewrite(source, ".mkv")
    assert report.notes == []
    assert [data for _, data in packets_of(output, "audio")] == [data for _, data in packets_of(source, "audio")]
    assert tone_of(output)[1] == pytest.approx(tone_of(source)[1], abs=0.01)


def test_a_second_video_whose_part_has_no_key_frame_is_named(tmp_path: Path) -> None:
    clip, source = make_clip(tmp_path / "a.mkv", frames=20), tmp_path / "both.mkv"
    with av.open(str(clip)) as one, av.open(str(clip)) as other, av.open(str(source), "w") as both:
        copies = [both.add_stream_from_template(given.streams.video[0]) for given in (one, other)]
        for given, copy in ((one, copies[0]), (other, copies[1])):
            for packet in given.demux(given.streams.video[0]):
                if packet.size:
                    packet.stream = copy
                    both.mux(packet)
    segments = write_segments(source, tmp_path, ".mkv", length=10)
    notes = join_segments(source, segments[1:], tmp_path / "part.mkv", start_s=0.4).notes
    assert notes[0] == "the video stream 1 (h264) is copied as it is, not restored"
    assert notes[1].startswith("the video stream 1 (h264): 10 frames before its first key frame")


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_titles_of_tracks(suffix: str, tmp_path: Path) -> None:
    clip, source = make_clip(tmp_path / "a.mp4", audio="aac"), tmp_path / f"named{suffix}"
    with av.open(str(clip)) as given, av.open(str(source), "w") as made:
        copies = [made.add_stream_from_template(stream) for stream in given.streams]
        for copy, title in zip(copies, ("Camera", "Left"), strict=True):
            copy.metadata["title"] = title
        for packet in given.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                made.mux(packet)
    output, _ = rewrite(source)
    with av.open(str(output)) as read:
        assert [stream.metadata["name"] for stream in read.streams] == ["Camera", "Left"]


def test_what_else_is_lost_is_named(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "a.mp4",
        codec="mpeg4",
        rotation=90,
        chapters=[(0, 0.2, "One"), (0.2, 0.4, "Two")],
        metadata={"title": "A title", "show": "A show"},
        sample_aspect_ratio=Fraction(4, 3),
    )
    assert rewrite(source)[1].notes == []
    notes = rewrite(source, ".avi")[1].notes
    assert ".avi files cannot hold chapters, left out" in notes
    assert ".avi files cannot hold the rotation by 90°, left out" in notes
    assert ".avi files cannot hold the tags show, left out" in notes


def test_a_part_of_recordings_that_start_again(tmp_path: Path) -> None:
    one = make_clip(tmp_path / "one.ts", frames=15, audio="aac")
    source = tmp_path / "both.ts"
    source.write_bytes(one.read_bytes() * 2)
    with open_video(source) as reader:
        frames = list(reader)
        restarts = reader.restarts
    segments = write_segments(source, tmp_path, ".mp4", length=10)
    start_s = frames[10].time_s
    join_segments(source, segments[1:2], tmp_path / "part.mp4", start_s=start_s, end_s=start_s + 0.4, restarts=restarts)
    sound = packets_of(tmp_path / "part.mp4", "audio")
    whole = [data[7:] for _, data in packets_of(source, "audio")]  # without the headers of transport streams
    begin = whole.index(sound[0][1])
    assert [data for _, data in sound] == whole[begin : begin + len(sound)]
    assert len(sound) == pytest.approx(0.4 * 48000 / 1024, abs=3)  # where parts meet, their sound overlaps
    assert 15 < begin < 23, "0.4 s after the first"
