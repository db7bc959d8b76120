"""Losses of the video diffusion model: v-prediction and temporal coherence (VDM Eqs. 3–5)."""

from typing import NamedTuple

from torch import Tensor

COHERENCE = 0.1
"""λ of Eq. 4 (§4.1)."""


class VDMLoss(NamedTuple):
    """Terms of Eq. 4, scalars."""

    base: Tensor
    coherence: Tensor

    def total(self, weight: float = COHERENCE) -> Tensor:
        """Eq. 4 with λ = ``weight``."""
        return self.base + weight * self.coherence


def vdm_loss(predicted: Tensor, target: Tensor) -> VDMLoss:
    """Both terms for predicted and true v, (B, F, L, h, w).

    Sums of squares, both divided by F·L·h·w and averaged over the batch (ours; the paper states no divisor).
    The coherence term of a single frame is 0.
    """
    error = predicted - target
    steps = error[:, 1:] - error[:, :-1]  # (v_{j+1} − v_j) − (o_{j+1} − o_j), up to the sign
    return VDMLoss(error.square().mean(), steps.square().sum() / error.numel())
