"""Packets of the streams beside the picture: from the source's clock, with its faults, to the output's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av

from unsmear.options import counted
from unsmear.video.clock import Clock, Restart
from unsmear.video.sound import SoundEncoder
from unsmear.video.timecode import TAG as TIMECODE

BEGIN_S = Fraction(1, 4)
_SAME_S = Fraction(1)  # a packet within this of a restart may be its first
_SILENT_SAMPLES = 1024
_NOTED_S = Fraction(1, 24)


@dataclass(frozen=True)
class Part:
    """What of the source's clock is kept, and where it begins on the output's.

    Attributes:
        shift_s: subtracted from all times.
        from_zero: nothing may begin before 0 then.
        end_s: on the source's clock, None where open.
        counted: packets have no times, so that of sound the one goes first that is nearest to 0.
        sound_end_s: on the output's clock, where uncompressed sound has to end with the picture.
    """

    shift_s: Fraction = Fraction(0)
    from_zero: bool = False
    end_s: Fraction | None = None
    counted: bool = False
    sound_end_s: Fraction | None = None


class Clocks:
    """The source's clock and its restarts, followed in the order of the file."""

    def __init__(self, restarts: Sequence[Restart]) -> None:
        self._restarts = restarts
        self._previous: Fraction | None = None
        self.current = 0

    def follow(self, packet: Any) -> None:
        """Take note of a packet of the restored stream."""
        time = packet.dts if packet.dts is not None else packet.pts
        if time is None or not packet.size:
            return
        now = time * packet.time_base
        if self.current < len(self._restarts) and self._previous is not None:
            restart = self._restarts[self.current]
            jumps = not self._previous <= now <= self._previous + _SAME_S
            if jumps and abs(now - restart.time_s) <= _SAME_S:
                self.current += 1
        self._previous = now

    def offset_s(self, number: int) -> Fraction:
        """What to add to times of the clock of that number, from 0."""
        return self._restarts[number - 1].offset_s if number else Fraction(0)

    def nearby(self, lowest: int) -> range:
        """Numbers of clocks that packets found here may follow."""
        return range(max(lowest, self.current - 1), min(self.current + 1, len(self._restarts)) + 1)


