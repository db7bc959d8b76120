"""Writing restored frames: a video in segments, a folder of PNG frames, or one image."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from unsmear.errors import OutputError, UsageError
from unsmear.files import write_whole
from unsmear.restore.destination import OutputKind, comparison_path, numbered_frames
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
from unsmear.video.animated import ANIMATIONS, lossless_encoding, write_animation
from unsmear.video.images import write_png
from unsmear.video.pictures import encode_picture, is_written


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
    if kind == "frames":
        sink = FramesSink(work, output)
    elif kind == "image":
        sink = ImageSink(output, info.bit_depth)
    elif output.suffix.lower() in ANIMATIONS:
        sink = AnimationSink(work.segment, info, output, part, options)
        notes += [sink.encoding.note] if sink.encoding.note else []
    else:
        encoding = choose_encoding(
            info, codec=options.codec, crf=options.crf, pix_fmt=options.pix_fmt, container_suffix=output.suffix
        )
        notes += [encoding.note] if encoding.note else []
        sink = VideoSink(work.segment, info, encoding, output, part)
    if options.compare:
        sink = WithComparison(sink, work, info, comparison_path(output), part)
    return sink, notes


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


class AnimationSink(VideoSink):
    """APNG and animated WebP: lossless segments, from which the animation is made at the end.

    Raises:
        UsageError: options of an encoder, which such files do not have.
    """

    def __init__(
        self, segment: Callable[[int], Path], info: VideoInfo, output: Path, part: TimeRange, options: Options
    ):
        for name in ("codec", "crf", "pix_fmt"):
            if getattr(options, name) is not None:
                raise UsageError(f"`{name}`: {output.suffix} files leave no choice; name a video file as `output`")
        super().__init__(segment, info, lossless_encoding(info, output.suffix.lower()), output, part)
        self.last_duration: int | None = None

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        eight = restored if self.encoding.pixel_format == "rgb48be" else eight_bit(restored)
        super().write(frame, eight)
        self.last_duration = frame.duration

    def finish(self, segments: int) -> list[str]:
        paths = [self.segment(i) for i in range(segments)]
        write_animation(self.info, paths, self.output, self.last_duration)
        return []


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
        both = np.concatenate([frame.rgb, restored], 1)
        self.video.write(frame, eight_bit(both))

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
    """PNG frames in the working folder, moved into place when all are there."""

    def __init__(self, work: WorkFolder, output: Path):
        self.folder, self.output = work.frames, output

    def begin_segment(self, number: int) -> None:
        self.writer = FrameFolderWriter(self.folder)

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        self.writer.write(frame.index, restored)

    def end_segment(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def finish(self, segments: int) -> list[str]:
        """Frames of an earlier run are replaced; whatever else lies in the output folder stays."""
        del segments
        try:
            if not self.output.exists():
                self.folder.replace(self.output)
                return []
            for old in numbered_frames(self.output):
                old.unlink()
            for new in numbered_frames(self.folder):
                new.replace(self.output / new.name)
        except OSError as error:
            raise OutputError(f"{self.output} cannot be written ({error.strerror}); choose another `output`") from None
        return []


class ImageSink:
    """One image, lossless or at high quality.

    Args:
        output: the file, whose ending says the format.
        bits: of a sample of the source.

    Raises:
        UsageError: no image of this format can be written.
    """

    def __init__(self, output: Path, bits: int):
        self.output, self.suffix, self.bits = output, output.suffix.lower(), bits
        self.image: np.ndarray | None = None
        if not is_written(self.suffix):
            raise UsageError(f"{self.output}: {self.suffix} is no image format that can be written; use .png")

    def begin_segment(self, number: int) -> None:
        pass

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        del frame
        self.image = restored

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
        if image.dtype == np.uint16 and not is_written(self.suffix, self.bits):
            image = eight_bit(image)
            notes.append(f"{self.suffix} holds 8 bits a channel; choose a .png output to keep {self.bits}")
        write_whole(self.output, encode_picture(image, self.suffix, self.bits))
        return notes
