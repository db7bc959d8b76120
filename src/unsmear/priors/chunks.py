"""Priors of whole videos by chunks at fixed positions.

An encoder has state, so that the vectors of a frame depend on where its pass started. Here every pass starts at a
fixed frame: the video is split, from the first frame of the file, into chunks of N frames; the forward pass of a chunk
starts one frame before it, the backward pass (the reversed chunk) one frame after it. The priors of a frame depend on
its chunk and one frame on either side only, so that streamed, windowed, resumed and whole runs are equal bit for bit
(ours).
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from unsmear.errors import UnsupportedVideo, UsageError
from unsmear.priors.assemble import Forward, assemble, backward_of, cut, forward_of
from unsmear.priors.cuts import CutTest
from unsmear.priors.prior import Prior
from unsmear.priors.settings import DEFAULT_CHUNK_FRAMES, DEFAULTS, PriorSettings
from unsmear.priors.steps import Luma, encode_steps
from unsmear.video.frame import Frame

S = TypeVar("S", bound=Frame | Luma)


def chunk_priors(
    lumas: Sequence[Luma],
    *,
    before: Luma | None,
    after: Luma | None,
    settings: PriorSettings = DEFAULTS,
    workers: int = 2,
) -> list[Prior]:
    """Priors of one chunk by re-encoding.

    Args:
        lumas: N >= 1 frames of the chunk, ``(H, W)`` uint8 luma each.
        before: last frame of the previous chunk; None at the start of the video.
        after: first frame of the next chunk; None at the end of the video.
        settings: ``codec``, ``profile`` and ``qp`` are used.
        workers: number of passes in parallel; does not affect the result.

    Returns:
        N priors, with ``reset_back[t] == reset[t + 1]``, also across chunks.

    Raises:
        UsageError: no frames.
        UnsupportedVideo: frames of different sizes, not uint8, or of a size that cannot be encoded.
    """
    if not len(lumas):
        raise UsageError("a chunk of 0 frames has no priors; give at least one frame")
    if lumas[0].ndim != 2:
        raise UnsupportedVideo(f"a frame of shape {lumas[0].shape} is not luma; expected (H, W) uint8")
    height, width = lumas[0].shape
    head = [] if before is None else [before]
    tail = [] if after is None else [after]

    encode = partial(encode_steps, profile=settings.profile, qp=settings.qp, codec=settings.codec)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        forward_run = pool.submit(encode, [*head, *lumas])
        backward_run = pool.submit(encode, [*tail, *reversed(lumas)])
        # A cut after the chunk is tested in the same pass as in the next chunk, for equal results.
        seam_run = pool.submit(encode, [lumas[-1], *tail])
        steps = [*forward_run.result(), *seam_run.result()]
        test = CutTest([*head, *lumas, *tail])

        def forward(i: int) -> Forward:
            # Both chunks must give the same result at their seam, so both use its two frames only.
            first, last = i < len(head), i == len(test.lumas) - 1 - len(tail)
            return forward_of(steps[i], test, i + 1, seam=first or last, judged_only=last)

        forwards = list(pool.map(forward, range(len(steps))))
        if before is None:
            forwards.insert(0, cut(height, width))
        if after is None:
            forwards.append(cut(height, width))
        backwards = list(pool.map(backward_of, reversed(backward_run.result()), forwards[1:]))
    return assemble(forwards, backwards)


def chunk_start(frame: int, chunk_frames: int = DEFAULT_CHUNK_FRAMES) -> int:
    """Number of the first frame of the chunk that contains ``frame``; both count from the first frame of the file."""
    return frame - frame % chunk_frames


class ChunkPriors(Protocol):
    """Function that returns the priors of a chunk, as :func:`chunk_priors` does."""

    def __call__(self, lumas: Sequence[Luma], *, before: Luma | None, after: Luma | None) -> list[Prior]: ...


def walk_chunks(
    frames: Iterable[S], chunk_frames: int, before: Luma | None, priors_of: ChunkPriors
) -> Iterator[tuple[S, Prior]]:
    """Group frames into chunks, and yield each with its prior once the first frame after its chunk is known."""
    items: list[S] = []
    lumas: list[Luma] = []
    for item in frames:
        plane = item.luma if isinstance(item, Frame) else np.asarray(item)
        if len(lumas) == chunk_frames:
            done = list(zip(items, priors_of(lumas, before=before, after=plane), strict=True))
            before, items, lumas = lumas[-1], [], []
            yield from done
        items.append(item)
        lumas.append(plane)
    if lumas:
        yield from zip(items, priors_of(lumas, before=before, after=None), strict=True)
