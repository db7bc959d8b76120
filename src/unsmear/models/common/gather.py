"""Fast bilinear sampling on a CPU, without gradients.

``grid_sample`` visits every channel plane for every position. With the channels of a pixel adjacent in memory, the four
neighbours of a position are four short runs, which ``embedding_bag`` adds with weights; images of up to four channels
are sampled with OpenCV. Results are those of ``common.warp.sample``, at two to eight times the speed.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def fast(tensor: Tensor) -> bool:
    """Whether ``tensor`` (B, …, h, w) can be sampled by this module: on a CPU, B = 1, no gradients, not float64.

    Not while a graph is exported, which is to hold standard operators alone.
    """
    return (
        tensor.device.type == "cpu"
        and tensor.shape[0] == 1
        and not torch.is_grad_enabled()
        and tensor.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_exporting()
        and min(tensor.shape[-2:]) > 1
    )


class Corners(NamedTuple):
    """Table rows and weights of N bilinear reads."""

    rows: Tensor
    """(N, 4) int32."""
    weights: Tensor
    """(N, 4) float32."""


def corners_of(x: Tensor, y: Tensor, height: int, width: int) -> Corners:
    """Corners for reads at positions ``x``, ``y`` (any shape, N elements) of a map; outside, the border is repeated.

    For zeros outside, use a map with a border of zeros (``as_table(…, border=1)``).
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
    """(1, C, h, w) → rows (h·w·groups, C/groups), the groups of a pixel consecutive, with ``border`` cells of zeros."""
    channels = features.shape[1]
    by_pixel = features.permute(0, 2, 3, 1)
    return (F.pad(by_pixel, (0, 0, border, border, border, border)) if border else by_pixel).reshape(
        -1, channels // groups
    )


def pixels_of(frame: Tensor) -> np.ndarray:
    """(1, 3, H, W) → (H, W, 4) float32, the fourth channel zero: OpenCV samples four faster than three."""
    out = np.zeros((*frame.shape[-2:], 4), np.float32)
    out[..., :3] = frame[0].float().permute(1, 2, 0).numpy()
    return out


def read_pixels(pixels: np.ndarray, map_x: np.ndarray, map_y: np.ndarray, into: np.ndarray) -> np.ndarray:
    """Sample ``pixels`` (H, W, 4) at positions (H, W), borders replicated; the result is written to ``into``."""
    return cv2.remap(pixels, map_x, map_y, cv2.INTER_LINEAR, dst=into, borderMode=cv2.BORDER_REPLICATE)


def positions_of(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x and y (H, W) float32 of every pixel."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y
