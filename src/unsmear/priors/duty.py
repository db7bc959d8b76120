"""Estimation of the duty cycle of a shot (exposure time per frame step) from the blur along its motion. Ours.

Blur is a box filter of length ``duty · |V̄|`` along the motion. The autocorrelation of the derivative along the
motion therefore has its minimum at that distance (the two ends of the box, of opposite sign), plus the reach of the
derivative filter and of the codec's smoothing. It is pooled over all fast pixels of a shot. Measured on nine
re-encoded clips with known duty cycle: an error of at most 0.12 on eight, no estimate on the ninth.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from unsmear.priors.prior import Prior

_Float32 = npt.NDArray[np.float32]

SLOWEST_PX = 3.0
FASTEST_PX = 40.0
"""Range of motion of the pixels that are used, pixels per frame step: less leaves no blur, more no overlap."""

EDGE_REACH_PX = 1.75
"""Length that the derivative filter and the codec add to the blur, pixels."""

DUTY_GRID = np.arange(0.0, 1.3001, 0.05)
"""Duty cycles at which the autocorrelation is evaluated."""

MIN_PIXELS = 4000
"""Least number of fast pixels over all frames for an estimate."""

MIN_DEPTH = 0.08
"""Least depth of the minimum, relative to the power of the derivative."""

LONG_DUTY, MIN_DEPTH_LONG = 0.3, 0.135
"""Duty cycle from which on the depth must be at least the second value: real blur measured 0.14 to 0.31 there, and
shallow minima at large distances come from repetitive content."""

_MAX_SAMPLES = 40_000
_BORDER = 8


def mean_line(prior: Prior) -> _Float32:
    """Mean motion V̄ = (a·V_back − b·V) / max(a + b, 1), ``(2, H, W)`` in pixels; a, b are 0 at resets, else 1."""
    a, b = 1 - int(prior.reset_back), 1 - int(prior.reset)
    field = (a * prior.dense_motion_back() - b * prior.dense_motion()) / max(a + b, 1)
    return np.asarray(field, np.float32)


def _read(image: npt.NDArray[Any], x: _Float32, y: _Float32) -> _Float32:
    """Sample bilinearly at scattered points, in rows of 4096, since OpenCV requires maps narrower than 32768."""
    maps = np.zeros((2, -(-len(x) // 4096) * 4096), np.float32)
    maps[:, : len(x)] = x, y
    at_x, at_y = maps.reshape(2, -1, 4096)
    values = cv2.remap(image, at_x, at_y, cv2.INTER_LINEAR).ravel()[: len(x)]
    return np.asarray(values, np.float32)


def _correlations(luma: npt.NDArray[np.uint8], line: _Float32) -> tuple[npt.NDArray[np.float64], float, int]:
    """(autocorrelation for each duty of the grid, power, number of pixels) of one frame."""
    height, width = luma.shape
    length = np.hypot(line[0], line[1])
    fast = (length > SLOWEST_PX) & (length < FASTEST_PX)
    fast[:_BORDER] = fast[-_BORDER:] = False
    fast[:, :_BORDER] = fast[:, -_BORDER:] = False
    rows, columns = np.nonzero(fast)
    if not len(rows):
        return np.zeros(len(DUTY_GRID)), 0.0, 0
    step = -(-len(rows) // _MAX_SAMPLES)
    rows, columns = rows[::step], columns[::step]
    vx, vy = line[0, rows, columns], line[1, rows, columns]
    norm = length[rows, columns]
    ux, uy = vx / norm, vy / norm
    gray = luma.astype(np.float32)
    gradient_x = cv2.Sobel(gray, cv2.CV_32F, 1, 0, ksize=3)
    gradient_y = cv2.Sobel(gray, cv2.CV_32F, 0, 1, ksize=3)
    x, y = columns.astype(np.float32), rows.astype(np.float32)

    def derivative(at: float, sign: int) -> _Float32:
        """Derivative along the motion, sampled at a distance of ``at`` times V̄ plus ``EDGE_REACH_PX``."""
        px = x + np.float32(sign) * (np.float32(at) * vx + np.float32(EDGE_REACH_PX) * ux)
        py = y + np.float32(sign) * (np.float32(at) * vy + np.float32(EDGE_REACH_PX) * uy)
        return _read(gradient_x, px, py) * ux + _read(gradient_y, px, py) * uy

    here = gradient_x[rows, columns] * ux + gradient_y[rows, columns] * uy
    products = np.array([float(np.dot(here, derivative(a, 1) + derivative(a, -1))) / 2 for a in DUTY_GRID], np.float64)
    return products, float(np.dot(here, here)), len(rows) * step


def estimate_duty(lumas: Sequence[npt.NDArray[np.uint8]], priors: Sequence[Prior], max_frames: int = 6) -> float | None:
    """Estimate the duty cycle of a shot: exposure time as a fraction of the frame step.

    Args:
        lumas: blurred frames, ``(H, W)`` uint8 each.
        priors: of the same frames.
        max_frames: maximum number of frames that are used, evenly spread.

    Returns:
        A number in [0, 1]; None where there is too little motion, or blur that does not follow it.
    """
    picks = [i for i, p in enumerate(priors) if not (p.reset and p.reset_back)]
    if len(picks) > max_frames:
        picks = [picks[int(i)] for i in np.linspace(0, len(picks) - 1, max_frames)]
    products, power, pixels = np.zeros(len(DUTY_GRID)), 0.0, 0
    for i in picks:
        frame_products, frame_power, count = _correlations(lumas[i], mean_line(priors[i]))
        products, power, pixels = products + frame_products, power + frame_power, pixels + count
    if pixels < MIN_PIXELS or power <= 0:
        return None
    curve = products / power
    low = int(np.argmin(curve))
    if curve[low] > -MIN_DEPTH or low == len(curve) - 1:
        return None
    duty = float(np.clip(DUTY_GRID[low] + _vertex(curve, low), 0, 1))
    return None if duty > LONG_DUTY and curve[low] > -MIN_DEPTH_LONG else duty


def _vertex(curve: npt.NDArray[np.float64], low: int) -> np.float64:
    """Offset from the lowest sample to the vertex of the parabola through it and its neighbours."""
    if low in (0, len(curve) - 1):
        return np.float64(0.0)
    left, middle, right = curve[low - 1 : low + 2]
    bend = left - 2 * middle + right
    step = DUTY_GRID[1] - DUTY_GRID[0]
    return np.float64(0.0) if bend <= 0 else np.float64(0.5 * (left - right) / bend * step)
