"""Interlaced video: field order, deinterlacing, and field flags for encoders.

Field orders are FFmpeg's numbers: 0 unknown, 1 progressive, 2 and 4 top field first, 3 and 5 bottom field first.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Any, Literal

import av
import av.error
import av.filter
import numpy as np

PROGRESSIVE = 1
_TOP_FIRST, _BOTTOM_FIRST = 4, 5  # both fields in one frame, line by line
# Codecs with flags in every picture; of others the container alone has a flag, for the whole stream.
_STATED_BY_CODEC = frozenset(
    ("h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "mpeg4", "vc1", "wmv3", "dvvideo", "cavs")
)
# Codecs whose interlaced pictures are single fields.
_FIELD_PICTURES = frozenset(("hevc", "vvc"))
# Encoders that write field flags, and the options for it.
_FLAGS = {
    "libx264": "+ildct+ilme",
    "libx264rgb": "+ildct+ilme",
    "mpeg2video": "+ildct+ilme",
    "mpeg4": "+ildct+ilme",
    "prores_ks": "+ildct",
    "ffv1": "",
    "dvvideo": "",
}
MARKS_ALL = frozenset(("dvvideo",))
"""Encoders that flag all frames as interlaced, progressive ones too."""
_STATED_BY_CONTAINER = frozenset((".mov", ".mkv", ".mxf"))  # whatever the codec is
_ANY_TIME_BASE = Fraction(1, 25)


Deinterlace = bool | Literal["top", "bottom"]
"""Whether interlaced frames are deinterlaced; "top" and "bottom" deinterlace all frames, flagged or not, with that
field first."""


def is_interlaced(field_order: int) -> bool:
    """Whether a field order is that of interlaced video."""
    return field_order > PROGRESSIVE


def top_field_first(field_order: int) -> bool:
    """Whether an interlaced field order has the top field first."""
    return field_order in (2, 4)


def order_in_words(field_order: int) -> str:
    """``top field first`` or ``bottom field first``."""
    return f"{'top' if top_field_first(field_order) else 'bottom'} field first"


def holds_single_fields(codec: str) -> bool:
    """Whether the interlaced pictures of a codec (FFmpeg's name) are single fields."""
    return codec in _FIELD_PICTURES


def field_order_of(frame: Any, context: Any) -> int:
    """Field order of a stream, from its first decoded frame and its codec context."""
    stated = int(context.field_order)
    if not frame.interlaced_frame:
        return stated
    first = _top_is_first(frame)
    if is_interlaced(stated) and top_field_first(stated) == first:
        return stated
    return _TOP_FIRST if first else _BOTTOM_FIRST


def encoder_flags(encoder: str, source_codec: str, field_order: int) -> str:
    """FFmpeg's `flags` option for an encoder of frames with this field order; empty where none is needed."""
    interlaced = is_interlaced(field_order) and not holds_single_fields(source_codec)
    return _FLAGS.get(encoder, "") if interlaced else ""


def x265_parameters(encoder: str, source_codec: str, field_order: int) -> str:
    """x265 parameters for pictures that are single fields; empty for all else."""
    if encoder != "libx265" or not (is_interlaced(field_order) and holds_single_fields(source_codec)):
        return ""
    return f"interlace={'tff' if top_field_first(field_order) else 'bff'}"


def is_stated(encoder: str, source_codec: str, suffix: str | None) -> bool:
    """Whether the encoder, or the container of files with this suffix, stores the field order."""
    if holds_single_fields(source_codec):
        return encoder == "libx265"
    return encoder in _FLAGS or suffix in _STATED_BY_CONTAINER


class Fields:
    """Deinterlaces the decoded frames of one stream, or flags them where only the container has the field order.

    Attributes:
        made_progressive: number of frames deinterlaced so far.
    """

    def __init__(self, codec: str, field_order: int, deinterlace: Deinterlace) -> None:
        """``codec`` and ``field_order`` are the stream's."""
        forced = isinstance(deinterlace, str)
        self._deinterlace = forced or (deinterlace and not holds_single_fields(codec))
        self._flag = forced or (is_interlaced(field_order) and codec not in _STATED_BY_CODEC)
        self._mode = "tff" if (deinterlace == "top" if forced else top_field_first(field_order)) else "bff"
        self._graph: Any = None
        self._key: tuple[str, int, int] | None = None
        self._inside: deque[Any] = deque()
        self.made_progressive = 0

    def __call__(self, frames: Iterator[Any]) -> Iterator[Any]:
        """The same frames with the same times. Reasons (str) and errors among ``frames`` keep their position."""
        failure: Exception | None = None
        while True:
            try:
                frame = next(frames, None)
            except Exception as error:  # raised below
                frame, failure = None, error
            if frame is None:
                break
            if isinstance(frame, str):  # damaged data: the next frame does not follow the last one
                yield from self._rest()
                yield frame
            else:
                yield from self._next(frame)
        yield from self._rest()
        if failure is not None:
            raise failure

    def _next(self, frame: Any) -> Iterator[Any]:
        interlaced = self._flag or (self._deinterlace and frame.interlaced_frame)
        key = (frame.format.name, frame.width, frame.height)
        if self._graph is not None and key != self._key:
            yield from self._rest()
        if self._graph is None and interlaced:
            with suppress(av.error.FFmpegError):  # too small for the filter: taken as it is
                self._key, self._graph = key, self._made(frame)
        if self._graph is None:
            yield frame
            return
        self.made_progressive += bool(self._deinterlace and interlaced)
        self._inside.append((frame.pts, frame.duration))
        self._graph.push(frame)
        yield from self._ready()

    def _made(self, frame: Any) -> Any:
        graph = av.filter.Graph()
        # Times are kept beside the graph.
        nodes = [graph.add_buffer(template=frame, time_base=_ANY_TIME_BASE)]
        if self._flag:
            nodes.append(graph.add("setfield", self._mode))
        if self._deinterlace:
            nodes.append(graph.add("bwdif", "mode=send_frame:deint=interlaced"))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph

    def _ready(self) -> Iterator[Any]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            frame.pts, frame.duration = self._inside.popleft()
            yield frame

    def _rest(self) -> Iterator[Any]:
        """Frames that the graph delays until the next one."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready()
            self._graph = self._key = None


def _top_is_first(frame: Any) -> bool:
    """Whether an interlaced frame has the top field first, from the order in which FFmpeg separates its fields."""
    marked = frame.reformat(16, 16, "gray")  # with the flags of the frame
    plane = marked.planes[0]
    rows = np.zeros((plane.height, plane.line_size), np.uint8)
    rows[::2] = 255
    plane.update(rows)
    graph = av.filter.Graph()
    begin = graph.add_buffer(template=marked, time_base=_ANY_TIME_BASE)
    graph.link_nodes(begin, graph.add("separatefields"), graph.add("buffersink")).configure()
    graph.push(marked)
    graph.push(None)
    return bool(graph.pull().to_ndarray()[0, 0])
