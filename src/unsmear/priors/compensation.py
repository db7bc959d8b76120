"""Exact H.264 luma motion compensation, one vector per 8x8 block.

The residual of a bitstream is relative to the prediction of the decoder, which must be reproduced exactly: six taps
(1, -5, 20, 20, -5, 1) for half-pel positions, averages rounded up for quarter-pel ones (ITU-T H.264, 8.4.2.2.1). With
bilinear interpolation a third of the blocks that the codec predicted perfectly would have a residual that was never
coded.

All sixteen quarter-pel phases are averages of two samples from four planes (integer, half horizontal, half vertical,
half both). So only four planes are filtered, and each 8-byte row of a block is read twice as one 64-bit word.
"""

import cv2
import numpy as np
import numpy.typing as npt

BLOCK = 8
"""Side of the blocks in pixels."""

# Margin of the planes around the picture. A block beyond it consists of replicated edge samples only, so its
# position can be clamped to the margin without changing a sample: 8 for the block, 3 for the taps, 1 for
# the neighbour of a quarter-pel average, the rest in reserve.
_MARGIN = 24
_STRIP_ROWS = 64  # rows filtered at a time: temporaries stay in cache

_FULL, _HALF_X, _HALF_Y, _HALF_XY = range(4)

# For phase 4 * (y & 3) + (x & 3): two samples (plane, step right, step down), averaged rounding up.
_PHASES = (
    ((_FULL, 0, 0), (_FULL, 0, 0)),
    ((_FULL, 0, 0), (_HALF_X, 0, 0)),
    ((_HALF_X, 0, 0), (_HALF_X, 0, 0)),
    ((_HALF_X, 0, 0), (_FULL, 1, 0)),
    ((_FULL, 0, 0), (_HALF_Y, 0, 0)),
    ((_HALF_X, 0, 0), (_HALF_Y, 0, 0)),
    ((_HALF_X, 0, 0), (_HALF_XY, 0, 0)),
    ((_HALF_X, 0, 0), (_HALF_Y, 1, 0)),
    ((_HALF_Y, 0, 0), (_HALF_Y, 0, 0)),
    ((_HALF_Y, 0, 0), (_HALF_XY, 0, 0)),
    ((_HALF_XY, 0, 0), (_HALF_XY, 0, 0)),
    ((_HALF_XY, 0, 0), (_HALF_Y, 1, 0)),
    ((_HALF_Y, 0, 0), (_FULL, 0, 1)),
    ((_HALF_Y, 0, 0), (_HALF_X, 0, 1)),
    ((_HALF_XY, 0, 0), (_HALF_X, 0, 1)),
    ((_HALF_X, 0, 1), (_HALF_Y, 1, 0)),
)
_PHASE_TABLE = np.array(_PHASES, np.int64)  # (16 phases, 2 samples, plane / right / down)

_Int16 = npt.NDArray[np.int16]


def _six_tap(x: _Int16, axis: int) -> _Int16:
    """Filter x[0] - 5 x[1] + 20 x[2] + 20 x[3] - 5 x[4] + x[5] along an axis, which becomes five samples shorter."""
    n = x.shape[axis] - 5
    taps = [x[i : i + n] if axis == 0 else x[:, i : i + n] for i in range(6)]
    out = taps[2] + taps[3]
    out *= 4
    out -= taps[1]
    out -= taps[4]
    out *= 5
    out += taps[0]
    out += taps[5]
    return out


def _store(x: _Int16, rounding: int, shift: int, out: npt.NDArray[np.uint8]) -> None:
    """out = clip((x + rounding) >> shift, 0, 255); x is overwritten."""
    x += np.int16(rounding)
    x >>= np.int16(shift)
    np.clip(x, 0, 255, out=x)
    out[...] = x


