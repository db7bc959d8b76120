"""The motion-line head: sharpen each pixel along the line that its content moved on. Ours.

During an exposure content moves along its own motion, so the blur kernel at p is close to a line along
``duty · V̄(p)``. The head reads the blurred frame at K points on that line and adds their weighted
differences from the centre. Its weights come from a bank of linear filters, interpolated over the length of
the blur, plus what a network adds; the bank starts from closed-form least squares. Taps lie at fractions of
the blur, not of the motion: one filter then serves every pair of speed and exposure with the same blur.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unsmear.models.common.gather import as_table, corners_of, fast, pixels_of, positions_of, read_pixels, read_rows
from unsmear.models.common.warp import pixel_grid, sample
from unsmear.models.cpfp.blocks import zero_bias

LENGTHS_PX = (0.5, 1.0, 2.0, 3.5, 5.0, 7.0, 10.0, 14.0, 20.0, 30.0)
"""Knots of the length of the blur between which filters are interpolated."""

SHORTEST_PX = 2.0
"""Taps of a blur of length L lie at fractions of √(L² + this²): less would read the same pixel again and again."""


def line_motion(motion: Tensor, motion_back: Tensor, reset: Tensor, reset_back: Tensor) -> Tensor:
    """V̄ = (a·V_back − b·V) / max(a + b, 1), a and b one unless that side is a reset.

    Args:
        motion, motion_back: (…, 2, H, W), pixels a frame step.
        reset, reset_back: (…) bool.
    """
    a = (~reset_back).to(motion.dtype)[..., None, None, None]
    b = (~reset).to(motion.dtype)[..., None, None, None]
    return (a * motion_back - b * motion) / (a + b).clamp(min=1)


def taps_along(count: int, reach: float) -> Tensor:
    """``count`` (odd) positions in [-reach, reach], the centre one exactly 0."""
    if count % 2 == 0:
        raise ValueError(f"line_taps {count} must be odd, so that one tap is the pixel itself")
    return torch.linspace(-reach, reach, count)


def hat_weights(value: Tensor, knots: tuple[float, ...]) -> Tensor:
    """Linear interpolation weights of ``value`` (…) between ``knots`` → (…, len(knots)); ends are held."""
    k = torch.tensor(knots, dtype=value.dtype, device=value.device)
    v = value.clamp(k[0], k[-1])
    upper = torch.searchsorted(k, v.contiguous(), right=False).clamp(1, len(knots) - 1)
    low, high = k[upper - 1], k[upper]
    part = (v - low) / (high - low)
    weights = torch.zeros(*value.shape, len(knots), dtype=value.dtype, device=value.device)
    weights.scatter_(-1, (upper - 1)[..., None], (1 - part)[..., None])
    return weights.scatter_(-1, upper[..., None], part[..., None])


class LineBlock(nn.Module):
    """A residual block whose first convolution runs along the motion line instead of over a square. Ours.

    In units of the blur's own length its kernel means the same for every direction and speed of motion,
    which a small network would otherwise have to learn one by one.
    """

    POSITIONS = (-1.0, -0.5, 0.0, 0.5, 1.0)

    def __init__(self, channels: int):
        super().__init__()
        self.along = nn.Conv2d(len(self.POSITIONS) * channels, channels, 1)
        self.across = nn.Conv2d(channels, channels, 3, padding=1)
        self.across.weight.data *= 0.1
        zero_bias(self.across)

    def forward(self, x: Tensor, blur: Tensor) -> Tensor:
        """Args:
        x: features (B, C, h, w).
        blur: the line that the exposure covered, duty · V̄, (B, 2, h, w) float32 in feature pixels.
        """
        b, c, h, w = x.shape
        if fast(x):
            return x + self.across(F.relu(self._along_fast(x, blur), inplace=True))
        grid = pixel_grid(h, w, blur)
        positions = torch.cat([grid + a * blur for a in self.POSITIONS], 2)
        read = sample(x, positions, "border").reshape(b, c * len(self.POSITIONS), h, w)
        return x + self.across(F.relu(self.along(read), inplace=True))

    def _along_fast(self, x: Tensor, blur: Tensor) -> Tensor:
        """The convolution along the line as one matrix product over rows of (position, channel) by pixel."""
        _, c, h, w = x.shape
        parts = torch.tensor(self.POSITIONS)
        at_x = torch.arange(w, dtype=torch.float32)[None, :, None] + blur[0, 0, :, :, None] * parts
        at_y = torch.arange(h, dtype=torch.float32)[:, None, None] + blur[0, 1, :, :, None] * parts
        read = read_rows(as_table(x), corners_of(at_x, at_y, h, w)).reshape(h * w, -1)
        flat = self.along.weight.reshape(-1, c, len(parts)).transpose(1, 2).reshape(len(self.along.weight), -1)
        return F.linear(read, flat, self.along.bias).reshape(1, h, w, -1).permute(0, 3, 1, 2)


class MotionLine(nn.Module):
    """Apply per-pixel line filters.

    Args:
        taps: number of points K on the line (odd).
        reach: the line covers [-reach, reach] times the blur; the exposure itself covers ±0.5.
    """

    positions: Tensor

    def __init__(self, taps: int, reach: float):
        super().__init__()
        self.register_buffer("positions", taps_along(taps, reach), persistent=False)
        self.bank = nn.Parameter(torch.zeros(2, len(LENGTHS_PX), taps))
        """Filters where the duty cycle is known, and where it is not."""

    def bank_weights(self, blur: Tensor, known: Tensor) -> Tensor:
        """Filters of the bank for ``blur`` (B, 2, h, w) px and ``known`` (B,) bool → (B, K, h, w)."""
        filters = torch.where(known[:, None, None], self.bank[0], self.bank[1])
        by_length = hat_weights(torch.linalg.vector_norm(blur, dim=1), LENGTHS_PX).to(filters.dtype)
        return torch.einsum("bhwl,blk->bkhw", by_length, filters)

    def forward(self, frame: Tensor, blur: Tensor, weights: Tensor) -> Tensor:
        """The correction Σ w_k (frame(p + a_k s) − frame(p)), s the blur stretched to its shortest length.

        Args:
            frame: (B, 3, H, W) float32 in [0, 1].
            blur: duty · V̄ (B, 2, h, w) in pixels of ``frame``, on any grid; upsampled bilinearly.
            weights: (B, K, h, w) on the same grid.
        """
        size = frame.shape[-2:]
        if fast(frame):
            return self._fast(frame, blur, weights)
        line = F.interpolate(stretched(blur.to(frame.dtype)), size, mode="bilinear", align_corners=False)
        weights = F.interpolate(weights.to(frame.dtype), size, mode="bilinear", align_corners=False)
        grid = pixel_grid(size[0], size[1], frame)
        out = torch.zeros_like(frame)
        centre = len(self.positions) // 2
        for k, a in enumerate(self.positions.tolist()):
            if k != centre:
                out = out + weights[:, k : k + 1] * (sample(frame, grid + a * line, "border") - frame)
        return out

    def _fast(self, frame: Tensor, blur: Tensor, weights: Tensor) -> Tensor:
        """Σ w_k frame(p + a_k s) − (Σ w_k) frame(p), read by OpenCV."""
        height, width = frame.shape[-2:]
        line = F.interpolate(stretched(blur.float()), (height, width), mode="bilinear", align_corners=False)
        dx, dy = line[0].numpy()
        x, y = positions_of(height, width)
        pixels = pixels_of(frame)
        read, total = np.empty_like(pixels), np.zeros_like(pixels)
        whole = np.zeros((height, width), np.float32)
        for part, coarse in zip(self.positions.tolist(), weights[0].float().numpy(), strict=True):
            if part:
                weight = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
                read_pixels(pixels, cv2.scaleAdd(dx, part, x), cv2.scaleAdd(dy, part, y), read)
                cv2.accumulateProduct(read, cv2.merge([weight] * 4), total)
                cv2.add(whole, weight, dst=whole)
        pixels *= whole[..., None]
        return torch.from_numpy(np.subtract(total, pixels, out=total)[..., :3]).permute(2, 0, 1)[None]


def stretched(blur: Tensor) -> Tensor:
    """``blur`` (B, 2, h, w) lengthened from L to √(L² + SHORTEST_PX²); zero stays zero."""
    length = torch.linalg.vector_norm(blur, dim=1, keepdim=True)
    return blur * torch.sqrt(1 + (SHORTEST_PX / length.clamp(min=1e-3)) ** 2)
