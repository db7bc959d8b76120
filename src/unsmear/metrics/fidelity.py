"""Measures against a known truth."""

import numpy as np


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
