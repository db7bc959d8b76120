"""Exact presentation and decoding times for the packets of joined segments."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from unsmear.errors import OutputError
from unsmear.video.ffmpeg import open_input
from unsmear.video.segments import ORIGIN_KEY


class Timeline:
    """Times of all video packets in decoding order, in units of ``time_base``; 16 bytes a frame.

    Attributes:
        pts: of the packets.
        last_duration: how long the last frame stays.
        begins: numbers of the packets with which segments begin.
        moved: how many times are not exactly those of the segments.
    """

    def __init__(
        self, time_base: Fraction, pts: "array[int]", last_duration: int, begins: Sequence[int] = (0,)
    ) -> None:
        self.time_base, self.pts, self.last_duration = time_base, pts, max(1, last_duration)
        self.begins = begins
        self.moved = 0
        self._order = array("q", sorted(pts))
        ranks = (bisect_left(self._order, value) for value in pts)
        self._delay = max((i - rank for i, rank in enumerate(ranks)), default=0)
        self._step = self._order[1] - self._order[0] if len(pts) > 1 else self.last_duration

    def dts(self, i: int) -> int:
        """Decoding time of packet ``i``: the presentation times in order, later by the reordering delay."""
        if i >= self._delay:
            return self._order[i - self._delay]
        return self._order[0] - (self._delay - i) * self._step

    def duration(self, pts: int) -> int:
        """How long the frame at ``pts`` stays: until the next one."""
        following = bisect_left(self._order, pts) + 1
        return self._order[following] - pts if following < len(self._order) else self.last_duration

    @property
    def ordered(self) -> "array[int]":
        """Times in order of presentation."""
        return self._order

    @property
    def end(self) -> int:
        """When the last frame goes."""
        return self._order[-1] + self.last_duration

    def rescaled(self, time_base: Fraction, shift: Fraction, *, gapless: bool = False) -> "Timeline":
        """The same frames in another unit, ``shift`` seconds earlier; ``moved`` counts inexact times.

        ``gapless``: one after the other, a unit each, and ``moved`` counts those more than half a unit away.
        """
        order, moved = array("q"), 0
        for number, value in enumerate(self._order):
            exact = (value * self.time_base - shift) / time_base
            placed = number if gapless else round(exact)
            if order and placed <= order[-1]:
                placed = order[-1] + 1
            moved += abs(placed - exact) > Fraction(1, 2) if gapless else placed != exact
            order.append(placed)
        pts = array("q", (order[bisect_left(self._order, value)] for value in self.pts))
        timeline = Timeline(time_base, pts, round(self.last_duration * self.time_base / time_base), self.begins)
        timeline.moved = moved
        return timeline


def read_timeline(segments: list[Path]) -> Timeline:
    """Exact times of all packets of ``segments``. Raises OutputError where they do not belong together."""
    pts, begins = array("q"), []
    time_base, settings, last_duration, highest = Fraction(0), None, 1, None
    for segment in segments:
        with open_input(segment) as container:
            try:
                origin, unit = container.metadata[ORIGIN_KEY].split()
            except (KeyError, ValueError):
                raise OutputError(f"{segment}: not a segment written by unsmear; remove it and run again") from None
            context = container.streams.video[0].codec_context
            now = (unit, context.codec.canonical_name, context.width, context.height, context.extradata)
            settings = settings or now
            if now != settings:
                raise OutputError(
                    f"{segment}: encoded with other settings than {segments[0].name}; remove the segments"
                )
            time_base, begun, told = Fraction(unit), len(pts), 0
            begins.append(begun)
            for packet in container.demux():
                if not packet.size:
                    continue
                if packet.stream.type != "video":  # says how long the last frame stays
                    told = int(bytes(packet))
                    continue
                ticks = packet.pts * packet.time_base / time_base
                pts.append(int(origin) + round(ticks))
                last_duration = round((packet.duration or 0) * packet.time_base / time_base) or last_duration
            last_duration = told or last_duration
            own = pts[begun:]
            if not own or (highest is not None and min(own) <= highest):
                raise OutputError(f"{segment}: does not follow the segment before it; remove the segments")
            highest = max(own)
    return Timeline(time_base, pts, last_duration, begins)


def video_packets(container: Any) -> Iterator[Any]:
    """The packets of the first video stream in decoding order."""
    return (packet for packet in container.demux(container.streams.video[0]) if packet.size)
