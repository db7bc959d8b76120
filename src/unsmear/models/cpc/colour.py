"""Colour transfer by wavelets: coarse scales from a reference, fine ones from the generated picture.

The à-trous decomposition with five levels that the authors' release uses after sampling (METHODS §7).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 5


def coarse(image: Tensor, levels: int = LEVELS) -> Tensor:
    """``image`` (B, C, H, W) blurred by a 3×3 binomial at spacings 1, 2, 4, … so many times; edges are repeated."""
    profile = image.new_tensor([0.25, 0.5, 0.25])
    channels = image.shape[1]
    for level in range(levels):
        step = 2**level
        for axis, pad in ((2, (0, 0, step, step)), (3, (step, step, 0, 0))):
            kernel = profile.reshape([1, 1, *(3 if a == axis else 1 for a in (2, 3))]).expand(channels, -1, -1, -1)
            image = F.conv2d(F.pad(image, pad, mode="replicate"), kernel, dilation=step, groups=channels)
    return image


def transfer_colour(image: Tensor, reference: Tensor) -> Tensor:
    """``image`` with the coarse scales of ``reference``; both (B, 3, H, W)."""
    return image + coarse(torch.as_tensor(reference - image))
