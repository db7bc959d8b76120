"""A virtual hand-held camera: short blurred sequences rendered from one sharp photograph.

The camera drifts and shakes with six degrees of freedom in front of the photograph; pieces of a second
photograph move over it on their own. Exposure lasts a fraction ``duty`` ≤ 1 of the frame step. Ours;
measured to transfer to real clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from unsmear.data.light import Curve, from_linear, quantise, to_linear


@dataclass(frozen=True)
class CameraRanges:
    """What is drawn for a sequence; ranges are (low, high)."""

    size_px: int = 160
    frames: int = 6
    speed_px: tuple[float, float] = (1.5, 24.0)
    """Mean background motion a frame step, log-uniform."""
    duty: tuple[float, float] = (0.3, 1.0)
    sharp_share: float = 0.12
    """Share of sequences with a duty of at most 0.1: sharp must stay sharp."""
    foreground_share: float = 0.6
    noise_levels: tuple[float, float] = (0.0, 3.0)
    """Standard deviation of sensor noise at mid grey, in 8-bit levels."""
    curve: Curve = "srgb"


@dataclass(frozen=True)
class Rendered:
    """``blurred`` and ``sharp`` are uint8 (T, H, W, 3)."""

    blurred: np.ndarray
    sharp: np.ndarray
    duty: float


def draw_duty(rng: np.random.Generator, ranges: CameraRanges) -> float:
    if rng.random() < ranges.sharp_share:
        return float(rng.uniform(0.0, 0.1))
    return float(rng.uniform(*ranges.duty))


def _trajectory(times: np.ndarray, rng: np.random.Generator, speed: float) -> np.ndarray:
    """Smooth 2-D path (n, 2) with mean speed ``speed`` px a frame step: a drift plus three shakes."""
    heading = rng.uniform(0, 2 * np.pi)
    drift = np.stack([np.cos(heading), np.sin(heading)]) * rng.uniform(0.3, 1)
    path = times[:, None] * drift
    for _ in range(3):
        frequency = rng.uniform(0.05, 0.45)
        amplitude = rng.normal(size=2) * 0.35 / (2 * np.pi * frequency)
        path = path + amplitude * np.sin(2 * np.pi * frequency * times[:, None] + rng.uniform(0, 2 * np.pi, 2))
    travelled = np.linalg.norm(np.diff(path, axis=0), axis=-1).sum() / (times[-1] - times[0])
    return path * (speed / max(travelled, 1e-6))


@dataclass(frozen=True)
class Layer:
    """A square piece of a photograph in front of the camera.

    Rows ``y … y + take`` and columns ``x … x + take`` of photograph number ``photo``, resized to ``side``.
    """

    photo: int
    y: int
    x: int
    take: int
    side: int
    poses: np.ndarray
    """(n, 3, 3), one a sub-frame: maps from view to piece pixels."""
    mask: np.ndarray | None = None
    """uint8 (side, side), what is opaque; None for all of it."""


@dataclass(frozen=True)
class Shot:
    """All of a sequence but its pixels and its noise: what each of its ``frames · subframes`` exposures shows."""

    duty: float
    subframes: int
    """Odd; the middle one of a frame is its sharp target."""
    layers: tuple[Layer, ...]
    """From back to front."""


def _poses(
    times: np.ndarray, path: np.ndarray, centre: np.ndarray, size: int, speed: float, rng: np.random.Generator
) -> np.ndarray:
    """Maps from view to picture pixels: translation, roll, zoom and a little tilt."""
    sway = np.clip(speed, 1, 12) / size
    roll = rng.normal() * 0.35 * sway * times + rng.normal() * 0.1 * sway * np.sin(times * rng.uniform(0.3, 2))
    zoom = np.exp(rng.normal() * 0.25 * sway * times)
    tilt = rng.normal(size=2) * 0.15 * sway / size
    half = size / 2
    to_centre = np.array([[1, 0, -half], [0, 1, -half], [0, 0, 1]], np.float64)
    poses = np.empty((len(times), 3, 3))
    for i, t in enumerate(times):
        c, s = np.cos(roll[i]) * zoom[i], np.sin(roll[i]) * zoom[i]
        spin = np.array([[c, -s, 0], [s, c, 0], [tilt[0] * t, tilt[1] * t, 1]])
        shift = np.eye(3)
        shift[:2, 2] = centre + path[i]
        poses[i] = shift @ spin @ to_centre
    return poses


def _blob(shape: tuple[int, int], extent: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth closed shape in the middle of ``shape``, uint8 mask with soft edges."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = np.ones_like(angles)
    for k in range(1, 5):
        radius += rng.normal() * 0.25 / k * np.cos(k * angles + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.2, 2) * extent
    aspect = np.exp(rng.normal() * 0.4)
    points = np.stack(
        [
            shape[1] / 2 + radius * np.cos(angles) * aspect,
            shape[0] / 2 + radius * np.sin(angles) / aspect,
        ],
        -1,
    )
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return mask


def _piece(shape: tuple[int, ...], side: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """(y, x, take) of a square that is shrunk by a drawn factor: photographs of any size are crisp at pixel scale."""
    h, w = shape[:2]
    least = min(1.0, side / min(h, w))
    scale = float(np.exp(rng.uniform(np.log(least), 0))) if least < 1 else least
    take = min(int(side / scale), h, w)
    return int(rng.integers(0, h - take + 1)), int(rng.integers(0, w - take + 1)), take


def draw_shot(
    shapes: Sequence[tuple[int, ...]], rng: np.random.Generator, ranges: CameraRanges, duty: float | None = None
) -> Shot:
    """Draw how the camera moves and what lies before it.

    Args:
        shapes: (H, W, …) of every photograph.
        rng: the only source of randomness.
        ranges: what to draw.
        duty: the exposure; None draws one.
    """
    size, frames = ranges.size_px, ranges.frames
    duty = draw_duty(rng, ranges) if duty is None else duty
    speed = float(np.exp(rng.uniform(*np.log(ranges.speed_px))))
    per_frame = int(np.clip(np.ceil(duty * speed * 1.5) + 1, 5, 33)) if duty else 1
    per_frame += 1 - per_frame % 2
    offsets = np.linspace(-duty / 2, duty / 2, per_frame)
    times = (np.arange(frames)[:, None] - (frames - 1) / 2 + offsets[None]).ravel()

    path = _trajectory(times, rng, speed)
    path -= (path.max(0) + path.min(0)) / 2
    reach = int(np.ceil(np.abs(path).max()))
    side = int(size * 1.35) + 2 * reach
    photo = int(rng.integers(len(shapes)))
    piece = _piece(shapes[photo], side, rng)
    layers = [Layer(photo, *piece, side, _poses(times, path, np.full(2, side / 2), size, speed, rng))]

    if rng.random() < ranges.foreground_share:
        own = _trajectory(times, rng, speed * float(np.exp(rng.normal() * 0.6)))
        own -= own[len(own) // 2]
        photo = int(rng.integers(len(shapes)))
        piece = _piece(shapes[photo], side, rng)
        mask = _blob((side, side), size * float(rng.uniform(0.12, 0.4)), rng)
        place = side / 2 + rng.uniform(-size / 3, size / 3, 2)
        layers.append(Layer(photo, *piece, side, _poses(times, own, place, size, speed, rng), mask))
    return Shot(duty, per_frame, tuple(layers))


def _cut(photo: np.ndarray, layer: Layer) -> np.ndarray:
    piece = photo[layer.y : layer.y + layer.take, layer.x : layer.x + layer.take]
    shrink = cv2.INTER_AREA if layer.take > layer.side else cv2.INTER_CUBIC
    return cv2.resize(piece, (layer.side, layer.side), interpolation=shrink)


def _seen(picture: np.ndarray, pose: np.ndarray, size: int) -> np.ndarray:
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(picture, pose, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT)


def render(
    photos: Sequence[np.ndarray],
    rng: np.random.Generator,
    ranges: CameraRanges | None = None,
    duty: float | None = None,
) -> Rendered:
    """Draw one sequence.

    Args:
        photos: sharp uint8 RGB pictures (H, W, 3) to draw from.
        rng: the only source of randomness.
        ranges: what to draw; defaults as the class states.
        duty: the exposure; None draws one.
    """
    ranges = ranges or CameraRanges()
    size, frames = ranges.size_px, ranges.frames
    shot = draw_shot([photo.shape for photo in photos], rng, ranges, duty)
    back, *front = shot.layers
    pictures = [_cut(photos[layer.photo], layer) for layer in shot.layers]
    blurred = np.empty((frames, size, size, 3), np.uint8)
    sharp = np.empty_like(blurred)
    for t in range(frames):
        light = np.zeros((size, size, 3), np.float32)
        for k in range(shot.subframes):
            i = t * shot.subframes + k
            view = _seen(pictures[0], back.poses[i], size)
            for layer, picture in zip(front, pictures[1:], strict=True):
                if layer.mask is None:
                    continue
                flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                mask = cv2.warpPerspective(layer.mask, layer.poses[i], (size, size), flags=flags)
                a = mask[..., None].astype(np.float32) / 255
                view = quantise(view + a * (_seen(picture, layer.poses[i], size).astype(np.float32) - view))
            light += to_linear(view, ranges.curve)
            if k == shot.subframes // 2:
                sharp[t] = view
        noise = sensor_noise(from_linear(light / shot.subframes, ranges.curve), rng, ranges.noise_levels)
        blurred[t] = quantise(noise)
    return Rendered(blurred, sharp, shot.duty)


def sensor_noise(image: np.ndarray, rng: np.random.Generator, levels: tuple[float, float]) -> np.ndarray:
    """Add noise that grows with brightness (shot) above a floor (read); float [0, 255] in and out."""
    return noisy(image, rng, draw_noise(rng, levels))


def draw_noise(rng: np.random.Generator, levels: tuple[float, float]) -> float:
    """Standard deviation of a frame's noise at mid grey; four in ten have none."""
    return float(rng.uniform(*levels)) if rng.random() < 0.6 else 0.0


def noisy(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Add sensor noise of standard deviation ``sigma`` (8-bit levels) at mid grey; float32 [0, 255] in and out."""
    if sigma == 0:
        return image
    strength = sigma * np.sqrt(0.3 + 0.7 * image / 128)
    return image + rng.normal(size=image.shape).astype(np.float32) * strength
