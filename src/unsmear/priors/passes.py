"""What a pass of a codec over frames leaves behind, and how two passes become priors.

A pass gives a :class:`Step` for each pair of neighbouring frames: the two reconstructions and the vectors
between them. A step forward in time becomes a :class:`Forward`, which also says whether there is a cut
between the two. N + 1 of these and the backward steps of the same frames make N priors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from unsmear.priors.compensation import compensate
from unsmear.priors.grid import Mask, MotionGrid, fill_holes, grid_from_vectors
from unsmear.priors.prior import Prior
from unsmear.priors.reencode import Profile, ReencodePass

CUT_COVERAGE = 0.5
"""Below this share of inter-coded cells a frame starts a new shot."""
CUT_RESIDUAL = 12.0
"""Above this mean residual, in luma levels, a frame starts a new shot."""

Luma = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Step:
    """One frame of a pass: its reconstruction, the one before it, and the motion between them."""

    reconstruction: Luma
    reference: Luma
    grid: MotionGrid
    valid: Mask


@dataclass(frozen=True)
class Forward:
    """A frame's motion from the one before it, its residual, and whether there is a cut between the two."""

    motion_q: MotionGrid
    valid: Mask
    residual: Luma
    reset: bool
    origin: str


def encode_steps(lumas: Sequence[Luma], profile: Profile, qp: int, threads: int) -> list[Step]:
    """One re-encode pass over consecutive frames: a step for each frame but the first."""
    height, width = lumas[0].shape
    encode = ReencodePass(width, height, profile=profile, qp=qp, threads=threads)
    reference, _ = encode(lumas[0])
    steps = []
    for luma in lumas[1:]:
        reconstruction, vectors = encode(luma)
        steps.append(Step(reconstruction, reference, *grid_from_vectors(vectors, height, width)))
        reference = reconstruction
    return steps


def forward_of(step: Step, height: int, width: int, origin: str = "reencode") -> Forward:
    """Residual of a step, and whether it crosses a cut."""
    if step.valid.mean() >= CUT_COVERAGE:
        motion_q = fill_holes(step.grid, step.valid)
        difference = cv2.absdiff(step.reconstruction, compensate(step.reference, motion_q))
        residual: Luma = np.ascontiguousarray(difference[:height, :width]).view(np.uint8)
        if residual.mean() <= CUT_RESIDUAL:
            return Forward(motion_q, step.valid, residual, reset=False, origin=origin)
    return cut(height, width, origin)


def cut(height: int, width: int, origin: str = "reencode") -> Forward:
    """A frame that has no past."""
    return Forward(
        *grid_from_vectors(None, height, width), np.zeros((height, width), np.uint8), reset=True, origin=origin
    )


def assemble(forwards: Sequence[Forward], backwards: Sequence[Step]) -> list[Prior]:
    """The priors of N consecutive frames.

    Args:
        forwards: N + 1, those of the frames and of the one after them (a cut where there is none).
        backwards: the steps of the reversed frames, in the order of that pass; N of them if it began one
            frame after the last, else N - 1.
    """
    priors = []
    for t, (forward, following) in enumerate(pairwise(forwards)):
        if following.reset:
            motion_back_q, valid_back = grid_from_vectors(None, *forward.residual.shape)
        else:
            step = backwards[len(backwards) - 1 - t]
            motion_back_q, valid_back = fill_holes(step.grid, step.valid), step.valid
        priors.append(
            Prior(
                motion_q=forward.motion_q,
                motion_back_q=motion_back_q,
                valid=forward.valid,
                valid_back=valid_back,
                residual=forward.residual,
                reset=forward.reset,
                reset_back=following.reset,
                origin=forward.origin,
            )
        )
    return priors
