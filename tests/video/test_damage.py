"""Damaged files: every frame that can be read is given, and what is missing is said."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from support.clips import make_clip
from unsmear.errors import DamagedVideo
from unsmear.video import open_video
from unsmear.video.damage import DamageLog, Gap

FRAMES, RATE = 30, 25
FASTSTART = {"movflags": "faststart"}
CONTAINERS = {
    "mp4": ("a.mp4", "libx264", "yuv420p", FASTSTART),
    "fragments": ("a.mp4", "libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    "prores": ("a.mov", "prores_ks", "yuv422p10le", FASTSTART),
    "matroska": ("a.mkv", "libx264", "yuv420p", {}),
    "webm": ("a.webm", "libvpx-vp9", "yuv420p", {}),
    "avi": ("a.avi", "mjpeg", "yuvj420p", {}),
    "flash": ("a.flv", "libx264", "yuv420p", {}),
    "windows": ("a.wmv", "wmv2", "yuv420p", {}),
    "mxf": ("a.mxf", "mpeg2video", "yuv420p", {}),
    "y4m": ("a.y4m", "rawvideo", "yuv420p", {}),
    "gif": ("a.gif", "gif", "rgb8", {}),
    "apng": ("a.apng", "apng", "rgb24", {}),
    "ivf": ("a.ivf", "libvpx-vp9", "yuv420p", {}),
}


def clip(folder: Path, kind: str, frames: int = FRAMES) -> Path:
    name, codec, pixels, muxing = CONTAINERS[kind]
    options = {"g": "6"} if pixels.startswith("yuv") and codec != "rawvideo" else {}
    return make_clip(
        folder / name, codec=codec, pix_fmt=pixels, options=options, container_options=muxing, frames=frames
    )


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    shorter = path.with_name(f"cut-{path.name}")
    shorter.write_bytes(data[: int(len(data) * share)])
    return shorter


def all_of(path: Path) -> tuple[list[np.ndarray], list[float], DamageLog]:
    """Frames, their times and the damage, of a reader that keeps going."""
    with open_video(path, keep_going=True) as reader:
        frames = list(reader)
        return [frame.rgb for frame in frames], [frame.time_s for frame in frames], reader.damage


@pytest.mark.parametrize("kind", CONTAINERS)
def test_of_a_file_that_was_cut_every_whole_frame_is_given(kind, tmp_path):
    whole = clip(tmp_path, kind)
    expected, _, damage = all_of(whole)
    assert len(expected) == FRAMES
    assert (damage.gaps, damage.notes) == ([], [])
    got, times, damage = all_of(cut(whole, 0.7))
    assert 8 < len(got) < FRAMES or kind == "windows"
    assert [np.array_equal(a, b) for a, b in zip(got[:-1], expected, strict=False)] == [True] * (len(got) - 1)
    assert damage.frames == len(got)
    gap = damage.gaps[-1]
    assert (gap.after, gap.end_s) == (len(got) - 1, None)
    assert gap.begin_s == pytest.approx(times[-1] + 1 / RATE, abs=0.002)
    with pytest.raises(DamagedVideo, match=rf"after frame {len(got) - 1} \({len(got)} frames read\): .*; copy"):
        list(open_video(tmp_path / f"cut-{whole.name}"))


@pytest.mark.parametrize("kind", ["matroska", "webm", "avi"])
def test_an_index_that_is_missing_is_no_missing_frame(kind, tmp_path):
    whole = clip(tmp_path, kind)
    data, shorter = whole.read_bytes(), whole.with_name("cut" + whole.suffix)
    shorter.write_bytes(data[: data.rindex(b"idx1")] if kind == "avi" else data[:-6])
    got, _, damage = all_of(shorter)
    assert len(got) == FRAMES
    assert damage.gaps == []
    assert damage.notes == ["the end of the input is missing, but no frame"]
    assert len(list(open_video(shorter))) == FRAMES


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_size_fields_of_pipes_say_nothing(size, tmp_path):
    source = clip(tmp_path, "avi")
    data = bytearray(source.read_bytes())
    list_at = data.rindex(b"LIST", 0, data.index(b"movi"))
    data[4:8] = data[list_at + 4 : list_at + 8] = struct.pack("<I", size)
    del data[data.rindex(b"idx1") :]
    source.write_bytes(data)
    got, _, damage = all_of(source)
    assert len(got) == FRAMES
    assert (damage.gaps, damage.notes) == ([], [])


def test_a_size_that_is_a_little_too_large_costs_nothing(tmp_path):
    source = clip(tmp_path, "avi")
    data = bytearray(source.read_bytes())
    data[4:8] = struct.pack("<I", len(data) + 6)
    source.write_bytes(data)
    assert len(list(open_video(source))) == FRAMES


def test_a_file_written_without_going_back_is_whole(tmp_path):
    """As to a pipe: sizes and index are left out."""
    plain = make_clip(tmp_path / "plain.mkv", frames=20)
    piped = tmp_path / "piped.mkv"

    class Pipe:
        def __init__(self) -> None:
            self.file = piped.open("wb")

        def write(self, data: bytes) -> int:
            return self.file.write(data)

    pipe = Pipe()
    with av.open(str(plain)) as source, av.open(pipe, "w", format="matroska") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    pipe.file.close()
    got, _, damage = all_of(piped)
    assert (len(got), damage.gaps, damage.notes) == (20, [], [])


def test_damage_in_the_middle_costs_the_frames_there_alone(tmp_path):
    whole = clip(tmp_path, "prores")
    expected, _, _ = all_of(whole)
    with av.open(str(whole)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(whole.read_bytes())
    for number in (10, 11):
        begin, size = places[number]
        data[begin : begin + size] = bytes(size)
    (tmp_path / "middle.mov").write_bytes(data)
    got, times, damage = all_of(tmp_path / "middle.mov")
    assert len(got) == FRAMES - 2
    assert all(np.array_equal(a, b) for a, b in zip(got, expected[:10] + expected[12:], strict=True))
    assert times == pytest.approx([i / RATE for i in range(FRAMES) if i not in (10, 11)])
    [gap] = damage.gaps
    assert (gap.after, gap.begin_s, gap.end_s) == (9, pytest.approx(10 / RATE), pytest.approx(12 / RATE))
    with open_video(tmp_path / "middle.mov", keep_going=True) as reader:
        assert [frame.index for frame in reader.frames(20, 24)] == [20, 21, 22, 23]
    with pytest.raises(DamagedVideo, match=r"after frame 9 \(10 frames read\)"):
        list(open_video(tmp_path / "middle.mov"))


def test_gaps_of_a_part_are_those_that_touch_it(tmp_path):
    log = DamageLog(open_video(make_clip(tmp_path / "a.mp4", frames=2)).info)
    for number in range(20):
        if number == 10:
            log.trouble("a hole")
        if not 10 <= number < 12:
            log.frame(5 + number / RATE)
    hole = Gap(9, pytest.approx(5.4), pytest.approx(5.48), "a hole")
    assert log.gaps == [hole]
    assert log.within(None, 5.4) == log.within(5.48, None) == log.within(None, 5.2) == []
    assert log.within(None, 5.41) == log.within(5.47, None) == log.within(5.0, 6.0) == log.within(None, None) == [hole]


def test_a_recording_may_end_anywhere(tmp_path):
    """Transport streams are cut as they come, so that this is no damage; that its last picture is not whole is said."""
    whole = make_clip(tmp_path / "a.ts", frames=FRAMES, options={"g": "6", "bf": "0"})
    sizes = [int(share * whole.stat().st_size) for share in np.linspace(0.5, 0.9, 12)]
    said = set()
    for size in sizes:
        (tmp_path / "cut.ts").write_bytes(whole.read_bytes()[:size])
        got, _, damage = all_of(tmp_path / "cut.ts")
        assert 8 < len(got) < FRAMES
        assert damage.gaps == []
        said |= set(damage.notes)
    assert said == {"the last picture of the input is incomplete"}


def test_a_picture_of_a_folder_that_is_damaged_is_left_out(tmp_path):
    from unsmear.video import write_png

    folder = tmp_path / "frames"
    folder.mkdir()
    pictures = [np.full((48, 64, 3), 10 * number, np.uint8) for number in range(8)]
    for number, picture in enumerate(pictures):
        write_png(folder / f"{number}.png", picture)
    for number in (0, 3):
        path = folder / f"{number}.png"
        path.write_bytes(path.read_bytes()[:-20])
    got, _, damage = all_of(folder)
    assert [int(picture[0, 0, 0]) for picture in got] == [10, 20, 40, 50, 60, 70]
    assert [gap.after for gap in damage.gaps] == [-1, 1]
    assert "0.png: the image is cut short" in damage.gaps[0].why
    with open_video(folder, keep_going=True) as reader:
        again = [(frame.index, int(frame.rgb[0, 0, 0])) for frame in reader.frames(2)]
    assert again == [(2, 40), (3, 50), (4, 60), (5, 70)]
    with pytest.raises(DamagedVideo, match=r"0\.png"):
        list(open_video(folder))


def test_frames_are_counted_the_same_from_anywhere(tmp_path):
    """A job that is resumed begins in the middle: it must meet the frames that the first run left."""
    shorter = cut(clip(tmp_path, "mp4"), 0.8)
    everything, times, _ = all_of(shorter)
    for first in (0, 5, len(everything) - 2):
        with open_video(shorter, keep_going=True) as reader:
            part = list(reader.frames(first))
        assert [frame.index for frame in part] == list(range(first, len(everything)))
        assert [frame.time_s for frame in part] == times[first:]
    assert all(a < b for a, b in itertools.pairwise(times))
