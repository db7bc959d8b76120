"""Frames of a video, a folder of frames or an image, one at a time and in order."""

import struct
from collections.abc import Container, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np

from unsmear.errors import DamagedVideo, UnsupportedVideo
from unsmear.video.colour import ToRgb, luma_of_rgb
from unsmear.video.ffmpeg import main_video_stream, open_input, reason
from unsmear.video.frame import Frame
from unsmear.video.images import list_images, read_image
from unsmear.video.probe import DEFAULT_RATE, VideoInfo, probe
from unsmear.video.raw import RawFormat, frame_bytes, walk_y4m


def open_video(path: Path | str, raw: RawFormat | None = None, frame_rate: Fraction | None = None) -> "VideoReader":
    """Open a video, an image or a folder of images for reading.

    ``raw`` says what a ``.yuv`` file holds, instead of its name; ``frame_rate`` is that of a folder of images, and
    means nothing for all else. Raises UnsupportedVideo or DamagedVideo as ``probe`` does.
    """
    return VideoReader(path, raw, frame_rate)


class VideoReader:
    """Streams frames in presentation order; memory does not depend on the length.

    Iterating starts at the first frame, every time. Use it as a context manager, or call ``close``.
    """

    def __init__(self, path: Path | str, raw: RawFormat | None = None, frame_rate: Fraction | None = None) -> None:
        self.info: VideoInfo = probe(path, raw)
        if frame_rate is not None and self.info.kind == "frames":
            self.info = replace(self.info, frame_rate=frame_rate, time_base=1 / frame_rate)
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

        Others are decoded, as later ones need them, but not converted. Raises DamagedVideo, naming
        the frame reached, where the decoder reports an error or the file ends before it should; and
        UnsupportedVideo where the size of the picture changes.
        """
        if self.info.kind == "video":
            return self._video_frames(first, last, wanted)
        return self._image_frames(first, last, wanted)

    def _image_frames(self, first: int, last: int | None, wanted: Container[int] | None) -> Iterator[Frame]:
        info = self.info
        paths = [info.path] if info.kind == "image" else list_images(info.path)
        deep = info.bit_depth > 8
        for index, path in enumerate(paths[:last]):
            if index < first or (wanted is not None and index not in wanted):
                continue
            rgb = read_image(path)
            if rgb.shape[:2] != (info.height, info.width):
                raise UnsupportedVideo(
                    f"{path}: is {rgb.shape[1]}x{rgb.shape[0]} where the first frame is "
                    f"{info.width}x{info.height}; all frames of a folder must have one size"
                )
            if (rgb.dtype == np.uint16) != deep:
                raise UnsupportedVideo(
                    f"{path}: has {rgb.dtype.itemsize * 8} bits where the first frame has {info.bit_depth}; "
                    "all frames of a folder must have one bit depth"
                )
            yield Frame(index, None, float(index / (info.frame_rate or DEFAULT_RATE)), rgb, luma_of_rgb(rgb))

    def _video_frames(self, first: int, last: int | None, wanted: Container[int] | None) -> Iterator[Frame]:
        info = self.info
        container = open_input(info.path, info.raw)
        self._open.append(container)
        try:
            stream = main_video_stream(container, info.path)
            stream.thread_type = "AUTO"
            convert = ToRgb(deep=info.bit_depth > 8, siting=info.chroma_siting)
            clock = _Clock(stream.time_base, info.frame_rate)
            index = 0
            for frame in _decoded(container, stream, info):
                if last is not None and index >= last:
                    return
                if (frame.width, frame.height) != (info.width, info.height):
                    raise UnsupportedVideo(
                        f"{info.path}: frame {index} is {frame.width}x{frame.height} where the first is "
                        f"{info.width}x{info.height}; split the video where its size changes"
                    )
                pts = clock.place(frame.pts)
                if index >= first and (wanted is None or index in wanted):
                    if info.raw is not None:
                        frame.colorspace = info.colorspace
                    rgb, luma = convert(frame)
                    seconds = float(pts * clock.time_base)
                    yield Frame(index, pts, seconds, rgb, luma, frame.duration or None)
                index += 1
            if last is None:
                _check_end(stream, info, index)
        finally:
            if container in self._open:
                self._open.remove(container)
                container.close()


class _Clock:
    """Gives each frame a time of its own: the stream's, repaired where it is missing or goes back."""

    def __init__(self, time_base: Fraction | None, rate: Fraction | None) -> None:
        self.time_base = time_base or Fraction(1, 90000)
        self.step = max(1, round(1 / ((rate or DEFAULT_RATE) * self.time_base)))
        self.previous: int | None = None

    def place(self, pts: int | None) -> int:
        """The time of the next frame in ``time_base`` units, later than that of the one before."""
        if pts is None:
            pts = 0 if self.previous is None else self.previous + self.step
        elif self.previous is not None and pts <= self.previous:
            pts = self.previous + 1
        self.previous = pts
        return pts


