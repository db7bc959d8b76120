"""Frames of a video, a folder of frames or an image, one at a time and in order."""

from collections.abc import Container, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np

from unsmear.errors import DamagedVideo, UnsupportedVideo
from unsmear.video.alpha import AlphaReader, decoder_of
from unsmear.video.clock import Clock, Restart
from unsmear.video.colour import ToRgb, luma_of_rgb
from unsmear.video.contents import unreadable
from unsmear.video.damage import DamageLog, shortage, told
from unsmear.video.ffmpeg import main_video_stream, open_input, reason
from unsmear.video.fields import PROGRESSIVE, Deinterlace, Fields, holds_single_fields
from unsmear.video.frame import Frame
from unsmear.video.images import list_images
from unsmear.video.pictures import read_picture
from unsmear.video.probe import DEFAULT_RATE, VideoInfo, probe
from unsmear.video.raw import RawFormat
from unsmear.video.sequence import WEBP_TIME_BASE, Shown, pictures_in
from unsmear.video.sidedata import carried


def open_video(
    path: Path | str,
    raw: RawFormat | None = None,
    *,
    keep_going: bool = False,
    deinterlace: Deinterlace = True,
    frame_rate: Fraction | None = None,
) -> "VideoReader":
    """Open a video, an image or a folder of images for reading.

    ``raw`` is the format of a ``.yuv`` file, instead of its name; with ``keep_going`` every frame of a damaged input
    that can be read is returned. Interlaced frames are deinterlaced, one frame each, unless ``deinterlace`` is False;
    "top" or "bottom" treats all frames as interlaced, with that field first. ``frame_rate`` is that of pictures without
    times of their own, and is ignored for all else. Raises UnsupportedVideo or DamagedVideo as ``probe`` does.
    """
    return VideoReader(path, raw, keep_going=keep_going, deinterlace=deinterlace, frame_rate=frame_rate)


