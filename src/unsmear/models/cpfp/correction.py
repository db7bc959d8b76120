"""Constraints on the correction of a blurred frame: no pattern of cells, no low frequencies, none without motion. Ours.

A head that predicts 4×4 pixels per cell by pixel shuffle can repeat one 4×4 pattern in all cells, which is visible in
smooth areas. Blur conserves light: over an area much wider than the blur its mean must not change. This holds for
linear light only. In encoded values a sharp frame has a lower mean than a blurred one, by one to four levels where
contrast is high (measured on clips with ground truth), so means of encoded values are not constrained.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unsmear.models.common.gather import fast

PATTERN_CELLS = 9
"""Side of the window, in cells, whose mean pattern is subtracted."""

LOW_CELL, LOW_CELLS = 16, 9
"""Low-pass filter: two box filters of ``LOW_CELLS`` cells of ``LOW_CELL`` px, together 128 px to each side."""

_DARK = 0.125
"""Least value at which the slope of the light curve is taken: near black it tends to zero."""


def shuffled(values: Tensor, cell: int) -> Tensor:
    """Pixel shuffle (B, K·cell², h, w) → (B, K, h·cell, w·cell) without the pattern shared by neighbouring cells."""
    return F.pixel_shuffle(without_pattern(values, cell), cell)


def without_pattern(values: Tensor, cell: int) -> Tensor:
    """Set the local mean of each of the cell² pixels of (B, K·cell², h, w) to that of the whole cell."""
    by_pixel = values.unflatten(1, (-1, cell * cell))
    return values - box((by_pixel - by_pixel.mean(2, keepdim=True)).flatten(1, 2), PATTERN_CELLS)


STILL_PX, STILL_CELLS = 0.5, 5
"""A correction is applied in full where the largest motion within a window of ``STILL_CELLS`` cells of 8 px reaches
``STILL_PX`` pixels per frame step."""


def motion_gate(
    motion: Tensor, motion_back: Tensor, reset: Tensor, reset_back: Tensor, size: tuple[int, int]
) -> Tensor:
    """Weight of a correction: 0 where the picture is static, 1 where it moves.

    Args:
        motion, motion_back: V and V_back (B, 2, h, w), frame pixels, on the grid of the priors or a finer one.
        reset, reset_back: (B,) bool, True where that side has no motion.
        size: (H, W) of the frame.

    Returns:
        (B, 1, H, W) float32 in [0, 1].
    """
    near = _largest_motion_near(motion, motion_back, reset, reset_back, size[1])
    return F.interpolate((near / STILL_PX).clamp(max=1), size, mode="bilinear", align_corners=False)


def moving_cells(motion: Tensor, motion_back: Tensor, reset: Tensor, reset_back: Tensor, width: int) -> Tensor:
    """Cells (h, w) bool in which ``motion_gate`` is above 0 in any frame.

    Args:
        motion, motion_back: (T, 2, h, w), as for ``motion_gate``.
        reset, reset_back: (T,) bool.
        width: W of the frame.
    """
    moves = _largest_motion_near(motion, motion_back, reset, reset_back, width).amax(0, keepdim=True)
    return F.max_pool2d(moves, 3, 1, 1)[0, 0] > 0  # the gate is interpolated to the middle of the cells beside


def _largest_motion_near(motion: Tensor, motion_back: Tensor, reset: Tensor, reset_back: Tensor, width: int) -> Tensor:
    """Largest motion a frame step, px, within ``STILL_CELLS`` cells, (B, 1, h, w)."""
    lengths = [
        torch.linalg.vector_norm(v.float(), dim=1, keepdim=True) * (~cut)[:, None, None, None]
        for v, cut in ((motion, reset), (motion_back, reset_back))
    ]
    cells = STILL_CELLS * motion.shape[-1] * 8 // width // 2 * 2 + 1
    return F.max_pool2d(torch.maximum(*lengths), cells, 1, cells // 2)


def pinned(frame: Tensor, restored: Tensor, gate: Tensor) -> Tensor:
    """Blend ``restored`` over ``frame`` by ``gate``, with the light of ``frame`` at low frequencies.

    Light is approximated by the square of the value, as in deconvolution.

    Args:
        frame, restored: (B, C, H, W), in [0, 1] or near it; H and W divisible by ``LOW_CELL``.
        gate: (B, 1, H, W) in [0, 1].

    Returns:
        (B, C, H, W), not clipped.
    """
    change = restored - frame
    light = change * (restored + frame)  # the difference of the squares
    low, share = F.avg_pool2d(light * gate, LOW_CELL), F.avg_pool2d(gate, LOW_CELL)
    for _ in range(2):
        low, share = box(low, LOW_CELLS), box(share, LOW_CELLS)
    low = F.interpolate(low / share.clamp(min=1e-3), scale_factor=LOW_CELL, mode="bilinear", align_corners=False)
    return frame + gate * (change - low / (2 * restored.clamp(min=_DARK)))


def box(x: Tensor, side: int) -> Tensor:
    """Box filter of ``side`` (odd) pixels, (B, C, H, W); at the borders, the mean over the part inside."""
    if fast(x) and x.dtype == torch.float32:
        planes = x[0].contiguous().numpy()
        share, out = box_share(planes.shape[1:], side), np.empty_like(planes)
        for plane, into in zip(planes, out, strict=True):
            box_plane(plane, side, share, into)
        return torch.from_numpy(out)[None]
    x = F.avg_pool2d(x, (1, side), 1, (0, side // 2), count_include_pad=False)
    return F.avg_pool2d(x, (side, 1), 1, (side // 2, 0), count_include_pad=False)


def box_plane(plane: np.ndarray, side: int, share: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The same for one plane (H, W), written to ``out``, with OpenCV: it takes the same time for any ``side``."""
    cv2.boxFilter(plane, -1, (side, side), dst=out, normalize=False, borderType=cv2.BORDER_CONSTANT)
    return cv2.multiply(out, share, dst=out)


def box_share(size: tuple[int, ...], side: int) -> np.ndarray:
    """Weight (H, W) float32 of each of the pixels in a window of ``side`` pixels that lie inside of a plane."""

    def inside(length: int) -> np.ndarray:
        at, half = np.arange(length), side // 2
        return np.minimum(at + half, length - 1) - np.maximum(at - half, 0) + 1

    height, width = size
    return (1 / np.outer(inside(height), inside(width))).astype(np.float32)
