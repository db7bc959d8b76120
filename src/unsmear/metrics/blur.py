"""No-reference estimates of the blur of a frame."""

from dataclasses import dataclass

import cv2
import numpy as np

_WINDOW = 9
_BAND_ROWS = 32  # rows processed at a time, which fit into the cache


@dataclass(frozen=True)
class Sharpness:
    """No-reference blur and edge slope of one frame."""

    blur: float
    """Blur in [0, 1], see ``blur_estimate``."""
    steepness: float
    """Mean slope in levels per pixel of the halved frame, weighted by the slope itself; 0 for a plain frame."""


def blur_estimate(luma: np.ndarray) -> float:
    """No-reference perceptual blur in [0, 1]: 0 crisp, 1 smooth (Crété et al., 2007).

    A crisp frame loses much of the variation between neighbouring pixels when it is blurred once more, a
    blurred one little. The result is the larger of the two axes, so that blur along one direction counts. The frame
    is halved first (ours), since noise and the edges of codec blocks would raise its sharpness.

    Args:
        luma: (H, W) uint8.
    """
    return sharpness(luma).blur


def sharpness(luma: np.ndarray) -> Sharpness:
    """Blur estimate and steepness of edges (ours), Σ d² / Σ |d| over all differences d of neighbouring pixels.

    An edge of height h with a linear slope over w pixels adds h²/w to the first sum and h to the second: their ratio is
    the slope h/w. The ratio of two versions of a frame is therefore the relative slope of their edges, weighted by
    height.

    Args:
        luma: (H, W) uint8.
    """
    image: np.ndarray = luma.astype(np.float32)
    if min(image.shape) >= 2 * _WINDOW:
        image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    reach = _WINDOW // 2
    padded = cv2.copyMakeBorder(image, reach, reach, reach, reach, cv2.BORDER_REFLECT)
    rows, columns = padded[reach:-reach], padded[:, reach:-reach]
    # Neighbouring values of a running mean differ by the sample that enters minus the one that leaves.
    pairs = (
        (image[1:], image[:-1], columns[_WINDOW:], columns[:-_WINDOW]),
        (image[:, 1:], image[:, :-1], rows[:, _WINDOW:], rows[:, :-_WINDOW]),
    )
    squares, sums, lost = np.zeros(2), np.zeros(2), np.zeros(2)
    for axis, parts in enumerate(pairs):
        for top in range(0, len(parts[0]) if parts[0].size else 0, _BAND_ROWS):
            here, before, enters, leaves = (part[top : top + _BAND_ROWS] for part in parts)
            difference = cv2.absdiff(here, before)
            sums[axis] += cv2.norm(difference, cv2.NORM_L1)
            squares[axis] += cv2.norm(difference, cv2.NORM_L2SQR)
            more = cv2.scaleAdd(cv2.absdiff(enters, leaves), -1 / _WINDOW, difference)
            lost[axis] += cv2.norm(cv2.threshold(more, 0, 0, cv2.THRESH_TOZERO)[1], cv2.NORM_L1)
    if not sums.any():
        return Sharpness(0.0, 0.0)
    kept = (sums - lost)[sums > 0] / sums[sums > 0]
    return Sharpness(float(max(kept.max(), 0)), float(squares.sum() / sums.sum()))
