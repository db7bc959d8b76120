"""Convolutional blocks of the released stage 1: channel attention, gated blocks, and blocks that exchange channels
between frames (the grouped spatio-temporal shift of Li et al., 2023)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1
"""Of the leaky rectifiers."""

SHIFT_PX = 4
FAR = [(dy, dx) for dy in (2, -2) for dx in (2, 1, 0, -1, -2)] + [(dy, dx) for dy in (1, 0, -1) for dx in (2, -2)]
NEAR = [(dy, dx) for dy in (1, 0, -1) for dx in (1, 0, -1) if (dy, dx) != (0, 0)]
"""Directions of the spatial shift, in units of ``SHIFT_PX``: the rim of a 5×5 grid, and the rim of its inner 3×3."""

SHIFTED_UNIT = 16
"""Channels of a shift block come in multiples of this: half of them are exchanged, in eight parts."""


def plain(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias, padded by zeros."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def depthwise(channels: int, kernel: int) -> nn.Conv2d:
    """Convolution of each channel by itself, without bias."""
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)


class ChannelScale(nn.Module):
    """Scale each channel by a factor in (0, 1) that follows from the means of all channels over the whole map."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = plain(channels, channels, 1), plain(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.second(F.relu(self.first(x.mean((2, 3), keepdim=True)))))


class AttendedBlock(nn.Module):
    """x + scale(conv(lrelu(conv(x))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2, self.scale = (
            plain(channels, channels),
            plain(channels, channels),
            ChannelScale(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale(self.conv2(F.leaky_relu(self.conv1(x), SLOPE)))


class GatedBlock(nn.Module):
    """Residual block with two multiplicative gates in place of activations; it starts as the identity.

    Args:
        channels: of the result.
        kernel: of the wider of two depthwise convolutions.
        extra: further input channels, after the others, which inform the block and have no skip connection.
    """

    def __init__(self, channels: int, kernel: int, extra: int = 0):
        super().__init__()
        self.channels = channels
        self.extra = depthwise(extra, 3) if extra else None
        self.norm = nn.LayerNorm(channels + extra, eps=1e-6)
        self.expand = plain(channels + extra, 2 * channels, 1)
        self.local = depthwise(2 * channels, 3)
        self.wide, self.narrow = depthwise(channels, kernel), depthwise(channels, 3)
        self.mix = plain(channels, 2 * channels, 1)
        self.scale = ChannelScale(channels)
        self.project = plain(channels, channels, 1)
        self.gain = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        own = x[:, : self.channels]
        if self.extra is not None:
            x = torch.cat([own, self.extra(x[:, self.channels :])], 1)
        y = self.expand(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        a, b = (y + self.local(y)).chunk(2, 1)
        y = a * b
        a, b = self.mix(y + self.wide(y) + self.narrow(y)).chunk(2, 1)
        return own + self.gain * self.project(self.scale(a * torch.sigmoid(b)))


class ShiftBlock(nn.Module):
    """Four rounds of gated blocks, before each of which half of the channels come from a neighbouring frame.

    Args:
        channels: a multiple of ``SHIFTED_UNIT``.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.rounds = nn.ModuleList(
            nn.Sequential(GatedBlock(channels, 5, channels // 2), GatedBlock(channels, 5)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: (B, T, C, H, W), one shot; the first and last frame are neighbours."""
        size = x.shape[:2]
        for k, blocks in enumerate(self.rounds):
            first, second = x.chunk(2, 2)
            if k % 2 == 0:
                given = second.roll(1, 1)
                x = torch.cat([given, first], 2)
            else:
                given = first.roll(-1, 1)
                x = torch.cat([second, given], 2)
            x = torch.cat([x.flatten(0, 1), spread(given.flatten(0, 1))], 1)
            x = blocks(x).unflatten(0, size)
        return x


def spread(x: Tensor) -> Tensor:
    """Shift groups of channels of (N, C, H, W) in 24 directions; zeros come in at the borders.

    With n an eighth of the channels, (n - 1) // 2 go in each of the ``FAR`` directions, the others evenly in ``NEAR``.
    """
    share = x.shape[1] // 8
    far = (share - 1) // 2
    near = share - 2 * far
    height, width = x.shape[-2:]
    rim = 2 * SHIFT_PX
    padded = F.pad(x, (rim, rim, rim, rim))
    groups = padded.split([far] * len(FAR) + [near] * len(NEAR), 1)
    moved = []
    for group, (dy, dx) in zip(groups, FAR + NEAR, strict=True):
        top, left = rim - dy * SHIFT_PX, rim - dx * SHIFT_PX
        moved.append(group[..., top : top + height, left : left + width])
    return torch.cat(moved, 1)
