"""What a correction of a blurred frame may not hold: a pattern of cells, and low frequencies. Ours.

A head that writes 4×4 pixels a cell by a pixel shuffle can print the same 4×4 pattern into every cell, which is seen in
smooth parts. And light that is smeared is still there: the mean over a wide area must not change. (In linear light that
holds for any area that is large beside the blur. In the encoded values that networks work on a sharp picture is darker
than its blurred one by up to two levels where contrast is high, so the area is chosen wide: within it that may be
learnt, over all of it the colour of the video stays.)
"""

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


def pinned(change: Tensor) -> Tensor:
    """``change`` (…, H, W) of frames without its low frequencies. H and W divisible by ``LOW_CELL``."""
    flat = change.reshape(-1, 1, *change.shape[-2:])
    low = F.avg_pool2d(flat, LOW_CELL)
    for _ in range(2):
        low = _box(low, LOW_CELLS)
    low = F.interpolate(low, scale_factor=LOW_CELL, mode="bilinear", align_corners=False)
    return (flat - low).reshape(change.shape)


def _box(x: Tensor, side: int) -> Tensor:
    """Mean over a square around each cell, as far as it lies inside; one axis after the other."""
    x = F.avg_pool2d(x, (1, side), 1, (0, side // 2), count_include_pad=False)
    return F.avg_pool2d(x, (side, 1), 1, (side // 2, 0), count_include_pad=False)