class Track:
    """One stream: its packets as they come, and as they go into the output."""

    def __init__(self, stream: Any, copy: Any, encoder: SoundEncoder | None, part: Part, what: str, *, shares: bool):
        self._stream, self._copy, self._encoder, self._part, self._what = stream, copy, encoder, part, what
        self._apart = 0 if shares else 1
        self._picture = is_picture(stream)
        # Sound is repaired like pictures are; of all else only the order.
        self._clock = Clock(stream.time_base, None, packets=True) if stream.type == "audio" else None
        self._number = 0
        self._expected: Fraction | None = None
        self._begun = False
        self._undecodable = 0
        self._last_dts: int | None = None
        self._repaired, self._cut_s = 0, Fraction(0)
        self._samples_left: int | None = None
        self._endless: Any = None  # a packet whose duration is not known
        self._gap = 0
        self._first_s: Fraction | None = None

    def has_begun(self, packet: Any) -> bool:
        """Whether a packet lies behind the first moments of the stream."""
        time = packet.dts if packet.dts is not None else packet.pts
        if time is None:
            return False
        if self._first_s is None:
            self._first_s = time * packet.time_base
        return bool(time * packet.time_base > self._first_s + BEGIN_S)

    def take(self, packet: Any, clocks: Clocks) -> Iterator[Any]:
        if is_gap(packet):
            return  # the muxer makes its own
        self._follow(packet, clocks)
        if self._clock is None:
            yield from self._out(packet)
            return
        for ready in self._clock.take(_Timed(packet)):
            yield from self._lasting(self._settled(ready))

    def rest(self) -> Iterator[Any]:
        if self._clock is not None:
            for ready in self._clock.rest():
                yield from self._lasting(self._settled(ready))
        if self._endless is not None:  # without a duration MP4 would pass over it
            self._endless.duration = self._gap
            yield from self._out(self._endless)
        if self._encoder is not None:
            for packet in self._encoder.rest():
                yield from self._written(packet)
        if self._samples_left:
            yield from self._silence(self._samples_left)

    def _lasting(self, packet: Any) -> Iterator[Any]:
        """Give packets without a duration that until the next one."""
        if self._endless is not None:
            self._gap = self._endless.duration = max(0, packet.pts - self._endless.pts)
            yield from self._out(self._endless)
            self._endless = None
        if packet.duration:
            yield from self._out(packet)
        else:
            self._endless = packet

    def notes(self) -> list[str]:
        notes = []
        if self._repaired:
            times = "packet was" if self._repaired == 1 else "packets were"
            notes.append(f"{self._what}: {self._repaired} {times} out of order in time and placed between the others")
        if self._undecodable:
            frames = counted(self._undecodable, "frame")
            notes.append(f"{self._what}: {frames} before its first key frame left out, as nothing can decode them")
        if self._cut_s > _NOTED_S:
            notes.append(f"{self._what} ends with the picture: {float(self._cut_s):.2f} s are left out")
        return notes

    def _follow(self, packet: Any, clocks: Clocks) -> None:
        """Put a packet on the clock of the beginning, where the source's starts again."""
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None:
            return
        now, nearby = time * packet.time_base, clocks.nearby(self._number)
        if len(nearby) > 1:
            self._number = max(self._number, clocks.current)
            if self._expected is not None and self._stream.type == "audio":
                expected = self._expected
                self._number = min(nearby, key=lambda number: abs(now + clocks.offset_s(number) - expected))
        offset_s = clocks.offset_s(self._number)
        self._expected = now + offset_s + (packet.duration or 0) * packet.time_base
        if offset_s:
            _move(packet, round(offset_s / packet.time_base))

    def _settled(self, timed: "_Timed") -> Any:
        packet = timed.packet
        if packet.pts is not None:
            self._repaired += timed.pts != packet.pts
            packet.pts = packet.dts = timed.pts
        else:
            packet.pts, packet.dts = timed.pts, timed.pts
        return packet

    def _out(self, packet: Any) -> Iterator[Any]:
        if not self._picture and not self._within(packet):
            return
        if self._stream.type == "video" and not self._picture and not self._begun and not packet.is_keyframe:
            self._undecodable += 1
            return
        self._begun = True
        if self._encoder is not None:
            for ready in self._encoder.encode(packet):
                yield from self._written(ready)
            return
        packet.stream = self._copy
        yield from self._written(packet)

    def _within(self, packet: Any) -> bool:
        """Whether a packet belongs to what is kept; moves its times to the output's clock."""
        part, base = self._part, packet.time_base
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None:
            return True
        duration = packet.duration or 0
        if part.end_s is not None:
            end = part.end_s / base
            if time >= end:
                return False
            if self._stream.type not in ("audio", "video"):
                packet.duration = duration = min(duration, int(end) - time)
        offset = round(part.shift_s / base)
        late = max(0, offset - time) if part.from_zero else 0  # how long before the start it began
        if late and self._stream.type == "subtitle":
            if late >= duration:
                return False
            packet.duration = duration - late
        elif late and (not part.counted or late > duration / 2):
            return False
        if offset or late:
            _move(packet, late - offset)
        return True

    def _written(self, packet: Any) -> Iterator[Any]:
        end_s = self._part.sound_end_s
        if end_s is not None and self._stream.type == "audio" and packet.pts is not None:
            context, sample_bytes = self._copy.codec_context, self._sample_bytes
            if self._samples_left is None:
                self._samples_left = round((end_s - packet.pts * packet.time_base) * context.sample_rate)
            samples = packet.size // sample_bytes
            kept = max(0, min(samples, self._samples_left))
            self._samples_left -= kept
            self._cut_s += Fraction(samples - kept, context.sample_rate)
            if not kept:
                return
            if kept < samples:
                whole, packet = packet, av.Packet(bytes(packet)[: kept * sample_bytes])
                packet.stream, packet.time_base = whole.stream, whole.time_base
                packet.pts = packet.dts = whole.pts
                packet.duration = round(kept / (context.sample_rate * whole.time_base))
        yield self._ordered(packet)

    @property
    def _sample_bytes(self) -> int:
        """Bytes of a sample of all channels of uncompressed sound."""
        context = self._copy.codec_context
        return int(context.layout.nb_channels) * int(context.codec.name.strip("pcm_slbeuf")) // 8

    def _silence(self, samples: int) -> Iterator[Any]:
        """Silence at the end, for pictures that would be left out without."""
        assert self._part.sound_end_s is not None
        rate = self._copy.codec_context.sample_rate
        end = round(self._part.sound_end_s * rate)
        for begin in range(end - samples, end, _SILENT_SAMPLES):
            count = min(_SILENT_SAMPLES, end - begin)
            packet = av.Packet(bytes(count * self._sample_bytes))
            packet.stream, packet.time_base = self._copy, Fraction(1, rate)
            packet.pts = packet.dts = begin
            packet.duration = count
            yield self._ordered(packet)

    def _ordered(self, packet: Any) -> Any:
        """In the output's unit, decoded after the packet before, as muxers demand."""
        base, ratio = self._copy.time_base, packet.time_base / self._copy.time_base
        for name in ("pts", "dts", "duration"):
            value = getattr(packet, name)
            if value is not None:
                setattr(packet, name, round(value * ratio))
        packet.time_base = base
        if packet.dts is None and self._stream.type != "video":
            packet.dts = packet.pts
        if packet.dts is not None:
            if self._last_dts is not None and packet.dts < self._last_dts + self._apart:
                self._repaired += packet.dts < self._last_dts
                packet.dts = self._last_dts + self._apart
            if packet.pts is not None and packet.pts < packet.dts:
                packet.pts = packet.dts
            self._last_dts = packet.dts
        return packet


@dataclass
class _Timed:
    """A packet as ``Clock`` sees frames: its time can be set without losing the one it has."""

    packet: Any
    pts: int | None = field(init=False)
    dts: int | None = field(init=False)
    duration: int = field(init=False)

    def __post_init__(self) -> None:
        self.pts, self.dts, self.duration = self.packet.pts, self.packet.dts, self.packet.duration or 0


def _move(packet: Any, ticks: int) -> None:
    for name in ("pts", "dts"):
        value = getattr(packet, name)
        if value is not None:
            setattr(packet, name, value + ticks)


def is_picture(stream: Any) -> bool:
    """Whether a stream is a cover picture."""
    return bool(int(stream.disposition) & int(av.stream.Disposition.attached_pic))


def is_gap(packet: Any) -> bool:
    """Whether a packet is the empty line with which MP4 fills gaps between subtitles."""
    return packet.size == 2 and packet.stream.name == "mov_text" and bytes(packet) == b"\0\0"


def is_chapter_track(stream: Any) -> bool:
    """Whether a stream holds the titles of chapters, which muxers write themselves: FFmpeg passes over its packets."""
    return bool(stream.type == "data" and stream.discard == av.stream.Discard.all)


def is_timecode_track(stream: Any) -> bool:
    """Whether a stream is QuickTime's track of a time code, which its muxer makes of the picture's tag."""
    return bool(stream.type == "data" and TIMECODE in stream.metadata)
