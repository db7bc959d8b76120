"""Residual blocks without normalisation, so that the receptive field is bounded."""

import torch.nn.functional as F
from torch import Tensor, nn


def zero_bias(conv: nn.Conv2d) -> None:
    """Set the bias of a convolution to zero."""
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))); the second convolution is initialised at a tenth of the usual scale."""

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
    """Convolution (3×3, or of another odd ``kernel``) from ``in_channels``, followed by ``depth`` residual blocks."""

    def __init__(self, in_channels: int, channels: int, depth: int, kernel: int = 3):
        super().__init__(
            nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2),
            nn.LeakyReLU(0.1, inplace=True),
            *(ResidualBlock(channels) for _ in range(depth)),
        )
