"""A virtual hand-held camera: short blurred sequences rendered from one sharp photograph.

The camera drifts and shakes with six degrees of freedom in front of the photograph; pieces of a second
photograph move over it on their own. Exposure lasts a fraction ``duty`` ≤ 1 of the frame step. Ours;
measured to transfer to real clips.
"""

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
class _Layer:
    """A picture, an optional mask in the same plane, and its pose over time as 3×3 matrices."""

    picture: np.ndarray
    mask: np.ndarray | None
    poses: np.ndarray

    def shot(self, i: int, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        view = cv2.warpPerspective(
            self.picture, self.poses[i], (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT
        )
        if self.mask is None:
            return view, None
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return view, cv2.warpPerspective(self.mask, self.poses[i], (size, size), flags=flags)


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


def _crop(photo: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A square piece shrunk by a drawn factor, so that photographs of any size are crisp at pixel scale."""
    h, w = photo.shape[:2]
    least = min(1.0, side / min(h, w))
    scale = float(np.exp(rng.uniform(np.log(least), 0))) if least < 1 else least
    take = min(int(side / scale), h, w)
    y, x = rng.integers(0, h - take + 1), rng.integers(0, w - take + 1)
    piece = photo[y : y + take, x : x + take]
    shrink = cv2.INTER_AREA if take > side else cv2.INTER_CUBIC
    return cv2.resize(piece, (side, side), interpolation=shrink)


def render(photos: list[np.ndarray], rng: np.random.Generator, ranges: CameraRanges | None = None) -> Rendered:
    """Draw one sequence.

    Args:
        photos: sharp uint8 RGB pictures (H, W, 3) to draw from.
        rng: the only source of randomness.
        ranges: what to draw; defaults as the class states.
    """
    ranges = ranges or CameraRanges()
    size, frames = ranges.size_px, ranges.frames
    duty = draw_duty(rng, ranges)
    speed = float(np.exp(rng.uniform(*np.log(ranges.speed_px))))
    per_frame = int(np.clip(np.ceil(duty * speed * 1.5) + 1, 5, 33))
    per_frame += 1 - per_frame % 2
    offsets = np.linspace(-duty / 2, duty / 2, per_frame)
    times = (np.arange(frames)[:, None] - (frames - 1) / 2 + offsets[None]).ravel()

    path = _trajectory(times, rng, speed)
    path -= (path.max(0) + path.min(0)) / 2
    reach = int(np.ceil(np.abs(path).max()))
    side = int(size * 1.35) + 2 * reach
    picture = _crop(photos[rng.integers(len(photos))], side, rng)
    layers = [_Layer(picture, None, _poses(times, path, np.full(2, side / 2), size, speed, rng))]

    if rng.random() < ranges.foreground_share:
        own = _trajectory(times, rng, speed * float(np.exp(rng.normal() * 0.6)))
        own -= own[len(own) // 2]
        piece = _crop(photos[rng.integers(len(photos))], side, rng)
        mask = _blob((side, side), size * float(rng.uniform(0.12, 0.4)), rng)
        place = side / 2 + rng.uniform(-size / 3, size / 3, 2)
        layers.append(_Layer(piece, mask, _poses(times, own, place, size, speed, rng)))

    blurred = np.empty((frames, size, size, 3), np.uint8)
    sharp = np.empty_like(blurred)
    for t in range(frames):
        light = np.zeros((size, size, 3), np.float32)
        for k in range(per_frame):
            view, _ = layers[0].shot(t * per_frame + k, size)
            for layer in layers[1:]:
                top, alpha = layer.shot(t * per_frame + k, size)
                if alpha is not None:
                    a = alpha[..., None].astype(np.float32) / 255
                    view = quantise(view + a * (top.astype(np.float32) - view))
            light += to_linear(view, ranges.curve)
            if k == per_frame // 2:
                sharp[t] = view
        blurred[t] = quantise(sensor_noise(from_linear(light / per_frame, ranges.curve), rng, ranges.noise_levels))
    return Rendered(blurred, sharp, duty)


def sensor_noise(image: np.ndarray, rng: np.random.Generator, levels: tuple[float, float]) -> np.ndarray:
    """Add noise that grows with brightness (shot) above a floor (read); float [0, 255] in and out."""
    sigma = float(rng.uniform(*levels)) if rng.random() < 0.6 else 0.0
    return noisy(image, rng, sigma)


def noisy(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Add sensor noise of standard deviation ``sigma`` (8-bit levels) at mid grey; float32 [0, 255] in and out."""
    if sigma == 0:
        return image
    strength = sigma * np.sqrt(0.3 + 0.7 * image / 128)
    return image + rng.normal(size=image.shape).astype(np.float32) * strength
