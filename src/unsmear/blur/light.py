"""Averaging in linear light, as a sensor does while its shutter is open, and light beyond white.

Both published data sets average consecutive frames, GoPro (Nah et al.) under an approximate 2.2 gamma; we default to
the sRGB curve.
"""

from collections.abc import Iterable

import numpy as np

from unsmear.video.light import Curve, from_linear, linear_levels, quantise, to_linear


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


DARK_TOP, LAMPS_FROM = 190, 220
"""Levels of a scene in the dark: white of the photograph, and where lamps begin. Interpolation that overshoots at an
edge stays between the two."""


def lamp_light(dim: float, gain: float) -> np.ndarray:
    """Linear light of the levels of a dark scene, float32 (256,): 1 is white, and lamps hold more.

    Args:
        dim: light of the photograph's white (level ``DARK_TOP``).
        gain: light of the strongest lamp (level 255); from ``LAMPS_FROM`` on it grows as the cube.
    """
    v = np.arange(256, dtype=np.float64)
    lamp = np.clip((v - LAMPS_FROM) / (255 - LAMPS_FROM), 0, 1) ** 3
    return (dim * (v / DARK_TOP) ** 2.2 + gain * lamp).astype(np.float32)


_LAMP_COLOURS = np.array([[1, 1, 1], [1, 1, 0.9], [1, 0.85, 0.5], [1, 0.6, 0.2], [1, 0.03, 0.02], [0.1, 0.3, 1]])
"""Light of white, cool, warm, sodium, red and blue lamps, the strongest channel 1."""


def draw_lamps(rng: np.random.Generator, count: int, side: int) -> np.ndarray:
    """Lamps anywhere on a picture of ``side`` pixels, (count, 6): x, y, radius, and levels of red, green and blue.

    Radii are from 0.6 to 5 px, small ones more often; the faintest lamp has a hundredth of the light of the strongest.
    """
    place = rng.uniform(0, side, (count, 2))
    radius = 0.6 * np.exp(np.log(5.0 / 0.6) * rng.random((count, 1)) ** 1.5)
    power = np.exp(rng.uniform(np.log(0.01), 0, (count, 1)))
    light = power * _LAMP_COLOURS[rng.integers(len(_LAMP_COLOURS), size=count)]
    return np.concatenate([place, radius, LAMPS_FROM + (255 - LAMPS_FROM) * np.cbrt(light)], -1)


def lamp_levels(lamps: np.ndarray, side: int) -> np.ndarray:
    """uint8 (side, side, 3): soft discs of the levels of lamps on black; the brighter one where two meet."""
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
    """Linear light of the levels of a scene with headroom, float32 (256,): 1 is white, brighter parts hold more.

    Args:
        exposure: all light is multiplied by it.
        gain: level 255 has so many times more light; the rise starts where 0.85 of white is shown, at 245 the latest.
    """
    light = exposure * linear_levels(curve).astype(np.float64)
    start = min(int(np.searchsorted(light, 0.85)), 245)
    t = np.clip((np.arange(256) - start) / (255 - start), 0, 1)
    return (light * (1 + (gain - 1) * t * t * (3 - 2 * t))).astype(np.float32)
