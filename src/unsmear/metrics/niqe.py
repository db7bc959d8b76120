"""NIQE: distance of a frame's statistics from those of pristine photographs (Mittal, Soundararajan & Bovik, 2013).

The Gaussian of pristine photographs is that of the authors' release; conventions follow the release too, so that
values are comparable with those of papers: Y of BT.601 rounded to whole levels, blocks of 96 pixels, two scales.
"""

import math
from functools import cache
from importlib.resources import files

import cv2
import numpy as np

from unsmear.metrics.fidelity import luma601

BLOCK_PX = 96
_WINDOW = (7, 7)
_WINDOW_SIGMA = 7 / 6
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Shifts (rows, columns) of the four products of neighbouring coefficients: horizontal, vertical, both diagonals."""
_ALPHAS = np.arange(0.2, 10.001, 0.001)


def niqe(image: np.ndarray) -> float:
    """NIQE: 0 for pristine statistics, about 3 for a good photograph, higher for worse ones; NaN for a plain frame.

    Args:
        image: (H, W, 3) RGB in levels 0 … 255, sides of at least 192 pixels.

    Raises:
        ValueError: a side below 192 pixels.
    """
    rows, columns = (side // BLOCK_PX for side in image.shape[:2])
    if min(rows, columns) < 2:
        raise ValueError(f"NIQE needs sides of at least {2 * BLOCK_PX} pixels, got {image.shape[:2]}")
    luma = np.rint(luma601(image.astype(np.float32)))[: rows * BLOCK_PX, : columns * BLOCK_PX].astype(np.float64)
    scales = []
    for block_px in (BLOCK_PX, BLOCK_PX // 2):
        coefficients = _normalised(luma)
        blocks = coefficients.reshape(rows, block_px, columns, block_px).transpose(0, 2, 1, 3)
        scales.append(_features(blocks.reshape(-1, block_px, block_px)))
        luma = _halved(luma)
    features = np.concatenate(scales, 1)
    mean, covariance = _pristine()
    whole = features[~np.isnan(features).any(1)]
    if len(whole) < 2:
        return float("nan")  # a plain frame has no statistics
    distance = mean - np.nanmean(features, 0)
    inverse = np.linalg.pinv((covariance + np.cov(whole, rowvar=False)) / 2)
    return float(np.sqrt(distance @ inverse @ distance))


@cache
def _pristine() -> tuple[np.ndarray, np.ndarray]:
    """Mean (36,) and covariance (36, 36) of the features of pristine photographs."""
    from safetensors.numpy import load

    stored = load(files("unsmear").joinpath("weights/metrics/niqe.safetensors").read_bytes())
    return stored["mean"], stored["covariance"]


def _normalised(luma: np.ndarray) -> np.ndarray:
    """Subtract the local mean and divide by the local deviation (MSCN coefficients, Eq. 1)."""

    def smoothed(x: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(x, _WINDOW, _WINDOW_SIGMA, borderType=cv2.BORDER_REPLICATE)

    mean = smoothed(luma)
    return (luma - mean) / (np.sqrt(np.abs(smoothed(luma * luma) - mean * mean)) + 1)


def _features(blocks: np.ndarray) -> np.ndarray:
    """18 features of each block (N, S, S): parameters of coefficients and of products of neighbours (Eqs. 7, 8)."""
    alpha, left, right = _asymmetric_gaussian(blocks)
    out = [alpha, (left + right) / 2]
    for shift in _NEIGHBOURS:
        alpha, left, right = _asymmetric_gaussian(blocks * np.roll(blocks, shift, (1, 2)))
        gamma1, gamma2 = (_gamma(k / alpha) for k in (1, 2))
        out += [alpha, (right - left) * gamma2 / gamma1, left, right]
    return np.stack(out, 1)


def _asymmetric_gaussian(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shape and both scales of the asymmetric generalised Gaussian fitted to each block by moments; NaN for none."""
    flat = blocks.reshape(len(blocks), -1)
    square = flat * flat
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = (
            np.sqrt(np.sum(square, 1, where=side) / np.count_nonzero(side, 1)) for side in (flat < 0, flat > 0)
        )
        ratio = left / right
        kurtosis = np.abs(flat).mean(1) ** 2 / square.mean(1)
        moment = kurtosis * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    table = _moment_ratios()
    after = np.clip(np.searchsorted(table, np.nan_to_num(moment, nan=0.0)), 1, len(table) - 1)
    nearest = after - (moment - table[after - 1] <= table[after] - moment)
    alpha = _ALPHAS[nearest]
    scale = np.sqrt(_gamma(1 / alpha) / _gamma(3 / alpha))
    scale[~np.isfinite(moment)] = np.nan
    return alpha, left * scale, right * scale


@cache
def _moment_ratios() -> np.ndarray:
    """Γ(2/α)² / (Γ(1/α) Γ(3/α)) for every α of the table; rises with α."""
    return _gamma(2 / _ALPHAS) ** 2 / (_gamma(1 / _ALPHAS) * _gamma(3 / _ALPHAS))


_gamma = np.vectorize(math.gamma, otypes=[np.float64])


def _halved(luma: np.ndarray) -> np.ndarray:
    """Halve the size with the cubic kernel (a = −½) stretched to eight taps, as in MATLAB's ``imresize``."""
    offsets = np.abs(np.arange(-3.5, 4)) / 2
    near = 1.5 * offsets**3 - 2.5 * offsets**2 + 1
    far = -0.5 * offsets**3 + 2.5 * offsets**2 - 4 * offsets + 2
    taps = np.where(offsets <= 1, near, far)
    taps /= taps.sum()
    anchor = (3, 3)  # three pixels before, four after: the kernel is centred between two pixels
    return cv2.sepFilter2D(luma, -1, taps, taps, anchor=anchor, borderType=cv2.BORDER_REFLECT)[::2, ::2]
