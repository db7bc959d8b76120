"""One segment of the restored video: a run of frames that begins with a key frame, in a file of its own.

The output is always encoded in segments and joined by remuxing (``join``), so that a job that was killed
resumes after its last complete segment and gives the same file as one that was not.

The encoder is fed frame numbers, not times: any codec then accepts any time base, and its reordering comes
back as numbers from which exact times follow. Times are stored from 0 on; the file's metadata holds what to
add and the unit.
"""

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import av.error
import numpy as np

from unsmear.errors import OutputError
from unsmear.files import WholeFile
from unsmear.video.alpha import needs_matroska
from unsmear.video.colour import FULL_RANGE, UNSPECIFIED, FromRgb, siting_of_output
from unsmear.video.encoding import Encoding, container_accepts, encoder_rate
from unsmear.video.ffmpeg import file_url, kept_scheduling, reason, silence_encoder_libraries
from unsmear.video.fields import is_interlaced
from unsmear.video.frame import Frame
from unsmear.video.probe import DEFAULT_RATE, VideoInfo
from unsmear.video.sidedata import dressed

ORIGIN_KEY = "UNSMEAR_ORIGIN"  # in capitals, as Matroska has it
_BT709 = 1
_MAX_DELAY = 16  # frames that an encoder may hold back to reorder
_LIMITED_RANGE = 1


