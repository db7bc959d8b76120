"""What a correction of a blurred frame may not hold: a pattern of cells, and low frequencies. Ours.

A head that writes 4×4 pixels a cell by a pixel shuffle can print the same 4×4 pattern into every cell, which is seen in
smooth parts. And light that is smeared is still there: the mean over a wide area must not change. (In linear light that
holds for any area that is large beside the blur. In the encoded values that networks work on a sharp picture is darker
than its blurred one by up to two levels where contrast is high, so the area is chosen wide: within it that may be
learnt, over all of it the colour of the video stays.)
"""

import torch
import torch.nn.functional as F
from torch import Tensor

PATTERN_CELLS = 9
"""Side of the square, in cells, whose mean pattern is taken out."""

LOW_CELL, LOW_CELLS = 16, 17
"""Low frequencies are what two box filters of so many cells leave, a cell being so many pixels: 256 px to each side."""


def shuffled(values: Tensor, cell: int) -> Tensor:
    """Pixel shuffle (B, K·cell², h, w) → (B, K, h·cell, w·cell) without the pattern that neighbouring cells share.

    Of each of the cell² pixels the local mean becomes that of the cell.
    """
    by_pixel = values.unflatten(1, (-1, cell * cell))
    pattern = _box((by_pixel - by_pixel.mean(2, keepdim=True)).flatten(1, 2), PATTERN_CELLS)
    return F.pixel_shuffle(values - pattern, cell)


STILL_PX, STILL_CELLS = 0.5, 5
"""A picture is changed fully where something within two cells of 8 pixels moves by so many pixels a frame step."""


def motion_gate(
    motion: Tensor, motion_back: Tensor, reset: Tensor, reset_back: Tensor, size: tuple[int, int]
) -> Tensor:
    """How much of a correction a frame takes where: 0 where the picture stands still, 1 where it moves.

    Args:
        motion, motion_back: V and V_back (B, 2, h, w), frame pixels, on the grid of the priors or a finer one.
        reset, reset_back: (B,) bool: that side has no motion.
        size: (H, W) of the frame.

    Returns:
        (B, 1, H, W) float32 in [0, 1].
    """
    lengths = [
        torch.linalg.vector_norm(v.float(), dim=1, keepdim=True) * (~cut)[:, None, None, None]
        for v, cut in ((motion, reset), (motion_back, reset_back))
    ]
    cells = STILL_CELLS * motion.shape[-1] * 8 // size[1] // 2 * 2 + 1
    near = F.max_pool2d(torch.maximum(*lengths), cells, 1, cells // 2)
    return F.interpolate((near / STILL_PX).clamp(max=1), size, mode="bilinear", align_corners=False)


def pinned(change: Tensor, gate: Tensor) -> Tensor:
    """``change`` of frames where ``gate`` lets it through, without its low frequencies there.

    Args:
        change: (B, C, H, W), H and W divisible by ``LOW_CELL``.
        gate: (B, 1, H, W) in [0, 1].
    """
    low, share = F.avg_pool2d(change * gate, LOW_CELL), F.avg_pool2d(gate, LOW_CELL)
    for _ in range(2):
        low, share = _box(low, LOW_CELLS), _box(share, LOW_CELLS)
    low = F.interpolate(low / share.clamp(min=1e-3), scale_factor=LOW_CELL, mode="bilinear", align_corners=False)
    return (change - low) * gate


def _box(x: Tensor, side: int) -> Tensor:
    """Mean over a square around each cell, as far as it lies inside; one axis after the other."""
    x = F.avg_pool2d(x, (1, side), 1, (0, side // 2), count_include_pad=False)
    return F.avg_pool2d(x, (side, 1), 1, (side // 2, 0), count_include_pad=False)
