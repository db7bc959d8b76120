"""Shots and cuts with labels, rendered from textures and from the sample pictures of scikit-image.

A :class:`Reel` is a run of 320x180 luma frames and the numbers of those that begin a new shot. Speeds are given in
pixels a frame at 720p, four times those of the reel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from skimage import data

from support.clips import texture

WIDTH, HEIGHT = 320, 180
PICTURES = ("astronaut", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "hubble", "moon", "page", "rocket")
TEXTURES = ("fine", "coarse")


@dataclass(frozen=True)
class Reel:
    """Frames, and which of them begin a new shot."""

    name: str
    frames: list[np.ndarray]
    cuts: frozenset[int] = frozenset()


@cache
def scene(name: str) -> np.ndarray:
    """A wide luma picture, float32, at least 1400x640: a view of 320x180 has room to travel in it."""
    if name in TEXTURES:
        rgb = texture((1400, 700), len(name), smooth_px=1.5 if name == "fine" else 6.0)
    else:
        sources: dict[str, Callable[[], np.ndarray]] = {
            n: getattr(data, "hubble_deep_field" if n == "hubble" else n) for n in PICTURES
        }
        rgb = sources[name]()
    gray = (rgb if rgb.ndim == 2 else rgb[..., :3].mean(-1)).astype(np.float32)
    scale = max(1400 / gray.shape[1], 640 / gray.shape[0])
    return np.asarray(cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.float32)


@dataclass
class Camera:
    """Where a view lies in a scene: its centre in pixels, size of a view pixel, and angle in degrees."""

    x: float
    y: float
    zoom: float = 1.0
    degrees: float = 0.0

    def view(self, picture: np.ndarray) -> np.ndarray:
        c, s = self.zoom * np.cos(np.radians(self.degrees)), self.zoom * np.sin(np.radians(self.degrees))
        matrix = np.array(
            [
                [c, -s, self.x - c * WIDTH / 2 + s * HEIGHT / 2],
                [s, c, self.y - s * WIDTH / 2 - c * HEIGHT / 2],
            ]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REFLECT)


def film(
    picture: np.ndarray, path: Callable[[float], Camera], frames: int, duty: float, start: float = 0.0
) -> list[np.ndarray]:
    """Float32 frames of a camera that is at ``path(t)`` at time t, exposed over ``duty`` of the frame step."""
    samples = np.linspace(-duty / 2, duty / 2, 9 if duty else 1)
    return [np.mean([path(start + t + s).view(picture) for s in samples], axis=0) for t in range(frames)]


def developed(
    frames: list[np.ndarray], rng: np.random.Generator, gain: float = 1.0, noise: float = 0.0
) -> list[np.ndarray]:
    """Luma as recorded: dimmed, noisy, rounded."""
    return [
        np.clip(np.rint(16 + gain * (f - 16) + (noise * rng.standard_normal(f.shape) if noise else 0)), 0, 255).astype(
            np.uint8
        )
        for f in frames
    ]


def sweep(rng: np.random.Generator, picture: np.ndarray, px: float) -> Callable[[float], Camera]:
    """To and fro along a line through the scene, at ``px`` (of a 720p picture) a frame at most, starting at rest."""
    height, width = picture.shape
    steep = rng.uniform(-0.35, 0.35)
    run = min(width - WIDTH, (height - HEIGHT) / max(abs(np.sin(steep)), 1e-3)) * 0.9
    omega = px / 4 / (run / 2)
    x0, y0, way = width / 2, height / 2, rng.choice([-1, 1])

    def path(t: float) -> Camera:
        along = way * run / 2 * -np.cos(omega * t)
        return Camera(x0 + along * np.cos(steep), y0 + along * np.sin(steep))

    return path


def wander(
    rng: np.random.Generator,
    picture: np.ndarray,
    px: float,
    degrees: float = 0.0,
    zoom: float = 1.0,
    period: float = 8.0,
) -> Callable[[float], Camera]:
    """A hand-held camera: sums of waves, ``px`` a frame (of a 720p picture) at most in each direction."""
    height, width = picture.shape
    phases, rates = rng.uniform(0, 2 * np.pi, (3, 3)), 2 * np.pi / period * rng.uniform(0.5, 1.2, (3, 3))
    x0, y0 = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.4, 0.6)

    def path(t: float) -> Camera:
        x, y, r = (np.sin(rates * t + phases) / rates).mean(1)
        return Camera(x0 + px / 4 * x, y0 + px / 4 * y, zoom, degrees * r)

    return path


def zooming(
    rng: np.random.Generator, picture: np.ndarray, rate: float, degrees: float = 0.0
) -> Callable[[float], Camera]:
    """In and out, the scale changing by the factor ``1 + rate`` a frame at most, and turning by ``degrees`` a frame."""
    height, width = picture.shape
    x0, y0 = width * rng.uniform(0.45, 0.55), height * rng.uniform(0.45, 0.55)
    omega = 2 * np.pi / 24

    def path(t: float) -> Camera:
        return Camera(x0, y0, 1.4 * np.exp(rate / omega * np.sin(omega * t)), degrees * t)

    return path


def names(rng: np.random.Generator, count: int) -> list[str]:
    everything = [*PICTURES, *TEXTURES]
    return [str(n) for n in rng.permutation(everything * (1 + count // len(everything)))[:count]]


def calm_and_wild(seed: int, frames: int = 46) -> Iterator[Reel]:
    """Reels without a cut."""
    rng = np.random.default_rng(seed)

    def reel(kind: str, name: str, path: Callable[[float], Camera], duty: float, n: int = frames, **how: float) -> Reel:
        start = rng.uniform(0, 20)
        return Reel(f"{kind} over {name}", developed(film(scene(name), path, n, duty, start), rng, **how))

    for px, name in zip((30, 50, 70, 85, 100, 110, 120, 120, 120, 60), names(rng, 10), strict=True):
        yield reel(f"whip pan of {px} px", name, sweep(rng, scene(name), px), rng.uniform(0.2, 1))
    for rate, name in zip((0.02, 0.04, 0.06, 0.08), names(rng, 4), strict=True):
        yield reel(f"zoom of {rate:.0%}", name, zooming(rng, scene(name), rate), rng.uniform(0, 0.6))
    for degrees, name in zip((1, 3, 5, 8), names(rng, 4), strict=True):
        yield reel(f"rotation of {degrees}°", name, zooming(rng, scene(name), 0.0, degrees), rng.uniform(0, 0.6))
    for px, name in zip((30, 45, 60, 60), names(rng, 4), strict=True):
        yield reel(f"hand-held, 15 fps, {px} px", name, wander(rng, scene(name), px, 1.5, period=6), 0.5)
    for px, name in zip((8, 15), names(rng, 2), strict=True):
        yield reel(f"hand-held, 60 fps, {px} px", name, wander(rng, scene(name), px, 0.4, period=24), 0.9)
    for noise, name in zip((6, 12, 20), names(rng, 3), strict=True):
        yield reel(f"noise of {noise} levels", name, wander(rng, scene(name), 20, period=16), 0.5, noise=noise)
    for px, name in zip((10, 30, 60), names(rng, 3), strict=True):
        yield reel(f"low light, {px} px", name, wander(rng, scene(name), px, period=16), 0.9, gain=0.12, noise=2.5)
    for name in ("grass", "gravel", "fine"):
        yield reel("pan over texture", name, sweep(rng, scene(name), 60), 0.5)
    for px, name in zip((40, 90), names(rng, 2), strict=True):
        one = reel(f"each frame twice, {px} px", name, sweep(rng, scene(name), px), 0.5, n=frames // 2)
        yield Reel(one.name, [f for f in one.frames for _ in range(2)])
    for px, (name, other) in zip((40, 80), (names(rng, 2), names(rng, 2)), strict=True):
        yield passing(rng, name, other, px, frames)
    yield from changes_of_light(rng, frames)


def passing(rng: np.random.Generator, name: str, other: str, px: float, frames: int) -> Reel:
    """Something large goes by in front, the other way."""
    back = film(scene(name), sweep(rng, scene(name), px), frames, 0.5, 10)
    front = film(scene(other), wander(rng, scene(other), px / 4), frames, 0.5)
    out = []
    for t, (b, f) in enumerate(zip(back, front, strict=True)):
        mask = np.zeros((HEIGHT, WIDTH), np.float32)
        cv2.ellipse(mask, (int(-80 + t * px / 4), 100), (70, 60), 0, 0, 360, 1, -1)
        mask = cv2.blur(mask, (max(1, int(px / 8)), 1))
        out.append(b * (1 - mask) + f * mask)
    return Reel(f"{other} passes before {name} at {px} px", developed(out, rng))


def changes_of_light(rng: np.random.Generator, frames: int) -> Iterator[Reel]:
    """Flashes, fades and dissolves, none of which is a hard cut."""
    for number, name in enumerate(names(rng, 4)):
        shot = film(scene(name), wander(rng, scene(name), (5, 20, 30, 40)[number]), frames, 0.5)
        light = np.zeros(frames)
        for t in (6, 15, 16, 24, 33):  # also across the seams of chunks of 24
            light[t] = rng.choice([40, 90, 150, 400])
        yield Reel(f"flashes over {name}", developed([f + a for f, a in zip(shot, light, strict=True)], rng))
    for length, name in zip((frames, 8), names(rng, 2), strict=True):
        shot = film(scene(name), wander(rng, scene(name), 15), frames, 0.5)
        share = np.clip(np.abs(np.arange(frames) - frames / 2) / length * 2, 0, 1)
        yield Reel(f"fade of {name}", developed([16 + (f - 16) * a for f, a in zip(shot, share, strict=True)], rng))
    for length, pair in zip((24, 12, 8), (names(rng, 2) for _ in range(3)), strict=True):
        one, other = (film(scene(n), wander(rng, scene(n), 15), frames, 0.5) for n in pair)
        share = np.clip((np.arange(frames) - frames / 2) / length + 0.5, 0, 1)
        mixed = [a * (1 - s) + b * s for a, b, s in zip(one, other, share, strict=True)]
        yield Reel(f"dissolve of {' to '.join(pair)}", developed(mixed, rng))


def with_cuts(seed: int) -> Iterator[Reel]:
    """Reels of shots that are cut hard."""
    rng = np.random.default_rng(seed)

    def joined(name: str, shots: list[list[np.ndarray]]) -> Reel:
        starts = np.cumsum([len(s) for s in shots])[:-1]
        return Reel(name, [f for s in shots for f in s], frozenset(int(t) for t in starts))

    def shot(name: str, n: int, px: float = 15, duty: float = 0.5, **how: float) -> list[np.ndarray]:
        return developed(film(scene(name), wander(rng, scene(name), px), n, duty), rng, **how)

    lengths = [int(n) for n in rng.integers(5, 12, 8)]
    yield joined("different scenes", [shot(n, k) for n, k in zip(names(rng, 8), lengths, strict=True)])
    yield joined("in the dark", [shot(n, k, gain=0.12) for n, k in zip(names(rng, 8), lengths, strict=True)])
    yield joined(
        "in the dark, noisy", [shot(n, k, gain=0.15, noise=2) for n, k in zip(names(rng, 8), lengths, strict=True)]
    )
    fast = [
        developed(film(scene(n), sweep(rng, scene(n), 100), k, 0.7, 12), rng)
        for n, k in zip(names(rng, 8), lengths, strict=True)
    ]
    yield joined("between fast pans", fast)
    yield from (joined(f"similar scenes of {name}", elsewhere(rng, name, 6)) for name in names(rng, 8))
    for host, guest in zip(names(rng, 6), names(rng, 6), strict=True):
        if host != guest:
            frames, insert = shot(host, 26), shot(guest, 2)
            frames[9], frames[23] = insert
            yield Reel(f"one frame of {guest} in {host}", frames, frozenset({9, 10, 23, 24}))
    black = [np.full((HEIGHT, WIDTH), 16, np.uint8)] * 5
    one, other = names(rng, 2)
    yield joined("over black", [shot(one, 7), black, shot(other, 7)])


def elsewhere(rng: np.random.Generator, name: str, n: int) -> list[list[np.ndarray]]:
    """Four shots of parts of one picture that do not overlap, of one mean brightness."""
    picture = scene(name)
    height, width = picture.shape
    shots = []
    for x, y in ((0.2, 0.25), (0.75, 0.75), (0.75, 0.25), (0.2, 0.75)):
        x0, y0 = x * width + rng.uniform(-20, 20), y * height + rng.uniform(-20, 20)
        dx, dy = rng.uniform(-4, 4, 2)
        frames = film(picture, lambda t, a=x0, b=y0, c=dx, d=dy: Camera(a + c * t, b + d * t), n, 0.5)  # type: ignore[misc]
        level = 110 - frames[0].mean()
        shots.append(developed([f + level for f in frames], rng))
    return shots
