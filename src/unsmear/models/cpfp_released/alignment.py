"""Second-order alignment of the released stage 1: conditioned on residuals and on where both motions agree."""

import torch
from torch import Tensor, nn

from unsmear.models.common.warp import DeformConv2d, warp
from unsmear.models.cpfp.alignment import TAPS
from unsmear.models.cpfp.blocks import zero_bias
from unsmear.models.cpfp_released.blocks import SLOPE

AGREE_SHARE, AGREE_PX2 = 0.01, 0.5
"""Motion and its inverse agree where the squared length of their sum is below this share of their squared lengths, plus
this many squared feature pixels."""

MASK_STEP = 0.1
"""Of the residual map, from -1 to 1, in the logits of the modulation."""


def agreement(motion: Tensor, inverse: Tensor) -> Tensor:
    """1 where a motion and the inverse one, sampled where it points, cancel out, else 0; (B, 1, h, w)."""
    there = warp(inverse, motion)
    bound = AGREE_SHARE * (_squared(motion) + _squared(there)) + AGREE_PX2
    return (_squared(motion + there) < bound).to(motion.dtype)


def _squared(motion: Tensor) -> Tensor:
    return motion.square().sum(1, keepdim=True)


class Neighbour:
    """What alignment takes from a frame that is one or two steps away. Sizes: (B, ·, h, w) on the feature grid.

    Args:
        features: (B, C, h, w), not warped.
        motion: from the current frame to that one, feature pixels, float32.
        inverse: back from there, on that frame's grid.
        residual: residual map of that frame, (B, 1, h, w).
    """

    def __init__(self, features: Tensor, motion: Tensor, inverse: Tensor, residual: Tensor):
        self.features, self.motion = features, motion
        self.warped, self.residual = warp(features, motion), warp(residual, motion)
        self.agrees = agreement(motion, inverse)

    @classmethod
    def none(cls, features: Tensor) -> "Neighbour":
        """Where there is no such frame: zeros throughout, ``features`` gives the shape."""
        made, one = cls.__new__(cls), torch.zeros_like(features[:, :1], dtype=torch.float32)
        made.features = made.warped = torch.zeros_like(features)
        made.motion, made.residual, made.agrees = torch.cat([one, one], 1), one, one
        return made


class ReleasedAlignment(nn.Module):
    """Deformable convolution over two neighbouring frames' features, offset from their motion.

    Args:
        channels: of the features of a frame.
        offset_groups: groups of channels with separate offsets, half of them for each neighbour.
        offset_limit: bound on the learnt offsets, feature pixels (limit · tanh).
    """

    def __init__(self, channels: int, offset_groups: int, offset_limit: float):
        super().__init__()
        self.offset_limit = offset_limit
        layers: list[nn.Module] = []
        for k in range(3):  # features, residual maps, agreements, motions
            layers += [nn.Conv2d(3 * channels + 3 + 2 + 4 if k == 0 else channels, channels, 3, padding=1)]
            layers += [nn.LeakyReLU(SLOPE, inplace=True)]
        last = nn.Conv2d(channels, 3 * TAPS * offset_groups, 3, padding=1)
        nn.init.zeros_(last.weight)
        zero_bias(last)
        self.condition = nn.Sequential(*layers, last)
        self.deform = DeformConv2d(2 * channels, channels)

    def forward(self, current: Tensor, residual: Tensor, near: Neighbour, far: Neighbour) -> Tensor:
        """Args: current: features of the frame in the pass before; residual: its residual map. Returns (B, C, h, w)."""
        both = (near, far)
        maps = [near.residual, residual, far.residual, near.agrees, far.agrees, near.motion, far.motion]
        given = [near.warped, current, far.warped, *(m.to(current.dtype) for m in maps)]
        offsets, more, logits = self.condition(torch.cat(given, 1)).float().chunk(3, 1)
        learnt = self.offset_limit * torch.tanh(torch.cat([offsets, more], 1))
        base = [n.motion.flip(1).repeat(1, learnt.shape[1] // 4, 1, 1) for n in both]
        push = [MASK_STEP * (2 * n.residual * n.agrees - 1).expand(-1, logits.shape[1] // 2, -1, -1) for n in both]
        mask = torch.sigmoid(logits + torch.cat(push, 1)).to(current.dtype)
        return self.deform(torch.cat([n.features for n in both], 1), torch.cat(base, 1) + learnt, mask)
