"""Extraction of the priors of a video or folder of frames to an archive, with an optional preview video."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av import library_versions

from unsmear.errors import DataLayoutError, OutputError
from unsmear.files import WholeFile
from unsmear.priors.archive import ArchiveWriter
from unsmear.priors.flow import MotionSource, make_source
from unsmear.priors.pictures import sheet
from unsmear.priors.prior import RESIDUAL_SCALE, Prior
from unsmear.priors.published import PublishedArrays
from unsmear.priors.settings import DEFAULTS, PriorSettings
from unsmear.priors.streams import stream
from unsmear.video import Frame, RawFormat, VideoInfo, VideoReader, eight_bit, open_video
from unsmear.video.ffmpeg import file_url

_PREVIEW_LONGEST_PX = 960  # of one of its panels


@dataclass(frozen=True)
class Extraction:
    """Result of :func:`extract`."""

    input: str
    output: str
    frames: int
    width: int
    height: int
    native_frames: int
    reason: str
    resets: int
    coverage: float
    """Mean over the frames with a predecessor, in [0, 1]."""
    motion_median_px: float
    """Median over cells, mean over the frames with a predecessor, pixels per frame."""
    residual_mean: float
    """Mean over the frames with a predecessor, luma levels."""
    seconds: float
    """Total wall time."""
    prior_seconds: float
    """Wall time of codec passes and residuals, without reading and writing."""
    costs: list[dict[str, Any]]
    """Costs of the two motion sources, forward and backward. That of ``mv`` is the whole work of the codec."""

    def as_dict(self) -> dict[str, Any]:
        """The fields of a report."""
        return asdict(self)


def extract(
    source: Path,
    archive: Path,
    settings: PriorSettings | PublishedArrays = DEFAULTS,
    *,
    preview: Path | None = None,
    overwrite: bool = False,
    workers: int = 2,
    progress: Callable[[int, int | None], None] | None = None,
    raw: RawFormat | None = None,
    find_source: Callable[[str], MotionSource] = make_source,
    provenance: Mapping[str, Any] | None = None,
) -> Extraction:
    """Write the priors of every frame of ``source`` to ``archive``, and optionally a preview video.

    Args:
        source: a video, an image or a folder of frames.
        archive: output file; it is written completely or not at all, as is ``preview``.
        settings: settings of the priors, or published arrays to store.
        preview: output video of frame, motion, residual and validity; None for none.
        overwrite: replace files that exist.
        workers: number of codec passes in parallel.
        progress: called with (finished frames, total frames or None).
        raw: format of a ``.yuv`` file; None: what its name states.
        find_source: returns a motion source by name.
        provenance: further entries of the archive's provenance, JSON values.

    Raises:
        UnsmearError: the source cannot be read, an output exists, ``mode`` is native and cannot be used, or the
            published arrays have another number or size of frames.
    """
    begin = time.perf_counter()
    with ExitStack() as stack:
        reader = stack.enter_context(open_video(source, raw))
        priors = (
            _Published(reader, settings)
            if isinstance(settings, PublishedArrays)
            else stream(reader, settings, workers=workers, find_source=find_source)
        )
        pairs = iter(priors)
        # Before any output is created: an unreadable source must leave no files or folders.
        first = next(pairs)
        about = describe(reader.info, settings) | dict(provenance or {})
        writer = stack.enter_context(ArchiveWriter(archive, about, overwrite=overwrite))
        pictures = None if preview is None else stack.enter_context(Preview(preview, reader.info, overwrite))
        statistics: list[tuple[float, float, float]] = []
        resets = native = 0
        for frame, prior in chain([first], pairs):
            writer.add(prior, frame.luma)
            if pictures is not None:
                pictures.add(frame, prior)
            native += prior.origin == "native"
            resets += prior.reset
            if not prior.reset:
                speed = float(np.median(np.hypot(*prior.motion())))
                statistics.append((prior.coverage, speed, float(prior.residual.mean())))
            if progress is not None:
                progress(len(writer), reader.info.frames)
        frames = len(writer)
        writer.provenance["reason"] = priors.reason
        for cost in priors.costs:
            if cost.source == "mv":
                cost.fields, cost.seconds = frames, priors.seconds
        means = np.mean(statistics, axis=0) if statistics else np.zeros(3)
        coverage, motion, residual = (float(x) for x in means)
    return Extraction(
        input=str(source),
        output=str(archive),
        frames=frames,
        width=reader.info.width,
        height=reader.info.height,
        native_frames=native,
        reason=priors.reason,
        resets=resets,
        coverage=round(coverage, 4),
        motion_median_px=round(motion, 3),
        residual_mean=round(residual, 3),
        seconds=round(time.perf_counter() - begin, 3),
        prior_seconds=round(priors.seconds, 3),
        costs=[cost.as_dict() for cost in priors.costs],
    )


class _Published:
    """Frames with their published priors; used like :class:`~unsmear.priors.streams.PriorStream`."""

    seconds = 0.0
    costs = ()

    def __init__(self, reader: VideoReader, arrays: PublishedArrays) -> None:
        self._reader, self._arrays = reader, arrays
        self.reason = f"published arrays ({arrays.coding})"

    def __iter__(self) -> Iterator[tuple[Frame, Prior]]:
        arrays, count = self._arrays, 0
        for frame in self._reader:
            if count == len(arrays):
                raise self._other("it has more frames")
            prior = arrays[count]
            if prior.residual.shape != frame.luma.shape:
                raise self._other(f"it is {frame.luma.shape[1]}x{frame.luma.shape[0]}")
            yield frame, prior
            count += 1
        if count < len(arrays):
            raise self._other(f"it has {count} frames")

    def _other(self, what: str) -> DataLayoutError:
        arrays = self._arrays
        return DataLayoutError(
            f"{self._reader.info.path}: {what} where the arrays of {arrays.clip} in {arrays.folder} are for "
            f"{len(arrays)} frames of {arrays[0].width}x{arrays[0].height}"
        )


def settings_kept(settings: PriorSettings | PublishedArrays) -> dict[str, Any]:
    """Settings as an archive stores them."""
    if isinstance(settings, PublishedArrays):
        return {"mode": "published", "coding": settings.coding}
    return asdict(settings)


def describe(info: VideoInfo, settings: PriorSettings | PublishedArrays) -> dict[str, Any]:
    """Provenance of an archive, except for what is known only after the last frame."""
    return {
        "source": info.path.resolve().name,
        "codec": info.codec,
        "settings": settings_kept(settings),
        "encoder_threads": 1,
        "residual_scale": RESIDUAL_SCALE,
        "unsmear": version("unsmear"),
        "av": version("av"),
        "libavcodec": ".".join(map(str, library_versions["libavcodec"])),
    }


class Preview:
    """Writer of an H.264 video of :func:`~unsmear.priors.pictures.sheet`, with the timestamps of the source."""

    def __init__(self, path: Path, info: VideoInfo, overwrite: bool = False) -> None:
        """Open a temporary file beside ``path``. Raises OutputError where ``path`` exists or cannot be written."""
        self.path = path
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already; give `overwrite` or choose another file")
        if path.suffix.lower() not in (".mp4", ".mkv", ".mov"):
            raise OutputError(f"{path}: a preview is written as .mp4, .mkv or .mov; choose one of these endings")
        self._file = WholeFile(path, same_suffix=True)
        self._stream: Any = None
        self._rate = info.frame_rate or Fraction(25)
        self._unit = info.time_base or 1 / self._rate
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container: Any = av.open(file_url(self._file.partial), "w")
        except (av.FFmpegError, OSError) as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error

    def __enter__(self) -> "Preview":
        return self

    def add(self, frame: Frame, prior: Prior) -> None:
        """Append the panels of one frame."""
        picture = sheet(eight_bit(frame.rgb), frame.luma, prior, str(frame.index))
        try:
            if self._stream is None:
                self._begin(*picture.shape[:2])
            image = av.VideoFrame.from_ndarray(picture, format="rgb24")
            context = self._stream.codec_context
            image = image.reformat(context.width, context.height, "yuv420p", dst_colorspace="ITU709")
            image.pts, image.time_base = frame.index if frame.pts is None else frame.pts, self._unit
            self._container.mux(self._stream.encode(image))
        except (av.FFmpegError, OSError) as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from error

    def _begin(self, height: int, width: int) -> None:
        shrink = min(1.0, 2 * _PREVIEW_LONGEST_PX / max(height, width))
        self._stream = self._container.add_stream("libx264", rate=self._rate)
        self._stream.options = {"preset": "veryfast", "crf": "20"}
        self._stream.pix_fmt = "yuv420p"
        self._stream.width, self._stream.height = (max(2, int(x * shrink) // 2 * 2) for x in (width, height))
        self._stream.time_base = self._stream.codec_context.time_base = self._unit
        self._stream.codec_context.colorspace = 1

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if kind is None:
                self._file.keep()
        except (av.FFmpegError, OSError, ValueError) as failure:
            if kind is None:
                raise OutputError(f"{self.path}: cannot be written ({failure})") from failure
        finally:
            self._file.drop()
