"""Steps of a codec pass: reconstruction, reference and motion of each pair of consecutive frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from unsmear.priors.compensation import compensate
from unsmear.priors.grid import Mask, MotionGrid, grid_from_vectors
from unsmear.priors.hevc import encode_hevc
from unsmear.priors.hevc_compensation import compensate_hevc
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
    codec: str = DEFAULTS.codec

    def predicted(self, motion_q: MotionGrid) -> Luma:
        """Motion-compensated reference ``(gh * 8, gw * 8)`` uint8, by the interpolation of the codec."""
        move = compensate_hevc if self.codec == "hevc" else compensate
        return move(self.reference, motion_q)


def encode_steps(
    lumas: Sequence[Luma],
    profile: Profile = DEFAULTS.profile,
    qp: int = DEFAULTS.qp,
    *,
    codec: str = DEFAULTS.codec,
    far: bool = False,
) -> list[Step]:
    """Re-encode consecutive frames in one pass; returns a step for each frame but the first.

    Args:
        lumas: one or more frames, ``(H, W)`` uint8 each.
        profile, qp, far: as for :class:`~unsmear.priors.reencode.ReencodePass`.
        codec: ``"h264"`` or ``"hevc"``.
    """
    if codec == "hevc":
        coded = encode_hevc(lumas, profile, qp, far=far)
        return [Step(now[0], past[0], *now[1:], codec) for past, now in pairwise(coded)]
    height, width = lumas[0].shape
    encode = ReencodePass(width, height, profile=profile, qp=qp, far=far)
    reference, _ = encode(lumas[0])
    steps = []
    for luma in lumas[1:]:
        reconstruction, vectors = encode(luma)
        steps.append(Step(reconstruction, reference, *grid_from_vectors(vectors, height, width)))
        reference = reconstruction
    return steps
