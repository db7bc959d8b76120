"""Damage of videos: gaps in the frames, and what the container states about the end of the file."""

import struct
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from unsmear.video.contents import mapped
from unsmear.video.probe import DEFAULT_RATE, VideoInfo
from unsmear.video.raw import frame_bytes, walk_y4m

_HELD_FRAMES = 64
"""Upper bound of the frames that a decoder returns between an error and the gap caused by it."""
_SLACK_S = 1e-6
_UNKNOWN_SIZES = {0, 0x7FFFFFFF, 0xFFFFFFFF}  # left by writers that cannot go back to the header
_CLUSTER, _SEGMENT = b"\x1f\x43\xb6\x75", b"\x18\x53\x80\x67"
_INDEX_ENTRIES = 64
REORDERED_FRAMES = 16
"""Upper bound of the reordering delay in frames."""
_STEPS = 9
_CUT_ANYWHERE = {"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "vvc", "mjpeg", "m4v", "obu", "dv"}
"""Formats of broadcasts and raw streams, which recorders cut anywhere: an incomplete last picture is not damage."""


@dataclass(frozen=True)
class Gap:
    """A position at which frames are or may be missing.

    Attributes:
        after: index of the frame before the gap, -1 where there is none.
        begin_s, end_s: time on the source's clock; ``end_s`` is None where no frame follows.
        why: reason.
    """

    after: int
    begin_s: float
    end_s: float | None
    why: str


@dataclass(frozen=True)
class Shortage:
    """Bytes missing at the end of a file according to its container, and whether they may hold frames."""

    why: str
    frames_missing: bool


class DamageLog:
    """Gaps of a video, recorded while its frames are read in order.

    Attributes:
        gaps: gaps found so far.
        notes: other findings, a phrase each.
        frames: number of frames read so far.
        origin_s: time of the first frame.
    """

    def __init__(self, info: VideoInfo) -> None:
        self.gaps: list[Gap] = []
        self.notes: list[str] = []
        self.frames = 0
        self.origin_s = 0.0
        self._info = info
        self._steps: deque[float] = deque([float(1 / (info.frame_rate or DEFAULT_RATE))], _STEPS)
        self._last_s: float | None = None
        self._trouble: tuple[str, int, float] | None = None
        self._holes: deque[tuple[int, float]] = deque(maxlen=REORDERED_FRAMES)
        self._sound = False  # whether a picture without damage has been seen
        self._damaged: list[int] = []

    @property
    def _step_s(self) -> float:
        """Frame step, from the times of the last frames; the rate in headers may be wrong."""
        return median(self._steps)

    @property
    def last_end_s(self) -> float:
        """End of the last frame, in seconds."""
        return 0.0 if self._last_s is None else self._last_s + self._step_s

    def trouble(self, why: str) -> None:
        """Record that data after the last frame cannot be read."""
        if self._trouble is None:
            self._trouble = why, self.frames - 1, self.last_end_s

    def frame(self, time_s: float, damaged: bool = False) -> None:
        """Record a frame. The gap of an earlier error may lie before it or further on.

        ``damaged``: parts of the picture are missing. Such frames are ignored before the first complete one: broadcasts
        begin with pictures whose references are missing.
        """
        if self._last_s is None:
            self.origin_s = time_s
        elif time_s > self._last_s + 1.5 * self._step_s:
            if self._trouble is not None:
                self._note(Gap(self.frames - 1, self.last_end_s, time_s, self._trouble[0]))
            else:
                self._holes.append((self.frames - 1, self.last_end_s))
        elif self._trouble is not None and self.frames - self._trouble[1] > _HELD_FRAMES:
            why, after, begin_s = self._trouble
            self._note(Gap(after, begin_s, begin_s + self._step_s, why))
        if self._last_s is not None:
            self._steps.append(time_s - self._last_s)
        self._last_s = time_s
        if damaged and (self._sound or not self.frames):
            self._damaged.append(self.frames)
        self._sound = self._sound or not damaged
        self.frames += 1

    def lost(self, why: str) -> None:
        """Record that the next picture of a folder or file of pictures cannot be read."""
        self._note(Gap(self.frames - 1, self.last_end_s, self.last_end_s + self._step_s, why))

    def end(self, shortage: Shortage | None) -> None:
        """Record the end of the video."""
        unfinished = bool(self._damaged) and self._damaged[-1] == self.frames - 1
        if unfinished:
            self._damaged.pop()
        if self._damaged:
            what = "a picture is" if len(self._damaged) == 1 else f"{len(self._damaged)} pictures are"
            self.notes.append(f"{what} damaged in the input, from frame {self._damaged[0]} on")
        if shortage is not None and shortage.frames_missing:
            # With reordering, frames are decoded before others that are shown earlier.
            holes = [hole for hole in self._holes if self.frames - hole[0] <= REORDERED_FRAMES]
            after, begin_s = holes[0] if holes else (self.frames - 1, self.last_end_s)
            self._note(Gap(after, begin_s, None, shortage.why))
        elif unfinished and not _CUT_ANYWHERE & set(self._info.container.split(",")):
            self._note(Gap(self.frames - 2, self._last_s or 0.0, None, "its last picture is incomplete"))
        elif self._trouble is not None:
            why, after, begin_s = self._trouble
            if self.reached_end():
                self._note(Gap(after, begin_s, begin_s + self._step_s, why))
            else:
                self._note(Gap(self.frames - 1, self.last_end_s, None, why))
        elif unfinished:
            self.notes.append("the last picture of the input is incomplete")
        elif shortage is not None:
            self.notes.append("the end of the input is missing, but no frame")

    @property
    def uncertain(self) -> bool:
        """Whether a gap before the last frame may still turn out to be damage."""
        hole = bool(self._holes) and self.frames - self._holes[-1][0] <= REORDERED_FRAMES
        return hole or self._trouble is not None

    def within(self, begin_s: float | None, end_s: float | None) -> list[Gap]:
        """Gaps that overlap an interval on the source's clock; None: unbounded."""
        return [
            gap
            for gap in self.gaps
            if (end_s is None or gap.begin_s < end_s - _SLACK_S)
            and (begin_s is None or gap.end_s is None or gap.end_s > begin_s + _SLACK_S)
        ]

    def unfinished(self) -> None:
        """Mark the last frame as incomplete where the decoder does not."""
        if self.frames and self._damaged[-1:] != [self.frames - 1]:
            self._damaged.append(self.frames - 1)

    def _note(self, gap: Gap) -> None:
        self.gaps.append(gap)
        self._trouble = None

    def reached_end(self) -> bool:
        """Whether the frames reach the duration stated by the container."""
        duration_s = self._info.duration_s
        return duration_s is not None and self.last_end_s > self.origin_s + duration_s - self._step_s / 2


def told(path: Path, log: DamageLog, gaps: list[Gap]) -> str:
    """Description of ``gaps`` in one clause that begins with the path."""
    first = gaps[0]
    places = "damaged" if len(gaps) == 1 else f"damaged in {len(gaps)} places, first"
    where = f"after frame {first.after}" if first.after >= 0 else "before its first frame"
    return f"{path}: {places} {where} ({log.frames} frames read): {first.why}"


def shortage(stream: Any, info: VideoInfo, log: DamageLog) -> Shortage | None:
    """Data missing at the end of the file according to its container, None where it is complete."""
    size = info.path.stat().st_size
    names = info.container.split(",")
    expected, missing = 0, True
    if info.container == "yuv4mpegpipe":
        each = frame_bytes(info.pixel_format, info.width, info.height)
        left_over = walk_y4m(info.path, each).left_over_bytes
        expected = max(size + 1, size - left_over + len(b"FRAME\n") + each) if left_over else 0
    elif info.raw is not None:
        expected = info.raw.frame_bytes * (log.frames + 1) if info.frames != log.frames else 0
    elif "mov" in names:
        entries = stream.index_entries
        tail = [entries[i] for i in range(max(0, len(entries) - _INDEX_ENTRIES), len(entries))]
        expected = max((entry.pos + entry.size for entry in tail), default=0)
    elif "avi" in names:
        expected = _riff_bytes(info.path)
        missing = not stream.frames or log.frames < stream.frames
    elif "matroska" in names:
        expected, missing = _matroska(info.path)
    elif "asf" in names:
        expected, missing = _asf_bytes(info.path), not log.reached_end()
    elif "mxf" in names:
        expected = _mxf_bytes(info.path)
    elif "gif" in names:
        expected = _gif_bytes(info.path)
    elif "mjpeg" in names and not _ends_with(info.path, b"\xff\xd9"):
        log.unfinished()
    elif "ivf" in names and log.frames < stream.frames:
        return Shortage(f"its header promises {stream.frames} frames", True)
    if expected <= size:
        return None
    return Shortage(f"{size} of at least {expected} bytes are there", missing)


def _riff_bytes(path: Path) -> int:
    """End of the first RIFF chunk; 0 where it is not stated."""
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] != b"RIFF" or len(head) < 8:
        return 0
    stated = int(struct.unpack("<I", head[4:8])[0])
    return 0 if stated in _UNKNOWN_SIZES else 8 + stated


