"""Motion search for frames whose motion the codec did not find (ours).

An encoder searches a block within about twenty pixels of its predicted position. For larger motion both frames are
searched again at half and at quarter size, with a wide search, after their brightness is matched. Each cell then takes
the motion with the best compensation at full size. Where none of it explains the frame, the motion of a neighbouring
frame is used.
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
"""Factors by which frames are shrunk for the second search."""
EXPLAINED = 0.15
"""Least share of a frame's detail that its motion must explain; else the motion is set to zero."""

_QP = 20  # quantiser for shrunk frames
_SMALLEST = 32  # least samples of the shorter side of a shrunk frame
_BETTER, _BETTER_BY = 0.85, 0.3  # an error must be below this share of the codec's, and lower by this many levels
_DETAIL = 0.3  # levels: least mean detail of a frame with content
_LIGHT = 4.0  # levels: difference of mean brightness from which brightness is matched

_Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Followed:
    """Motion of a frame, its validity (True where a codec predicted the cell), source and quality."""

    motion_q: MotionGrid
    valid: Mask
    source: FoundBy
    explained: float = 1.0
    """Share of the frame's detail that the motion explains, in [0, 1]; 0 for a frame without detail."""


def as_coded(step: Step) -> Followed:
    """Motion vectors of the codec, with holes filled."""
    return Followed(fill_holes(step.grid, step.valid), step.valid, "codec")


def follow(step: Step) -> Followed:
    """Search the motion of a step whose motion vectors are not reliable.

    Args:
        step: of a forward or backward pass.

    Returns:
        Motion of source ``"codec"`` or ``"coarse"``; if it explains less than :data:`EXPLAINED`, zero motion of source
        ``"none"``, valid nowhere.
    """
    coded = as_coded(step)
    motion_q, valid, coarse = coded.motion_q.copy(), coded.valid.copy(), False
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
    """Residual ``(height, width)`` uint8: magnitude of reconstruction minus prediction by ``motion_q``, levels."""
    difference = cv2.absdiff(step.reconstruction, step.predicted(motion_q))
    return np.ascontiguousarray(difference[:height, :width]).view(np.uint8)


def _errors(step: Step, motion_q: MotionGrid) -> tuple[_Float32, _Float32]:
    """Mean absolute prediction error of each cell, and of the 3×3 cells around it, levels.

    The mean of each cell is subtracted first, so that brightness is ignored.
    """
    gh, gw = motion_q.shape[:2]
    error = step.reconstruction.astype(np.float32) - step.predicted(motion_q)
    cells = error.reshape(gh, BLOCK, gw, BLOCK)
    cells -= cells.mean((1, 3), keepdims=True)
    own = np.abs(cells).mean((1, 3))
    return own, np.asarray(cv2.blur(own, (3, 3), borderType=cv2.BORDER_REPLICATE), np.float32)


def _searched_small(step: Step, shrink: int) -> tuple[MotionGrid, Mask]:
    """Motion and validity from a pass over shrunk frames, on the full grid and in quarter pixels of the full size."""
    height, width = step.reference.shape
    size = (width // shrink, height // shrink)
    past, now = (
        np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        for picture in (step.reference, step.reconstruction)
    )
    [small] = encode_steps([_match_light(past, now), now], qp=_QP, codec=step.codec, far=True)
    rows = np.minimum(np.arange(height // BLOCK) // shrink, small.valid.shape[0] - 1)
    columns = np.minimum(np.arange(width // BLOCK) // shrink, small.valid.shape[1] - 1)
    cells = np.ix_(rows, columns)
    motion = fill_holes(small.grid, small.valid)[cells].astype(np.int32) * shrink
    return motion.clip(-32768, 32767).astype(np.int16), small.valid[cells]


def _match_light(past: Luma, now: Luma) -> Luma:
    """Match mean and contrast of ``past`` to ``now``, if their brightness differs."""
    levels = float(now.mean()) - float(past.mean())
    if abs(levels) <= _LIGHT:
        return past
    gain = np.clip(now.std() / max(float(past.std()), 1.0), 0.25, 4)
    matched = (past.astype(np.float32) - past.mean()) * gain + now.mean()
    return np.clip(np.rint(matched), 0, 255).astype(np.uint8)


def _explained(step: Step, motion_q: MotionGrid) -> float:
    """Share of the frame's detail that the prediction explains, at quarter size, where noise is low."""
    size = tuple(side // 4 for side in step.reference.shape[::-1])
    now = step.reconstruction.astype(np.float32)
    error = now - step.predicted(motion_q)
    detail, rest = (np.abs(_high_pass(cv2.resize(x, size, interpolation=cv2.INTER_AREA))) for x in (now, error))
    if detail.mean() < _DETAIL:
        return 0.0
    return float(1 - np.minimum(rest, detail).sum() / detail.sum())


def _high_pass(picture: npt.NDArray[np.generic]) -> _Float32:
    small = np.asarray(picture, np.float32)
    return small - cv2.blur(small, (5, 5), borderType=cv2.BORDER_REPLICATE)
