"""Times that files state, and what becomes of them."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from support.blocks import move_packet
from support.clips import frame_times, make_clip, packets_of
from support.joining import rewrite
from unsmear.video import open_video, probe
from unsmear.video.clock import Clock

MS = Fraction(1, 1000)


@dataclass
class Stub:
    """A frame, or a packet of sound, as far as the clock is concerned."""

    pts: int | None
    dts: int | None = None
    duration: int = 40


def placed(times: list[int | None], *, clock: Clock | None = None, **options: object) -> list[int]:
    clock = clock or Clock(MS, Fraction(25), **options)  # type: ignore[arg-type]
    found = [frame.pts for frame in clock.placed([Stub(time) for time in times])]
    assert len(found) == len(times)
    assert all(a < b for a, b in pairwise(found))
    return found


def line(first: int, last: int) -> list[int]:
    return list(range(first, last, 40))


GOOD = {
    "constant": line(0, 800),
    "a start far away": line(90_000_000, 90_000_800),
    "variable": [0, 33, 35, 100, 900, 1000, 1001, 1500],
    "slides of three seconds": [0, 3000, 6000, 9000, 12000, 12040, 20000],
    "a pause": [*line(0, 400), *line(60_000, 60_400)],
    "below 0": line(-400, 400),
}


@pytest.mark.parametrize("name", GOOD)
def test_times_in_order_stay(name: str) -> None:
    clock = Clock(MS, Fraction(25), "matroska,webm")
    assert placed(GOOD[name], clock=clock) == GOOD[name]
    assert clock.restarts == []


WRONG = {
    "twice": ([0, 40, 40, 120, 160], [0, 40, 80, 120, 160]),
    "pairs": ([0, 0, 80, 80, 160, 160, 240], [0, 40, 80, 120, 160, 200, 240]),
    "one back": ([0, 40, 80, 60, 160, 200], [0, 40, 80, 120, 160, 200]),
    "one far back": ([9000, 9040, 40, 9120, 9160], [9000, 9040, 9080, 9120, 9160]),
    "one far ahead": ([0, 40, 3080, 120, 160, 200], [0, 40, 80, 120, 160, 200]),
    "three far ahead": ([0, 40, 9080, 9120, 9160, 200, 240], [0, 40, 80, 120, 160, 200, 240]),
    "none": ([0, 40, None, 120, None, 200], [0, 40, 80, 120, 160, 200]),
    "none at all": ([None] * 4, [0, 40, 80, 120]),
    "all the same": ([5] * 6, [5, 45, 85, 125, 165, 205]),
    "the last one back": ([0, 40, 80, 20], [0, 40, 80, 120]),
}


@pytest.mark.parametrize("name", WRONG)
def test_single_wrong_times_are_placed_between_their_neighbours(name: str) -> None:
    stated, wanted = WRONG[name]
    assert placed(stated) == wanted


@pytest.mark.parametrize("container", ["mpegts", "mpeg", "matroska,webm"])
def test_a_clock_that_starts_again_goes_on(container: str) -> None:
    clock = Clock(MS, Fraction(25), container)
    assert placed([*line(5000, 5400), *line(1000, 1400), *line(0, 400)], clock=clock) == line(5000, 6200)
    assert [(r.time_s, r.offset_s) for r in clock.restarts] == [(1, Fraction(44, 10)), (0, Fraction(58, 10))]


def test_a_clock_of_another_recording_ahead_goes_on_in_transport_streams_alone() -> None:
    stated = [*line(0, 400), *line(3_600_000, 3_600_400)]
    clock = Clock(MS, Fraction(25), "mpegts")
    assert placed(stated, clock=clock) == line(0, 800)
    assert len(clock.restarts) == 1
    assert placed(stated, container="mov,mp4,m4a,3gp,3g2,mj2") == stated
    assert placed([0, 20_000, 40_000, 60_000], container="mpegts") == [0, 20_000, 40_000, 60_000], "slow, not broken"


def test_packets_shorter_than_a_unit_share_times() -> None:
    clock = Clock(MS, None, packets=True)
    stated = [0, 0, 1, 2, 3, 4, 5, 5, 6, 7]
    found = [packet.pts for packet in clock.placed([Stub(time, duration=1) for time in stated])]
    assert found == stated


def test_reasons_for_missing_frames_keep_their_place() -> None:
    clock = Clock(MS, Fraction(25))
    frames = [Stub(0), Stub(3000), "lost", Stub(3040), Stub(3040), "lost again"]
    found = [frame if isinstance(frame, str) else frame.pts for frame in clock.placed(frames)]
    assert found == [0, 3000, "lost", 3040, 3080, "lost again"]


def joined(path: Path, **options: object) -> tuple[Path, Path]:
    """A recording, and the same one appended to itself, as ``cat`` does."""
    one = make_clip(path, frames=15, options={"g": "6"}, **options)  # type: ignore[arg-type]
    both = path.with_name(f"both{path.suffix}")
    both.write_bytes(one.read_bytes() * 2)
    return one, both


@pytest.mark.parametrize(
    ("suffix", "codec", "audio", "into"),
    [
        (".ts", "libx264", None, ".mkv"),
        (".ts", "libx264", "aac", ".ts"),
        (".ts", "libx264", "aac", ".mp4"),
        (".mpg", "mpeg2video", "mp2", ".mpg"),
        (".ts", "libx264", "mp2", ".avi"),
    ],
)
def test_recordings_appended_to_each_other(suffix: str, codec: str, audio: str | None, into: str, tmp_path) -> None:
    one, both = joined(tmp_path / f"one{suffix}", codec=codec, audio=audio)
    output, _ = rewrite(both, into)
    times = frame_times(output)
    assert len(times) == 30
    assert all(abs(b - a - Fraction(1, 25)) < Fraction(1, 400) for a, b in pairwise(times))
    if audio:
        single, sound = packets_of(one, "audio"), packets_of(output, "audio")
        assert abs(len(sound) - 2 * len(single)) <= 2
        apart_s = float(sound[-1][0] - times[-1]) - float(single[-1][0] - frame_times(one)[-1])
        assert abs(apart_s) < 0.05, "the sound of the second half is where its picture is"


@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", {"bf": "2"}), ("mpeg4", {"bf": "2"}), ("libx264", {"bf": "0"})]
)
def test_b_frames_in_avi_come_in_order_at_a_constant_rate(codec: str, options: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "a.avi"
    coded = make_clip(tmp_path / "a.nut", codec=codec, options=options, frames=17)
    with av.open(str(coded)) as original, av.open(str(source), "w") as target:
        copy = target.add_stream_from_template(original.streams.video[0], opaque=True)
        copy.time_base = Fraction(1, 25)
        for number, packet in enumerate(packet for packet in original.demux(video=0) if packet.size):
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, 25), copy
            target.mux(packet)
    with open_video(source) as reader, open_video(coded) as truth:
        frames = list(reader)
        assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(17)])
        assert all((a.luma == b.luma).all() for a, b in zip(frames, truth, strict=True))


@pytest.mark.parametrize("by_ms", [3000, -150])
def test_one_video_packet_at_a_wrong_time(by_ms: int, tmp_path: Path) -> None:
    source = move_packet(make_clip(tmp_path / "a.mkv", options={"bf": "0"}, frames=15), 1, 6, by_ms)
    output, report = rewrite(source)
    assert report.notes == []
    assert frame_times(output) == [Fraction(i, 25) for i in range(15)]


def test_frames_without_times_follow_each_other_at_their_rate(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.h264", options={"bf": "2"}, frames=9)
    with open_video(clip) as reader:
        assert [frame.time_s for frame in reader] == pytest.approx([i / 25 for i in range(9)])
    assert probe(clip).frame_rate == 25
