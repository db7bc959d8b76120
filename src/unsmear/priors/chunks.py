"""Priors of whole videos, chunk by absolute chunk.

An encoder carries history, so the vectors of a frame depend on where its pass began. Here every pass
begins at a fixed frame: the video is cut, from the first frame of the file, into chunks of N frames; the
forward pass of a chunk starts one frame before it, the backward pass (the reversed chunk) one frame
after it. The priors of a frame are then a function of its chunk and that one frame on either side, and
a streamed, a windowed, a resumed and a whole run are equal bit for bit (ours).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from unsmear.errors import UnsupportedVideo, UsageError
from unsmear.priors.compensation import compensate
from unsmear.priors.grid import Mask, MotionGrid, fill_holes, grid_from_vectors
from unsmear.priors.prior import Prior
from unsmear.priors.reencode import Profile, ReencodePass

DEFAULT_CHUNK_FRAMES = 24
"""Frames a chunk. Backward motion is known one chunk late; each chunk codes four frames more than it has."""

CUT_COVERAGE = 0.5
"""Below this share of inter-coded cells a frame starts a new shot."""
CUT_RESIDUAL = 12.0
"""Above this mean residual, in luma levels, a frame starts a new shot."""

Luma = npt.NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True)
class _Step:
    """One frame of a pass: its reconstruction, the one before it, and the motion between them."""

    reconstruction: Luma
    reference: Luma
    grid: MotionGrid
    valid: Mask


@dataclass(frozen=True)
class _Forward:
    motion_q: MotionGrid
    valid: Mask
    residual: Luma
    reset: bool


def _no_motion(luma: Luma) -> tuple[MotionGrid, Mask]:
    return grid_from_vectors(None, *luma.shape)


def _encode(lumas: Sequence[Luma], profile: Profile, qp: int, threads: int) -> list[_Step]:
    """One pass over consecutive frames: a step for each frame but the first."""
    height, width = lumas[0].shape
    encode = ReencodePass(width, height, profile=profile, qp=qp, threads=threads)
    reference, _ = encode(lumas[0])
    steps = []
    for luma in lumas[1:]:
        reconstruction, vectors = encode(luma)
        steps.append(_Step(reconstruction, reference, *grid_from_vectors(vectors, height, width)))
        reference = reconstruction
    return steps


def _forward(step: _Step, height: int, width: int) -> _Forward:
    """Residual of a step, and whether it crosses a cut."""
    if step.valid.mean() >= CUT_COVERAGE:
        motion_q = fill_holes(step.grid, step.valid)
        difference = cv2.absdiff(step.reconstruction, compensate(step.reference, motion_q))
        residual: Luma = np.ascontiguousarray(difference[:height, :width]).view(np.uint8)
        if residual.mean() <= CUT_RESIDUAL:
            return _Forward(motion_q, step.valid, residual, reset=False)
    return _cut(height, width)


def _cut(height: int, width: int) -> _Forward:
    blank = np.zeros((height, width), np.uint8)
    return _Forward(*_no_motion(blank), blank, reset=True)


def chunk_priors(
    lumas: Sequence[Luma],
    *,
    before: Luma | None,
    after: Luma | None,
    profile: Profile = "fast",
    qp: int = 24,
    threads: int = 1,
    workers: int = 2,
) -> list[Prior]:
    """The priors of one absolute chunk.

    Args:
        lumas: the chunk's N >= 1 frames, ``(H, W)`` uint8 luma each.
        before: the last frame of the previous chunk, None at the video's start.
        after: the first frame of the next chunk, None at the video's end.
        profile: see :class:`~unsmear.priors.reencode.ReencodePass`.
        qp: quantiser of the re-encode, 1 to 51.
        threads: threads of each encoder. Part of the result: another number gives other vectors.
        workers: passes run side by side (forward and backward). Not part of the result.

    Returns:
        N priors. ``reset_back[t] == reset[t + 1]`` always, also from one chunk to the next.

    Raises:
        UsageError: no frames, or an unknown profile, qp or threads.
        UnsupportedVideo: frames of different sizes, not uint8, or of a size that cannot be encoded.
    """
    if not len(lumas):
        raise UsageError("a chunk of 0 frames has no priors; give at least one frame")
    if lumas[0].ndim != 2:
        raise UnsupportedVideo(f"a frame of shape {lumas[0].shape} is not luma; expected (H, W) uint8")
    height, width = lumas[0].shape
    head = [] if before is None else [before]
    tail = [] if after is None else [after]

    with ThreadPoolExecutor(max(1, workers)) as pool:
        forward_run = pool.submit(_encode, [*head, *lumas], profile, qp, threads)
        backward_run = pool.submit(_encode, [*tail, *reversed(lumas)], profile, qp, threads)
        # Whether a cut lies behind the chunk is asked of the very pass with which the next chunk starts.
        seam_run = pool.submit(_encode, [lumas[-1], *tail], profile, qp, threads)
        steps = [*forward_run.result(), *seam_run.result()]
        forwards = list(pool.map(lambda step: _forward(step, height, width), steps))
        backwards = backward_run.result()

    if before is None:
        forwards.insert(0, _cut(height, width))
    if after is None:
        forwards.append(_cut(height, width))
    no_motion = _no_motion(lumas[0])
    priors = []
    for t in range(len(lumas)):
        reset_back = forwards[t + 1].reset
        motion_back_q, valid_back = no_motion
        if not reset_back:
            # The reversed pass met frame t just after t + 1; without `after` it began at the last frame.
            step = backwards[len(backwards) - 1 - t]
            motion_back_q, valid_back = fill_holes(step.grid, step.valid), step.valid
        forward = forwards[t]
        priors.append(
            Prior(
                motion_q=forward.motion_q,
                motion_back_q=motion_back_q,
                valid=forward.valid,
                valid_back=valid_back,
                residual=forward.residual,
                reset=forward.reset,
                reset_back=reset_back,
                origin="reencode",
            )
        )
    return priors


def chunk_start(frame: int, chunk_frames: int = DEFAULT_CHUNK_FRAMES) -> int:
    """The first frame of the chunk that holds ``frame``, both counted from the file's first frame."""
    return frame - frame % chunk_frames


