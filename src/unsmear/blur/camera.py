"""Virtual hand-held camera: short blurred sequences rendered from sharp photographs.

The camera drifts and shakes with six degrees of freedom in front of a photograph; pieces of further photographs move
independently in front of it. The exposure time is a fraction ``duty`` ≤ 1 of the frame step. Ours; measured to
transfer to real clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import cv2
import numpy as np

from unsmear.blur.camera_motion import CameraPath, CameraTurn
from unsmear.blur.light import DARK_TOP, bright_light, draw_lamps, lamp_levels, lamp_light
from unsmear.errors import UsageError
from unsmear.options import Limits, Share, check
from unsmear.video.light import Curve, from_linear, quantise, to_linear

ROW_KNOTS = 9
"""Poses per sub-frame with a rolling shutter, spread over the rows; matrices in between are interpolated."""

_FEWEST_SUBFRAMES, _MOST_SUBFRAMES, _MOST_OF_FAST = 5, 33, 65
_TRIES = 24
"""Maximum number of draws for a photograph that is large enough."""


@dataclass(frozen=True)
class CameraRanges:
    """Ranges (low, high) and shares to draw from for a sequence."""

    size_px: Annotated[int, Limits(16, step=16)] = 160
    """Side of the square frames, a multiple of 16."""
    frames: Annotated[int, Limits(1)] = 6
    """Frames of a sequence."""
    speed_px: Annotated[tuple[float, float], Limits(0, above=True, ordered=True, unit="pixels per frame")] = (1.5, 24.0)
    """Mean motion of the background, pixels per frame step, log-uniform."""
    duty: Annotated[tuple[float, float], Limits(0, 1, ordered=True, unit="fractions of the frame step")] = (0.3, 1.0)
    """Exposure as a fraction of the frame step."""
    sharp_share: Share = 0.12
    """Share of sequences with a duty cycle of at most 0.1, which must stay sharp."""
    foreground_share: Share = 0.6
    """Share of sequences with foreground pieces."""
    noise_levels: Annotated[tuple[float, float], Limits(0, ordered=True, unit="8-bit levels")] = (0.0, 3.0)
    """Standard deviation of sensor noise at mid grey, in 8-bit levels."""
    curve: Curve = "srgb"
    fast: bool = False
    """Whether draws suit motion of up to about 72 pixels per frame: photographs are chosen large enough for the camera
    path, so that none is enlarged; an exposure has one sub-frame per pixel of motion, up to 65; the speed never exceeds
    1.3 times the upper ``speed_px``; clips are exposed over the frames between output frames. If not, draws are those
    of earlier packs."""
    foregrounds: Annotated[int, Limits(1, 8)] = 1
    """Maximum number of foreground pieces, where there are any; later ones cover earlier ones."""
    turning: Annotated[tuple[float, float], Limits(0, above=True, ordered=True)] = (1.0, 1.0)
    """Strength of roll, zoom and tilt, log-uniform; 1 is a calm hand, 8 moves corners by about 25 pixels per frame."""
    shutter_share: Share = 0.0
    """Share of sequences with a rolling shutter."""
    shutter: tuple[float, float] = (0.1, 0.7)
    """Readout time of the rolling shutter from the first row to the last, in frame steps."""
    bright_share: Share = 0.0
    """Share of sequences with light above white in bright parts."""
    bright_gain: tuple[float, float] = (1.5, 8.0)
    """Light of the brightest level as a multiple of white, log-uniform."""
    lamp_share: Share = 0.0
    """Share of dark sequences with lamps, which leave saturated streaks."""
    lamp_gain: tuple[float, float] = (4.0, 40.0)
    """Light of the strongest lamp as a multiple of white, log-uniform."""
    lamp_dim: tuple[float, float] = (0.05, 0.5)
    """Factor on the light of the photograph in sequences with lamps, log-uniform."""
    lamps: tuple[int, int] = (5, 60)
    """Number of lamps per area of a frame."""

    def __post_init__(self) -> None:
        check(self)
        if self.bright_share + self.lamp_share > 1:
            raise UsageError(
                f"`bright_share` {self.bright_share:g} and `lamp_share` {self.lamp_share:g}: "
                "expected shares that add up to 1 at most"
            )


@dataclass(frozen=True)
class Rendered:
    """A rendered sequence: ``blurred`` and ``sharp`` frames uint8 (T, H, W, 3), and its duty cycle."""

    blurred: np.ndarray
    sharp: np.ndarray
    duty: float


def draw_duty(rng: np.random.Generator, ranges: CameraRanges) -> float:
    """Draw a duty cycle in [0, 1]."""
    if rng.random() < ranges.sharp_share:
        return float(rng.uniform(0.0, 0.1))
    return float(rng.uniform(*ranges.duty))


@dataclass(frozen=True)
class Layer:
    """A square piece of a photograph in front of the camera.

    Rows ``y … y + take`` and columns ``x … x + take`` of photograph number ``photo``, resized to ``side`` pixels.
    """

    photo: int
    y: int
    x: int
    take: int
    side: int
    poses: np.ndarray
    """(n, 3, 3), one per sub-frame: maps from view to piece pixels; (n, ROW_KNOTS, 3, 3) with a rolling shutter."""
    mask: np.ndarray | None = None
    """Opacity, uint8 (side, side); None: fully opaque."""
    lamps: np.ndarray | None = None
    """Lamps (k, 6): x, y and radius in piece pixels, levels of red, green and blue; None if the scene is not dark."""


@dataclass(frozen=True)
class Shot:
    """Geometry and light of the ``frames · subframes`` sub-frames of a sequence, without pixels and noise."""

    duty: float
    subframes: int
    """Sub-frames per frame, odd; the middle one is the sharp target."""
    layers: tuple[Layer, ...]
    """From back to front."""
    light: np.ndarray | None = None
    """Linear light of each level of the pieces, float32 (256,), 1 and above is white; None for the transfer curve."""


def _blob(shape: tuple[int, int], extent: float, rng: np.random.Generator) -> np.ndarray:
    """Random smooth closed shape in the middle of ``shape``, uint8 mask with soft edges."""
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
    """(y, x, take) of a random square that is shrunk by a random factor, so that large photographs become crisp."""
    h, w = shape[:2]
    least = min(1.0, side / min(h, w))
    scale = float(np.exp(rng.uniform(np.log(least), 0))) if least < 1 else least
    take = min(int(side / scale), h, w)
    return int(rng.integers(0, h - take + 1)), int(rng.integers(0, w - take + 1)), take


def _fitting_piece(
    shapes: Sequence[tuple[int, ...]], side: int, rng: np.random.Generator
) -> tuple[int, tuple[int, int, int], int]:
    """(photo, piece, side) from a photograph of at least ``side``; where all are too small, with a smaller side."""
    tried = [int(rng.integers(len(shapes)))]
    while min(shapes[tried[-1]][:2]) < side and len(tried) < _TRIES:
        tried.append(int(rng.integers(len(shapes))))
    photo = max(tried, key=lambda k: min(min(shapes[k][:2]), side))
    side = min(side, *shapes[photo][:2])
    return photo, _piece(shapes[photo], side, rng), side


def draw_shot(
    shapes: Sequence[tuple[int, ...]], rng: np.random.Generator, ranges: CameraRanges, duty: float | None = None
) -> Shot:
    """Draw the camera motion, layers and light of a sequence.

    Args:
        shapes: (H, W, …) of every photograph.
        rng: the only source of randomness.
        ranges: ranges of the draws.
        duty: duty cycle; None draws one.
    """
    size, frames, fast = ranges.size_px, ranges.frames, ranges.fast
    duty = draw_duty(rng, ranges) if duty is None else duty
    speed = log_uniform(rng, ranges.speed_px)
    sway = np.clip(speed, 1, 12) / size
    if ranges.turning != (1.0, 1.0):
        sway = sway * log_uniform(rng, ranges.turning)
    shutter = 0.0
    if ranges.shutter_share and rng.random() < ranges.shutter_share:
        shutter = float(rng.uniform(*ranges.shutter))
    light, dark = _draw_light(rng, ranges)
    per_frame = _odd(np.clip(np.ceil(duty * speed * 1.5) + 1, _FEWEST_SUBFRAMES, _MOST_SUBFRAMES)) if duty else 1
    times = _times(frames, duty, per_frame)
    fastest_px = 1.3 * ranges.speed_px[1]
    if fast:  # the number of sub-frames depends on the path, which is drawn first
        whole = frames - 1 + duty + shutter
        times = np.linspace(-whole / 2, whole / 2, 16 * frames + 1)

    path = CameraPath(times, rng, speed)
    if fast:
        _hold_back(path, times, fastest_px)
        turn = CameraTurn(rng, sway, size)
        corners = turn.corners(times, path.at(times)).reshape(-1, 2)
        path.origin = (corners.max(0) + corners.min(0)) / 2
        photo, piece, side = _fitting_piece(shapes, int(np.ceil(np.ptp(corners, axis=0).max())) + 6, rng)
        near = int(size * 1.35)
    else:
        places = path.at(times)
        path.origin = (places.max(0) + places.min(0)) / 2
        reach = int(np.ceil(np.abs(path.at(times)).max()))
        side = near = int(size * 1.35) + 2 * reach
        photo = int(rng.integers(len(shapes)))
        piece = _piece(shapes[photo], side, rng)
        turn = CameraTurn(rng, sway, size)
    placed = [(path, np.full(2, side / 2), turn)]
    drawn = [Layer(photo, *piece, side, np.empty(0))]

    count = 1 if ranges.foregrounds == 1 else int(rng.integers(1, ranges.foregrounds + 1))
    for _ in range(count if rng.random() < ranges.foreground_share else 0):
        own = CameraPath(times, rng, speed * float(np.exp(rng.normal() * 0.6)))
        if fast:
            _hold_back(own, times, fastest_px)
            photo, piece, side = _fitting_piece(shapes, near, rng)
        else:
            photo = int(rng.integers(len(shapes)))
            piece = _piece(shapes[photo], side, rng)
        own.origin = own.at(times)[len(times) // 2]
        mask = _blob((side, side), size * float(rng.uniform(0.12, 0.4)), rng)
        place = side / 2 + rng.uniform(-size / 3, size / 3, 2)
        placed.append((own, place, CameraTurn(rng, sway, size)))
        drawn.append(Layer(photo, *piece, side, np.empty(0), mask))

    if fast and duty:
        travel = duty * max(_peak_px(turn.corners(times, path.at(times)), times) for path, _, turn in placed)
        per_frame = _odd(np.clip(np.ceil(travel) + 1, _FEWEST_SUBFRAMES, _MOST_OF_FAST))
    times = _times(frames, duty, per_frame)
    layers = []
    for layer, (path, place, turn) in zip(drawn, placed, strict=True):
        share = (layer.side / size) ** 2 * (1 if layer.mask is None else 0.3)  # fewer on foreground pieces
        lamps = draw_lamps(rng, int(rng.integers(*ranges.lamps, endpoint=True) * share), layer.side) if dark else None
        layers.append(replace(layer, poses=_poses(times, shutter, path, place, turn), lamps=lamps))
    return Shot(duty, per_frame, tuple(layers), light)


def log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw a number from ``bounds``, uniformly in its logarithm."""
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _odd(count: float) -> int:
    return int(count) + 1 - int(count) % 2


