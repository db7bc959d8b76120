"""Writing restored frames: a video in segments, a folder of PNG frames, or one image."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from unsmear.errors import OutputError, UsageError
from unsmear.files import write_whole
from unsmear.restore.comparison import ComparedImage, side_by_side
from unsmear.restore.destination import (
    OutputKind,
    comparison_path,
    numbered_frames,
    placed_frames,
    refuse_foreign_frames,
)
from unsmear.restore.options import Options
from unsmear.restore.resume import WorkFolder
from unsmear.restore.timerange import TimeRange
from unsmear.video import (
    Encoding,
    Frame,
    FrameFolderWriter,
    SegmentWriter,
    VideoInfo,
    choose_encoding,
    eight_bit,
    join_segments,
)
from unsmear.video.images import gray_of_rgb, write_png
from unsmear.video.probe import DEFAULT_RATE


class Sink(Protocol):
    """Takes frames segment by segment; nothing shows at the output before ``finish``."""

    def begin_segment(self, number: int) -> None: ...

    def write(self, frame: Frame, restored: np.ndarray) -> None: ...

    def end_segment(self) -> None: ...

    def abort(self) -> None: ...

    def finish(self, segments: int) -> list[str]:
        """Put the output in place; returns notes, one line each."""


def make_sink(
    kind: OutputKind, output: Path, info: VideoInfo, work: WorkFolder, options: Options, part: TimeRange
) -> tuple[Sink, list[str]]:
    """The sink for an output, and what is to be said about the choice. Nothing is written yet.

    Raises:
        UsageError: the encoding options cannot be met, or the container or image format is unknown.
    """
    notes: list[str] = []
    sink: Sink
    gray = info.pixel_format.startswith("gray")
    if kind == "frames":
        sink = FramesSink(work, output, gray)
    elif kind == "image":
        sink = ImageSink(output, gray)
        if options.compare:
            sink = ComparedImage(sink, ImageSink(comparison_path(output, kind), gray))
        return sink, notes
    else:
        encoding = choose_encoding(
            info, codec=options.codec, crf=options.crf, pix_fmt=options.pix_fmt, container_suffix=output.suffix
        )
        notes += [encoding.note] if encoding.note else []
        notes += _chosen_for_frames(info, encoding, options)
        sink = VideoSink(work.segment, info, encoding, output, part)
    if options.compare:
        sink = WithComparison(sink, work, info, comparison_path(output, kind), part)
    return sink, notes


def _chosen_for_frames(info: VideoInfo, encoding: Encoding, options: Options) -> list[str]:
    """What became of a folder of frames that nobody decided: it has neither a codec nor a frame rate of its own."""
    open_ones = [name for name in ("codec", "pix_fmt", "fps") if getattr(options, name) is None]
    if info.kind != "frames" or not open_ones:
        return []
    rate = float(info.frame_rate or DEFAULT_RATE)
    others = ", ".join(f"`{name}`" for name in open_ones)
    return [f"the frames become {encoding.codec} {encoding.pixel_format} at {rate:g} frames/s; for others see {others}"]


class VideoSink:
    """Segments in the working folder, joined with the source's other streams at the end.

    Args:
        segment: path of a segment by its number.
        info: of the source, with the size of the frames to come.
        encoding: of the segments.
        output: the finished file.
        part: what of the source is restored.
    """

    def __init__(
        self, segment: Callable[[int], Path], info: VideoInfo, encoding: Encoding, output: Path, part: TimeRange
    ):
        self.segment, self.info, self.encoding, self.output, self.part = segment, info, encoding, output, part
        self.writer: SegmentWriter | None = None

    def begin_segment(self, number: int) -> None:
        self.writer = SegmentWriter(self.segment(number), self.info, self.encoding, self.info.width, self.info.height)

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        assert self.writer is not None
        pts = frame.index if frame.pts is None else frame.pts  # folders of frames have a time base of one frame
        self.writer.write(restored, pts, frame.duration)

    def end_segment(self) -> None:
        assert self.writer is not None
        self.writer.close()
        self.writer = None

    def abort(self) -> None:
        if self.writer is not None:
            self.writer.abort()
            self.writer = None

    def finish(self, segments: int) -> list[str]:
        paths = [self.segment(i) for i in range(segments)]
        source = self.info.path if self.info.kind == "video" else None
        return join_segments(source, paths, self.output, start_s=self.part.start_s, end_s=self.part.end_s).notes


class WithComparison:
    """Another sink, and beside it a video of before | after with the same timing.

    Deep sources are compared in 8 bits: every player shows that.
    """

    def __init__(self, inner: Sink, work: WorkFolder, info: VideoInfo, output: Path, part: TimeRange):
        self.inner, self.output = inner, output
        self.made = work.path / "compare.mp4"
        wide = replace(info, width=info.width * 2)
        flat = replace(wide, bit_depth=8, pixel_format="yuv420p")
        encoding = choose_encoding(flat, codec="libx264", crf=18, container_suffix=".mp4")
        self.video = VideoSink(work.comparison, wide, encoding, self.made, part)

    def begin_segment(self, number: int) -> None:
        self.inner.begin_segment(number)
        self.video.begin_segment(number)

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        self.inner.write(frame, restored)
        self.video.write(frame, side_by_side(frame.rgb, restored))

    def end_segment(self) -> None:
        self.inner.end_segment()
        self.video.end_segment()

    def abort(self) -> None:
        self.inner.abort()
        self.video.abort()

    def finish(self, segments: int) -> list[str]:
        self.video.finish(segments)
        notes = self.inner.finish(segments)
        try:
            self.made.replace(self.output)
        except OSError as error:
            raise OutputError(f"{self.output} cannot be written ({error.strerror}); choose another `output`") from None
        return notes


class FramesSink:
    """PNG frames in the working folder, moved into place when all are there.

    Args:
        gray: the frames of a gray source, whose colours are equal but for what a model made of them.
    """

    def __init__(self, work: WorkFolder, output: Path, gray: bool = False):
        self.folder, self.output, self.gray = work.frames, output, gray

    def begin_segment(self, number: int) -> None:
        self.writer = FrameFolderWriter(self.folder, marked=True)

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        self.writer.write(frame.index, gray_of_rgb(restored) if self.gray else restored)

    def end_segment(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def finish(self, segments: int) -> list[str]:
        """Frames of an earlier run are replaced; whatever else lies in the output folder stays.

        Which frames there are to be is noted before the first one is moved: a run that is stopped meanwhile leaves
        what a second one needs to move the rest.
        """
        del segments
        noted = placed_frames(self.output)
        try:
            if not self.output.exists():
                self.folder.replace(self.output)
                return []
            refuse_foreign_frames(self.output)
            if not noted.exists():
                write_whole(noted, json.dumps([path.name for path in numbered_frames(self.folder)]).encode())
            for new in numbered_frames(self.folder):
                new.replace(self.output / new.name)
            kept = set(json.loads(noted.read_bytes()))
            for old in numbered_frames(self.output):
                if old.name not in kept:
                    old.unlink()
        except OSError as error:
            raise OutputError(f"{self.output} cannot be written ({error.strerror}); choose another `output`") from None
        return []


class ImageSink:
    """One image, lossless for PNG and TIFF, at high quality else.

    Args:
        gray: of a gray source.

    Raises:
        UsageError: no image of this format can be written.
    """

    QUALITY = {  # noqa: RUF012
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 97],
        ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 97],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, 97],
    }
    DEEP = (".png", ".tif", ".tiff")

    def __init__(self, output: Path, gray: bool = False):
        self.output, self.suffix, self.gray = output, output.suffix.lower(), gray
        self.image: np.ndarray | None = None
        self._encoded(np.zeros((1, 1, 3), np.uint8))

    def begin_segment(self, number: int) -> None:
        pass

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        del frame
        self.image = gray_of_rgb(restored) if self.gray else restored

    def end_segment(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def finish(self, segments: int) -> list[str]:
        del segments
        assert self.image is not None
        image, notes = self.image, []
        if self.suffix == ".png":
            write_png(self.output, image)
            return []
        if image.dtype == np.uint16 and self.suffix not in self.DEEP:
            image = eight_bit(image)
            notes.append(f"{self.suffix} holds 8 bits a channel; choose a .png output to keep 16")
        write_whole(self.output, self._encoded(image))
        return notes

    def _encoded(self, image: np.ndarray) -> bytes:
        try:
            bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            done, data = cv2.imencode(self.suffix, bgr, self.QUALITY.get(self.suffix, []))
        except cv2.error:
            done = False
        if not done:
            raise UsageError(f"{self.output}: {self.suffix} is no image format that can be written; use .png")
        return data.tobytes()
