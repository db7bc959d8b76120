"""Interlaced video: which field of a frame comes first, and progressive frames instead of interlaced ones.

Numbers of field orders are FFmpeg's: 0 unknown, 1 progressive, 2 and 4 the top field first, 3 and 5 the bottom field.
"""

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal

import av
import av.error
import av.filter
import numpy as np

PROGRESSIVE = 1
_TOP_FIRST, _BOTTOM_FIRST = 4, 5  # both fields in one frame, line by line
# Codecs that state field by field how they were coded: of others only the container says it, for the whole stream.
_STATED_BY_CODEC = frozenset(
    ("h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "mpeg4", "vc1", "wmv3", "dvvideo", "cavs")
)
# Codecs whose interlaced pictures are single fields: nothing is mixed in them that could be taken apart.
_FIELD_PICTURES = frozenset(("hevc", "vvc"))
# Encoders that mark frames as interlaced, and the flags that it takes.
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
"""Encoders that mark progressive frames, too."""
_STATED_BY_CONTAINER = frozenset((".mov", ".mkv", ".mxf"))  # whatever the codec is
_ANY_TIME_BASE = Fraction(1, 25)
_SMALLEST = 4  # rows and columns that bwdif takes


Deinterlace = bool | Literal["top", "bottom"]
"""Whether interlaced frames are made progressive; or all frames, flagged or not, with that field first. Those that are
not are flagged where the container alone says that they are interlaced.
"""


def is_interlaced(field_order: int) -> bool:
    """Whether a number of a field order says that there are fields."""
    return field_order > PROGRESSIVE


def top_field_first(field_order: int) -> bool:
    """Whether the top field comes first in an interlaced order."""
    return field_order in (2, 4)


def order_in_words(field_order: int) -> str:
    """``top field first`` or ``bottom field first``."""
    return f"{'top' if top_field_first(field_order) else 'bottom'} field first"


def holds_single_fields(codec: str) -> bool:
    """Whether interlaced pictures of a codec (its FFmpeg name) are fields, one by one."""
    return codec in _FIELD_PICTURES


def field_order_of(frame: Any, context: Any) -> int:
    """The field order of a stream, by its first decoded frame and its codec context."""
    stated = int(context.field_order)
    if not frame.interlaced_frame:
        return stated
    first = _top_is_first(frame)
    if is_interlaced(stated) and top_field_first(stated) == first:
        return stated
    return _TOP_FIRST if first else _BOTTOM_FIRST


def encoder_flags(encoder: str, source_codec: str, field_order: int) -> str:
    """FFmpeg's flags under which an encoder marks frames like those of the source; empty where it needs none."""
    interlaced = is_interlaced(field_order) and not holds_single_fields(source_codec)
    return _FLAGS.get(encoder, "") if interlaced else ""


def x265_parameters(encoder: str, source_codec: str, field_order: int) -> str:
    """Parameters under which x265 marks the pictures of a source that has single fields; empty for all else."""
    if encoder != "libx265" or not (is_interlaced(field_order) and holds_single_fields(source_codec)):
        return ""
    return f"interlace={'tff' if top_field_first(field_order) else 'bff'}"


def is_stated(encoder: str, source_codec: str, suffix: str | None) -> bool:
    """Whether an encoder, or a file whose name ends in ``suffix``, says that it holds frames like the source's, and
    which field comes first.
    """
    if holds_single_fields(source_codec):
        return encoder == "libx265"
    return encoder in _FLAGS or suffix in _STATED_BY_CONTAINER


class Fields:
    """Decoded frames of one stream in the form that is asked for.

    Attributes:
        made_progressive: frames so far that were interlaced and were made progressive.
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
        """The same frames with the same times; words and errors among ``frames`` come after what was before them."""
        failure: Exception | None = None
        while True:
            try:
                frame = next(frames, None)
            except Exception as error:  # whatever it is, it is raised below
                frame, failure = None, error
            if frame is None:
                break
            if isinstance(frame, str):  # what is wrong there; what follows is not what came next
                yield from self._rest()
                yield frame
            else:
                yield from self._next(frame)
        yield from self._rest()
        if failure is not None:
            raise failure

    def _next(self, frame: Any) -> Iterator[Any]:
        interlaced = self._flag or frame.interlaced_frame
        if (self._graph is None and not interlaced) or min(frame.width, frame.height) < _SMALLEST:
            yield frame
            return
        key = (frame.format.name, frame.width, frame.height)
        if key != self._key:
            yield from self._rest()
            self._key, self._graph = key, self._made(frame)
        self.made_progressive += self._deinterlace and interlaced
        self._inside.append((frame.pts, frame.duration))
        self._graph.push(frame)
        yield from self._ready()

    def _made(self, frame: Any) -> Any:
        graph = av.filter.Graph()
        # Times do not matter: they are kept beside the graph.
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
        """Frames that the graph holds back until it sees the one after."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready()
            self._graph = self._key = None


def _top_is_first(frame: Any) -> bool:
    """Whether the top field of an interlaced frame comes first: FFmpeg takes it apart in that order."""
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
