"""Structural similarity (Wang et al., 2004) in the two variants used in deblurring papers.

They differ by far more than methods do: the joint one also smooths over the colour channels, and is higher.
"""

import cv2
import numpy as np

_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_SIGMA = 1.5
_RADIUS = 5
_JOINT_RADIUS = 6
_CENTRE = np.float32(128)


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean SSIM over positions where an 11×11 Gaussian window of σ 1.5 fits, and over channels.

    Args:
        image, truth: (H, W) or (H, W, C) in levels 0 … 255, sides of at least 11 pixels.

    Raises:
        ValueError: shapes differ, or the window does not fit.
    """
    _check(image, truth)
    if min(image.shape[:2]) < 2 * _RADIUS + 1:
        raise ValueError(f"SSIM needs sides of at least {2 * _RADIUS + 1} pixels, got {image.shape[:2]}")
    size = (2 * _RADIUS + 1,) * 2
    inner = slice(_RADIUS, -_RADIUS)

    def smoothed(x: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(x, size, _SIGMA)[inner, inner]

    return _mean_index(image, truth, smoothed)


def ssim_joint(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean SSIM with a Gaussian of σ 1.5 over rows, columns and channels at once (Shift-Net, BSSTNet).

    The Gaussian is truncated at 4 σ, and the image is mirrored at all borders, including those of the channels.

    Args:
        image, truth: (H, W, C) in levels 0 … 255.

    Raises:
        ValueError: shapes differ.
    """
    _check(image, truth)
    across = _channel_mixer(image.shape[2])
    size = (2 * _JOINT_RADIUS + 1,) * 2

    def smoothed(x: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(cv2.transform(x, across), size, _SIGMA, borderType=cv2.BORDER_REFLECT)

    return _mean_index(image, truth, smoothed)


def _channel_mixer(channels: int) -> np.ndarray:
    """Gaussian along the channel axis with mirrored borders, as a matrix (C, C)."""
    offsets = np.arange(-_JOINT_RADIUS, _JOINT_RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights /= weights.sum()
    mixer = np.zeros((channels, channels))
    for row in range(channels):
        folded = (row + offsets) % (2 * channels)
        np.add.at(mixer[row], np.minimum(folded, 2 * channels - 1 - folded), weights)
    return mixer


def _mean_index(image: np.ndarray, truth: np.ndarray, smoothed) -> float:  # type: ignore[no-untyped-def]
    # Centred, so that float32 keeps precision in the difference of squares.
    x, y = (np.ascontiguousarray(i, np.float32) - _CENTRE for i in (image, truth))
    mx, my = smoothed(x), smoothed(y)
    vx, vy = smoothed(x * x) - mx * mx, smoothed(y * y) - my * my
    cov = smoothed(x * y) - mx * my
    mx, my = mx + _CENTRE, my + _CENTRE
    index = (2 * mx * my + _C1) * (2 * cov + _C2) / ((mx * mx + my * my + _C1) * (vx + vy + _C2))
    return float(np.mean(index, dtype=np.float64))


def _check(image: np.ndarray, truth: np.ndarray) -> None:
    if image.shape != truth.shape:
        raise ValueError(f"{image.shape} cannot be compared with {truth.shape}")