def half_pel_planes(padded: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The four planes from which every quarter-pel sample is averaged.

    Args:
        padded: ``(h + 5, w + 5)`` uint8 luma with 2 samples of border before and 3 after.

    Returns:
        ``(4, h, w)`` uint8: integer samples, half a pixel to the right, half down, half both (G, b, h
        and j of ITU-T H.264, figure 8-4).
    """
    h, w = padded.shape[0] - 5, padded.shape[1] - 5
    planes = np.empty((4, h, w), np.uint8)
    planes[_FULL] = padded[2:-3, 2:-3]
    for top in range(0, h, _STRIP_ROWS):
        n = min(_STRIP_ROWS, h - top)
        rows = slice(top, top + n)
        strip = padded[top : top + n + 5].astype(np.int16)
        across = _six_tap(strip, axis=1)
        down = _six_tap(strip[:, 2:-3], axis=0)
        # (a - 5b + 20c + 512) >> 10 without leaving 16 bits, by nested floors:
        # ((((a - b) >> 2) - b + c) >> 2) + c, then + 32 >> 6. The only sum that could overflow
        # saturates (cv2.add), where the result is clipped to 0 or 255 in any case.
        a = across[:n] + across[5:]
        b = across[1 : n + 1] + across[4 : n + 4]
        c = across[2 : n + 2] + across[3 : n + 3]
        a -= b
        a >>= np.int16(2)
        np.subtract(c, b, out=b)
        both: _Int16 = np.asarray(cv2.add(a, b), np.int16)
        both >>= np.int16(2)
        both += c
        _store(both, 32, 6, planes[_HALF_XY, rows])
        _store(across[2 : n + 2], 16, 5, planes[_HALF_X, rows])
        _store(down, 16, 5, planes[_HALF_Y, rows])
    return planes


def compensate(reference: npt.NDArray[np.uint8], motion_q: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Predict a frame from the previous one as an H.264 decoder does.

    Args:
        reference: previous reconstruction, ``(gh * 8, gw * 8)`` uint8.
        motion_q: ``(gh, gw, 2)`` integers, (dx, dy) in quarter pixels; the block at ``p`` is read at
            ``p + motion_q / 4``. Edges of the picture are replicated.

    Returns:
        Prediction, ``(gh * 8, gw * 8)`` uint8.

    Raises:
        ValueError: the grid does not cover the reference exactly.
    """
    gh, gw = motion_q.shape[:2]
    if reference.shape != (gh * BLOCK, gw * BLOCK):
        raise ValueError(f"a {gw}x{gh} grid needs {gw * BLOCK}x{gh * BLOCK} samples, got {reference.shape}")
    if not motion_q.any():
        return reference.copy()
    m = _MARGIN
    planes = half_pel_planes(
        np.asarray(cv2.copyMakeBorder(reference, m + 2, m + 3, m + 2, m + 3, cv2.BORDER_REPLICATE), np.uint8)
    )
    height, width = planes.shape[1:]

    dx, dy = motion_q[..., 0].astype(np.int64), motion_q[..., 1].astype(np.int64)
    left = np.clip(np.arange(gw) * BLOCK + (dx >> 2) + m, 3, width - BLOCK - 4)
    top = np.clip(np.arange(gh)[:, None] * BLOCK + (dy >> 2) + m, 3, height - BLOCK - 4)
    samples = _PHASE_TABLE[4 * (dy & 3) + (dx & 3)]  # (gh, gw, 2, 3)

    # Every eight consecutive bytes of the planes, at any offset, as one word.
    words = np.ndarray((planes.size - BLOCK + 1,), np.uint64, planes.data, strides=(1,))
    row_offsets = (np.arange(BLOCK) * width)[:, None]

    def fetch(which: int) -> npt.NDArray[np.uint64]:
        plane, right, down = (samples[..., which, i] for i in range(3))
        first = (plane * height + top + down) * width + left + right
        return np.asarray(words[first[:, None, :] + row_offsets])

    first, second = fetch(0), fetch(1)
    # Average rounding up, eight samples at a time: a | b minus half of a ^ b.
    out = (first | second) - (((first ^ second) & np.uint64(0xFEFEFEFEFEFEFEFE)) >> np.uint64(1))
    return out.reshape(gh * BLOCK, gw).view(np.uint8)
