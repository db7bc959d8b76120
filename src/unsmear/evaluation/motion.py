"""Restorer with motion from another source than the codec, and the cost of motion sources (CPGD-Net, Table III)."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np

from unsmear.priors import Prior, chunk_priors
from unsmear.priors.flow import Cost, MotionSource, ReplacedMotion
from unsmear.priors.grid import grid_shape
from unsmear.restore.restorer import Clip, Restorer, State
from unsmear.video import Frame
from unsmear.video.colour import luma_of_rgb

COST_FIELDS = 3
"""Number of timed fields per source; the first may include a warm-up."""

_LAST = "motion source: frame before"


def _frame(rgb: np.ndarray) -> Frame:
    """An image as input of motion sources."""
    return Frame(0, None, 0.0, rgb, luma_of_rgb(rgb))


class MovedRestorer(Restorer):
    """Wrapper of a restorer that replaces the motion (both directions) by that of ``source``, and optionally the
    residual by zeros.

    The source is given the frames of a clip and, from the state, the previous frame. After the last frame of a clip the
    codec's motion is kept. With ``mv`` and the residual nothing changes.
    """

    def __init__(self, inner: Restorer, source: MotionSource, *, residual: bool = True, name: str | None = None):
        self.inner, self.source, self.residual = inner, source, residual
        self.name = f"{inner.name}-{source.name}" if name is None else name
        self.frames_after, self.device, self.dtype = inner.frames_after, inner.device, inner.dtype
        self.fingerprint = inner.fingerprint

    def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        import torch

        past = None if state is None else state[_LAST].numpy().astype(clip.frames.dtype)
        rest = None if state is None else {name: value for name, value in state.items() if name != _LAST}
        changed = replace(clip, priors=list(self._priors(clip, past)))
        restored, after = self.inner.restore(changed, rest, tile_px)
        last = clip.frames[clip.wanted - 1]
        kept = torch.from_numpy(last.astype(np.int32 if last.dtype == np.uint16 else np.uint8))
        return restored, {**after, _LAST: kept}

    def default_tile_px(self, height: int, width: int, frames: int) -> int | None:
        return self.inner.default_tile_px(height, width, frames)

    def _priors(self, clip: Clip, past: np.ndarray | None) -> Iterator[Prior]:
        pairs = [(_frame(frame), prior) for frame, prior in zip(clip.frames, clip.priors, strict=True)]
        lead = [] if past is None else [(_frame(past), Prior.empty(*past.shape[:2]))]
        moved = [prior for _, prior in ReplacedMotion(self.source, self.source).of([*lead, *pairs])]
        for prior in moved[len(lead) :]:
            yield prior if self.residual else replace(prior, residual=np.zeros_like(prior.residual))


def motion_cost(source: MotionSource, frames: Sequence[np.ndarray]) -> Cost:
    """Measure the cost of motion fields at the size of these frames.

    The time of the codec's motion is that of re-encoding in both directions, including residuals and cuts, divided by
    the number of fields. Its operations are counted as zero, as in the paper.

    Args:
        source: motion source.
        frames: at least two consecutive frames, ``(H, W, 3)`` uint8 or uint16.

    Raises:
        ValueError: fewer than two frames.
    """
    if len(frames) < 2:
        raise ValueError("the cost of motion needs two frames or more")
    cost = Cost(source.name)
    inputs = [_frame(frame) for frame in frames]
    if source.name == "mv":
        lumas = [frame.luma for frame in inputs]
        begin = time.perf_counter()
        chunk_priors(lumas, before=None, after=None)
        cost.seconds = time.perf_counter() - begin
        cost.fields = 2 * (len(frames) - 1)
        return cost
    zero = np.zeros((*grid_shape(*frames[0].shape[:2]), 2), np.int16)
    for past, now in islice(pairwise(inputs), COST_FIELDS):
        begin = time.perf_counter()
        source.motion(now, past, zero)
        cost.seconds += time.perf_counter() - begin
        cost.fields += 1
        cost.flops += source.flops(*now.luma.shape)
    return cost
