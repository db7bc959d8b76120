"""Coding-prior feature alignment (CPGD-Net §III-B, Fig. 4, Eqs. 1–4)."""

import torch
from torch import Tensor, nn

from unsmear.models.common.warp import DeformConv2d, warp
from unsmear.models.cpfp.blocks import zero_bias

TAPS = 9
MOTION_SCALE_PX = 8.0
"""Scale of the motion inputs of convolutions, feature pixels."""


class CPFA(nn.Module):
    """Align the features of one or two neighbouring frames to the current frame by the coding motion.

    With first order and initial weights, the result is ``σ(R) · warp(F[t−1], V[t])``.

    Args:
        channels: feature channels.
        offset_groups: groups of channels with separate offsets.
        order: 1, or 2 for second-order propagation (features of t−1 and t−2, as in BasicVSR++).
        offset_limit: bound on the learnt offsets that are added to V, feature pixels (``limit · tanh``); None: no
            bound, as in the paper. A bound limits the receptive field, which tiling requires.
    """

    def __init__(self, channels: int, offset_groups: int, order: int = 1, offset_limit: float | None = None):
        super().__init__()
        self.groups, self.order, self.offset_limit = offset_groups, order, offset_limit
        self.condition = nn.Sequential(
            nn.Conv2d(order * (channels + 2) + 1, channels, 3, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
        )
        self.offset = nn.Conv2d(channels, order * offset_groups * TAPS * 2, 3, padding=1)
        self.modulation = nn.Conv2d(channels, order * offset_groups * TAPS, 3, padding=1)
        for conv in (self.offset, self.modulation):
            nn.init.zeros_(conv.weight)
            zero_bias(conv)
        self.deform = DeformConv2d(order * channels, channels)

    def forward(self, sources: list[Tensor], motions: list[Tensor], residual: Tensor) -> Tensor:
        """Args:
        sources: features of the neighbours, nearest first, ``order`` of (B, C, h, w).
        motions: motion from the current frame to each, (B, 2, h, w) float32, feature pixels (dx, dy).
        residual: R in [0, 1], (B, 1, h, w).

        Returns:
            Aligned features (B, C, h, w).
        """
        dtype = sources[0].dtype
        scaled = [m.to(dtype) / MOTION_SCALE_PX for m in motions]
        warped = [warp(s, m) for s, m in zip(sources, motions, strict=True)]  # Eq. 1
        hidden = self.condition(torch.cat([*scaled, *warped, residual.to(dtype)], 1))

        learnt = self.offset(hidden).float()  # Eq. 2
        if self.offset_limit is not None:
            learnt = self.offset_limit * torch.tanh(learnt / self.offset_limit)
        base = [m.flip(1).repeat(1, self.groups * TAPS, 1, 1) for m in motions]
        offset = torch.cat(base, 1) + learnt
        mask = torch.sigmoid(residual.to(dtype) + self.modulation(hidden))  # Eq. 3
        return self.deform(torch.cat(sources, 1), offset, mask)  # Eq. 4
