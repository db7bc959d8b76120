"""Writing restored frames: a video in segments, a folder of PNG frames, or one image."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

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
    VideoReader,
    choose_encoding,
    eight_bit,
    join_segments,
    upright,
)
from unsmear.video.alpha import is_transparent
from unsmear.video.animated import ANIMATIONS, lossless_encoding, write_animation
from unsmear.video.fields import PROGRESSIVE
from unsmear.video.images import gray_of_rgb, write_png
from unsmear.video.pictures import encode_picture, holds_alpha, is_written, not_held
from unsmear.video.probe import DEFAULT_RATE
from unsmear.video.rehearsal import Plan, plan_join
from unsmear.video.sidedata import CAPTIONS, left_out
from unsmear.video.upright import upright_info

ALPHA_KEPT = "the alpha channel is kept as it is"


class Sink(Protocol):
    """Takes frames segment by segment; nothing shows at the output before ``finish``."""

    def begin_segment(self, number: int) -> None: ...

    def write(self, frame: Frame, restored: np.ndarray) -> None: ...

    def end_segment(self) -> None: ...

    def abort(self) -> None: ...

    def finish(self, segments: int) -> list[str]:
        """Put the output in place; returns notes, one line each."""


def make_sink(
    kind: OutputKind, output: Path, reader: VideoReader, work: WorkFolder, options: Options, part: TimeRange
) -> tuple[Sink, list[str]]:
    """The sink for an output, and what is to be said about the choice. Nothing is written there yet.

    Raises:
        UsageError: the encoding options cannot be met, or the container or image format is unknown.
    """
    info, notes = reader.info, list[str]()
    sink: Sink
    if kind == "frames":
        sink = FramesSink(work, output, info)
        notes += [ALPHA_KEPT] if info.alpha else []
        notes += [left_out(kind) for kind in (info.side_data if info.kind == "video" else ())]
    elif kind == "image":
        sink = ImageSink(output, info)
        if options.compare:
            sink = ComparedImage(sink, ImageSink(comparison_path(output, kind), replace(info, bit_depth=8)))
        return sink, notes
    elif output.suffix.lower() in ANIMATIONS:
        sink = AnimationSink(work.segment, info, output, part, options, reader)
        notes += [ALPHA_KEPT] if info.alpha else []
    else:
        encoding = choose_encoding(
            info, codec=options.codec, crf=options.crf, pix_fmt=options.pix_fmt, container_suffix=output.suffix
        )
        notes += [ALPHA_KEPT] if info.alpha and encoding.has_alpha else []
        notes += [encoding.note] if encoding.note else []
        notes += _chosen_for_frames(info, encoding, options)
        sink = VideoSink(work.segment, info, encoding, output, part, reader, plan_join(info, encoding, output))
    if kind == "video" and info.kind != "video":
        notes += [left_out(kind) for kind in info.side_data]
    if options.compare:
        sink = WithComparison(sink, work, reader, comparison_path(output, kind), part)
    return sink, notes


def _chosen_for_frames(info: VideoInfo, encoding: Encoding, options: Options) -> list[str]:
    """What became of a folder of frames that nobody decided: it has neither a codec nor a frame rate of its own."""
    open_ones = [name for name in ("codec", "pix_fmt", "fps") if getattr(options, name) is None]
    if info.container:  # a file of pictures with times of its own
        open_ones = [name for name in open_ones if name != "fps"]
    if info.kind != "frames" or not open_ones:
        return []
    rate = float(info.frame_rate or DEFAULT_RATE)
    others = ", ".join(f"`{name}`" for name in open_ones)
    return [f"the frames become {encoding.codec} {encoding.pixel_format} at {rate:g} frames/s; for others see {others}"]


def is_gray(info: VideoInfo) -> bool:
    """Whether the colours of a source are equal but for what a model makes of them."""
    return info.pixel_format.startswith("gray")


class VideoSink:
    """Segments in the working folder, joined with the source's other streams at the end.

    Args:
        segment: path of a segment by its number.
        info: of the source, with the size of the frames to come.
        encoding: of the segments.
        output: the finished file.
        part: what of the source is restored.
        reader: of the source, where its clock is known when all frames are read.
        plan: of the source's other streams; None: it is made in the end.
    """

    def __init__(
        self,
        segment: Callable[[int], Path],
        info: VideoInfo,
        encoding: Encoding,
        output: Path,
        part: TimeRange,
        reader: VideoReader,
        plan: Plan | None = None,
    ):
        self.segment, self.info, self.encoding, self.output, self.part = segment, info, encoding, output, part
        self.reader, self.plan = reader, plan
        self.writer: SegmentWriter | None = None
        self.lost: list[str] = []

    def begin_segment(self, number: int) -> None:
        self.writer = SegmentWriter(self.segment(number), self.info, self.encoding, self.info.width, self.info.height)

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        assert self.writer is not None
        pts = frame.index if frame.pts is None else frame.pts  # folders of frames have a time base of one frame
        self.writer.write(restored, pts, frame.duration, frame)
        if frame.carried is not None and frame.carried.captions and not self.encoding.takes_captions:
            self.lost = [left_out(CAPTIONS)]
        if (
            frame.alpha is not None
            and not self.encoding.has_alpha
            and not self.info.alpha
            and is_transparent(frame.alpha)
        ):
            self.lost = ["the alpha channel is dropped"]

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
        part = self.part
        report = join_segments(
            source,
            paths,
            self.output,
            info=self.info,
            plan=self.plan,
            start_s=part.start_s,
            end_s=part.end_s,
            restarts=self.reader.restarts,
        )
        return self.lost + report.notes


class AnimationSink(VideoSink):
    """GIF, APNG and animated WebP: lossless segments, from which the animation is made at the end.

    Raises:
        UsageError: options of an encoder, which such files do not have.
    """

    def __init__(
        self,
        segment: Callable[[int], Path],
        info: VideoInfo,
        output: Path,
        part: TimeRange,
        options: Options,
        reader: VideoReader,
    ):
        for name in ("codec", "crf", "pix_fmt"):
            if getattr(options, name) is not None:
                raise UsageError(f"`{name}`: {output.suffix} files leave no choice; name a video file as `output`")
        super().__init__(segment, info, lossless_encoding(info, output.suffix.lower()), output, part, reader)

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        eight = restored if self.encoding.pixel_format == "rgb48be" else eight_bit(restored)
        super().write(frame, eight)

    def finish(self, segments: int) -> list[str]:
        paths = [self.segment(i) for i in range(segments)]
        return write_animation(self.info, paths, self.output)


class WithComparison:
    """Another sink, and beside it a video of before | after, both upright, with the same timing.

    Deep sources are compared in 8 bits: every player shows that.
    """

    def __init__(self, inner: Sink, work: WorkFolder, reader: VideoReader, output: Path, part: TimeRange):
        self.inner, self.output, info = inner, output, reader.info
        self.made = work.path / "compare.mp4"
        self.source = info
        straight = upright_info(info)
        flat = replace(
            straight,
            width=2 * straight.width,
            bit_depth=8,
            pixel_format="yuv420p",
            alpha=False,
            field_order=PROGRESSIVE,
            side_data={},
        )
        encoding = choose_encoding(flat, codec="libx264", crf=18, container_suffix=".mp4")
        self.video = VideoSink(work.comparison, flat, encoding, self.made, part, reader)

    def begin_segment(self, number: int) -> None:
        self.inner.begin_segment(number)
        self.video.begin_segment(number)

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        self.inner.write(frame, restored)
        both = side_by_side(upright(frame.rgb, self.source), upright(restored, self.source))
        self.video.write(replace(frame, alpha=None, carried=None), both)

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
    """Upright PNG frames in the working folder, moved into place when all are there; gray ones of a gray source."""

    def __init__(self, work: WorkFolder, output: Path, info: VideoInfo):
        self.folder, self.output, self.info = work.frames, output, info
        self.lost: set[str] = set()

    def begin_segment(self, number: int) -> None:
        self.writer = FrameFolderWriter(self.folder, marked=True)

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        pixels = upright(restored, self.info)
        alpha = None if frame.alpha is None else upright(frame.alpha, self.info)
        if is_gray(self.info) and alpha is None:
            pixels = gray_of_rgb(pixels)
        self.writer.write(frame.index, pixels, alpha, frame.tags)
        self.lost |= {left_out(kind) for kind in frame.tags.left_out(".png")}

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
                return sorted(self.lost)
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
        return sorted(self.lost)


class ImageSink:
    """One image, lossless or at high quality.

    Args:
        output: the file, whose ending says the format.
        info: of the source, whose depth is kept, and whether it is gray.

    Raises:
        UsageError: no image of this format can be written.
    """

    def __init__(self, output: Path, info: VideoInfo):
        self.output, self.suffix, self.bits = output, output.suffix.lower(), info.bit_depth
        self.gray = is_gray(info)
        self.frame: Frame | None = None
        if not is_written(self.suffix):
            raise UsageError(f"{self.output}: {self.suffix} is no image format that can be written; use .png")

    def begin_segment(self, number: int) -> None:
        pass

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        self.frame = replace(frame, rgb=restored)

    def end_segment(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def finish(self, segments: int) -> list[str]:
        del segments
        assert self.frame is not None
        image, alpha, tags = self.frame.rgb, self.frame.alpha, self.frame.tags
        if self.gray and alpha is None:
            image = gray_of_rgb(image)
        if self.suffix == ".png":
            write_png(self.output, image, alpha, tags)
        else:
            if image.dtype == np.uint16 and not is_written(self.suffix, self.bits):
                image, alpha = eight_bit(image), None if alpha is None else eight_bit(alpha)
            write_whole(self.output, encode_picture(image, self.suffix, self.bits, alpha, tags))
        bits = self.bits if self.frame.rgb.dtype == np.uint16 else 8
        kept = [ALPHA_KEPT] if is_transparent(alpha) and holds_alpha(self.suffix) else []
        return kept + not_held(self.suffix, bits, is_transparent(alpha), tags)
