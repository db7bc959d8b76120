"""One input through a model: windows in, restored frames out, resumable, in bounded memory."""

import logging
import math
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from unsmear.errors import Interrupted, UnsmearError, UsageError, WeightsError
from unsmear.priors.archive import PriorArchive, open_archive
from unsmear.restore.destination import OutputKind, check_free, ending_note, place, writable_folder
from unsmear.restore.interlaced import field_notes, refuse_interlaced, wanted_frames
from unsmear.restore.options import MIN_TILE_PX, Options, Progress, ProgressCallback
from unsmear.restore.output import make_sink
from unsmear.restore.report import Report, measure, notes, peak_memory_mb, summarise
from unsmear.restore.restorer import Clip, OutOfMemory, Restorer, State
from unsmear.restore.resume import WorkFolder, only_run, stamp
from unsmear.restore.sharpness import restrained
from unsmear.restore.timerange import TimeRange
from unsmear.restore.windows import Window, windows
from unsmear.video import VideoInfo, VideoReader, open_video
from unsmear.video.damage import told

__all__ = ["Options", "Progress", "ProgressCallback", "blend", "restore_video"]

log = logging.getLogger(__name__)

SEGMENT_CHUNKS = 4
"""Chunks a segment of the output: how much a killed run may lose."""


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
        UnsmearError: one line. Finished segments of the output are kept for a second run. Of a damaged input every
            frame that can be read is restored, and ``Report.damage`` describes what is missing.
        Interrupted: stopped from outside (Ctrl-C); finished segments are kept likewise.
    """
    options = options or Options()
    began = time.monotonic()
    with open_video(
        source, keep_going=True, deinterlace=wanted_frames(options), frame_rate=options.frame_rate
    ) as reader:
        if options.frame_rate not in (None, reader.info.frame_rate):
            raise UsageError(f"`fps` {options.fps:g} is for folders of frames; {source} is none, so leave it out")
        target, kind = place(reader.info, output, options)
        check_free(target, kind, reader.info.path, options)
        try:
            with writable_folder(target.parent), only_run(target):
                check_free(target, kind, reader.info.path, options)  # once more: another run may have ended meanwhile
                return _Job(reader, target, kind, restorer, options, progress, began).run()
        except MemoryError:
            raise UnsmearError(
                f"{source}: there is too little memory for {options.window} frames of "
                f"{reader.info.width}x{reader.info.height}; choose a shorter `window`"
            ) from None


class _Job:
    """State of a run. ``run`` does it; everything else is one step of it."""

    def __init__(
        self,
        reader: VideoReader,
        output: Path,
        kind: OutputKind,
        restorer: Restorer,
        options: Options,
        progress: ProgressCallback | None,
        began: float,
    ):
        self.reader, self.info, self.output = reader, reader.info, output
        self.restorer, self.options, self.progress, self.began = restorer, options, progress, began
        self.part = TimeRange.of(reader, options)
        self.tile_px = _first_tile_px(self.info, restorer, options)
        self.work = WorkFolder(output, self._identity())
        refuse_interlaced(reader, options)
        self.sink, more = make_sink(kind, output, reader, self.work, options, self.part)
        self.notes = [*self.info.notes, *ending_note(self.info, output), *more]

    def _identity(self) -> dict[str, Any]:
        """Everything that the output depends on: a working folder with another identity is not resumed."""
        restorer, given = self.restorer, self.options.priors
        return {
            "input": stamp(self.info.path),
            "priors": stamp(Path(given)) if given is not None and Path(given).exists() else None,
            "output": str(self.output.resolve()),
            "model": [restorer.name, restorer.engine, restorer.device, restorer.dtype, restorer.fingerprint],
            "options": {k: v for k, v in vars(self.options).items() if k not in ("overwrite", "resume")},
            "tile_px": self.tile_px,
        }

    def run(self) -> Report:
        """All of it. What is left behind: the output, or of a run that ended early the working folder, if it holds any
        finished work.
        """
        try:
            self.so_far = self.work.begin(self.options.resume, self.tile_px)
            resumed = self.so_far.frames
            self._restore_all(resumed)
            if not self.so_far.frames:
                raise UsageError(f"{self.info.path}: no frame lies in the range {self._range()}; choose another")
            self.notes += self.sink.finish(self.so_far.segments)
        except KeyboardInterrupt:
            self.sink.abort()
            raise Interrupted(
                f"{self.info.path}: interrupted; run the same command again to go on where it stopped"
            ) from None
        except BaseException as error:
            self.sink.abort()
            kept = self.work.frames_kept()
            if not kept:
                self.work.discard()
            elif isinstance(error, UnsmearError):
                error.args = (f"{error}; the {kept} frames finished are kept for another run of the same command",)
            raise
        self.work.discard()
        self.notes += field_notes(self.info, self.reader.deinterlaced)
        return self._report(resumed)

    def _restore_all(self, resumed: int) -> None:
        """Every window of the range into the sink, segment by segment."""
        so_far, total = self.so_far, TimeRange.total(self.info, self.options)
        open_frames = 0
        with closing(self._windows(so_far.next_chunk)) as stream:
            for window in stream:
                refuse_interlaced(self.reader, self.options)
                restored = self._restore(window)
                wanted = [i for i, (frame, _) in enumerate(window.frames) if self.part.holds(frame.time_s)]
                if wanted and not open_frames:
                    self.sink.begin_segment(so_far.segments)
                for i in wanted:
                    self.sink.write(window.frames[i][0], restored[i])
                open_frames += len(wanted)
                measure(so_far.figures, window, restored, wanted, so_far.tracker)
                if open_frames and (window.number + 1) % SEGMENT_CHUNKS == 0:
                    self._end_segment(window.number + 1)
                    open_frames = 0
                if self.progress:
                    rate = (so_far.frames - resumed) / max(time.monotonic() - self.began, 1e-6)
                    self.progress(Progress(so_far.frames, total, rate))
        if open_frames:
            self._end_segment(window.number + 1)

    def _end_segment(self, next_chunk: int) -> None:
        self.sink.end_segment()
        self.so_far.segments += 1
        self.so_far.next_chunk = next_chunk
        self.work.record(self.so_far)

    def _windows(self, first: int | None) -> Generator[Window, None, None]:
        """Windows from chunk ``first`` on (None: from the range's start) that hold a wanted frame."""
        size, look_ahead = self.options.window, self.restorer.frames_after
        if first is None:
            first = self.part.first_chunk(self.info, size)
        with ExitStack() as stack:
            archive: PriorArchive | None = None
            if self.options.priors is not None:
                archive = stack.enter_context(open_archive(Path(self.options.priors), self.info))
            made = windows(self.reader, size, look_ahead, first, self.part.end_s, archive)
            for window in stack.enter_context(closing(made)):
                if any(self.part.holds(frame.time_s) for frame, _ in window.frames):
                    yield window

    def _restore(self, window: Window) -> np.ndarray:
        """The window's frames, restored and blended with the input by strength."""
        count = len(window.frames)
        duty = self.so_far.tracker.update([f.luma for f, _ in window.frames], [p for _, p in window.frames])
        pixels = window.pixels
        if self.options.deep_frames and pixels.dtype == np.uint8:
            pixels = pixels.astype(np.uint16) * np.uint16(257)
        restored, self.so_far.state = self._with_memory_fallback(
            Clip(pixels, window.priors, duty, count, window.number * self.options.window)
        )
        restored = restrained(pixels[:count], restored, duty, self.so_far.tracker.blur_px)
        return blend(pixels[:count], restored, self.options.strength)

    def _with_memory_fallback(self, clip: Clip) -> tuple[np.ndarray, State]:
        so_far = self.so_far
        while True:
            try:
                return self.restorer.restore(clip, so_far.state, so_far.tile_px)
            except WeightsError as error:
                raise WeightsError(f"{self.info.path}: {error}") from None
            except OutOfMemory as error:
                side = min(so_far.tile_px or np.inf, max(self.info.height, self.info.width))
                smaller = int(side) // 2 // 16 * 16
                if smaller < MIN_TILE_PX:
                    why = (str(error).splitlines() or ["the device is full"])[0]
                    raise UnsmearError(
                        f"{self.info.path}: out of memory even with tiles of {side} px "
                        f"({why}); choose `device` cpu or a shorter `window`"
                    ) from None
                so_far.tile_px = smaller
                so_far.notes.append(f"out of memory: went on with tiles of {smaller} px")
                log.warning("out of memory: going on with tiles of %d px", smaller)

    def _damage(self) -> str:
        """Description of the damage within the range; empty where nothing is missing."""
        log = self.reader.damage
        gaps = log.within(self.part.start_s, self.part.end_s)
        if not gaps:
            return ""
        whole_s = math.floor((gaps[0].begin_s - log.origin_s) * 1000 + 0.001) / 1000
        until = f", whole up to `end_s` {whole_s:g}" if gaps[0].after >= 0 else ""
        return f"{told(self.info.path, log, gaps)}; {self.output} holds what can be read{until}"

    def _range(self) -> str:
        start, end = self.options.start_s or 0.0, self.options.end_s
        return f"{start:g} s to the end" if end is None else f"{start:g}…{end:g} s"

    def _report(self, resumed: int) -> Report:
        seconds = time.monotonic() - self.began
        figures = summarise(self.so_far.figures)
        sampling = self.restorer.sampling
        self.notes += self.reader.damage.notes
        return Report(
            input=str(self.info.path),
            output=str(self.output),
            model=self.restorer.name,
            width=self.info.width,
            height=self.info.height,
            seconds=round(seconds, 3),
            frames_per_second=round((figures["frames"] - resumed) / max(seconds, 1e-6), 3),
            peak_memory_mb=round(peak_memory_mb(self.restorer.device), 1),
            device=self.restorer.device,
            dtype=self.restorer.dtype,
            window_frames=self.options.window,
            tile_px=self.so_far.tile_px,
            resumed_frames=resumed,
            damage=self._damage(),
            note="; ".join(dict.fromkeys([*self.notes, *self.so_far.notes, *notes(self.so_far.figures)])),
            weights_sha256=self.restorer.fingerprint,
            options=vars(self.options) | ({} if sampling is None else {"sampling": vars(sampling)}),
            **figures,
        )


def _first_tile_px(info: VideoInfo, restorer: Restorer, options: Options) -> int | None:
    if options.tile == "auto":
        return restorer.default_tile_px(info.height, info.width, options.window + restorer.frames_after)
    return options.tile_px


def blend(before: np.ndarray, after: np.ndarray, strength: float) -> np.ndarray:
    """``before`` + strength · (``after`` − ``before``), rounded; exact at strength 0 and 1."""
    if strength == 0:
        return before
    if strength == 1:
        return after
    mixed = before + np.float32(strength) * (after.astype(np.float32) - before)
    return np.clip(np.rint(mixed), 0, np.iinfo(before.dtype).max).astype(before.dtype)
