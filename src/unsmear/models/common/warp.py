"""Sampling of feature maps at displaced positions: warping and modulated deformable convolution.

Positions are pixels of the sampled map; outside it values are zero, as in DCNv2. Positions are float32 for any dtype of
the features, because bfloat16 cannot represent coordinates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unsmear.models.common.gather import Corners, as_table, corners_of, fast, read_rows

_WIDE = 8
"""Least number of channels for which ``gather`` is faster than ``grid_sample``."""

_BAND_READS = 1 << 18
"""Positions computed at a time."""


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Positions (2, H, W) float32 as (x, y) on ``like``'s device (float64 where ``like`` is float64)."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    y = torch.arange(height, device=like.device, dtype=dtype)
    x = torch.arange(width, device=like.device, dtype=dtype)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


def sample(image: Tensor, positions: Tensor, padding: str = "zeros") -> Tensor:
    """Sample ``image`` (B, C, H, W) bilinearly at ``positions`` (B, 2, h, w) = (x, y) → (B, C, h, w).

    ``padding``: values outside, ``zeros`` or ``border``.
    """
    h, w = image.shape[-2:]
    if fast(image) and image.shape[1] >= _WIDE:
        rim = 0 if padding == "border" else 1
        corners = corners_of(positions[0, 0] + rim, positions[0, 1] + rim, h + 2 * rim, w + 2 * rim)
        read = read_rows(as_table(image, border=rim), corners)
        return read.reshape(1, *positions.shape[-2:], image.shape[1]).permute(0, 3, 1, 2)
    x, y = positions.unbind(1)
    if padding == "border" and torch.compiler.is_exporting():  # equal, and onnxruntime reads zeros five times faster
        x, y, padding = x.clamp(0, w - 1), y.clamp(0, h - 1), "zeros"
    grid = torch.stack([(x + 0.5) * (2 / w) - 1, (y + 0.5) * (2 / h) - 1], -1)
    out = F.grid_sample(image.to(grid.dtype), grid, "bilinear", padding, align_corners=False)
    return out.to(image.dtype)


def warp(image: Tensor, motion: Tensor, padding: str = "zeros") -> Tensor:
    """Backward warp: the result at p is ``image`` at p + motion(p) (CPGD-Net Eq. 1).

    Args:
        image: (B, C, H, W).
        motion: (B, 2, H, W), pixels of this grid, (dx, dy).
        padding: values outside, ``zeros`` or ``border``.

    Returns:
        (B, C, H, W) in ``image``'s dtype.
    """
    motion = motion.to(torch.promote_types(motion.dtype, torch.float32))
    return sample(image, pixel_grid(image.shape[-2], image.shape[-1], motion) + motion, padding)


def deform_conv2d(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Modulated deformable convolution (DCNv2), stride 1, same size, odd kernel, any number of offset groups.

    Args:
        x: (B, C, H, W).
        offset: (B, G·K·2, H, W), pixels, for each offset group and kernel tap (dy, dx): the layout of the
            reference operator. K = kernel height × width.
        mask: modulation (B, G·K, H, W).
        weight: (O, C, kh, kw).
        bias: (O,) or None.

    Returns:
        (B, O, H, W) in ``x``'s dtype.
    """
    if fast(x):
        return _deform_fast(x, offset, mask, weight, bias)
    b, c, h, w = x.shape
    out_channels, _, kh, kw = weight.shape
    taps = kh * kw
    groups = mask.shape[1] // taps
    precise = torch.promote_types(offset.dtype, torch.float32)

    displacement = offset.to(precise).reshape(b * groups, taps, 2, h, w).flip(2)
    tap_y, tap_x = torch.meshgrid(
        torch.arange(kh, device=x.device, dtype=precise) - kh // 2,
        torch.arange(kw, device=x.device, dtype=precise) - kw // 2,
        indexing="ij",
    )
    tap_xy = torch.stack([tap_x, tap_y], -1).reshape(1, taps, 2, 1, 1)
    positions = pixel_grid(h, w, like=displacement) + tap_xy + displacement
    positions = positions.permute(0, 2, 1, 3, 4).reshape(b * groups, 2, taps * h, w)

    read = sample(x.reshape(b * groups, c // groups, h, w), positions).reshape(b, groups, -1, taps, h, w)
    read = read * mask.to(x.dtype).reshape(b, groups, 1, taps, h, w)
    flat_weight = weight.reshape(out_channels, c * taps, 1, 1)
    return F.conv2d(read.reshape(b, c * taps, h, w), flat_weight, bias)


def _deform_fast(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same for one clip on a CPU without gradients: rows of (tap, group) by pixel, then one matrix product."""
    _, c, h, w = x.shape
    out_channels, _, kh, kw = weight.shape
    taps = kh * kw
    groups = mask.shape[1] // taps
    moved = offset.reshape(groups, taps, 2, h, w).permute(3, 4, 1, 0, 2)  # (h, w, taps, groups, (dy, dx))
    strength = mask.reshape(groups, taps, h, w).permute(2, 3, 1, 0)
    tap = torch.arange(taps, dtype=torch.float32)[:, None]
    at_y = torch.arange(1, h + 1, dtype=torch.float32)[:, None, None, None] + (tap // kw - kh // 2)
    at_x = torch.arange(1, w + 1, dtype=torch.float32)[None, :, None, None] + (tap % kw - kw // 2)
    table = as_table(x, groups, border=1)
    flat = weight.reshape(out_channels, groups, c // groups, taps).permute(0, 3, 1, 2).reshape(out_channels, -1)
    out = x.new_empty(h, w, out_channels)
    band = max(_BAND_READS // (w * taps * groups), 1)
    for top in range(0, h, band):  # all positions at once would take more memory than the features
        rows = slice(top, min(top + band, h))
        shift = moved[rows].float()
        corners = corners_of(at_x + shift[..., 1], at_y[rows] + shift[..., 0], h + 2, w + 2)
        group = torch.arange(groups, dtype=torch.int32).repeat(len(corners.rows) // groups)[:, None]
        weights = corners.weights * strength[rows].float().reshape(-1, 1)
        read = read_rows(table, Corners(corners.rows * groups + group, weights))
        out[rows] = F.linear(read.reshape(-1, taps * c), flat, bias).reshape(-1, w, out_channels)
    return out[None].permute(0, 3, 1, 2)


class DeformConv2d(nn.Module):
    """3×3 modulated deformable convolution whose kernel is initialised as the identity.

    The first ``out_channels`` input channels pass through the centre tap; the weights of any further ones are zero.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        kernel = torch.zeros(out_channels, in_channels, 3, 3)
        kernel[torch.arange(out_channels), torch.arange(out_channels), 1, 1] = 1
        self.weight = nn.Parameter(kernel)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return deform_conv2d(x, offset, mask, self.weight, self.bias)
