"""Animated pictures, whose frames are encoded in one go: how often they play, and their packets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unsmear.video.encoding import Encoding
from unsmear.video.ffmpeg import open_input
from unsmear.video.timeline import Timeline

_NETSCAPE = b"NETSCAPE2.0\x03\x01"
_SEARCHED_BYTES = 1 << 16
_FOR_EVER = 0


def times_played(source: Path | None) -> int:
    """How often an animation plays, 0 for ever: as a GIF or animated PNG says, for ever else."""
    if source is None or not source.is_file():
        return _FOR_EVER
    with source.open("rb") as file:
        head = file.read(_SEARCHED_BYTES)
    if head.startswith(b"GIF8"):
        at = head.find(_NETSCAPE)
        if at < 0:
            return 1
        repeats = int.from_bytes(head[at + len(_NETSCAPE) :][:2], "little")
        return repeats + 1 if repeats else _FOR_EVER
    at = head.find(b"acTL") if head.startswith(b"\x89PNG") else -1
    return int.from_bytes(head[at + 8 : at + 12], "big") if at > 0 else _FOR_EVER


def muxer_options(muxer: str, plays: int) -> dict[str, str]:
    """How FFmpeg's muxers of animations are told how often they play."""
    if muxer == "apng":
        return {"plays": str(plays)}
    return {"loop": "-1" if plays == 1 else str(max(0, plays - 1))}


def add_encoder(target: Any, coded: Any, encoding: Encoding) -> Any:
    """Add a stream to a container that encodes the pictures of segments such as ``coded``."""
    stream = target.add_stream(encoding.codec, rate=coded.average_rate or 25)
    stream.width, stream.height, stream.pix_fmt = coded.width, coded.height, encoding.pixel_format
    stream.options = dict(encoding.options)
    return stream


def encoded(stream: Any, segments: list[Path], timeline: Timeline) -> Iterator[Any]:
    """Packets of all segments' frames from the stream's one encoder, at the times of ``timeline``."""
    times = iter(timeline.ordered)
    number = 0
    for segment in segments:
        with open_input(segment) as container:
            for frame in container.decode(video=0):
                frame.pts, frame.time_base = number, stream.codec_context.time_base
                number += 1
                yield from _timed(stream.encode(frame), times, timeline)
    yield from _timed(stream.encode(None), times, timeline)


def _timed(packets: list[Any], times: Iterator[int], timeline: Timeline) -> Iterator[Any]:
    for packet in packets:
        packet.pts = packet.dts = next(times)
        packet.duration = timeline.duration(packet.pts)
        packet.time_base = timeline.time_base
        yield packet