def _times(frames: int, duty: float, per_frame: int) -> np.ndarray:
    """Times (frames · per_frame,) of sub-frames, in frame steps from the middle of the sequence."""
    offsets = np.linspace(-duty / 2, duty / 2, per_frame)
    return (np.arange(frames)[:, None] - (frames - 1) / 2 + offsets[None]).ravel()


def _peak_px(places: np.ndarray, times: np.ndarray) -> float:
    """Highest speed of positions (n, …, 2), pixels per frame step."""
    return float(np.linalg.norm(np.diff(places, axis=0), axis=-1).max() / (times[1] - times[0]))


def _hold_back(path: CameraPath, times: np.ndarray, most_px: float) -> None:
    """Scale a path down so that its speed never exceeds ``most_px`` per frame step."""
    path.scale *= min(1.0, most_px / max(_peak_px(path.at(times), times), 1e-6))


def _poses(times: np.ndarray, shutter: float, path: CameraPath, place: np.ndarray, turn: CameraTurn) -> np.ndarray:
    if not shutter:
        return turn.poses(times, place + path.at(times))
    rows = (times[:, None] + shutter * np.linspace(-0.5, 0.5, ROW_KNOTS)).ravel()
    return turn.poses(rows, place + path.at(rows)).reshape(len(times), ROW_KNOTS, 3, 3)


