"""A finished file that does not hold what was written never takes its name, and costs no work."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import pytest

import unsmear.video.animated
import unsmear.video.join
import unsmear.video.rehearsal
from support.blocks import move_packet
from support.clips import make_clip, packets_of
from support.joining import rewrite, write_segments
from unsmear.errors import OutputError
from unsmear.video import join_segments, open_video
from unsmear.video.animated import lossless_encoding, write_animation
from unsmear.video.containers import find_container
from unsmear.video.muxing import Muxing


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def without_sound(path: Path) -> None:
    copy_some(path, lambda packet: packet.stream.type == "video", ("video",))


def without_the_last_sound(path: Path) -> None:
    count = len(packets_of(path, "audio"))
    seen: list[int] = []

    def wanted(packet: av.Packet) -> bool:
        if packet.stream.type == "audio":
            seen.append(packet.size)
        return packet.stream.type == "video" or len(seen) < count

    copy_some(path, wanted)


def without_a_frame(path: Path) -> None:
    seen: list[int] = []

    def wanted(packet: av.Packet) -> bool:
        if packet.stream.type == "video":
            seen.append(packet.size)
        return packet.stream.type == "audio" or len(seen) != 8

    copy_some(path, wanted)


def copy_some(path: Path, wanted: Callable[[av.Packet], bool], kinds: tuple[str, ...] = ("video", "audio")) -> None:
    whole = path.with_name(f"whole{path.suffix}")
    shutil.move(path, whole)
    with av.open(str(whole)) as original, av.open(str(path), "w") as target:
        copies = {s.index: target.add_stream_from_template(s, opaque=True) for s in original.streams if s.type in kinds}
        for packet in original.demux():
            if packet.size and wanted(packet):
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
    whole.unlink()


def other_picture(path: Path) -> None:
    """Another picture at the second border between segments, of the same form."""
    data = bytearray(path.read_bytes())
    frame = packets_of(path)[5][1]
    at = data.find(frame)
    begin, end = at + len(frame) // 3, at + len(frame) // 2
    data[begin:end] = bytes(255 - value for value in data[begin:end])
    path.write_bytes(data)


def no_headers(path: Path) -> None:
    """As if codec headers had been lost."""
    data = path.read_bytes()
    with av.open(str(path)) as container:
        extradata = container.streams.video[0].codec_context.extradata
    path.write_bytes(data.replace(extradata, bytes(len(extradata))))


def another_size(path: Path) -> None:
    clip = make_clip(path.with_name(f"other{path.suffix}"), codec="mjpeg", pix_fmt="yuvj420p", size=(64, 48), frames=12)
    shutil.move(clip, path)


def slower_sound(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.find(b"auds") + 20  # scale and rate of the stream header
    data[at : at + 4] = (2 * int.from_bytes(data[at : at + 4], "little")).to_bytes(4, "little")
    path.write_bytes(data)


FAULTS = {
    "cut": (".mkv", {}, cut, "frames of|cannot be read back"),
    "no sound": (".mkv", {"audio": "aac"}, without_sound, r"the audio stream 1 \(aac\) is missing"),
    "a packet of sound less": (".mkv", {"audio": "aac"}, without_the_last_sound, r"holds \d+ packets of \d+"),
    "a frame less": (".mkv", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}, without_a_frame, "11 frames of 12"),
    "a frame at another time": (
        ".mkv",
        {"options": {"bf": "0"}},
        lambda path: move_packet(path, 1, 7, -7),
        r"frame \d is at",
    ),
    "sound at another time": (".mkv", {"audio": "libopus"}, lambda path: move_packet(path, 2, -1, 200), "ends at"),
    "another picture": (".avi", {"codec": "ffv1"}, other_picture, "frame 5 (is not|cannot)"),
    "no headers": (".mkv", {}, no_headers, "cannot be"),
    "another size": (".avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}, another_size, "64x48"),
    "sound at another speed": (".avi", {"codec": "mpeg4", "audio": "libmp3lame"}, slower_sound, "ends at"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_differs_is_an_error_that_costs_no_segment(name: str, tmp_path: Path, monkeypatch) -> None:
    suffix, options, damage, words = FAULTS[name]
    source = make_clip(tmp_path / f"a{suffix}", **options)  # type: ignore[arg-type]
    segments = write_segments(source, tmp_path, suffix)
    before = sorted(tmp_path.iterdir())
    check = Muxing.check

    def damaged(muxing: Muxing) -> object:
        if muxing.path.name.startswith(".out"):
            damage(muxing.path)
        return check(muxing)

    monkeypatch.setattr(Muxing, "check", damaged)
    with pytest.raises(OutputError, match=f"does not hold what was written: .*({words})") as error:
        join_segments(source, segments, tmp_path / f"out{suffix}")
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.undo()
    assert join_segments(source, segments, tmp_path / f"out{suffix}").frames == 12


def test_a_raw_stream_without_parameter_sets_is_found_out_before_the_work(tmp_path: Path, monkeypatch) -> None:
    source = make_clip(tmp_path / "a.h264")
    output, _ = rewrite(source)
    with open_video(output) as reader:
        assert len(list(reader)) == 12
    bare = replace(find_container(".h264"), in_band=False)
    for module in (unsmear.video.join, unsmear.video.rehearsal):
        monkeypatch.setattr(module, "find_container", lambda suffix: bare)
    with pytest.raises(OutputError, match="cannot hold this picture"):
        rewrite(source)


@pytest.mark.parametrize("suffix", [".gif", ".apng", ".webp"])
def test_an_animation_that_lacks_a_frame(suffix: str, tmp_path: Path, monkeypatch) -> None:
    with open_video(make_clip(tmp_path / "a.mkv", codec="ffv1", frames=6)) as reader:
        info, frames = reader.info, list(reader)
    segments = segments_of(frames, info, suffix, tmp_path)
    encode = unsmear.video.animated._encode
    monkeypatch.setattr(
        unsmear.video.animated,
        "_encode",
        lambda form, source, paths, timeline, to: encode(form, source, paths[:1], *(shorter(timeline), to)),
    )
    with pytest.raises(OutputError, match="3 frames of 6"):
        write_animation(info, segments, tmp_path / f"out{suffix}")
    assert not (tmp_path / f"out{suffix}").exists()
    monkeypatch.undo()
    assert write_animation(info, segments, tmp_path / f"out{suffix}") == []


def segments_of(frames: list, info, suffix: str, folder: Path) -> list[Path]:
    from unsmear.video import SegmentWriter

    paths = [folder / "0", folder / "1"]
    for path, part in zip(paths, (frames[:3], frames[3:]), strict=True):
        with SegmentWriter(path, info, lossless_encoding(info, suffix), info.width, info.height) as writer:
            for frame in part:
                writer.write(frame.rgb, frame.pts, frame.duration)
    return paths


def shorter(timeline):
    from array import array

    from unsmear.video.timeline import Timeline

    return Timeline(timeline.time_base, array("q", timeline.ordered[:3]), timeline.last_duration)