def _decoded(container: Any, stream: Any, info: VideoInfo) -> Iterator[Any]:
    """Every decodable frame. Errors before the first one are passed over: broadcasts begin mid-picture.

    A packet whose data is incomplete is the end of a file that was cut, unless more packets follow: then it
    is a gap, as between the parts of a recording, and the decoder makes of it what it can.
    """
    count = 0
    failure: str | None = None
    packets = container.demux(stream)
    incomplete: Any = None
    while failure is None:
        frames: list[Any] = []
        packet = None
        try:
            packet = next(packets, None)
            if packet is None:
                break
            if incomplete is not None and not packet.size:
                failure = "its data is incomplete there"
                continue
            if incomplete is not None:
                frames = _decode_gap(incomplete)
                incomplete = None
            if packet.is_corrupt and packet.size and count:
                incomplete = packet
            else:
                frames += packet.decode()
        except av.error.EOFError:
            break
        except av.error.FFmpegError as error:
            if count or packet is None or not packet.size:
                failure = reason(error)
        for frame in frames:
            count += 1
            yield frame
    if failure is not None:
        for frame in _held_back(stream):
            count += 1
            yield frame
        raise DamagedVideo(_cut(info, count, failure))
    if count == 0:
        raise DamagedVideo(f"{info.path}: not one frame can be decoded; the video is damaged")


def _decode_gap(packet: Any) -> list[Any]:
    """What the decoder makes of an incomplete packet."""
    try:
        return list(packet.decode())
    except av.error.FFmpegError:
        return []


def _held_back(stream: Any) -> list[Any]:
    """The frames that the decoder still holds after an error."""
    try:
        return list(stream.decode(None))
    except av.error.FFmpegError:
        return []


def _check_end(stream: Any, info: VideoInfo, frames: int) -> None:
    """Raise DamagedVideo where the container tells that the file should be longer."""
    size = info.path.stat().st_size
    names = info.container.split(",")
    expected = 0
    if info.container == "yuv4mpegpipe":
        each = frame_bytes(info.pixel_format, info.width, info.height)
        left_over = walk_y4m(info.path, each).left_over_bytes
        expected = max(size + 1, size - left_over + len(b"FRAME\n") + each) if left_over else 0
    elif info.raw is not None:
        expected = info.raw.frame_bytes * (frames + 1) if info.frames != frames else 0
    elif "mov" in names:
        entries = stream.index_entries
        tail = [entries[i] for i in range(max(0, len(entries) - 64), len(entries))]
        expected = max((entry.pos + entry.size for entry in tail), default=0)
    elif "avi" in names or "matroska" in names:
        with info.path.open("rb") as file:
            head = file.read(4096)
        expected = _riff_bytes(head) if "avi" in names else _matroska_bytes(head)
    if expected > size:
        raise DamagedVideo(_cut(info, frames, f"{size} of at least {expected} bytes are there"))


def _riff_bytes(head: bytes) -> int:
    """The end of the first RIFF chunk; 0 where it is not stated."""
    return 8 + int(struct.unpack("<I", head[4:8])[0]) if head[:4] == b"RIFF" else 0


def _matroska_bytes(head: bytes) -> int:
    """The end of the Segment that holds everything in a Matroska file; 0 where it is not stated."""
    try:
        size, begin = _vint(head, 4)  # after the identifier of the EBML header
        segment = begin + size
        if head[segment : segment + 4] != b"\x18\x53\x80\x67":
            return 0
        size, begin = _vint(head, segment + 4)
    except IndexError:
        return 0
    return begin + size if size else 0


def _vint(data: bytes, at: int) -> tuple[int, int]:
    """An EBML number at ``at`` and where it ends; 0 for the reserved "unknown" (all ones)."""
    length = 9 - data[at].bit_length()
    if length > 8 or at + length > len(data):
        raise IndexError
    mask = (1 << 7 * length) - 1
    value = int.from_bytes(data[at : at + length], "big") & mask
    return (0 if value == mask else value), at + length


def _cut(info: VideoInfo, frames: int, why: str) -> str:
    return (
        f"{info.path}: damaged after frame {frames - 1} ({frames} frames read): {why}; "
        "copy or download it again, or restore the part before, up to `end_s`"
    )
