"""Writing of GIF, APNG and animated WebP from finished segments, in one pass: their streams cannot be joined."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import av
import av.error
import av.filter

from unsmear.errors import OutputError
from unsmear.files import WholeFile
from unsmear.video.contents import is_lossy_webp, loops_of
from unsmear.video.encoding import Encoding
from unsmear.video.ffmpeg import file_url, open_input, reason
from unsmear.video.probe import VideoInfo
from unsmear.video.reader import open_video
from unsmear.video.timeline import Timeline, read_timeline
from unsmear.video.walk import webp_chunks

ANIMATIONS = {".gif": "gif", ".apng": "apng", ".png": "apng", ".webp": "webp"}
"""Suffix → muxer of FFmpeg. Still pictures have some of these suffixes, too."""

_TIME_BASES = {"gif": Fraction(1, 100), "apng": Fraction(1, 100_000), "webp": Fraction(1, 1000)}
_WEBP_QUALITY = "95"
_ANY_TIME_BASE = Fraction(1, 25)


def lossless_encoding(info: VideoInfo, suffix: str) -> Encoding:
    """Encoding of the segments of an animation."""
    deep = info.bit_depth > 8 and ANIMATIONS[suffix] == "apng"
    if info.alpha:
        return Encoding("png", "rgba64be" if deep else "rgba")
    return Encoding("png", "rgb48be" if deep else "rgb24")


def write_animation(source: VideoInfo, segments: list[Path], output: Path) -> list[str]:
    """Write the frames of ``segments`` as an animation that begins at time 0, and read it back.

    Args:
        source: input; the number of loops is taken from it, endless where it has none.
        segments: in order, as ``SegmentWriter`` made them with ``lossless_encoding``.
        output: the file; appears whole or not at all.

    Returns:
        What could not be kept, a line each.

    Raises:
        OutputError: it cannot be written, or does not hold what was written. ``segments`` stay.
    """
    form = ANIMATIONS[output.suffix.lower()]
    try:
        given = read_timeline(segments)
        timeline = given.rescaled(_TIME_BASES[form], given.ordered[0] * given.time_base)
        with WholeFile(output, same_suffix=True) as partial:
            _encode(form, source, segments, timeline, partial)
            if form == "webp":
                _set_last_duration(partial, timeline.end)
            wrong = _difference(partial, timeline)
            if wrong:
                raise OutputError(f"{output}: does not hold what was written: {wrong}; choose another `output`")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise OutputError(f"{output}: cannot be written ({reason(error)})") from error
    if not timeline.moved:
        return []
    return [f"{output.suffix} files cannot express {timeline.moved} of the frame times exactly"]


def _encode(form: str, source: VideoInfo, segments: list[Path], timeline: Timeline, to: Path) -> None:
    plays, base = loops_of(source.path), timeline.time_base
    options = {"plays": str(plays)} if form == "apng" else {"loop": str(plays)}
    if form == "apng":
        options["final_delay"] = str(float(timeline.last_duration * base))
    elif form == "gif":
        options = {"loop": str(-1 if plays == 1 else max(0, plays - 1)), "final_delay": str(timeline.last_duration)}
    frames = _in_palette(segments) if form == "gif" else _frames(segments)
    with av.open(file_url(to), "w", format=form, container_options=options) as target:
        stream: Any = None
        for frame, time in zip(frames, timeline.ordered, strict=True):
            if stream is None:
                stream = _stream(target, form, frame, source, base)
            frame = frame.reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = time, base
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


def _stream(target: Any, form: str, frame: Any, source: VideoInfo, base: Fraction) -> Any:
    if form == "webp":
        quality = {"quality": _WEBP_QUALITY} if is_lossy_webp(source.path) else {"lossless": "1"}
        stream = target.add_stream("libwebp_anim", options=quality)
    else:
        stream = target.add_stream(form)
    stream.width, stream.height = frame.width, frame.height
    stream.pix_fmt = "bgra" if form == "webp" else frame.format.name
    stream.time_base = stream.codec_context.time_base = base
    return stream


def _frames(segments: list[Path]) -> Iterator[Any]:
    for segment in segments:
        with open_input(segment) as container:
            yield from container.decode(video=0)


def _in_palette(segments: list[Path]) -> Iterator[Any]:
    """The frames in the 256 colours that suit all of them best, one of these for what is transparent."""
    graph = av.filter.Graph()
    begin: Any = None
    for number, frame in enumerate(_frames(segments)):
        frame.pts = number
        if begin is None:
            begin = graph.add_buffer(template=frame, time_base=_ANY_TIME_BASE)
            graph.link_nodes(begin, graph.add("palettegen"), graph.add("buffersink")).configure()
        begin.push(frame)
    begin.push(None)
    palette: Any = graph.pull()
    graph = av.filter.Graph()
    for number, frame in zip(count(), _frames(segments)):
        frame.pts = number
        if not number:
            begin = graph.add_buffer(template=frame, time_base=_ANY_TIME_BASE)
            colours = graph.add_buffer(template=palette, time_base=_ANY_TIME_BASE)
            chosen, end = graph.add("paletteuse"), graph.add("buffersink")
            begin.link_to(chosen, 0, 0)
            colours.link_to(chosen, 0, 1)
            chosen.link_to(end)
            graph.configure()
            palette.pts = 0
            colours.push(palette)
            colours.push(None)
        begin.push(frame)
        yield from _ready(end)
    begin.push(None)
    yield from _ready(end)


def _ready(end: Any) -> Iterator[Any]:
    while True:
        try:
            yield end.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _difference(path: Path, timeline: Timeline) -> str:
    """What is not as written, in words; empty where all is."""
    with open_video(path) as reader:
        found = [(frame.time_s, (frame.duration or 0) * (reader.info.time_base or 0)) for frame in reader]
    wanted = [float(time * timeline.time_base) for time in timeline.ordered]
    if len(found) != len(wanted):
        return f"it holds {len(found)} frames of {len(wanted)}"
    tick = float(timeline.time_base)
    for number, ((time_s, _), wanted_s) in enumerate(zip(found, wanted, strict=True)):
        if abs(time_s - found[0][0] - wanted_s) > tick:
            return f"frame {number} is at {time_s - found[0][0]:.4f} s instead of {wanted_s:.4f} s"
    lasts, wanted_last = found[-1][1], timeline.last_duration * timeline.time_base
    if len(found) > 1 and abs(lasts - wanted_last) > timeline.time_base:
        return f"its last frame lasts {float(lasts):.4f} s instead of {float(wanted_last):.4f} s"
    return ""


def _set_last_duration(path: Path, end_ms: int) -> None:
    """Correct the duration of the last picture of a WebP, for which the encoder writes the mean of the others."""
    data = bytearray(path.read_bytes())
    frames = [begin for tag, begin, _ in webp_chunks(data) if tag == b"ANMF"]
    before = sum(int.from_bytes(data[begin + 20 : begin + 23], "little") for begin in frames[:-1])
    if frames:
        data[frames[-1] + 20 : frames[-1] + 23] = max(0, end_ms - before).to_bytes(3, "little")
        path.write_bytes(data)
