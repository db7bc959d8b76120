"""Motion-line head: per-pixel linear filters along the motion during the exposure. Ours.

The blur kernel at p is close to a line along ``duty · V̄(p)``. The head samples the blurred frame at K points on
that line and adds their weighted differences from the centre. The weights are those of a filter bank, interpolated
over the blur length, plus a prediction of the network; the bank is initialised by closed-form least squares. Taps lie
at fractions of the blur, not of the motion, so that one filter applies to all speeds and exposures of equal blur.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unsmear.models.common.gather import as_table, corners_of, fast, read_rows
from unsmear.models.common.warp import pixel_grid, sample
from unsmear.models.cpfp.blocks import zero_bias

LENGTHS_PX = (0.5, 1.0, 2.0, 3.5, 5.0, 7.0, 10.0, 14.0, 20.0, 30.0)
"""Blur lengths of the filters in the bank; between them filters are interpolated."""

SHORTEST_PX = 2.0
"""Taps of a blur of length L lie at fractions of √(L² + this²): on shorter lines all of them would hit one pixel."""


def line_motion(motion: Tensor, motion_back: Tensor, reset: Tensor, reset_back: Tensor) -> Tensor:
    """Mean motion V̄ = (a·V_back − b·V) / max(a + b, 1), where a and b are 0 at a reset on that side, else 1.

    Args:
        motion, motion_back: (…, 2, H, W), pixels per frame step.
        reset, reset_back: (…) bool.

    Returns:
        (…, 2, H, W), pixels per frame step.
    """
    a = (~reset_back).to(motion.dtype)[..., None, None, None]
    b = (~reset).to(motion.dtype)[..., None, None, None]
    return (a * motion_back - b * motion) / (a + b).clamp(min=1)


def taps_along(count: int, reach: float) -> Tensor:
    """``count`` (odd) positions in [-reach, reach], the centre one exactly 0. Raises ValueError for an even count."""
    if count % 2 == 0:
        raise ValueError(f"line_taps {count} must be odd, so that one tap is the pixel itself")
    return torch.linspace(-reach, reach, count)


def hat_weights(value: Tensor, knots: tuple[float, ...]) -> Tensor:
    """Linear interpolation weights of ``value`` (…) between ``knots`` → (…, len(knots)); constant beyond the ends."""
    k = torch.tensor(knots, dtype=value.dtype, device=value.device)
    passed = ((value[..., None] - k[:-1]) / (k[1:] - k[:-1])).clamp(0, 1)  # part of each interval below the value
    return F.pad(passed, (1, 0), value=1.0) - F.pad(passed, (0, 1))


class LineBlock(nn.Module):
    """Residual block whose first convolution runs along the motion line instead of over a square. Ours.

    Positions are in units of the blur length, so that one kernel applies to all directions and speeds of motion.
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
        blur: motion line of the exposure, duty · V̄, (B, 2, h, w) float32 in feature pixels.

        Returns:
            (B, C, h, w).
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
    """Per-pixel filters along the motion line.

    Args:
        taps: number K of points on the line (odd).
        reach: extent of the line, [-reach, reach] in blur lengths; the exposure itself covers ±0.5.
    """

    positions: Tensor

    def __init__(self, taps: int, reach: float):
        super().__init__()
        self.register_buffer("positions", taps_along(taps, reach), persistent=False)
        self.bank = nn.Parameter(torch.zeros(2, len(LENGTHS_PX), taps))
        """Filters for a known [0] and an unknown [1] duty cycle, by blur length and tap."""

    def bank_weights(self, blur: Tensor, known: Tensor) -> Tensor:
        """Filters of the bank for ``blur`` (B, 2, h, w) px and ``known`` (B,) bool → (B, K, h, w)."""
        filters = torch.where(known[:, None, None], self.bank[0], self.bank[1])
        by_length = hat_weights(torch.linalg.vector_norm(blur, dim=1), LENGTHS_PX).to(filters.dtype)
        return torch.einsum("bhwl,blk->bkhw", by_length, filters)

    def forward(self, frame: Tensor, blur: Tensor, weights: Tensor) -> Tensor:
        """Correction Σ w_k (frame(p + a_k s) − frame(p)), with s the blur lengthened by ``stretched``.

        Args:
            frame: (B, 3, H, W) float32 in [0, 1].
            blur: duty · V̄ (B, 2, h, w) in pixels of ``frame``, on any grid; upsampled bilinearly.
            weights: (B, K, h, w) on the same grid.

        Returns:
            (B, 3, H, W), to be added to ``frame``.
        """
        size = frame.shape[-2:]
        line = F.interpolate(stretched(blur.to(frame.dtype)), size, mode="bilinear", align_corners=False)
        weights = F.interpolate(weights.to(frame.dtype), size, mode="bilinear", align_corners=False)
        grid = pixel_grid(size[0], size[1], frame)
        out = torch.zeros_like(frame)
        centre = len(self.positions) // 2
        for k, a in enumerate(self.positions.tolist()):
            if k != centre:
                out = out + weights[:, k : k + 1] * (sample(frame, grid + a * line, "border") - frame)
        return out


def stretched(blur: Tensor) -> Tensor:
    """``blur`` (B, 2, h, w) lengthened from L to √(L² + SHORTEST_PX²); zero stays zero."""
    length = torch.linalg.vector_norm(blur, dim=1, keepdim=True)
    return blur * torch.sqrt(1 + (SHORTEST_PX / length.clamp(min=1e-3)) ** 2)
