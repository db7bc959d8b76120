"""Averaging in linear light: what a sensor does while its shutter is open.

Pixel values are gamma-encoded; light adds up before that. Both published data sets average
consecutive frames, GoPro (Nah et al.) under an approximate 2.2 gamma; we default to the sRGB curve.
"""

from collections.abc import Iterable
from functools import cache
from typing import Literal

import numpy as np

Curve = Literal["srgb", "2.2"]


@cache
def _to_linear(curve: Curve) -> np.ndarray:
    v = np.arange(256, dtype=np.float64) / 255
    if curve == "srgb":
        light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    else:
        light = v**2.2
    return light.astype(np.float32)


def to_linear(image: np.ndarray, curve: Curve = "srgb") -> np.ndarray:
    """Gamma-encoded uint8 → linear light, float32 in [0, 1], same shape."""
    return _to_linear(curve)[image]


def from_linear(light: np.ndarray, curve: Curve = "srgb") -> np.ndarray:
    """Linear light in [0, 1] (clipped) → gamma-encoded float32 in [0, 255], not rounded."""
    x = np.clip(light, 0, 1)
    if curve == "srgb":
        v = np.where(x <= 0.0031308, x * 12.92, 1.055 * np.power(x, 1 / 2.4) - 0.055)
    else:
        v = np.power(x, 1 / 2.2)
    return (v * 255).astype(np.float32)


def expose(subframes: Iterable[np.ndarray], curve: Curve = "srgb") -> np.ndarray:
    """Average uint8 frames (H, W, 3) in linear light → float32 (H, W, 3) in [0, 255], not rounded."""
    total, count = None, 0
    for frame in subframes:
        light = to_linear(frame, curve)
        total = light if total is None else np.add(total, light, out=total)
        count += 1
    if total is None:
        raise ValueError("an exposure needs at least one sub-frame")
    return from_linear(total / count, curve)


def quantise(image: np.ndarray) -> np.ndarray:
    """Float [0, 255] → uint8, rounded to nearest."""
    return (np.clip(image, 0, 255) + 0.5).astype(np.uint8)
