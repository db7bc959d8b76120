"""Where restored frames go: a video in segments, a folder of PNG frames, or one image."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from unsmear.errors import OutputError
from unsmear.restore.work import WorkFolder
from unsmear.video import (
    Encoding,
    Frame,
    FrameFolderWriter,
    SegmentWriter,
    VideoInfo,
    choose_encoding,
    join_segments,
)
from unsmear.video.images import write_png, write_whole


class Sink(Protocol):
    """Takes frames segment by segment; nothing shows at the output before ``finish``."""

    def begin_segment(self, number: int) -> None: ...

    def write(self, frame: Frame, restored: np.ndarray) -> None: ...

    def end_segment(self) -> None: ...

    def abort(self) -> None: ...

    def finish(self, segments: int, start_s: float | None, end_s: float | None) -> list[str]:
        """Put the output in place; returns notes, one line each."""


class VideoSink:
    """Segments in the working folder, joined with the source's other streams at the end."""

    def __init__(self, work: WorkFolder, info: VideoInfo, encoding: Encoding, output: Path):
        self.work, self.info, self.encoding, self.output = work, info, encoding, output
        self.writer: SegmentWriter | None = None

    def begin_segment(self, number: int) -> None:
        self.writer = SegmentWriter(
            self.work.segment(number), self.info, self.encoding, self.info.width, self.info.height
        )

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        assert self.writer is not None
        self.writer.write(restored, frame.pts, frame.duration)

    def end_segment(self) -> None:
        assert self.writer is not None
        self.writer.close()
        self.writer = None

    def abort(self) -> None:
        if self.writer is not None:
            self.writer.abort()
            self.writer = None

    def finish(self, segments: int, start_s: float | None, end_s: float | None) -> list[str]:
        paths = [self.work.segment(i) for i in range(segments)]
        source = self.info.path if self.info.kind == "video" else None
        return join_segments(source, paths, self.output, start_s=start_s, end_s=end_s).notes


class FramesSink:
    """PNG frames in the working folder, renamed into place when all are there."""

    def __init__(self, work: WorkFolder, output: Path):
        self.folder, self.output, self.work = work.path / "frames", output, work
        self.writer = FrameFolderWriter(self.folder)

    def begin_segment(self, number: int) -> None:
        pass

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        self.writer.write(frame.index, restored)

    def end_segment(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def finish(self, segments: int, start_s: float | None, end_s: float | None) -> list[str]:
        del segments, start_s, end_s
        try:
            if self.output.exists():
                shutil.rmtree(self.output)
            self.folder.replace(self.output)
        except OSError as error:
            raise OutputError(f"{self.output} cannot be written ({error.strerror}): choose another -o") from None
        return []


class ImageSink:
    """One image, lossless for PNG and TIFF, at high quality else."""

    def __init__(self, output: Path):
        self.output = output
        self.image: np.ndarray | None = None

    def begin_segment(self, number: int) -> None:
        pass

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        del frame
        self.image = restored

    def end_segment(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def finish(self, segments: int, start_s: float | None, end_s: float | None) -> list[str]:
        del segments, start_s, end_s
        assert self.image is not None
        suffix = self.output.suffix.lower()
        if suffix == ".png":
            write_png(self.output, self.image)
            return []
        image, notes = self.image, []
        if image.dtype == np.uint16 and suffix not in (".tif", ".tiff"):
            image = (image >> 8).astype(np.uint8)
            notes.append(f"{suffix} holds 8 bits a channel; choose a .png output to keep 16")
        quality = {
            ".jpg": cv2.IMWRITE_JPEG_QUALITY,
            ".jpeg": cv2.IMWRITE_JPEG_QUALITY,
            ".webp": cv2.IMWRITE_WEBP_QUALITY,
        }
        options = [quality[suffix], 97] if suffix in quality else []
        try:
            done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        except cv2.error:
            done = False
        if not done:
            raise OutputError(f"{self.output}: {suffix} is no image format that can be written; use .png")
        write_whole(self.output, data.tobytes())
        return notes


class WithComparison:
    """Another sink, and beside it a video of before | after with the same timing."""

    def __init__(self, inner: Sink, work: WorkFolder, info: VideoInfo, output: Path):
        self.inner, self.work, self.output = inner, work, output
        self.width = info.width * 2
        self.info = replace(info, width=self.width)
        self.source = info.path if info.kind == "video" else None
        # Deep sources are compared in 8 bits: every player shows that.
        flat = replace(self.info, bit_depth=8, pixel_format="yuv420p")
        self.encoding = choose_encoding(flat, codec="libx264", crf=18, container_suffix=".mp4")
        self.writer: SegmentWriter | None = None

    def begin_segment(self, number: int) -> None:
        self.inner.begin_segment(number)
        path = self.work.comparison(number)
        self.writer = SegmentWriter(path, self.info, self.encoding, self.width, self.info.height)

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        self.inner.write(frame, restored)
        assert self.writer is not None
        both = np.concatenate([frame.rgb, restored], 1)
        if both.dtype == np.uint16:
            both = (both >> 8).astype(np.uint8)
        self.writer.write(both, frame.pts, frame.duration)

    def end_segment(self) -> None:
        self.inner.end_segment()
        assert self.writer is not None
        self.writer.close()
        self.writer = None

    def abort(self) -> None:
        self.inner.abort()
        if self.writer is not None:
            self.writer.abort()
            self.writer = None

    def finish(self, segments: int, start_s: float | None, end_s: float | None) -> list[str]:
        paths = [self.work.comparison(i) for i in range(segments)]
        join_segments(self.source, paths, self.output, start_s=start_s, end_s=end_s)
        return self.inner.finish(segments, start_s, end_s)


def comparison_path(output: Path) -> Path:
    """``OUT.compare.mp4`` beside the output."""
    return output.with_name(f"{output.stem if output.suffix else output.name}.compare.mp4")