def _as_luma(frame: Any) -> Luma:
    return np.asarray(frame)


def stream_priors(
    frames: Iterable[T],
    *,
    luma: Callable[[T], Luma] = _as_luma,
    chunk_frames: int = DEFAULT_CHUNK_FRAMES,
    before: Luma | None = None,
    profile: Profile = "fast",
    qp: int = 24,
    threads: int = 1,
    workers: int = 2,
) -> Iterator[tuple[T, Prior]]:
    """Pair each frame of a video with its prior, reading one chunk and one frame ahead.

    The result does not depend on where the stream starts, as long as that is the file's first frame or
    the first frame of a chunk (:func:`chunk_start`) with the frame ``before`` it. Memory is bounded by
    two chunks.

    Args:
        frames: consecutive frames of any type.
        luma: gives the ``(H, W)`` uint8 luma of a frame; default: the frame itself. Called once a frame.
        chunk_frames: N, frames a chunk. Part of the result.
        before: luma of the frame before the first one; None where the file starts.
        profile: see :func:`chunk_priors`, as ``qp``, ``threads`` and ``workers``.
        qp: see :func:`chunk_priors`.
        threads: see :func:`chunk_priors`.
        workers: see :func:`chunk_priors`.

    Yields:
        ``(frame, prior)`` in order, one for each input frame.

    Raises:
        UsageError: ``chunk_frames`` below 1, or what :func:`chunk_priors` refuses.
        UnsupportedVideo: what :func:`chunk_priors` raises.
    """
    if chunk_frames < 1:
        raise UsageError(f"chunk_frames {chunk_frames} is out of range; choose 1 or more")
    return _stream(frames, luma, chunk_frames, before, profile, qp, threads, workers)


def _stream(
    frames: Iterable[T],
    luma: Callable[[T], Luma],
    chunk_frames: int,
    before: Luma | None,
    profile: Profile,
    qp: int,
    threads: int,
    workers: int,
) -> Iterator[tuple[T, Prior]]:
    items: list[T] = []
    lumas: list[Luma] = []

    def finish(after: Luma | None) -> list[tuple[T, Prior]]:
        priors = chunk_priors(
            lumas, before=before, after=after, profile=profile, qp=qp, threads=threads, workers=workers
        )
        return list(zip(items, priors, strict=True))

    for item in frames:
        plane = luma(item)
        if len(lumas) == chunk_frames:
            done, before = finish(after=plane), lumas[-1]
            items, lumas = [], []
            yield from done
        items.append(item)
        lumas.append(plane)
    if lumas:
        yield from finish(after=None)