class VideoReader:
    """Streams frames in presentation order; memory does not depend on the length.

    Iterating starts at the first frame, every time. Use it as a context manager, or call ``close``.

    Attributes:
        info: properties of the input, with the field order of the frames returned.
        damage: gaps found by the last iteration.
        deinterlaced: whether any frame was deinterlaced.
        restarts: where the clock starts again, found so far by the last iteration.
    """

    def __init__(
        self,
        path: Path | str,
        raw: RawFormat | None = None,
        *,
        keep_going: bool = False,
        deinterlace: Deinterlace = True,
        frame_rate: Fraction | None = None,
    ) -> None:
        self.info: VideoInfo = probe(path, raw)
        if frame_rate is not None and self.info.kind == "frames" and self.info.time_base is None:
            self.info = replace(self.info, frame_rate=frame_rate, time_base=1 / frame_rate)
        self.damage = DamageLog(self.info)
        self.restarts: list[Restart] = []
        self.deinterlaced = False
        self._keep_going = keep_going
        self._stated_order, self._deinterlace = self.info.field_order, deinterlace
        forced = isinstance(deinterlace, str) and self.info.kind == "video"
        if forced or (deinterlace and self.info.interlaced and not holds_single_fields(self.info.codec)):
            self.info = replace(self.info, field_order=PROGRESSIVE)
        self._open: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; iterations under way end there."""
        while self._open:
            self._open.pop().close()

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, first: int = 0, last: int | None = None, wanted: Container[int] | None = None) -> Iterator[Frame]:
        """Frames with ``first <= index < last`` (None: to the end) whose index is among ``wanted`` (None: all).

        Others are decoded, as later ones need them, but not converted. Where the decoder reports an error or the file
        is truncated, raises DamagedVideo, which names the frame reached; with ``keep_going``, records it in ``damage``
        and continues, and indices count the frames that can be read. Raises UnsupportedVideo where the size of the
        picture changes.
        """
        self.damage = DamageLog(self.info)
        if self.info.kind == "video":
            return self._video_frames(first, last, wanted, self.damage)
        return self._image_frames(first, last, wanted, self.damage)

    def _image_frames(
        self, first: int, last: int | None, wanted: Container[int] | None, log: DamageLog
    ) -> Iterator[Frame]:
        info = self.info
        deep = info.bit_depth > 8
        for path, read, pts, duration in self._pictures():
            index = log.frames
            if last is not None and index >= last:
                return
            needed = index >= first and (wanted is None or index in wanted)
            picture = None
            if needed or self._keep_going:  # the index of the next picture depends on it
                try:
                    picture = read()
                except DamagedVideo as error:
                    if not self._keep_going:
                        raise
                    log.lost(str(error))
                    continue
            time_s = float(index / (info.frame_rate or DEFAULT_RATE) if pts is None else pts * WEBP_TIME_BASE)
            log.frame(time_s)
            if picture is None or not needed:
                continue
            rgb = picture.rgb
            if rgb.shape[:2] != (info.height, info.width):
                raise UnsupportedVideo(
                    f"{path}: is {rgb.shape[1]}x{rgb.shape[0]} where the first frame is "
                    f"{info.width}x{info.height}; all frames of a folder must have one size"
                )
            if (rgb.dtype == np.uint16) != deep:
                raise UnsupportedVideo(
                    f"{path}: has {picture.bits} bits where the first frame has {info.bit_depth}; "
                    "all frames of a folder must have one bit depth"
                )
            yield Frame(index, pts, time_s, rgb, luma_of_rgb(rgb), duration, picture.alpha, tags=picture.tags)

    def _pictures(self) -> Iterator[Shown]:
        path = self.info.path
        if path.is_dir():
            return ((image, partial(read_picture, image), None, None) for image in list_images(path))
        return pictures_in(path)

    def _video_frames(
        self, first: int, last: int | None, wanted: Container[int] | None, log: DamageLog
    ) -> Iterator[Frame]:
        info = self.info
        container = open_input(info.path, info.raw)
        self._open.append(container)
        try:
            stream = main_video_stream(container, info.path)
            decoder = decoder_of(stream)
            decoder.thread_type = "AUTO"
            deep = info.bit_depth > 8
            convert, alpha_of = ToRgb(deep=deep, siting=info.chroma_siting), AlphaReader()
            fields = Fields(info.codec, self._stated_order, self._deinterlace)
            clock = Clock(stream.time_base, info.frame_rate, info.container)
            self.restarts = clock.restarts
            decoded = _watched(_decoded(container, stream, decoder, self._keep_going), log)
            for frame in fields(clock.placed(decoded, stream.start_time)):
                if isinstance(frame, str):
                    log.trouble(frame)
                    continue
                if last is not None and log.frames >= last:
                    return
                index = log.frames
                if (frame.width, frame.height) != (info.width, info.height):
                    raise UnsupportedVideo(
                        f"{info.path}: frame {index} is {frame.width}x{frame.height} where the first is "
                        f"{info.width}x{info.height}; split the video where its size changes"
                    )
                pts = int(frame.pts)
                seconds = float(pts * clock.time_base)
                log.frame(seconds, damaged=frame.is_corrupt)
                if index >= first and (wanted is None or index in wanted):
                    if info.raw is not None:
                        frame.colorspace = info.colorspace
                    rgb, luma = convert(frame)
                    alpha = alpha_of(frame, deep=deep) if info.alpha else None
                    taken_over = carried(frame, info.codec, fields=not self._deinterlace)
                    yield Frame(index, pts, seconds, rgb, luma, frame.duration or None, alpha, taken_over)
                self.deinterlaced = fields.made_progressive > 0
            if not log.frames:
                raise DamagedVideo(f"{info.path}: not one frame can be decoded; the video is damaged")
            try:
                log.end(shortage(stream, info, log))
            except OSError as error:  # it was moved away meanwhile, or its disk was
                raise unreadable(info.path, error) from None
            if log.gaps and not self._keep_going:
                raise DamagedVideo(f"{told(info.path, log, log.gaps)}; copy or download it again")
        finally:
            if container in self._open:
                self._open.remove(container)
                container.close()


def _decoded(container: Any, stream: Any, decoder: Any, keep_going: bool) -> Iterator[Any]:
    """Every decodable frame, and a reason (str) at each position where data cannot be decoded.

    Errors before the first frame are passed over: broadcasts begin mid-picture. A packet whose data is incomplete is
    the end of a file that was cut, unless more packets follow: then it is a gap, as between the parts of a recording,
    and the decoder makes of it what it can. Without ``keep_going`` the first error is the last one.
    """
    begun, failures = False, 0
    incomplete: Any = None
    packets = container.demux(stream)
    while failures < _FAILURES_IN_A_ROW:
        frames: list[Any] = []
        packet, failure = None, ""
        try:
            packet = next(packets, None)
            if packet is None:
                break
            if incomplete is not None and not packet.size:
                yield _INCOMPLETE
                incomplete = None
            if incomplete is not None:
                frames = _decode_gap(decoder, incomplete)
                incomplete = None
            if packet.is_corrupt and packet.size and begun:
                incomplete = packet
            else:
                frames += decoder.decode(packet)
            failures = 0
        except av.error.EOFError:
            break
        except av.error.FFmpegError as error:
            failure = reason(error)
            if packet is None:  # demuxing ended there; what follows may still be found
                failures += 1
                packets = container.demux(stream)
        begun = begun or bool(frames)
        yield from frames
        if failure and (begun or packet is None):
            yield failure
            if not keep_going:
                break
    else:
        yield from _held_back(decoder)
        return
    yield from _held_back(decoder)
    if container.file.file.error is not None:
        yield reason(container.file.file.error)


def _watched(decoded: Iterator[Any], log: DamageLog) -> Iterator[Any]:
    """Frames as they come. Notes the first change of what the output has from the first frame for all of them."""
    first: Any = None
    number, changed = 0, set[str]()
    for frame in decoded:
        yield frame
        if isinstance(frame, str):
            continue
        first = first or frame
        found, before = _kinds(frame), _kinds(first)
        for what in found.keys() - changed:
            if found[what] != before[what]:
                changed.add(what)
                log.notes.append(
                    f"the {what} of the input changes near frame {number}; the output keeps that of the first"
                )
        number += 1


def _kinds(frame: Any) -> dict[str, object]:
    return {
        "pixel format": frame.format.name.replace("yuvj", "yuv"),
        "colour transfer": int(frame.color_trc),
        "set of colour primaries": int(frame.color_primaries),
    }


_INCOMPLETE = "its data is incomplete there"
_FAILURES_IN_A_ROW = 16


def _decode_gap(decoder: Any, packet: Any) -> list[Any]:
    """What the decoder makes of an incomplete packet."""
    try:
        return list(decoder.decode(packet))
    except av.error.FFmpegError:
        return []


def _held_back(decoder: Any) -> list[Any]:
    """The frames that the decoder still holds."""
    try:
        return list(decoder.decode(None))
    except av.error.FFmpegError:
        return []
