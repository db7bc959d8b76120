"""Full-reference metrics of pixel values: PSNR, levels and luma."""

import numpy as np

IDENTICAL_DB = 100.0
"""PSNR assigned to a frame without error, so that means stay finite. Ours."""


def levels(image: np.ndarray, *, rounded: bool) -> np.ndarray:
    """Convert uint8, or uint16 over the full 16-bit range, to 8-bit levels 0 … 255 as float32.

    Args:
        image: any shape.
        rounded: round to whole levels, as in a saved 8-bit frame.

    Raises:
        ValueError: another type.
    """
    if image.dtype == np.uint8:
        return image.astype(np.float32)
    if image.dtype != np.uint16:
        raise ValueError(f"{image.dtype} frames cannot be measured: expected uint8 or uint16")
    values = image.astype(np.float32) / 257
    return np.rint(values) if rounded else values


def luma601(image: np.ndarray) -> np.ndarray:
    """Luma Y of BT.601 in studio range, 16 … 235, not rounded: the "Y channel" of restoration papers.

    Args:
        image: (H, W, 3) RGB in levels 0 … 255.

    Returns:
        (H, W).
    """
    return 16 + (image @ np.array([65.481, 128.553, 24.966], np.float32)) / np.float32(255)


def psnr_of_levels(image: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB of two images in levels 0 … 255, at most ``IDENTICAL_DB``."""
    error = float(np.mean((image.astype(np.float64) - truth) ** 2))
    return IDENTICAL_DB if error == 0 else min(10 * float(np.log10(255**2 / error)), IDENTICAL_DB)


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels; infinite for equal images.

    Args:
        image, truth: same shape and integer type; the peak is the type's largest value.

    Raises:
        ValueError: shapes or types differ.
    """
    if image.shape != truth.shape or image.dtype != truth.dtype:
        raise ValueError(f"{image.shape} {image.dtype} cannot be compared with {truth.shape} {truth.dtype}")
    error = float(np.mean((image.astype(np.float64) - truth) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(np.iinfo(truth.dtype).max ** 2 / error))
