"""Exact HEVC luma motion compensation, one vector per 8x8 block (ITU-T H.265, 8.5.3.3.3).

Filters of eight taps (half-pel) and seven taps (quarter-pel) are applied horizontally, then vertically, with 14-bit
intermediate values: two matrix products per block, in float32, which represents all values exactly.
"""

import cv2
import numpy as np
import numpy.typing as npt

from unsmear.priors.compensation import BLOCK

_TAPS = (
    (0, 0, 0, 64, 0, 0, 0, 0),
    (-1, 4, -10, 58, 17, -5, 1, 0),
    (-1, 4, -11, 40, 40, -11, 4, -1),
    (0, 1, -5, 17, 58, -10, 4, -1),
)
_BEFORE = 3  # taps before the sample
_SPAN = BLOCK + 7  # samples per row that the prediction of a block reads
_MARGIN = 16  # blocks beyond it consist of replicated edge samples


def compensate_hevc(reference: npt.NDArray[np.uint8], motion_q: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Predict a frame from the previous one as an HEVC decoder does.

    Args:
        reference: ``(gh * 8, gw * 8)`` uint8, the previous reconstruction.
        motion_q: ``(gh, gw, 2)`` integers, (dx, dy) in quarter pixels.

    Returns:
        ``(gh * 8, gw * 8)`` uint8, the prediction.

    Raises:
        ValueError: the grid does not cover the reference exactly.
    """
    gh, gw = motion_q.shape[:2]
    if reference.shape != (gh * BLOCK, gw * BLOCK):
        raise ValueError(f"a {gw}x{gh} grid needs {gw * BLOCK}x{gh * BLOCK} samples, got {reference.shape}")
    padded = np.asarray(cv2.copyMakeBorder(reference, *(_MARGIN,) * 4, cv2.BORDER_REPLICATE), np.uint8)
    spans = np.lib.stride_tricks.sliding_window_view(padded, (_SPAN, _SPAN))
    dx, dy = motion_q[..., 0].astype(np.int64), motion_q[..., 1].astype(np.int64)
    inset = _MARGIN - _BEFORE
    left = np.clip(np.arange(gw) * BLOCK + (dx >> 2) + inset, 0, spans.shape[1] - 1)
    top = np.clip(np.arange(gh)[:, None] * BLOCK + (dy >> 2) + inset, 0, spans.shape[0] - 1)
    phases = 4 * (dy & 3) + (dx & 3)
    out = np.empty((gh, gw, BLOCK, BLOCK), np.uint8)
    for phase in np.unique(phases):
        here = phases == phase
        out[here] = _interpolated(spans[top[here], left[here]].astype(np.float32), *divmod(int(phase), 4))
    return out.transpose(0, 2, 1, 3).reshape(gh * BLOCK, gw * BLOCK)


def _interpolated(spans: npt.NDArray[np.float32], down: int, across: int) -> npt.NDArray[np.float32]:
    """Blocks (n, 8, 8) at one quarter-pel phase from reference samples (n, 15, 15)."""
    if not (down or across):
        return spans[:, _BEFORE : _BEFORE + BLOCK, _BEFORE : _BEFORE + BLOCK]
    value = spans @ _FILTERS[across].T if across else 64 * spans[..., _BEFORE : _BEFORE + BLOCK]
    value = np.floor(_FILTERS[down] @ value / 64) if down else value[:, _BEFORE : _BEFORE + BLOCK]
    return np.clip(np.floor((value + 32) / 64), 0, 255)


def _filter(phase: int) -> npt.NDArray[np.float32]:
    matrix = np.zeros((BLOCK, _SPAN), np.float32)
    for row in range(BLOCK):
        matrix[row, row : row + 8] = _TAPS[phase]
    return matrix


_FILTERS = tuple(_filter(phase) for phase in range(4))
