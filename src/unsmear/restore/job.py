"""One input through a model: windows in, restored frames out, resumable, in bounded memory."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unsmear.errors import Interrupted, OutputError, UnsmearError, UsageError
from unsmear.priors import DEFAULT_CHUNK_FRAMES
from unsmear.restore.blur import blur_estimate
from unsmear.restore.report import ChunkFigures, Report, peak_memory_mb
from unsmear.restore.restorer import Clip, OutOfMemory, Restorer, State
from unsmear.restore.shots import SHARP_DUTY, DutyTracker
from unsmear.restore.sinks import FramesSink, ImageSink, Sink, VideoSink, WithComparison, comparison_path
from unsmear.restore.windows import Window, windows
from unsmear.restore.work import WorkFolder
from unsmear.video import VideoInfo, VideoReader, choose_encoding, open_video
from unsmear.video.colour import luma_of_rgb
from unsmear.video.probe import DEFAULT_RATE
from unsmear.video.seek import first_frame_at

log = logging.getLogger(__name__)

SEGMENT_CHUNKS = 4
"""Chunks a segment of the output: how much a killed run may lose."""

MIN_TILE_PX = 160
"""Memory fallback gives up below this."""

SHARP_BLUR_PX = 1.0
"""Where the fastest tenth of the picture moves less than this a frame, there is no motion blur to speak of."""


@dataclass(frozen=True)
class Options:
    """What a user may choose for an input. Defaults are the command line's."""

    strength: float = 1.0
    tile: str = "auto"
    window: int = DEFAULT_CHUNK_FRAMES
    start_s: float | None = None
    end_s: float | None = None
    codec: str | None = None
    crf: int | None = None
    pix_fmt: str | None = None
    frames: bool = False
    compare: bool = False
    overwrite: bool = False
    resume: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise UsageError(f"strength {self.strength} is out of range; choose 0 (the input) … 1 (all of it)")
        if self.window < 8:
            raise UsageError(f"window {self.window} is too short; choose 8 frames or more")
        if self.tile not in ("auto", "off") and not (self.tile.isdigit() and int(self.tile) >= MIN_TILE_PX):
            raise UsageError(f"tile {self.tile!r} is not auto, off or a size of at least {MIN_TILE_PX} px")
        start, end = self.start_s or 0.0, self.end_s
        if start < 0 or (end is not None and end <= start):
            raise UsageError(f"the range {start:g}…{end:g} s is empty; choose an end after the start")


@dataclass(frozen=True)
class Progress:
    """Handed to the progress callback after every chunk."""

    done: int
    """Frames finished, including those of an earlier run."""
    total: int | None
    """Frames in all, None where the file does not say."""
    frames_per_second: float
    """Of this run."""


ProgressCallback = Callable[[Progress], None]


def default_output(info: VideoInfo, options: Options) -> Path:
    """``NAME.deblurred.EXT`` beside the input; a folder for frames."""
    if info.kind == "frames" or options.frames:
        stem = info.path.name if info.kind == "frames" else info.path.stem
        return info.path.with_name(f"{stem}.deblurred")
    return info.path.with_name(f"{info.path.stem}.deblurred{info.path.suffix}")


def restore_video(
    source: Path,
    output: Path | None,
    restorer: Restorer,
    options: Options | None = None,
    progress: ProgressCallback | None = None,
) -> Report:
    """Restore one video, folder of frames or image.

    Args:
        source: the input.
        output: a file, or a folder for frames; None for the default name beside the input.
        restorer: the model.
        options: see ``Options``.
        progress: called after every chunk.

    Raises:
        UnsmearError: one line; nothing is left behind.
        Interrupted: stopped from outside (Ctrl-C); finished work is kept for a second run.
    """
    options = options or Options()
    began = time.monotonic()
    with open_video(source) as reader:
        info = reader.info
        output = output or default_output(info, options)
        _check_output(output, info.path, options)
        job = _Job(reader, output, restorer, options, progress, began)
        try:
            return job.run()
        except KeyboardInterrupt:
            job.sink.abort()
            raise Interrupted(f"{source}: interrupted; run the same command again to go on where it stopped") from None
        except BaseException:
            job.sink.abort()
            job.work.discard()
            raise


def _check_output(output: Path, source: Path, options: Options) -> None:
    if output.resolve() == source.resolve():
        raise OutputError(f"{output} is the input itself; choose another -o")
    targets = [output, comparison_path(output)] if options.compare else [output]
    for target in targets:
        if target.exists() and not options.overwrite:
            raise OutputError(f"{target} exists already; add --overwrite or choose another -o")
    folder = output.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{output.name}.unsmear-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}); choose another -o") from None


