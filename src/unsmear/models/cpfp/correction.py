"""What a correction of a blurred frame may not hold: a pattern of cells, and low frequencies. Ours.

A head that writes 4×4 pixels a cell by a pixel shuffle can print the same 4×4 pattern into every cell, which is seen in
smooth parts. And light that is smeared is still there: over an area that is wide beside the blur its mean must not
change. That holds for light alone. In the encoded values of a picture what is sharp is darker than what is blurred, by
one to four levels on the mean where contrast is high (measured on clips with known truth), so means of values are not
held to the input.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

PATTERN_CELLS = 9
"""Side of the square, in cells, whose mean pattern is taken out."""

LOW_CELL, LOW_CELLS = 16, 9
"""Low frequencies are what two box filters of so many cells leave, a cell being so many pixels: 128 px to each side."""

_DARK = 0.125
"""Values below this are moved as if they were this: light is flat near black."""


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


def pinned(frame: Tensor, restored: Tensor, gate: Tensor) -> Tensor:
    """``restored`` where ``gate`` lets it through, with the light of ``frame`` at low frequencies.

    Light is taken for the square of the value, as in deconvolution.

    Args:
        frame, restored: (B, C, H, W), in [0, 1] or near it; H and W divisible by ``LOW_CELL``.
        gate: (B, 1, H, W) in [0, 1].
    """
    change = restored - frame
    light = change * (restored + frame)  # the difference of the squares
    low, share = F.avg_pool2d(light * gate, LOW_CELL), F.avg_pool2d(gate, LOW_CELL)
    for _ in range(2):
        low, share = _box(low, LOW_CELLS), _box(share, LOW_CELLS)
    low = F.interpolate(low / share.clamp(min=1e-3), scale_factor=LOW_CELL, mode="bilinear", align_corners=False)
    return frame + gate * (change - low / (2 * restored.clamp(min=_DARK)))


def _box(x: Tensor, side: int) -> Tensor:
    """Mean over a square around each cell, as far as it lies inside; one axis after the other."""
    x = F.avg_pool2d(x, (1, side), 1, (0, side // 2), count_include_pad=False)
    return F.avg_pool2d(x, (side, 1), 1, (side // 2, 0), count_include_pad=False)
