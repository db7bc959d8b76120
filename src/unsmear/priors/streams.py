"""The priors of a video file: its own vectors where they can be used, re-encoded ones everywhere else."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Literal, TypeVar, get_args

import numpy as np

from unsmear.errors import DamagedVideo, UnsupportedVideo, UsageError
from unsmear.priors.chunks import DEFAULT_CHUNK_FRAMES, chunk_priors, walk_chunks
from unsmear.priors.cuts import CutTest
from unsmear.priors.follow import Followed
from unsmear.priors.native import Examination, examine, native_steps
from unsmear.priors.passes import Forward, assemble, backward_of, cut, forward_of
from unsmear.priors.prior import Prior
from unsmear.priors.reencode import Profile
from unsmear.priors.steps import Luma, Step, encode_steps

Mode = Literal["auto", "native", "reencode"]
"""Which vectors to use: the file's own if they qualify, those or nothing, or always re-encoded ones."""

T = TypeVar("T")


class VideoPriors(Generic[T]):
    """Pairs the frames of a file with their priors, in order and in bounded memory; iterate it once.

    Native and re-encoded chunks follow one plan, made from the file's headers before the first frame: from
    the chunk with the first violation on, all are re-encoded. An intra frame inside a native chunk has no
    vectors; it is re-encoded together with the frame before it. Backward motion always comes from
    re-encoding the reversed chunk (ours): a stream holds none. Where a damaged file decodes differently the
    second time, re-encoding takes over at that chunk, too.

    Attributes:
        reason: why the priors are what they are, one clause.
        native_frames: how many frames lie in native chunks, by the plan; None means all.
        seconds: wall time spent on priors so far, without reading frames.
    """

    def __init__(
        self,
        path: Path | None,
        frames: Iterable[T],
        *,
        luma: Callable[[T], Luma],
        mode: Mode = "auto",
        chunk_frames: int = DEFAULT_CHUNK_FRAMES,
        first: int = 0,
        before: Luma | None = None,
        profile: Profile = "fast",
        qp: int = 24,
        threads: int = 1,
        workers: int = 2,
        backward: bool = True,
    ) -> None:
        """Decide on a plan; nothing is decoded yet.

        Args:
            path: the video file that ``frames`` come from, None where there is none (folders of frames).
            frames: its consecutive frames of any type.
            luma: gives the ``(H, W)`` uint8 luma of a frame, as decoded.
            mode: see :data:`Mode`.
            chunk_frames: N, frames a chunk, counted from the first frame of the file. Part of the result.
            first: the number of the first of ``frames`` in the file, a multiple of N.
            before: luma of frame ``first - 1``; None where ``first`` is 0.
            profile: of the re-encode, as ``qp`` and ``threads``; see :func:`~unsmear.priors.chunk_priors`.
            qp: as above.
            threads: as above.
            workers: passes run side by side. Not part of the result.
            backward: False leaves ``motion_back_q`` of native chunks zero and so spares their encoder.

        Raises:
            UsageError: an unknown mode, or a chunk that cannot be.
            UnsupportedVideo: mode ``"native"`` for a video whose own vectors cannot be used.
        """
        if mode not in get_args(Mode):
            raise UsageError(f"prior mode {mode!r} is unknown; choose one of {', '.join(get_args(Mode))}")
        if chunk_frames < 1:
            raise UsageError(f"chunk_frames {chunk_frames} is out of range; choose 1 or more")
        if first % chunk_frames or (first == 0) != (before is None):
            raise UsageError(f"priors cannot start at frame {first}: give a multiple of {chunk_frames} and `before`")
        self._path, self._frames, self._luma, self._chunk_frames = path, frames, luma, chunk_frames
        self._at, self._before, self._mode = first, before, mode
        self._profile, self._qp, self._threads, self._workers = profile, qp, threads, workers
        self._backward = backward
        self._pending: Forward | None = None
        self._steps: Iterator[Step | None] = iter(())
        self.seconds = 0.0
        self.native_frames: int | None
        self.native_frames, self.reason = _plan(path, mode, chunk_frames)
        if path is not None and self.native_frames != 0:
            self._steps = native_steps(path, first)

    def __iter__(self) -> Iterator[tuple[T, Prior]]:
        return walk_chunks(self._frames, self._luma, self._chunk_frames, self._before, self._chunk)

    def _is_native(self, frame: int) -> bool:
        return self.native_frames is None or frame < self.native_frames

    def _chunk(self, lumas: Sequence[Luma], *, before: Luma | None, after: Luma | None) -> list[Prior]:
        begin = time.perf_counter()
        try:
            native = self._is_native(self._at)
            priors = (self._native_chunk if native else self._reencoded_chunk)(lumas, before, after)
        except DamagedVideo as error:
            if self._mode == "native":
                raise
            self.native_frames, self.reason = self._at, str(error)
            priors = self._reencoded_chunk(lumas, before, after)
        self._at += len(lumas)
        self.seconds += time.perf_counter() - begin
        return priors

    def _reencoded_chunk(self, lumas: Sequence[Luma], before: Luma | None, after: Luma | None) -> list[Prior]:
        priors = chunk_priors(
            lumas,
            before=before,
            after=after,
            profile=self._profile,
            qp=self._qp,
            threads=self._threads,
            workers=self._workers,
        )
        if self._pending is not None:  # the chunk before has told already what comes after it
            priors[0] = self._pending.put_into(priors[0])
            self._pending = None
        return priors

    def _native_chunk(self, lumas: Sequence[Luma], before: Luma | None, after: Luma | None) -> list[Prior]:
        height, width = lumas[0].shape
        tail = [] if after is None else [after]
        with ThreadPoolExecutor(max(1, self._workers)) as pool:
            backward_run = pool.submit(self._encode, [*tail, *reversed(lumas)] if self._backward else lumas[:1])
            jobs = []
            # The frame that follows belongs to the next chunk, where its Forward is kept for.
            follows = tail if self._is_native(self._at + len(lumas)) else []
            head = [] if before is None else [before]
            test = CutTest([*head, *lumas, *tail])
            for i in range(len(lumas) + len(follows)):
                if i == 0 and self._pending is not None:
                    continue
                t = i + len(head)
                step = self._next_step(self._at + i, test.lumas[t])
                # Of a seam, both chunks must say the same; see chunk_priors.
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
        """The native step of a frame, whose reconstruction must be the frame at hand."""
        step = next(self._steps, _END)
        height, width = luma.shape
        if step is _END or (step is not None and not np.array_equal(step.reconstruction[:height, :width], luma)):
            raise DamagedVideo(
                f"{self._path}: frame {frame} is not the same when decoded again, so its vectors cannot be trusted; "
                "use --mode auto, which re-encodes"
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
        """What re-encoding frame ``t`` and the one before it says, by themselves."""
        [step] = self._encode(test.lumas[t - 1 : t + 1])
        return forward_of(step, test, t, seam=seam)

    def _encode(self, lumas: Sequence[Luma]) -> list[Step]:
        return encode_steps(lumas, self._profile, self._qp, self._threads)


_BLANK = np.zeros((0, 0), np.uint8)
_END = Step(_BLANK, _BLANK, np.zeros((0, 0, 2), np.int16), np.zeros((0, 0), np.bool_))


def _plan(path: Path | None, mode: Mode, chunk_frames: int) -> tuple[int | None, str]:
    """(frames in native chunks, reason); None for all frames."""
    if mode == "reencode":
        return 0, "asked for"
    if path is None:
        found = Examination(0, False, "single pictures hold no motion vectors")
    else:
        found = examine(path)
    if found.whole:
        return None, found.reason
    if mode == "native":
        raise UnsupportedVideo(
            f"{path or 'the input'}: its own motion vectors cannot be used: {found.reason}; "
            "use --mode auto, which re-encodes in memory"
        )
    return found.frames - found.frames % chunk_frames, found.reason
