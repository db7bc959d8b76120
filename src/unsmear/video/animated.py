"""Writing of APNG and animated WebP from finished segments, in one pass: their streams cannot be joined."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from unsmear.errors import OutputError
from unsmear.files import WholeFile
from unsmear.video.contents import is_lossy_webp, loops_of
from unsmear.video.encoding import Encoding
from unsmear.video.ffmpeg import file_url, open_input, reason
from unsmear.video.probe import VideoInfo
from unsmear.video.timeline import read_timeline
from unsmear.video.walk import webp_chunks

ANIMATIONS = {".apng": "apng", ".png": "apng", ".webp": "webp"}
"""Suffix → muxer of FFmpeg. Still pictures have some of these suffixes, too."""

_TIME_BASES = {"apng": Fraction(1, 100_000), "webp": Fraction(1, 1000)}
_WEBP_QUALITY = "95"


def lossless_encoding(info: VideoInfo, suffix: str) -> Encoding:
    """Encoding of the segments of an animation."""
    deep = info.bit_depth > 8 and ANIMATIONS[suffix] == "apng"
    if info.alpha:
        return Encoding("png", "rgba64be" if deep else "rgba")
    return Encoding("png", "rgb48be" if deep else "rgb24")


def write_animation(source: VideoInfo, segments: list[Path], output: Path, last_duration: int | None = None) -> None:
    """Write the frames of ``segments`` as an animation that begins at time 0.

    Args:
        source: input; the number of loops is taken from it, endless where it has none.
        segments: in order, as ``SegmentWriter`` made them with ``lossless_encoding``.
        output: the file; appears whole or not at all.
        last_duration: duration of the last frame in the segments' time base, where it is known.

    Raises:
        OutputError: it cannot be written.
    """
    form = ANIMATIONS[output.suffix.lower()]
    timeline = read_timeline(segments)
    times = [time * timeline.time_base for time in sorted(timeline.pts)]
    ends = [*times[1:], times[-1] + (last_duration or timeline.last_duration) * timeline.time_base]
    shift = times[0]
    try:
        with WholeFile(output, same_suffix=True) as partial:
            _encode(form, source, segments, [(a - shift, b - shift) for a, b in zip(times, ends, strict=True)], partial)
            if form == "webp":
                _set_last_duration(partial, round((ends[-1] - shift) * 1000))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise OutputError(f"{output}: cannot be written ({reason(error)})") from error


def _encode(
    form: str, source: VideoInfo, segments: list[Path], times: list[tuple[Fraction, Fraction]], to: Path
) -> None:
    base, loops = _TIME_BASES[form], str(loops_of(source.path))
    options = {"plays": loops} if form == "apng" else {"loop": loops}
    if form == "apng":
        options["final_delay"] = str(float(times[-1][1] - times[-1][0]))
    with av.open(file_url(to), "w", format=form, container_options=options) as target:
        stream: Any = None
        for number, frame in enumerate(_frames(segments)):
            if stream is None:
                stream = _stream(target, form, frame, source, base)
            frame = frame.reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = round(times[number][0] / base), base
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


def _stream(target: Any, form: str, frame: Any, source: VideoInfo, base: Fraction) -> Any:
    if form == "apng":
        stream = target.add_stream("apng")
    else:
        quality = {"quality": _WEBP_QUALITY} if is_lossy_webp(source.path) else {"lossless": "1"}
        stream = target.add_stream("libwebp_anim", options=quality)
    stream.width, stream.height = frame.width, frame.height
    stream.pix_fmt = frame.format.name if form == "apng" else "bgra"
    stream.time_base = stream.codec_context.time_base = base
    return stream


def _frames(segments: list[Path]) -> Iterator[Any]:
    for segment in segments:
        with open_input(segment) as container:
            yield from container.decode(video=0)


def _set_last_duration(path: Path, end_ms: int) -> None:
    """Correct the duration of the last picture of a WebP, for which the encoder writes the mean of the others."""
    data = bytearray(path.read_bytes())
    frames = [begin for tag, begin, _ in webp_chunks(data) if tag == b"ANMF"]
    before = sum(int.from_bytes(data[begin + 20 : begin + 23], "little") for begin in frames[:-1])
    if frames:
        data[frames[-1] + 20 : frames[-1] + 23] = max(0, end_ms - before).to_bytes(3, "little")
        path.write_bytes(data)
