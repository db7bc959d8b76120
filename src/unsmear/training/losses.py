"""Losses of stage 1. L1 is the paper's; the others, and the perceptual term, are ours."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from unsmear.options import Limits, check


def l1(restored: Tensor, sharp: Tensor) -> Tensor:
    """Mean absolute error."""
    return (restored - sharp).abs().mean()


def charbonnier(restored: Tensor, sharp: Tensor) -> Tensor:
    """Charbonnier loss, √(error² + 10⁻⁶), mean over values."""
    return ((restored - sharp) ** 2 + 1e-6).sqrt().mean()


def psnr_loss(restored: Tensor, sharp: Tensor) -> Tensor:
    """Mean over samples of 0.2 · log10(MSE + 10⁻⁴), so that samples with large errors do not dominate the loss.

    The constant limits the gradient of samples above 40 dB, which are sharp already. Frames are (B, T, 3, H, W).
    """
    mse = ((restored - sharp) ** 2).mean((1, 2, 3, 4))
    return 0.2 * torch.log10(mse + 1e-4).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "charbonnier": charbonnier, "psnr": psnr_loss}


def perceptual_loss(restored: Tensor, sharp: Tensor, frames: int) -> Tensor:
    """Mean LPIPS (AlexNet) of ``frames`` evenly spaced frames of each sequence (B, T, 3, H, W) in [0, 1]."""
    from unsmear.metrics.lpips import load_lpips

    network = load_lpips().to(restored.device)
    picks = torch.linspace(0, restored.shape[1] - 1, frames).round().long()
    a, b = (x[:, picks].flatten(0, 1).clamp(0, 1) * 2 - 1 for x in (restored, sharp))
    return network(a, b).mean()


@dataclass(frozen=True)
class LossConfig:
    """Loss of stage 1 and its weights."""

    name: Literal["l1", "charbonnier", "psnr"] = "l1"
    """``l1`` (the paper's), ``charbonnier``, or ``psnr``: mean over samples of 10 log10 of their MSE."""
    perceptual: Annotated[float, Limits(0)] = 0.0
    """Weight of LPIPS."""
    perceptual_frames: Annotated[int, Limits(1)] = 2
    """Frames of a sequence that LPIPS is computed on."""

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, restored: Tensor, sharp: Tensor) -> Tensor:
        """Loss (scalar) of frames (B, T, 3, H, W) in [0, 1]."""
        total = LOSSES[self.name](restored, sharp)
        if self.perceptual:
            with torch.autocast(restored.device.type, enabled=False):
                total = total + self.perceptual * perceptual_loss(restored.float(), sharp, self.perceptual_frames)
        return total
