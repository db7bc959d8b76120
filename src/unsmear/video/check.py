"""The finished file against what was written into it: read once, and decoded where segments begin."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from unsmear.errors import UnsmearError
from unsmear.video.containers import Container
from unsmear.video.ffmpeg import open_input, reason
from unsmear.video.raw import RawFormat
from unsmear.video.timeline import Timeline, video_packets
from unsmear.video.tracks import is_chapter_track, is_gap, is_picture, is_timecode_track

# Packets of these are cut anew by whoever writes or reads them: their bytes count.
_ANY_PACKETS = ("pcm_", "adpcm_", "wmav")


@dataclass
class Written:
    """What went into one stream of the output, in units of ``time_base``."""

    what: str
    type: str
    codec: str
    time_base: Fraction
    packets: int = 0
    bytes: int = 0
    first: int | None = None
    longest: int = 0
    end: int = 0

    def add(self, packet: Any) -> None:
        """Count a packet that is about to be written. Its times are in ``packet.time_base``."""
        if not packet.size:  # it holds what an encoder puts into the header in the end
            return
        self.packets += 1
        self.bytes += packet.size
        if packet.pts is None:
            return
        ratio = packet.time_base / self.time_base
        pts, duration = (value if ratio == 1 else round(value * ratio) for value in (packet.pts, packet.duration or 0))
        self.end = pts + duration if self.first is None else max(self.end, pts + duration)
        self.first = pts if self.first is None else min(self.first, pts)
        self.longest = max(self.longest, duration)


@dataclass
class Finding:
    """A difference: ``stream`` counts in the order in which the others were added, None for the picture."""

    stream: int | None
    line: str


@dataclass
class _Read:
    """What a stream of the finished file holds."""

    stream: Any
    times: list[int] = field(default_factory=list)
    packets: int = 0
    bytes: int = 0
    end: int = 0


def differences(
    path: Path,
    container: Container,
    timeline: Timeline,
    others: Sequence[Written],
    segments: Sequence[Path],
    raw: RawFormat | None = None,
) -> list[Finding]:
    """Compare a finished file with what was written.

    Args:
        path: the file.
        container: as which it was written.
        timeline: of the frames, in the unit of the output's stream.
        others: one for each stream added, in order.
        segments: of the picture.
        raw: for ``.yuv``, which does not say what it is.

    Returns:
        What differs, a line each, beginning with what it is about.
    """
    try:
        with open_input(path, raw) as file:
            return list(_compared(file, container, timeline, others, segments))
    except (av.error.FFmpegError, OSError, ValueError, UnsmearError) as error:
        return [Finding(None, f"it cannot be read back ({reason(error)})")]


def _compared(
    file: Any, container: Container, timeline: Timeline, others: Sequence[Written], segments: Sequence[Path]
) -> Iterator[Finding]:
    pictures = [stream for stream in file.streams.video if not is_picture(stream)]
    if not pictures:
        yield Finding(None, "it holds no picture")
        return
    picture = pictures[0]
    reads = {stream.index: _Read(stream) for stream in file.streams if stream.type != "attachment"}
    borders = _Borders(picture.codec_context, timeline.begins, segments)
    for packet in file.demux([read.stream for read in reads.values()]):
        if not packet.size or is_gap(packet):
            continue
        read = reads[packet.stream.index]
        if packet.stream.index == picture.index:
            borders.follow(packet, read.packets)
        time = packet.dts if container.muxer == "avi" or packet.pts is None else packet.pts
        read.packets += 1
        read.bytes += packet.size
        if time is not None:
            end = time + (packet.duration or 0)
            read.end = max(read.end, end) if read.times else end
            read.times.append(time)
    main = reads[picture.index]
    yield from (Finding(None, line) for line in _picture_differences(main, container, timeline))
    yield from (Finding(None, line) for line in borders.differences)
    origin_s = Fraction(0)
    if main.times and container.times != "order":  # some muxers delay all streams alike
        origin_s = min(main.times) * main.stream.time_base - timeline.ordered[0] * timeline.time_base
    yield from _other_differences(file, reads, picture.index, others, origin_s)


def _picture_differences(read: _Read, container: Container, timeline: Timeline) -> Iterator[str]:
    if read.packets != len(timeline.pts):
        yield f"it holds {read.packets} frames of {len(timeline.pts)}"
        return
    if container.times in ("order", "packs") or len(read.times) != read.packets:
        return
    base, unit = read.stream.time_base, timeline.time_base
    tick, times = max(base, unit), sorted(read.times)
    shift = times[0] * base - timeline.ordered[0] * unit
    for number, (found, wanted) in enumerate(zip(times, timeline.ordered, strict=True)):
        if abs(found * base - shift - wanted * unit) > tick:
            yield f"frame {number} is at {_s(found * base - shift)} instead of {_s(wanted * unit)}"
            return
    if container.ends:
        wanted_s = (timeline.end - timeline.ordered[0]) * unit
        lasts_s = [(read.stream.duration or 0) * base, (read.end - times[0]) * base]
        if read.stream.duration is None:  # Matroska says it of the file as a whole
            lasts_s.append(Fraction(read.stream.container.duration or 0, av.time_base))
        if max(lasts_s) < wanted_s - tick:
            yield f"it lasts {_s(max(lasts_s))} instead of {_s(wanted_s)}"


def _other_differences(
    file: Any, reads: dict[int, _Read], picture: int, others: Sequence[Written], origin_s: Fraction
) -> Iterator[Finding]:
    kinds: dict[str, list[Any]] = {}
    for stream in file.streams:
        if stream.index != picture and not is_chapter_track(stream) and not is_timecode_track(stream):
            kinds.setdefault(stream.type, []).append(stream)
    for number, written in enumerate(others):
        alike = kinds.get(written.type, [])
        if alike:
            stream = alike.pop(0)
            if stream.type != "attachment" and written.packets:
                lines = _copy_differences(reads[stream.index], written, origin_s)
                yield from (Finding(number, f"{written.what} {line}") for line in lines)
        elif written.packets or written.type == "attachment":
            yield Finding(number, f"{written.what} is missing")


def _copy_differences(read: _Read, written: Written, origin_s: Fraction) -> Iterator[str]:
    if written.codec.startswith(_ANY_PACKETS):
        padded = read.stream.container.format.name == "mxf"  # to the end of the picture
        if read.bytes != written.bytes and not (padded and read.bytes > written.bytes):
            yield f"holds {read.bytes} bytes of {written.bytes}"
    elif read.packets != written.packets:
        yield f"holds {read.packets} packets of {written.packets}"
    if written.first is None or not read.times or is_picture(read.stream):
        return
    base, unit = read.stream.time_base, written.time_base
    tick = max(base, unit)
    if written.type == "audio":  # where packets are cut anew, or counted by the container
        tick += written.longest * unit
    found_s, wanted_s = min(read.times) * base - origin_s, written.first * unit
    if abs(found_s - wanted_s) > tick:
        yield f"begins at {_s(found_s)} instead of {_s(wanted_s)}"
    found_s, wanted_s = read.end * base - origin_s, written.end * unit
    if written.type == "audio" and abs(found_s - wanted_s) > tick:
        yield f"ends at {_s(found_s)} instead of {_s(wanted_s)}"


def _s(seconds: Fraction) -> str:
    return f"{float(seconds):.4f} s"


class _Borders:
    """Decodes the frame with which each segment begins, in the finished file and in the segment, and compares them."""

    def __init__(self, context: Any, begins: Sequence[int], segments: Sequence[Path]) -> None:
        context.thread_count = 1
        self._context, self._segments = context, segments
        self._begins = {begin: number for number, begin in enumerate(begins if segments else begins[:1])}
        self.differences: list[str] = []

    def follow(self, packet: Any, number: int) -> None:
        """Take packet ``number`` of the picture."""
        segment = self._begins.get(number)
        if segment is None or self.differences:
            return
        found = _decoded(self._context, packet)
        wanted = self._first_frame(segment) if self._segments else None
        if found is None:
            self.differences.append(f"frame {number} cannot be decoded")
        elif wanted is not None and not _alike(found, wanted):
            forms = [f"{frame.width}x{frame.height} {frame.format.name}" for frame in (found, wanted)]
            self.differences.append(f"frame {number} is not the one written ({forms[0]}, {forms[1]})")

    def _first_frame(self, segment: int) -> Any:
        with open_input(self._segments[segment]) as container:
            context = container.streams.video[0].codec_context
            context.thread_count = 1
            return _decoded(context, next(video_packets(container)))


def _decoded(context: Any, packet: Any) -> Any:
    """The frame that a packet holds, which needs no other; None where it cannot be decoded."""
    try:
        frames = [*context.decode(packet), *context.decode(None)]
    except av.error.FFmpegError:
        frames = []
    context.flush_buffers()
    return frames[0] if frames else None


def _alike(one: Any, other: Any) -> bool:
    if (one.width, one.height, one.format.name) != (other.width, other.height, other.format.name):
        return False
    return all(map(np.array_equal, _planes(one), _planes(other)))


def _planes(frame: Any) -> Iterator[np.ndarray]:
    """The bytes of a frame's pixels, a plane at a time; what is behind the end of rows means nothing."""
    form, planes = frame.format, frame.planes
    for plane in planes:
        if len(planes) == 1:
            bits = form.padded_bits_per_pixel
        else:  # of two planes the second holds both kinds of chroma
            bits = (8 if form.components[0].bits <= 8 else 16) * (2 if len(planes) == 2 and plane.index else 1)
        rows = np.frombuffer(plane, np.uint8)[: plane.height * plane.line_size].reshape(plane.height, plane.line_size)
        yield rows[:, : -(-plane.width * bits // 8)]
