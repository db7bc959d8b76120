"""Residual blocks without normalisation: nothing here looks at more than its receptive field."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def zero_bias(conv: nn.Conv2d) -> None:
    """Start a convolution without an offset."""
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), the second convolution starting a tenth of the usual size."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.kaiming_normal_(self.conv1.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.conv2.weight, nonlinearity="relu")
        self.conv2.weight.data *= 0.1
        for conv in (self.conv1, self.conv2):
            zero_bias(conv)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class ResidualBody(nn.Sequential):
    """A 3×3 convolution from ``in_channels`` followed by ``depth`` residual blocks."""

    def __init__(self, in_channels: int, channels: int, depth: int):
        super().__init__(
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
            *(ResidualBlock(channels) for _ in range(depth)),
        )


class CoarseLevel(nn.Module):
    """x + what residual blocks make of x at half the resolution; starts as x. Sides must be even."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(depth)))
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        zero_bias(self.out)

    def forward(self, x: Tensor) -> Tensor:
        small = self.out(self.blocks(F.avg_pool2d(x, 2)))
        return x + F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)


class DetailLevel(nn.Module):
    """A correction of an image from convolutions at half its resolution, guided by features at a quarter of it.

    A quarter-resolution feature stands for 48 values of a frame; what belongs to single pixels needs a finer grid. The
    correction starts at zero.

    Args:
        channels: of the features that guide.
        images: how many images it sees.
        width: channels at half resolution.
        depth: residual blocks.
    """

    GUIDES = 8

    def __init__(self, channels: int, images: int, width: int, depth: int):
        super().__init__()
        self.guide = nn.Conv2d(channels, 4 * self.GUIDES, 1)
        self.body = ResidualBody(12 * images + self.GUIDES, width, depth)
        self.to_pixels = nn.Conv2d(width, 12, 3, padding=1)
        nn.init.zeros_(self.to_pixels.weight)
        zero_bias(self.to_pixels)

    def forward(self, features: Tensor, images: Sequence[Tensor]) -> Tensor:
        """``features`` (B, C, H/4, W/4) and images (B, 3, H, W) → correction (B, 3, H, W) float32."""
        read = [F.pixel_shuffle(self.guide(features), 2), *(F.pixel_unshuffle(x.to(features.dtype), 2) for x in images)]
        x = torch.cat(read, 1)
        if x.dtype == torch.bfloat16:
            x = x.contiguous(memory_format=torch.channels_last)
        return F.pixel_shuffle(self.to_pixels(self.body(x)).float(), 2)