def row_poses(poses: np.ndarray, size: int) -> np.ndarray:
    """Interpolate poses (…, k, 3, 3) at k evenly spread rows to all rows, (…, size, 3, 3)."""
    at = np.linspace(0, poses.shape[-3] - 1, size)
    before = np.minimum(at.astype(int), poses.shape[-3] - 2)
    part = (at - before)[:, None, None]
    return poses[..., before, :, :] * (1 - part) + poses[..., before + 1, :, :] * part


def _draw_light(rng: np.random.Generator, ranges: CameraRanges) -> tuple[np.ndarray | None, bool]:
    """Draw the light of the levels (None for the transfer curve), and whether the scene is dark with lamps."""
    if not ranges.bright_share + ranges.lamp_share:
        return None, False
    kind = rng.random()
    if kind < ranges.lamp_share:
        return lamp_light(log_uniform(rng, ranges.lamp_dim), log_uniform(rng, ranges.lamp_gain)), True
    if kind < ranges.lamp_share + ranges.bright_share:
        exposure = log_uniform(rng, (0.7, 2.0))
        return bright_light(exposure, log_uniform(rng, ranges.bright_gain), ranges.curve), False
    return None, False


def _cut(photo: np.ndarray, layer: Layer) -> np.ndarray:
    piece = photo[layer.y : layer.y + layer.take, layer.x : layer.x + layer.take]
    shrink = cv2.INTER_AREA if layer.take > layer.side else cv2.INTER_CUBIC
    picture = cv2.resize(piece, (layer.side, layer.side), interpolation=shrink)
    if layer.lamps is None:
        return picture
    return np.maximum(quantise(picture * np.float32(DARK_TOP / 255)), lamp_levels(layer.lamps, layer.side))


