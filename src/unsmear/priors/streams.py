"""Priors of a video file: its own motion vectors where they can be used, re-encoded ones elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, cast

import numpy as np

from unsmear.errors import DamagedVideo, UnsupportedVideo, UsageError
from unsmear.priors.assemble import Forward, assemble, backward_of, cut, forward_of
from unsmear.priors.chunks import S, chunk_priors, walk_chunks
from unsmear.priors.cuts import CutTest
from unsmear.priors.flow import MotionSource, ReplacedMotion, make_source
from unsmear.priors.follow import Followed
from unsmear.priors.native import Examination, examine, native_steps
from unsmear.priors.prior import Prior
from unsmear.priors.settings import DEFAULTS, PriorSettings
from unsmear.priors.steps import Luma, Step, encode_steps
from unsmear.video import Frame, RawFormat, VideoReader


def stream(
    frames: Iterable[S],
    settings: PriorSettings = DEFAULTS,
    *,
    path: Path | None = None,
    first: int = 0,
    before: Luma | None = None,
    workers: int = 2,
    find_source: Callable[[str], MotionSource] = make_source,
) -> "PriorStream[S]":
    """Pair each frame of a video with its prior, in order, reading one chunk and one frame ahead.

    The result does not depend on where the stream starts, which must be the first frame of the file, or the first frame
    of a chunk with the frame ``before`` it. Memory is bounded by two chunks.

    Args:
        frames: an open video (VideoReader), or consecutive Frames; with the codec as the only motion source, ``(H, W)``
            uint8 lumas suffice.
        settings: settings of the priors.
        path: video file of ``frames``, whose own vectors may be used; None where there is none. Not needed for a
            VideoReader.
        first: number in the file of the first of ``frames``, a multiple of ``settings.chunk_frames``.
        before: luma of frame ``first - 1``; None where ``first`` is 0.
        workers: number of codec passes in parallel; does not affect the result.
        find_source: returns a motion source by name.

    Raises:
        UsageError: an unknown motion source, or a ``first`` where no stream can start.
        UnsupportedVideo: mode ``"native"`` for a video whose own vectors cannot be used.
        DamagedVideo: mode ``"native"`` for a video that decodes differently the second time.
    """
    raw = None
    if isinstance(frames, VideoReader):
        path, raw = (frames.info.path if frames.info.kind == "video" else None), frames.info.raw
    motion = ReplacedMotion(find_source(settings.motion), find_source(settings.motion_back))
    return PriorStream(frames, settings, motion, path=path, raw=raw, first=first, before=before, workers=workers)


class PriorStream(Generic[S]):
    """Iterator over the frames of a video and their priors, returned by :func:`stream`; iterate it once.

    Which chunks use native vectors is determined from the file's headers before the first frame: from the chunk with
    the first violation on, all are re-encoded. An intra frame inside a native chunk has no vectors; it is re-encoded
    together with the previous frame. Backward motion always comes from re-encoding the reversed chunk (ours), since a
    stream has none. Re-encoding also starts at the chunk in which a damaged file decodes differently the second time.

    Attributes:
        reason: reason for the use of native or re-encoded vectors, one clause.
        native_frames: number of frames in native chunks; None for all.
        seconds: wall time of codec passes and residuals up to now, without reading frames.
        costs: costs of the two motion sources, forward and backward, up to now.
    """

    def __init__(
        self,
        frames: Iterable[S],
        settings: PriorSettings,
        motion: ReplacedMotion,
        *,
        path: Path | None,
        raw: RawFormat | None,
        first: int,
        before: Luma | None,
        workers: int,
    ) -> None:
        """Examine the headers; nothing is decoded. See :func:`stream`; ``raw``: format of a ``.yuv`` file."""
        if first % settings.chunk_frames or (first == 0) != (before is None):
            raise UsageError(
                f"priors cannot start at frame {first}: give a multiple of {settings.chunk_frames} and `before`"
            )
        self._path, self._frames, self._settings, self._motion = path, frames, settings, motion
        self._at, self._before, self._workers = first, before, workers
        self._backward = settings.motion_back == "mv"
        self._pending: Forward | None = None
        self._steps: Iterator[Step | None] = iter(())
        self.seconds = 0.0
        self.costs = motion.costs
        self.native_frames: int | None
        self.native_frames, self.reason = _plan(path, raw, settings)
        if path is not None and self.native_frames != 0:
            self._steps = native_steps(path, first)

    def __iter__(self) -> Iterator[tuple[S, Prior]]:
        pairs = walk_chunks(self._frames, self._settings.chunk_frames, self._before, self._chunk)
        if self._settings.motion == self._settings.motion_back == "mv":
            return pairs
        return cast(Iterator[tuple[S, Prior]], self._motion.of(cast(Iterator[tuple[Frame, Prior]], pairs)))

    def _is_native(self, frame: int) -> bool:
        return self.native_frames is None or frame < self.native_frames

    def _chunk(self, lumas: Sequence[Luma], *, before: Luma | None, after: Luma | None) -> list[Prior]:
        begin = time.perf_counter()
        try:
            native = self._is_native(self._at)
            priors = (self._native_chunk if native else self._reencoded_chunk)(lumas, before, after)
        except DamagedVideo as error:
            if self._settings.mode == "native":
                raise
            self.native_frames, self.reason = self._at, str(error)
            priors = self._reencoded_chunk(lumas, before, after)
        self._at += len(lumas)
        self.seconds += time.perf_counter() - begin
        return priors

    def _reencoded_chunk(self, lumas: Sequence[Luma], before: Luma | None, after: Luma | None) -> list[Prior]:
        priors = chunk_priors(lumas, before=before, after=after, settings=self._settings, workers=self._workers)
        if self._pending is not None:  # the forward step of frame 0 was computed with the previous chunk
            priors[0] = self._pending.put_into(priors[0])
            self._pending = None
        return priors

    def _native_chunk(self, lumas: Sequence[Luma], before: Luma | None, after: Luma | None) -> list[Prior]:
        height, width = lumas[0].shape
        tail = [] if after is None else [after]
        with ThreadPoolExecutor(max(1, self._workers)) as pool:
            backward_run = pool.submit(self._encode, [*tail, *reversed(lumas)] if self._backward else lumas[:1])
            jobs = []
            # The following frame belongs to the next chunk, for which its Forward is kept.
            follows = tail if self._is_native(self._at + len(lumas)) else []
            head = [] if before is None else [before]
            test = CutTest([*head, *lumas, *tail])
            for i in range(len(lumas) + len(follows)):
                if i == 0 and self._pending is not None:
                    continue
                t = i + len(head)
                step = self._next_step(self._at + i, test.lumas[t])
                # Both chunks must give the same result at their seam; see chunk_priors.
                jobs.append(pool.submit(self._forward, step, test, t, i in (0, len(lumas))))
            forwards = ([] if self._pending is None else [self._pending]) + [job.result() for job in jobs]
            self._pending = forwards[-1] if follows else None
            if not follows:
                forwards.append(self._bridge(test, len(test.lumas) - 1, True) if tail else cut(height, width))
            if self._backward:
                backwards = list(pool.map(backward_of, reversed(backward_run.result()), forwards[1:]))
            else:
                backward_run.result()
                blank = cut(height, width)
                backwards = [Followed(blank.motion_q, blank.valid, "none")] * len(lumas)
        return assemble(forwards, backwards)

    def _next_step(self, frame: int, luma: Luma) -> Step | None:
        """Native step of a frame. Raises DamagedVideo where its reconstruction differs from ``luma``."""
        step = next(self._steps, _END)
        height, width = luma.shape
        if step is _END or (step is not None and not np.array_equal(step.reconstruction[:height, :width], luma)):
            raise DamagedVideo(
                f"{self._path}: frame {frame} differs when decoded again, so its vectors are not reliable; "
                "choose `mode` auto, which re-encodes"
            )
        return step

    def _forward(self, step: Step | None, test: CutTest, t: int, seam: bool) -> Forward:
        if t == 0:
            height, width = test.lumas[0].shape
            return cut(height, width, "native")
        if step is None:
            return self._bridge(test, t, seam)
        return forward_of(step, test, t, "native", seam=seam)

    def _bridge(self, test: CutTest, t: int, seam: bool) -> Forward:
        """Forward motion from re-encoding frames ``t - 1`` and ``t`` only."""
        [step] = self._encode(test.lumas[t - 1 : t + 1])
        return forward_of(step, test, t, seam=seam)

    def _encode(self, lumas: Sequence[Luma]) -> list[Step]:
        return encode_steps(lumas, self._settings.profile, self._settings.qp, codec=self._settings.codec)


_BLANK = np.zeros((0, 0), np.uint8)
_END = Step(_BLANK, _BLANK, np.zeros((0, 0, 2), np.int16), np.zeros((0, 0), np.bool_))


def _plan(path: Path | None, raw: RawFormat | None, settings: PriorSettings) -> tuple[int | None, str]:
    """(frames in native chunks, reason); None for all frames."""
    if settings.mode == "reencode":
        return 0, "requested"
    if path is None:
        result = Examination(0, False, "single pictures hold no motion vectors")
    else:
        result = examine(path, raw)
    if result.whole:
        return None, result.reason
    if settings.mode == "native":
        raise UnsupportedVideo(
            f"{path or 'the input'}: its own motion vectors cannot be used: {result.reason}; "
            "choose `mode` auto, which re-encodes in memory"
        )
    return result.frames - result.frames % settings.chunk_frames, result.reason