class SegmentWriter:
    """Encodes consecutive frames into one segment file, which appears complete or not at all.

    Use it as a context manager: leaving by an exception removes what was written.
    """

    def __init__(self, path: Path | str, info: VideoInfo, encoding: Encoding, width: int, height: int) -> None:
        """Prepare to write ``path`` with frames of ``width`` × ``height``; ``info`` is the source's.

        Times are in ``info.time_base``, or 1/25 s for sources that have none (see ``segment_time_base``).
        """
        self.path = Path(path)
        self.width, self.height = width, height
        self.time_base = segment_time_base(info)
        self._file = WholeFile(self.path)
        self._encoding = encoding
        self._info = info
        rate = info.frame_rate or DEFAULT_RATE
        self._step = max(1, round(1 / (rate * self.time_base)))
        self._pts: list[int] = []
        self._durations: list[int | None] = []
        self._order = -_MAX_DELAY - 1
        self._container: Any = None
        self._stream: Any = None
        self._encoder_rate = encoder_rate(encoding.codec, info)
        colorspace, color_range = _target_colours(info, encoding.pixel_format)
        siting = siting_of_output(encoding.codec, info.chroma_siting)
        self._convert = FromRgb(encoding.pixel_format, colorspace, color_range, siting)
        self._colours = (colorspace, color_range)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, rgb: np.ndarray, pts: int | None, duration: int | None = None, source: Frame | None = None) -> None:
        """Append one frame: ``(H, W, 3)`` uint8 or uint16 (full 16-bit range), at ``pts``.

        ``pts`` and ``duration`` are in ``time_base`` units; without a ``pts`` the frame follows the one
        before at the average rate. ``pts`` must increase. Alpha, captions and the like are those of ``source``.
        Raises OutputError when the file cannot be written.
        """
        if rgb.shape != (self.height, self.width, 3):
            raise ValueError(f"expected a frame of {(self.height, self.width, 3)}, got {rgb.shape}")
        if pts is None:
            pts = self._pts[-1] + self._step if self._pts else 0
        if self._pts and pts <= self._pts[-1]:
            raise ValueError(f"pts must increase: {pts} after {self._pts[-1]}")
        try:
            if self._container is None:
                self._start(pts)
            frame = self._convert(rgb, source.alpha if source else None)
            if source is not None and source.carried is not None:
                frame = dressed(frame, source.carried)
            frame.colorspace, frame.color_range = self._colours  # some encoders write those of each frame
            frame.color_primaries, frame.color_trc = self._info.color_primaries, self._info.color_trc
            frame.pts, frame.time_base = len(self._pts), 1 / self._encoder_rate
            self._pts.append(pts)
            self._durations.append(duration)
            with kept_scheduling():
                self._mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError) as error:
            self.abort()
            raise OutputError(f"{self.path}: cannot be written ({reason(error)})") from error

    def close(self) -> None:
        """Finish the file and give it its name. Does nothing when no frame was written."""
        if self._container is None:
            return
        try:
            self._mux(self._stream.encode(None))
            self._container.close()
            self._container = None
            self._file.keep()
        except (av.error.FFmpegError, OSError) as error:
            self.abort()
            raise OutputError(f"{self.path}: cannot be written ({reason(error)})") from error

    def abort(self) -> None:
        """Drop what was written."""
        if self._container is not None:
            container, self._container = self._container, None
            with suppress(av.error.FFmpegError, OSError, ValueError):  # it is removed next
                container.close()
        self._file.drop()

    def _start(self, first_pts: int) -> None:
        silence_encoder_libraries()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        encoding, info = self._encoding, self._info
        format_name = segment_format(encoding)
        muxing = {"avoid_negative_ts": "disabled"}
        if format_name == "mov":
            muxing["movflags"] = "use_metadata_tags"
        self._container = av.open(file_url(self._file.partial), "w", format=format_name, container_options=muxing)
        self._container.metadata[ORIGIN_KEY] = f"{first_pts} {self.time_base}"
        stream = self._container.add_stream(encoding.codec, rate=self._encoder_rate)
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, encoding.pixel_format
        stream.time_base = self.time_base
        stream.options = dict(encoding.options)
        context = stream.codec_context
        context.time_base = 1 / self._encoder_rate
        context.thread_count = 0
        context.colorspace, context.color_range = self._colours
        context.color_primaries, context.color_trc = info.color_primaries, info.color_trc
        if is_interlaced(info.field_order):
            context.field_order = info.field_order
        if info.sample_aspect_ratio:
            context.sample_aspect_ratio = info.sample_aspect_ratio
        self._stream = stream

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            number = packet.pts
            self._order = self._decoding_number(packet.dts, number)
            packet.pts, packet.dts = self._time(number), self._time(self._order)
            packet.duration = self._duration(number)
            packet.time_base = self.time_base
            self._container.mux(packet)

    def _decoding_number(self, claimed: int | None, number: int) -> int:
        """The frame number at whose time a packet is decoded: the encoder's where it makes sense.

        x265 gives nonsense when it is flushed before its delay has filled.
        """
        if claimed is None or not self._order < claimed <= number:
            claimed = self._order + 1
        return min(claimed, number)

    def _time(self, number: int) -> int:
        """Stored time of frame ``number``; numbers before the first (decoding delay) count back from it."""
        return self._pts[number] - self._pts[0] if number >= 0 else number * self._step

    def _duration(self, number: int) -> int:
        if number + 1 < len(self._pts):
            return self._pts[number + 1] - self._pts[number]
        return self._durations[number] or self._step


def segment_format(encoding: Encoding) -> str:
    """FFmpeg's name of the container of segments: NUT keeps any time base and nearly any codec, MOV takes the rest.

    Matroska alone holds alpha that is beside the pictures, and has times in milliseconds, as files with such alpha do.
    """
    if needs_matroska(encoding.codec, encoding.pixel_format):
        return "matroska"
    return "nut" if container_accepts(".nut", encoding.codec) else "mov"


def segment_time_base(info: VideoInfo) -> Fraction:
    """The unit of the ``pts`` that ``SegmentWriter`` takes: the source's, or 1/25 s where it has none."""
    return info.time_base or 1 / DEFAULT_RATE


def _target_colours(info: VideoInfo, pixel_format: str) -> tuple[int, int]:
    """``(colorspace, color_range)`` of the output: the source's, or BT.709 limited when RGB becomes YUV."""
    form = av.VideoFormat(pixel_format)
    if form.is_rgb:
        return 0, FULL_RANGE
    if pixel_format.startswith("yuvj"):
        return (info.colorspace if info.colorspace else UNSPECIFIED), FULL_RANGE
    if av.VideoFormat(info.pixel_format).is_rgb or info.kind != "video":
        return _BT709, _LIMITED_RANGE
    return info.colorspace, info.color_range