class _View:
    """View of a layer in one sub-frame."""

    def __init__(self, pose: np.ndarray, size: int):
        self.pose, self.size = pose, size
        self.maps = None if pose.ndim == 2 else _row_maps(row_poses(pose, size).astype(np.float32))

    def of(self, picture: np.ndarray, method: int, border: int, part: tuple[slice, ...] = ()) -> np.ndarray:
        if self.maps is not None:
            return cv2.remap(picture, self.maps[0][part], self.maps[1][part], method, borderMode=border)
        flags = method | cv2.WARP_INVERSE_MAP
        return cv2.warpPerspective(picture, self.pose, (self.size, self.size), flags=flags, borderMode=border)[part]


def _row_maps(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x, y (size, size) float32 in the piece of a view's pixels, from one pose per row (size, 3, 3)."""
    along = np.arange(len(poses), dtype=np.float32)
    across, start = poses[..., 0], poses[..., 1] * along[:, None] + poses[..., 2]
    x, y, w = (np.multiply.outer(across[:, k], along) + start[:, k, None] for k in range(3))
    return x / w, y / w


def _composite(layers: Sequence[Layer], pictures: Sequence[np.ndarray], i: int, size: int) -> np.ndarray:
    """Composite the layers of sub-frame ``i``, levels uint8 (size, size, 3)."""
    view = _View(layers[0].poses[i], size).of(pictures[0], cv2.INTER_CUBIC, cv2.BORDER_REFLECT)
    for layer, picture in zip(layers[1:], pictures[1:], strict=True):
        if layer.mask is None:
            continue
        own = _View(layer.poses[i], size)
        mask = own.of(layer.mask, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
        x, y, w, h = cv2.boundingRect(mask)
        if not w:
            continue
        part = slice(y, y + h), slice(x, x + w)
        a, below = mask[part][..., None].astype(np.float32) / 255, view[part]
        top = own.of(picture, cv2.INTER_CUBIC, cv2.BORDER_REFLECT, part)
        below[:] = quantise(below + a * (top.astype(np.float32) - below))
    return view


def render(
    photos: Sequence[np.ndarray],
    rng: np.random.Generator,
    ranges: CameraRanges | None = None,
    duty: float | None = None,
) -> Rendered:
    """Render one sequence.

    Args:
        photos: sharp photographs, uint8 RGB (H, W, 3).
        rng: the only source of randomness.
        ranges: ranges of the draws; None for the defaults.
        duty: duty cycle; None draws one.
    """
    ranges = ranges or CameraRanges()
    size, frames = ranges.size_px, ranges.frames
    shot = draw_shot([photo.shape for photo in photos], rng, ranges, duty)
    light_of, shown = shot_light(shot, ranges.curve)
    pictures = [_cut(photos[layer.photo], layer) for layer in shot.layers]
    blurred = np.empty((frames, size, size, 3), np.uint8)
    sharp = np.empty_like(blurred)
    for t in range(frames):
        light = np.zeros((size, size, 3), np.float32)
        for k in range(shot.subframes):
            view = _composite(shot.layers, pictures, t * shot.subframes + k, size)
            light += light_of[view]
            if k == shot.subframes // 2:
                sharp[t] = shown[view]
        noise = sensor_noise(from_linear(light / shot.subframes, ranges.curve), rng, ranges.noise_levels)
        blurred[t] = quantise(noise)
    return Rendered(blurred, sharp, shot.duty)


def shot_light(shot: Shot, curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Linear light of every level of the pieces, float32 (256,), and its level in a frame, uint8 (256,)."""
    levels = np.arange(256, dtype=np.uint8)
    if shot.light is None:
        return to_linear(levels, curve), levels
    return shot.light, quantise(from_linear(shot.light, curve))


def sensor_noise(image: np.ndarray, rng: np.random.Generator, levels: tuple[float, float]) -> np.ndarray:
    """Add sensor noise of a random strength, brightness-dependent (shot) above a floor (read); float [0, 255]."""
    return noisy(image, rng, draw_noise(rng, levels))


def draw_noise(rng: np.random.Generator, levels: tuple[float, float]) -> float:
    """Draw the standard deviation of a frame's noise at mid grey, 8-bit levels; 40 % of frames have none."""
    return float(rng.uniform(*levels)) if rng.random() < 0.6 else 0.0


def noisy(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Add sensor noise of standard deviation ``sigma`` (8-bit levels) at mid grey; float32 [0, 255] in and out."""
    if sigma == 0:
        return image
    strength = sigma * np.sqrt(0.3 + 0.7 * image / 128)
    return image + rng.normal(size=image.shape).astype(np.float32) * strength