def _matroska(path: Path) -> tuple[int, bool]:
    """The end of the Segment that holds everything in a Matroska file, 0 where it is not stated; and whether a Cluster,
    which holds frames, is the last element that is there, whole or not."""
    size = path.stat().st_size
    with path.open("rb") as file:

        def element(at: int) -> tuple[bytes, int, int]:
            """(identifier, where its content begins, where it ends) of the element at ``at``."""
            file.seek(at)
            head = file.read(12)
            length = 9 - head[0].bit_length() if head else 9
            if length > 4:
                raise ValueError
            stated, begin = _vint(head, length)
            return head[:length], at + begin, at + begin + stated if stated else 0

        try:
            _, _, begin = element(0)
            name, inner, end = element(begin)
            if name != _SEGMENT or not end:
                return 0, False
        except ValueError:
            return 0, False
        last = b""
        try:
            while 0 < inner < size:
                last, _, inner = element(inner)
        except ValueError:  # no element: what was there is lost
            return end, True
    return end, last == _CLUSTER


def _vint(data: bytes, at: int) -> tuple[int, int]:
    """An EBML number at ``at`` and where it ends; 0 for the reserved "unknown" (all ones). ValueError where cut."""
    length = 9 - data[at].bit_length() if at < len(data) else 9
    if length > 8 or at + length > len(data):
        raise ValueError
    mask = (1 << 7 * length) - 1
    value = int.from_bytes(data[at : at + length], "big") & mask
    return (0 if value == mask else value), at + length


