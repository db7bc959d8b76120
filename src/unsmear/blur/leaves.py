"""Dead-leaves images: synthetic images with the statistics of photographs.

Shapes of all sizes are placed on top of one another (Matheron, 1968; Lee, Mumford & Huang, 2001), which gives edges,
occlusions and a power spectrum like those of photographs. Restoration networks train on them nearly as well as on
photographs (Achddou, Gousseau & Ladjal, 2021), and their number is unlimited. Colours are taken from photographs, if
there are any; part of the leaves have texture, which the original model lacks. Ours.
"""

from collections.abc import Sequence

import cv2
import numpy as np

LEAST_RADIUS_PX, MOST_RADIUS_PX = 1.5, 160.0
_TEXTURED = 0.5
"""Share of leaves with texture."""

_COVER = 6.0
"""Total area of the leaves, relative to the image."""


def dead_leaves(size: tuple[int, int], rng: np.random.Generator, palettes: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Render one image.

    Args:
        size: (height, width) in pixels.
        rng: the only source of randomness.
        palettes: photographs (H, W, 3) uint8 RGB, of which one provides the colours; without any, colours are random.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    height, width = (side * 2 for side in size)  # drawn at twice the size and shrunk, for smooth edges
    palette = _palette(rng, palettes)
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = palette[rng.integers(len(palette))]
    covered, total = 0.0, _COVER * height * width
    # Later leaves cover earlier ones. The density of radii is r⁻³ between the two bounds.
    low, high = (2 * LEAST_RADIUS_PX) ** -2, (2 * MOST_RADIUS_PX) ** -2
    while covered < total:
        radii = (low - rng.random(512) * (low - high)) ** -0.5
        for radius in radii:
            centre = rng.uniform(0, width), rng.uniform(0, height)
            _paint(picture, _outline(float(radius), rng) + centre, palette, rng)
        covered += float((np.pi * radii**2).sum())
    return cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_AREA)


def _palette(rng: np.random.Generator, photographs: Sequence[np.ndarray]) -> np.ndarray:
    """Colours (256, 3) uint8, from one of the photographs or random."""
    if not photographs:
        grey = rng.beta(0.8, 0.8, (256, 1)) * 255
        return np.clip(grey + rng.normal(0, rng.uniform(5, 60), (256, 3)), 0, 255).astype(np.uint8)
    photograph = photographs[int(rng.integers(len(photographs)))]
    pixels = photograph.reshape(-1, 3)
    return pixels[rng.integers(0, len(pixels), 256)]


def _outline(radius: float, rng: np.random.Generator) -> np.ndarray:
    """Corners (n, 2) of an ellipse, a rectangle, a polygon or a smooth random shape around the origin."""
    kind = rng.random()
    if kind < 0.3:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        points = np.stack([np.cos(angles), np.sin(angles) * rng.uniform(0.4, 1)], -1)
    elif kind < 0.55:
        thin = rng.uniform(0.05, 0.9)
        points = np.array([[-1, -thin], [1, -thin], [1, thin], [-1, thin]], np.float64)
    elif kind < 0.8:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        points = np.stack([np.cos(angles), np.sin(angles)], -1)
    else:
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        wobble = 1 + sum(rng.normal() * 0.3 / k * np.cos(k * angles + rng.uniform(0, 6.3)) for k in range(1, 6))
        points = np.stack([np.cos(angles), np.sin(angles)], -1) * np.clip(wobble, 0.2, 2)[:, None]
    turn = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(turn), np.sin(turn)
    return radius * points @ np.array([[c, s], [-s, c]])


def _paint(picture: np.ndarray, outline: np.ndarray, palette: np.ndarray, rng: np.random.Generator) -> None:
    """Paint one leaf, uniform or textured."""
    corners = np.round(outline).astype(np.int32)
    colour = palette[rng.integers(len(palette))].astype(np.float32)
    x0, y0 = np.maximum(corners.min(0), 0)
    x1, y1 = np.minimum(corners.max(0) + 1, (picture.shape[1], picture.shape[0]))
    if x1 <= x0 or y1 <= y0:
        return
    if min(x1 - x0, y1 - y0) < 6 or rng.random() > _TEXTURED:
        cv2.fillPoly(picture, [corners], colour.tolist())
        return
    part = picture[y0:y1, x0:x1]
    mask = np.zeros(part.shape[:2], np.uint8)
    cv2.fillPoly(mask, [corners - (x0, y0)], 1)
    other = palette[rng.integers(len(palette))].astype(np.float32)
    mix = _texture(part.shape[:2], rng)[..., None]
    filled = np.clip(colour + mix * (other - colour), 0, 255).astype(np.uint8)
    np.copyto(part, filled, where=mask[..., None].astype(bool))


def _texture(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Texture (h, w) float32, mostly in [0, 1]: a gradient, stripes, or smooth noise."""
    height, width = shape
    kind = rng.random()
    if kind < 0.6:
        turn = rng.uniform(0, 2 * np.pi)
        y, x = np.ogrid[:height, :width]
        along = (x * np.cos(turn) + y * np.sin(turn)).astype(np.float32)
        if kind < 0.3:
            span = float(along.max() - along.min())
            return (along - along.min()) / max(span, 1.0)
        stripes = np.sin(along * np.float32(2 * np.pi / np.exp(rng.uniform(np.log(5), np.log(60)))))
        return 0.5 + 0.5 * stripes * np.float32(rng.uniform(0.2, 1))
    cell = float(np.exp(rng.uniform(np.log(2), np.log(24))))
    coarse = rng.random((int(height / cell) + 2, int(width / cell) + 2)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(rng.uniform(0.3, 1.2))
