"""Bilinear reads as a CPU does them fast, where no gradient is asked for.

``grid_sample`` walks over every channel plane for every position. With the channels of a pixel side by side in memory
four of its neighbours are four short runs, which ``embedding_bag`` adds up with weights; pictures of up to four
channels are read by OpenCV. Both give what ``nn.sampling`` gives, at two to eight times the speed.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def fast(tensor: Tensor) -> bool:
    """Whether reads of ``tensor`` (B, …) may take this way: on a CPU, one clip, no gradients, no double precision."""
    return (
        tensor.device.type == "cpu"
        and tensor.shape[0] == 1
        and not torch.is_grad_enabled()
        and tensor.dtype in (torch.float32, torch.bfloat16)
        and min(tensor.shape[-2:]) > 1
    )


class Corners(NamedTuple):
    """Rows of a table to add up, for each of N reads."""

    rows: Tensor
    """(N, 4) int32."""
    weights: Tensor
    """(N, 4) float32."""


def corners_of(x: Tensor, y: Tensor, height: int, width: int) -> Corners:
    """Reads at positions ``x``, ``y`` (any shape, N elements) of a map; what lies outside reads as the border.

    For what lies outside to read as zero, read a map with a border of zeros (``as_table(…, border=1)``).
    """
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.floor().clamp_(max=width - 2), y.floor().clamp_(max=height - 2)
    right_part, lower_part = x - left, y - top
    both = right_part * lower_part
    weights = torch.stack([1 - right_part - lower_part + both, right_part - both, lower_part - both, both], -1)
    first = (top * width + left).int().reshape(-1, 1)  # exact in float32 up to 16 million pixels
    return Corners(first + torch.tensor([0, 1, width, width + 1], dtype=torch.int32), weights.reshape(-1, 4))


def read_rows(table: Tensor, corners: Corners) -> Tensor:
    """Weighted sums (N, C) of rows of ``table`` (M, C)."""
    return F.embedding_bag(corners.rows, table, per_sample_weights=corners.weights.to(table.dtype), mode="sum")


def as_table(features: Tensor, groups: int = 1, border: int = 0) -> Tensor:
    """(1, C, h, w) → rows (h·w·groups, C/groups), the groups of a pixel one after the other, zeros around them."""
    channels = features.shape[1]
    by_pixel = features.permute(0, 2, 3, 1)
    return (F.pad(by_pixel, (0, 0, border, border, border, border)) if border else by_pixel).reshape(
        -1, channels // groups
    )


def pixels_of(frame: Tensor) -> np.ndarray:
    """(1, 3, H, W) → (H, W, 4) float32, the fourth channel zero: OpenCV reads four faster than three."""
    out = np.zeros((*frame.shape[-2:], 4), np.float32)
    out[..., :3] = frame[0].float().permute(1, 2, 0).numpy()
    return out


def read_pixels(pixels: np.ndarray, map_x: np.ndarray, map_y: np.ndarray, into: np.ndarray) -> np.ndarray:
    """``pixels`` (H, W, 4) at positions (H, W), outside the border, written ``into`` an array like ``pixels``."""
    return cv2.remap(pixels, map_x, map_y, cv2.INTER_LINEAR, dst=into, borderMode=cv2.BORDER_REPLICATE)


def positions_of(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y (H, W) float32 of every pixel."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y
