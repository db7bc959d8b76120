"""The clock of a source: a time for each frame, later than the one before, whatever the file says."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from unsmear.video.probe import DEFAULT_RATE

# Whose recordings are appended to each other as they are, each with a clock of its own.
_APPENDED = frozenset({"mpegts", "mpeg"})
_BREAK_S = Fraction(10)  # a jump ahead that is taken for another clock there, as FFmpeg's own command does
_FAR_S = Fraction(1)
_WAIT_FRAMES = 8  # how long after a jump ahead frames may come back from it
_AGAIN_FRAMES = 3  # that follow each other in the past: the clock has started again


@dataclass(frozen=True)
class Restart:
    """A clock that starts again, as where recordings were appended to each other.

    Attributes:
        before_s: the last time before, seconds as the file says.
        time_s: the first time after, likewise.
        offset_s: what to add to all times from there on, until the next restart.
    """

    before_s: Fraction
    time_s: Fraction
    offset_s: Fraction


class Clock:
    """Gives frames the stream's times, repaired where they are missing, stray, or go back.

    A frame whose time is not later than that of the one before is placed between its neighbours; so is one that is far
    ahead of those that follow it. Where several go on in the past, the clock has started again: from there on all times
    are moved by what lets the first of them follow the last one before. Gaps stay, but for those of many seconds in
    transport and program streams, which are clocks of another recording.

    Attributes:
        time_base: unit of the times.
        restarts: those met so far.
    """

    def __init__(
        self, time_base: Fraction | None, rate: Fraction | None, container: str = "", *, packets: bool = False
    ) -> None:
        """``container`` is FFmpeg's name of the demuxer. ``packets`` of sound may be shorter than a unit, so
        that some have the same time.
        """
        self.time_base = time_base or Fraction(1, 90000)
        self.step = max(1, round(1 / ((rate or DEFAULT_RATE) * self.time_base)))
        self.restarts: list[Restart] = []
        self._far = max(round(_FAR_S / self.time_base), 10 * self.step)
        self._shares = packets
        if packets:
            self.step = 1
        names = set(container.split(","))
        self._by_decoding = "avi" in names  # it counts frames in the order in which they are decoded
        self._break = round(_BREAK_S / self.time_base) if names & _APPENDED else None
        self._start = 0  # of decoding times, where those are taken
        self._origin: int | None = None
        self._held: list[tuple[Any, int]] = []  # frames whose time is in doubt, and what the file states
        self._offset = 0
        self._previous: int | None = None  # as placed
        self._duration = self.step  # of the frame at that time

    def placed(self, frames: Iterable[Any], start: int | None = None) -> Iterator[Any]:
        """Every frame, its ``pts`` the time in ``time_base`` units.

        Args:
            frames: as decoded, in order of presentation. Reasons (str) why some are missing keep their position.
            start: time of the first one where times are those of decoding.
        """
        self._start = start or 0
        for frame in frames:
            yield from [*self.rest(), frame] if isinstance(frame, str) else self.take(frame)
        yield from self.rest()

    def take(self, frame: Any) -> list[Any]:
        """The frames, of those taken so far, whose times are certain now."""
        stated = self._stated(frame)
        if stated is None:
            return [*self.rest(), self._place(frame, self._next())]
        self._held.append((frame, stated))
        return self._ready(ended=False)

    def rest(self) -> list[Any]:
        """The frames that waited for others to follow."""
        return self._ready(ended=True)

    def _ready(self, *, ended: bool) -> list[Any]:
        placed: list[Any] = []
        while self._held:
            count, target = self._decide(self._held, ended=ended)
            if not count:
                break
            placed += self._settled(self._held[:count], target)
            self._held = self._held[count:]
        return placed

    def _stated(self, frame: Any) -> int | None:
        if frame.pts is not None and not self._by_decoding:
            return int(frame.pts)
        if frame.dts is None:
            return None
        if self._origin is None:
            self._origin = int(frame.dts) - self._start
        return int(frame.dts) - self._origin

    def _next(self) -> int:
        return 0 if self._previous is None else self._previous + self._duration

    def _decide(self, held: list[tuple[Any, int]], *, ended: bool) -> tuple[int, int | None]:
        """How many of the frames held can be placed now, and the time before which they lie where their own is wrong.

        None for that time: at their own, as far as these increase.
        """
        if self._previous is None:
            return 1, None
        times = [stated + self._offset for _, stated in held]
        least = self._previous + (0 if self._shares and self._duration <= 1 else 1)
        ahead = times[0] >= least
        if ahead and times[0] - self._next() <= self._far:
            return 1, None
        for i, time in enumerate(times[1:], 1):  # a frame that is back on the line, or on it at last
            on_the_line = least <= time and time - self._next() <= self._far
            if on_the_line and (not ahead or time < times[0]):
                return i, time
        if not ended and len(held) < (_WAIT_FRAMES if ahead else _AGAIN_FRAMES):
            return 0, None
        goes_on = len(held) >= _AGAIN_FRAMES and all(
            (0 if self._shares else 1) <= b - a <= self._far for a, b in pairwise(times)
        )
        if goes_on and (not ahead or (self._break is not None and times[0] - self._next() > self._break)):
            self._start_again(held[0][1])
            return 1, None
        return 1, None if ahead else self._next() + self._duration

    def _start_again(self, stated: int) -> None:
        assert self._previous is not None
        before = self._previous - self._offset
        self._offset = self._next() - stated
        self.restarts.append(Restart(before * self.time_base, stated * self.time_base, self._offset * self.time_base))

    def _settled(self, held: list[tuple[Any, int]], target: int | None) -> list[Any]:
        """Place frames at their own times, or evenly up to ``target``, at most a frame's duration apart."""
        placed = []
        for i, (frame, stated) in enumerate(held):
            if target is None or self._previous is None:
                time = stated + self._offset
                if self._previous is not None and time < self._previous + (not self._shares):
                    time = self._next()
            else:
                apart = (target - self._previous) // (len(held) - i + 1)
                time = self._previous + max(1, min(apart, self._duration))
            placed.append(self._place(frame, time))
        return placed

    def _place(self, frame: Any, time: int) -> Any:
        self._previous = time
        self._duration = int(frame.duration or 0) or self.step
        frame.pts = time
        return frame
