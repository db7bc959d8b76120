"""The motion grid: one vector per 8x8 block from exported motion vectors, and the filling of its holes.

The grid covers the picture padded to macroblocks: ``gh = ceil(H / 16) * 2`` rows and
``gw = ceil(W / 16) * 2`` columns. A cell that no inter block covers is a hole (an intra block).
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

MotionGrid = npt.NDArray[np.int16]
"""``(gh, gw, 2)`` int16: (dx, dy) in quarter pixels."""
Mask = npt.NDArray[np.bool_]
"""``(gh, gw)`` bool."""


def grid_shape(height: int, width: int) -> tuple[int, int]:
    """(gh, gw) of the 8x8 grid over a picture padded to multiples of 16."""
    return -(-height // 16) * 2, -(-width // 16) * 2


def grid_from_vectors(vectors: npt.NDArray[Any] | None, height: int, width: int) -> tuple[MotionGrid, Mask]:
    """Paint the decoder's motion vectors on the 8x8 grid.

    Args:
        vectors: FFmpeg's ``AVMotionVector`` records as a structured array, or None (an intra frame).
            Only vectors into the past (``source < 0``) count. Blocks that reach outside the grid, as
            interlaced streams have them, are clipped to it.
        height: rows of the picture in pixels.
        width: columns of the picture in pixels.

    Returns:
        ``(gh, gw, 2)`` int16 quarter-pel (dx, dy), the block's content being found at ``p + motion``
        in the reference frame, zero where unknown; ``(gh, gw)`` bool, True where a vector was given.
    """
    gh, gw = grid_shape(height, width)
    grid = np.zeros((gh, gw, 2), np.int16)
    valid = np.zeros((gh, gw), np.bool_)
    if vectors is None or not len(vectors):
        return grid, valid
    vectors = vectors[(vectors["source"] < 0) & (vectors["motion_scale"] > 0)]
    scale = vectors["motion_scale"].astype(np.int64)
    # Field by field in 64 bits: half-pel codecs have scale 2, H.264 has 4.
    quarter = np.stack(
        [(vectors[axis].astype(np.int64) * 4 + scale // 2) // scale for axis in ("motion_x", "motion_y")], -1
    )
    quarter = quarter.clip(-32768, 32767).astype(np.int16)
    w, h = vectors["w"].astype(np.int64), vectors["h"].astype(np.int64)
    # dst is the block's centre. A block smaller than a cell gives its vector to the cell it lies in.
    left = (vectors["dst_x"].astype(np.int64) - w // 2) // 8
    top = (vectors["dst_y"].astype(np.int64) - h // 2) // 8
    cells_x, cells_y = np.maximum(w // 8, 1), np.maximum(h // 8, 1)
    for row in range(int(cells_y.max(initial=0))):
        for column in range(int(cells_x.max(initial=0))):
            x, y = left + column, top + row
            inside = (cells_x > column) & (cells_y > row) & (x >= 0) & (y >= 0) & (x < gw) & (y < gh)
            grid[y[inside], x[inside]] = quarter[inside]
            valid[y[inside], x[inside]] = True
    return grid, valid


def fill_holes(grid: MotionGrid, valid: Mask) -> MotionGrid:
    """Give every hole the vector of the nearest valid cell.

    Args:
        grid: ``(gh, gw, 2)`` int16.
        valid: ``(gh, gw)`` bool.

    Returns:
        ``(gh, gw, 2)`` int16; the grid itself where nothing is missing, zeros where everything is.
    """
    if valid.all():
        return grid
    if not valid.any():
        return np.zeros_like(grid)
    _, labels = cv2.distanceTransformWithLabels(
        (~valid).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    vector_of_label = np.zeros((int(labels.max()) + 1, 2), np.int16)
    vector_of_label[labels[valid]] = grid[valid]
    return vector_of_label[labels]
