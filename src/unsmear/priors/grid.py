"""Motion grid: one vector per 8x8 block from exported motion vectors, with holes filled.

The grid covers the frame padded to macroblocks: ``gh = ceil(H / 16) * 2`` rows and
``gw = ceil(W / 16) * 2`` columns. A cell without an inter block is a hole (intra block).
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
    """(gh, gw) of the 8x8 grid over a frame padded to multiples of 16."""
    return -(-height // 16) * 2, -(-width // 16) * 2


def grid_from_vectors(vectors: npt.NDArray[Any] | None, height: int, width: int) -> tuple[MotionGrid, Mask]:
    """Convert the decoder's motion vectors to the 8x8 grid.

    Args:
        vectors: FFmpeg's ``AVMotionVector`` records as a structured array, or None (an intra frame).
            Only vectors to past frames (``source < 0``) are used. Blocks that extend beyond the grid, as
            in interlaced streams, are clipped.
        height: height of the frame, pixels.
        width: width of the frame, pixels.

    Returns:
        ``(gh, gw, 2)`` int16, (dx, dy) in quarter pixels: the content of the block at ``p`` is at ``p + motion``
        in the reference frame; zero where there is no vector. ``(gh, gw)`` bool, True where there is one.
    """
    gh, gw = grid_shape(height, width)
    grid = np.zeros((gh, gw, 2), np.int16)
    valid = np.zeros((gh, gw), np.bool_)
    if vectors is None or not len(vectors):
        return grid, valid
    vectors = vectors[(vectors["source"] < 0) & (vectors["motion_scale"] > 0)]
    scale = vectors["motion_scale"].astype(np.int64)
    # In 64 bits; the scale is 2 for half-pel codecs, 4 for H.264.
    quarter = np.stack(
        [(vectors[axis].astype(np.int64) * 4 + scale // 2) // scale for axis in ("motion_x", "motion_y")], -1
    )
    quarter = quarter.clip(-32768, 32767).astype(np.int16)
    w, h = vectors["w"].astype(np.int64), vectors["h"].astype(np.int64)
    # dst is the block's centre. A block smaller than a cell sets the vector of the cell that contains it.
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
    """Fill every hole with the vector of the nearest valid cell.

    Args:
        grid: ``(gh, gw, 2)`` int16.
        valid: ``(gh, gw)`` bool.

    Returns:
        ``(gh, gw, 2)`` int16; ``grid`` itself without holes, zeros if all cells are holes.
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
