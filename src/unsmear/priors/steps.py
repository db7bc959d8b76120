"""Steps of a codec pass: reconstruction, reference and motion of each pair of consecutive frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unsmear.priors.grid import Mask, MotionGrid, grid_from_vectors
from unsmear.priors.reencode import ReencodePass
from unsmear.priors.settings import DEFAULTS, Profile

Luma = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Step:
    """One step of a pass: reconstruction of a frame, its reference (the previous one), and the motion between them."""

    reconstruction: Luma
    reference: Luma
    grid: MotionGrid
    valid: Mask


def encode_steps(
    lumas: Sequence[Luma], profile: Profile = DEFAULTS.profile, qp: int = DEFAULTS.qp, *, far: bool = False
) -> list[Step]:
    """Re-encode consecutive frames in one pass; returns a step for each frame but the first.

    Args:
        lumas: one or more frames, ``(H, W)`` uint8 each.
        profile, qp, far: as for :class:`~unsmear.priors.reencode.ReencodePass`.
    """
    height, width = lumas[0].shape
    encode = ReencodePass(width, height, profile=profile, qp=qp, far=far)
    reference, _ = encode(lumas[0])
    steps = []
    for luma in lumas[1:]:
        reconstruction, vectors = encode(luma)
        steps.append(Step(reconstruction, reference, *grid_from_vectors(vectors, height, width)))
        reference = reconstruction
    return steps