class _Job:
    """State of a run. ``run`` does it; everything else is one step of it."""

    def __init__(
        self,
        reader: VideoReader,
        output: Path,
        restorer: Restorer,
        options: Options,
        progress: ProgressCallback | None,
        began: float,
    ):
        self.reader, self.info, self.output = reader, reader.info, output
        self.restorer, self.options, self.progress, self.began = restorer, options, progress, began
        self.notes: list[str] = []
        self.tile_px = self._first_tile_px()
        self.work = WorkFolder(output, self._identity())
        self.as_frames = self.info.kind == "frames" or options.frames or not output.suffix
        self.progressed = self.work.begin(options.resume)
        self.sink = self._make_sink()
        self.figures = list(self.progressed.figures)
        self.tracker: DutyTracker = self.progressed.tracker
        self.state: State | None = self.progressed.state
        if self.progressed.segments:
            self.tile_px = self.progressed.tile_px

    def _first_tile_px(self) -> int | None:
        if self.options.tile == "off":
            return None
        if self.options.tile != "auto":
            return int(self.options.tile)
        frames = self.options.window + self.restorer.frames_after
        return self.restorer.default_tile_px(self.info.height, self.info.width, frames)

    def _identity(self) -> dict:
        """Everything that the output depends on: a working folder with another identity is not resumed."""
        stat = self.info.path.stat()
        chosen = {k: v for k, v in vars(self.options).items() if k not in ("overwrite", "resume")}
        return {
            "input": [str(self.info.path.resolve()), stat.st_size, stat.st_mtime_ns],
            "output": str(self.output.resolve()),
            "model": [
                self.restorer.name,
                self.restorer.device,
                self.restorer.dtype,
                self.restorer.fingerprint,
            ],
            "options": chosen,
            "tile_px": self.tile_px,
        }

    def _make_sink(self) -> Sink:
        try:
            sink: Sink
            if self.as_frames:
                sink = FramesSink(self.work, self.output)
            elif self.info.kind == "image":
                sink = ImageSink(self.output)
            else:
                encoding = choose_encoding(
                    self.info,
                    codec=self.options.codec,
                    crf=self.options.crf,
                    pix_fmt=self.options.pix_fmt,
                    container_suffix=self.output.suffix,
                )
                if encoding.note:
                    self.notes.append(encoding.note)
                sink = VideoSink(self.work, self.info, encoding, self.output)
            if self.options.compare:
                sink = WithComparison(sink, self.work, self.info, comparison_path(self.output))
            return sink
        except UnsmearError:
            self.work.discard()
            raise

    def run(self) -> Report:
        first = self._first_chunk()
        resumed = done = sum(f.frames for f in self.figures)
        segments, open_frames = self.progressed.segments, 0
        total = self._total()
        for window in self._windows(first + segments * SEGMENT_CHUNKS):
            restored = self._restore(window)
            written = 0
            for (frame, _), pixels in zip(window.frames, restored, strict=True):
                if self._wanted(frame.time_s):
                    if open_frames == 0:
                        self.sink.begin_segment(segments)
                    self.sink.write(frame, pixels)
                    open_frames, written = open_frames + 1, written + 1
            self.figures.append(self._figures(window, restored, written))
            done += written
            if (window.number - first + 1) % SEGMENT_CHUNKS == 0 and open_frames:
                self.sink.end_segment()
                segments, open_frames = segments + 1, 0
                assert self.state is not None
                self.work.finished(segments, self.figures, self.state, self.tracker, self.tile_px)
            if self.progress:
                rate = (done - resumed) / max(time.monotonic() - self.began, 1e-6)
                self.progress(Progress(done, total, rate))
        if open_frames:
            self.sink.end_segment()
            segments += 1
        if not done:
            raise UsageError(
                f"{self.info.path}: no frame lies in the range {self.options.start_s or 0:g}…"
                f"{'end' if self.options.end_s is None else f'{self.options.end_s:g}'} s; choose another"
            )
        self.notes += self.sink.finish(segments, self.options.start_s, self.options.end_s)
        self.work.discard()
        return self._report(done, resumed)

    def _wanted(self, time_s: float) -> bool:
        start, end = self.options.start_s, self.options.end_s
        return (start is None or time_s >= start) and (end is None or time_s < end)

    def _first_chunk(self) -> int:
        if not self.options.start_s:
            return 0
        return first_frame_at(self.info, self.options.start_s) // self.options.window

    def _windows(self, first: int) -> Iterator[Window]:
        """Windows that hold a wanted frame."""
        for window in windows(self.reader, self.options.window, self.restorer.frames_after, first):
            times = [frame.time_s for frame, _ in window.frames]
            if self.options.end_s is not None and times[0] >= self.options.end_s:
                return
            if self.options.start_s is None or times[-1] >= self.options.start_s:
                yield window

    def _total(self) -> int | None:
        """Frames that the range holds, as far as the file says."""
        info = self.info
        count = info.frames
        if count is None and info.duration_s and info.frame_rate:
            count = round(info.duration_s * info.frame_rate)
        if count is None or (self.options.start_s is None and self.options.end_s is None):
            return count
        rate = float(info.frame_rate or DEFAULT_RATE)
        end = count / rate if self.options.end_s is None else min(self.options.end_s, count / rate)
        return max(0, round((end - (self.options.start_s or 0.0)) * rate))

    def _restore(self, window: Window) -> np.ndarray:
        """The window's frames restored and blended with the input by strength."""
        count = len(window.frames)
        duty = self.tracker.update([f.luma for f, _ in window.frames], [p for _, p in window.frames])
        pixels = window.pixels
        clip = Clip(pixels, window.priors, duty, count)
        restored, self.state = self._with_memory_fallback(clip)
        return blend(pixels[:count], restored, self.options.strength)

    def _with_memory_fallback(self, clip: Clip) -> tuple[np.ndarray, State]:
        while True:
            try:
                return self.restorer.restore(clip, self.state, self.tile_px)
            except OutOfMemory as error:
                side = self.tile_px or max(self.info.height, self.info.width)
                smaller = side // 2 // 16 * 16
                if smaller < MIN_TILE_PX:
                    raise UnsmearError(
                        f"{self.info.path}: out of memory even with tiles of {side} px "
                        f"({str(error).splitlines()[0]}); choose --device cpu or a shorter --window"
                    ) from None
                self.tile_px = smaller
                self.notes.append(f"out of memory: went on with tiles of {smaller} px")
                log.warning("out of memory: going on with tiles of %d px", smaller)

    def _figures(self, window: Window, restored: np.ndarray, written: int) -> ChunkFigures:
        """Figures of a chunk, from its middle frame."""
        frame, prior = window.frames[len(window.frames) // 2]
        length = np.linalg.norm(prior.motion(), axis=0)
        after = restored[len(window.frames) // 2]
        return ChunkFigures(
            frames=written,
            blur_before=blur_estimate(luma_of_rgb(frame.rgb)),
            blur_after=blur_estimate(luma_of_rgb(after)),
            motion_median_px=float(np.median(length)),
            motion_fast_px=float(np.percentile(length, 90)),
            coverage=float(np.mean([p.coverage for _, p in window.frames])),
            cuts=sum(p.reset for f, p in window.frames if f.index > 0),
            duty=self.tracker.mean,
            origin=prior.origin,
        )

    def _report(self, done: int, resumed: int) -> Report:
        seconds = time.monotonic() - self.began
        rows = self.figures
        duties = [f.duty for f in rows if f.duty is not None]
        notes = [*self.notes, *self._sharp_note(rows)]
        return Report(
            input=str(self.info.path),
            output=str(self.output),
            model=self.restorer.name,
            frames=done,
            width=self.info.width,
            height=self.info.height,
            seconds=round(seconds, 3),
            frames_per_second=round((done - resumed) / max(seconds, 1e-6), 3),
            peak_memory_mb=round(peak_memory_mb(), 1),
            device=self.restorer.device,
            dtype=self.restorer.dtype,
            blur_before=round(float(np.mean([f.blur_before for f in rows])), 4),
            blur_after=round(float(np.mean([f.blur_after for f in rows])), 4),
            motion_median_px=round(float(np.median([f.motion_median_px for f in rows])), 3),
            motion_coverage=round(float(np.mean([f.coverage for f in rows])), 4),
            scene_cuts=sum(f.cuts for f in rows),
            prior_origin=rows[0].origin,
            duty=round(float(np.mean(duties)), 3) if duties else None,
            window_frames=self.options.window,
            tile_px=self.tile_px,
            resumed_frames=resumed,
            note="; ".join(dict.fromkeys(notes)),
        )

    @staticmethod
    def _sharp_note(rows: list[ChunkFigures]) -> list[str]:
        """Say so where there was next to no motion blur to remove."""
        still = all(f.motion_fast_px < SHARP_BLUR_PX for f in rows)
        sharp = [f for f in rows if f.duty is not None and f.duty < SHARP_DUTY]
        if still or len(sharp) > len(rows) / 2:
            return ["already sharp: little motion blur was found, so little was changed"]
        return []


def blend(before: np.ndarray, after: np.ndarray, strength: float) -> np.ndarray:
    """``before`` + strength · (``after`` − ``before``), rounded; exact at strength 0 and 1."""
    if strength == 0:
        return before
    if strength == 1:
        return after
    mixed = before + np.float32(strength) * (after.astype(np.float32) - before)
    return np.clip(np.rint(mixed), 0, np.iinfo(before.dtype).max).astype(before.dtype)
