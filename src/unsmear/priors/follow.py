"""Motion for frames that the codec cannot follow (ours).

An encoder looks for a block within some twenty pixels of where it expects it. What moves farther is searched once
more in both pictures at half and at quarter size, with a wide search, after their brightness is made equal. Each cell
then takes of these motions the one that compensates best at full size. Where all of that explains nothing of a frame,
the motion of a neighbouring frame is the best guess there is.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from unsmear.priors.compensation import BLOCK
from unsmear.priors.grid import Mask, MotionGrid, fill_holes
from unsmear.priors.prior import FoundBy
from unsmear.priors.steps import Luma, Step, encode_steps

SHRINKS = (2, 4)
"""Factors of the sizes at which is searched again."""
EXPLAINED = 0.15
"""A motion that explains a smaller share of a frame's detail is no motion."""

_QP = 20  # of shrunk pictures
_SMALLEST = 32  # samples of a shrunk picture's shorter side
_BETTER, _BETTER_BY = 0.85, 0.3  # an error must be below this share of the codec's, and by this many levels
_DETAIL = 0.3  # levels: mean detail of a picture that shows anything
_LIGHT = 4.0  # levels: difference of mean brightness that is made up for

_Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Followed:
    """Motion of a frame, ``valid`` where a codec predicted the cell, and what the motion explains."""

    motion_q: MotionGrid
    valid: Mask
    source: FoundBy
    explained: float = 1.0
    """Share of the frame's detail, in [0, 1]; 0 where there is none."""


def as_coded(step: Step) -> Followed:
    """The codec's own motion."""
    return Followed(fill_holes(step.grid, step.valid), step.valid, "codec")


def follow(step: Step) -> Followed:
    """The best motion that can be found for a step whose own is doubtful.

    Args:
        step: of any pass; forward or backward.

    Returns:
        Its motion, of source ``"codec"`` or ``"coarse"``. If it explains less than :data:`EXPLAINED`, zeros of origin
        ``"none"`` instead, valid nowhere.
    """
    found = as_coded(step)
    motion_q, valid, coarse = found.motion_q.copy(), found.valid.copy(), False
    own, around = _errors(step, motion_q)
    least = np.minimum(_BETTER * around, around - _BETTER_BY)
    for shrink in SHRINKS:
        if min(step.reference.shape) < _SMALLEST * shrink:
            continue
        other_q, other_valid = _searched_small(step, shrink)
        other_own, around = _errors(step, other_q)
        better = (around < least) & (other_own < own)
        for kept, other in ((motion_q, other_q), (valid, other_valid), (least, around), (own, other_own)):
            kept[better] = other[better]
        coarse |= bool(better.any())
    explained = _explained(step, motion_q)
    if explained < EXPLAINED:
        return Followed(np.zeros_like(motion_q), np.zeros_like(valid), "none", explained)
    return Followed(motion_q, valid, "coarse" if coarse else "codec", explained)


def residual_of(step: Step, motion_q: MotionGrid, height: int, width: int) -> Luma:
    """``(height, width)`` uint8: magnitude of the reconstruction minus its prediction by ``motion_q``, levels."""
    difference = cv2.absdiff(step.reconstruction, step.predicted(motion_q))
    return np.ascontiguousarray(difference[:height, :width]).view(np.uint8)


def _errors(step: Step, motion_q: MotionGrid) -> tuple[_Float32, _Float32]:
    """Mean magnitude of what the prediction misses, in each cell and over it and its eight neighbours, levels.

    Each cell's mean is taken off first, so that brightness does not count.
    """
    gh, gw = motion_q.shape[:2]
    missed = step.reconstruction.astype(np.float32) - step.predicted(motion_q)
    cells = missed.reshape(gh, BLOCK, gw, BLOCK)
    cells -= cells.mean((1, 3), keepdims=True)
    own = np.abs(cells).mean((1, 3))
    return own, np.asarray(cv2.blur(own, (3, 3), borderType=cv2.BORDER_REPLICATE), np.float32)


def _searched_small(step: Step, shrink: int) -> tuple[MotionGrid, Mask]:
    """Motion and validity from a pass over the shrunk pictures, on the full grid and in its quarter pixels."""
    height, width = step.reference.shape
    size = (width // shrink, height // shrink)
    past, now = (
        np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        for picture in (step.reference, step.reconstruction)
    )
    [small] = encode_steps([_lit_as(past, now), now], qp=_QP, codec=step.codec, far=True)
    rows = np.minimum(np.arange(height // BLOCK) // shrink, small.valid.shape[0] - 1)
    columns = np.minimum(np.arange(width // BLOCK) // shrink, small.valid.shape[1] - 1)
    cells = np.ix_(rows, columns)
    motion = fill_holes(small.grid, small.valid)[cells].astype(np.int32) * shrink
    return motion.clip(-32768, 32767).astype(np.int16), small.valid[cells]


def _lit_as(past: Luma, now: Luma) -> Luma:
    """``past`` with the mean and the contrast of ``now``, if their brightness differs."""
    levels = float(now.mean()) - float(past.mean())
    if abs(levels) <= _LIGHT:
        return past
    gain = np.clip(now.std() / max(float(past.std()), 1.0), 0.25, 4)
    lit = (past.astype(np.float32) - past.mean()) * gain + now.mean()
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def _explained(step: Step, motion_q: MotionGrid) -> float:
    """The share of the detail, at quarter size where noise is low, that the prediction has too."""
    size = tuple(side // 4 for side in step.reference.shape[::-1])
    now = step.reconstruction.astype(np.float32)
    missed = now - step.predicted(motion_q)
    detail, left = (np.abs(_without_light(cv2.resize(x, size, interpolation=cv2.INTER_AREA))) for x in (now, missed))
    if detail.mean() < _DETAIL:
        return 0.0
    return float(1 - np.minimum(left, detail).sum() / detail.sum())


def _without_light(picture: npt.NDArray[np.generic]) -> _Float32:
    small = np.asarray(picture, np.float32)
    return small - cv2.blur(small, (5, 5), borderType=cv2.BORDER_REPLICATE)
