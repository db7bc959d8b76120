"""Pixel values to linear light and back: light adds up before it is gamma-encoded."""

from functools import cache
from typing import Literal

import numpy as np

Curve = Literal["srgb", "2.2"]


@cache
def linear_levels(curve: Curve, levels: int = 256) -> np.ndarray:
    """Linear light of all levels, 256 or 65536, float32 (levels,); not to be written to."""
    v = np.arange(levels, dtype=np.float64) / (levels - 1)
    if curve == "srgb":
        light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    else:
        light = v**2.2
    return light.astype(np.float32)


def to_linear(image: np.ndarray, curve: Curve = "srgb") -> np.ndarray:
    """Gamma-encoded uint8 or uint16 → linear light, float32 in [0, 1], same shape."""
    return linear_levels(curve, 1 << 8 * image.dtype.itemsize)[image]


def from_linear(light: np.ndarray, curve: Curve = "srgb") -> np.ndarray:
    """Linear light in [0, 1] (clipped) → gamma-encoded float32 in [0, 255], not rounded."""
    x = np.clip(light, 0, 1)
    if curve == "srgb":
        v = np.where(x <= 0.0031308, x * 12.92, 1.055 * np.power(x, 1 / 2.4) - 0.055)
    else:
        v = np.power(x, 1 / 2.2)
    return (v * 255).astype(np.float32)


def quantise(image: np.ndarray) -> np.ndarray:
    """Float [0, 255] → uint8, rounded to nearest."""
    return (np.clip(image, 0, 255) + 0.5).astype(np.uint8)
