"""U-shaped body with most parameters at the coarsest of several levels. Ours.

Strong blur spreads a pixel over dozens of others. At 1/4 of the frame size a receptive field of that extent takes many
layers; two levels further down one 3×3 kernel covers it, at a sixteenth of the cost per layer.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from unsmear.models.cpfp.blocks import ResidualBlock, zero_bias


class Pyramid(nn.Module):
    """Residual blocks at several resolutions, each half of the one before, with skip connections.

    Input and output have one shape, (B, channels[0], h, w), of any size: maps are padded by repeating the last row and
    column. The receptive field is bounded.

    Args:
        channels: of each level; the first are those of the input.
        depths: residual blocks of each level; above the last level, half of them precede the lower levels and half
            follow.

    Raises:
        ValueError: no levels, or not as many depths as channels.
    """

    def __init__(self, channels: Sequence[int], depths: Sequence[int]):
        super().__init__()
        if len(channels) != len(depths) or not channels:
            raise ValueError(f"channels {list(channels)} and depths {list(depths)} must be as many, one or more")
        below = list(pairwise(channels))
        self.before = nn.ModuleList(_blocks(c, d // 2) for c, d in zip(channels[:-1], depths, strict=False))
        self.down = nn.ModuleList(nn.Conv2d(c, d, 2, stride=2) for c, d in below)
        self.bottom = _blocks(channels[-1], depths[-1])
        self.up = nn.ModuleList(nn.Conv2d(d, c, 1) for c, d in below)
        self.after = nn.ModuleList(_blocks(c, d - d // 2) for c, d in zip(channels[:-1], depths, strict=False))
        for conv in (*self.down, *self.up):
            zero_bias(conv)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        whole = 1 << len(self.down)
        x = F.pad(x, (0, -width % whole, 0, -height % whole), "replicate")
        skips = []
        for blocks, down in zip(self.before, self.down, strict=True):
            skips.append(blocks(x))
            x = down(skips[-1])
        x = self.bottom(x)
        for k in range(len(self.up) - 1, -1, -1):
            x = self.after[k](skips[k] + doubled(self.up[k](x)))
        return x[..., :height, :width]


def doubled(x: Tensor) -> Tensor:
    """Upsample bilinearly by two, which unlike a pixel shuffle leaves no pattern."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))