_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_MXF_HEADER = bytes.fromhex("060e2b34020501010d0102010102")
_HEAD_BYTES = 1 << 16


def _asf_bytes(path: Path) -> int:
    """The end of the Data Object of a Windows Media file; 0 where it is not stated."""
    with path.open("rb") as file:
        begin = int.from_bytes(file.read(24)[16:], "little")  # after the Header Object
        file.seek(begin)
        head = file.read(24)
    stated = int.from_bytes(head[16:], "little")
    return begin + stated if head[:16] == _ASF_DATA and 0 < stated < 1 << 62 else 0


def _mxf_bytes(path: Path) -> int:
    """The beginning of the footer partition of an MXF file; 0 where it is not stated."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    key = head.find(_MXF_HEADER)
    if key < 0 or len(head) < key + 64:
        return 0
    length = head[key + 16]
    values = key + 17 + (length & 0x7F if length & 0x80 else 0)
    return int.from_bytes(head[values + 24 : values + 32], "big")


def _gif_bytes(path: Path) -> int:
    """End of the last block of a GIF. A GIF that ends between two blocks is complete."""
    with mapped(path) as data:
        at = 13 + _colours_bytes(data[10])
        while at < len(data) and data[at] in (0x21, 0x2C):
            if data[at] == 0x21:
                at += 2
            else:
                at += 11 + (_colours_bytes(data[at + 9]) if at + 9 < len(data) else 0)
            while at < len(data) and data[at]:
                at += 1 + data[at]
            at += 1
    return at


def _ends_with(path: Path, end: bytes) -> bool:
    """Whether a file ends so, zeros left aside."""
    with mapped(path) as data:
        return bytes(data[-_HEAD_BYTES:]).rstrip(b"\0").endswith(end)


def _colours_bytes(flags: int) -> int:
    return 3 * (2 << (flags & 7)) if flags & 0x80 else 0
