"""Averaging in linear light, as a sensor does during an exposure, and light above white.

Both published data sets average consecutive frames, GoPro (Nah et al.) with an approximate gamma of 2.2; our default is
the sRGB curve.
"""

from collections.abc import Iterable

import numpy as np

from unsmear.video.light import Curve, from_linear, linear_levels, quantise, to_linear


def expose(subframes: Iterable[np.ndarray], curve: Curve = "srgb") -> np.ndarray:
    """Average uint8 frames (H, W, 3) in linear light: float32 (H, W, 3) in [0, 255], not rounded.

    Raises ValueError without frames.
    """
    total, count = None, 0
    for frame in subframes:
        light = to_linear(frame, curve)
        total = light if total is None else np.add(total, light, out=total)
        count += 1
    if total is None:
        raise ValueError("an exposure needs at least one sub-frame")
    return from_linear(total / count, curve)


DARK_TOP, LAMPS_FROM = 190, 220
"""Levels of a dark scene: white of the photograph, and the least level of lamps. The gap absorbs the overshoot of
interpolation at edges."""


def lamp_light(dim: float, gain: float) -> np.ndarray:
    """Linear light of the levels of a dark scene, float32 (256,): 1 is white, lamps are brighter.

    Args:
        dim: light of the photograph's white (level ``DARK_TOP``).
        gain: light of the strongest lamp (level 255); above ``LAMPS_FROM`` light is cubic in the level.
    """
    v = np.arange(256, dtype=np.float64)
    lamp = np.clip((v - LAMPS_FROM) / (255 - LAMPS_FROM), 0, 1) ** 3
    return (dim * (v / DARK_TOP) ** 2.2 + gain * lamp).astype(np.float32)


_LAMP_COLOURS = np.array([[1, 1, 1], [1, 1, 0.9], [1, 0.85, 0.5], [1, 0.6, 0.2], [1, 0.03, 0.02], [0.1, 0.3, 1]])
"""Linear colours of white, cool, warm, sodium, red and blue lamps, the strongest channel 1."""


def draw_lamps(rng: np.random.Generator, count: int, side: int) -> np.ndarray:
    """Draw lamps on a square image of ``side`` pixels: (count, 6), x, y, radius, and levels of red, green and blue.

    Radii are from 0.6 to 5 px, small ones more frequent; the light of lamps differs by a factor of up to 100.
    """
    place = rng.uniform(0, side, (count, 2))
    radius = 0.6 * np.exp(np.log(5.0 / 0.6) * rng.random((count, 1)) ** 1.5)
    power = np.exp(rng.uniform(np.log(0.01), 0, (count, 1)))
    light = power * _LAMP_COLOURS[rng.integers(len(_LAMP_COLOURS), size=count)]
    return np.concatenate([place, radius, LAMPS_FROM + (255 - LAMPS_FROM) * np.cbrt(light)], -1)


def lamp_levels(lamps: np.ndarray, side: int) -> np.ndarray:
    """Image uint8 (side, side, 3) of lamps: soft discs on black, the brighter one where they overlap."""
    levels = np.zeros((side, side, 3), np.float32)
    for x, y, radius, *colour in lamps:
        x0, y0 = (max(int(v - radius - 2), 0) for v in (x, y))
        x1, y1 = (min(int(v + radius + 3), side) for v in (x, y))
        rows, columns = np.mgrid[y0:y1, x0:x1]
        disc = np.clip(radius + 0.75 - np.hypot(columns - x, rows - y), 0, 1.5) / 1.5
        part = levels[y0:y1, x0:x1]
        np.maximum(part, disc[..., None] * np.float32(colour), out=part)
    return quantise(levels)


def bright_light(exposure: float, gain: float, curve: Curve = "srgb") -> np.ndarray:
    """Linear light of the levels of a scene with headroom, float32 (256,): 1 is white, bright levels exceed it.

    Args:
        exposure: factor on all light.
        gain: factor on the light of level 255; it rises smoothly from 1 at the level whose light is 0.85, at most 245.
        curve: transfer curve of the levels.
    """
    light = exposure * linear_levels(curve).astype(np.float64)
    start = min(int(np.searchsorted(light, 0.85)), 245)
    t = np.clip((np.arange(256) - start) / (255 - start), 0, 1)
    return (light * (1 + (gain - 1) * t * t * (3 - 2 * t))).astype(np.float32)
