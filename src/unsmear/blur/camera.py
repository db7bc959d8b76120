"""A virtual hand-held camera: short blurred sequences rendered from one sharp photograph.

The camera drifts and shakes with six degrees of freedom in front of the photograph; pieces of a second
photograph move over it on their own. Exposure lasts a fraction ``duty`` ≤ 1 of the frame step. Ours;
measured to transfer to real clips.
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
"""With a rolling shutter, so many poses a sub-frame, spread over the rows; matrices between are interpolated."""

_FEWEST_SUBFRAMES, _MOST_SUBFRAMES, _MOST_OF_FAST = 5, 33, 65
_TRIES = 24
"""Photographs that are drawn for one that is large enough."""


@dataclass(frozen=True)
class CameraRanges:
    """Ranges (low, high) and shares to draw from for a sequence."""

    size_px: Annotated[int, Limits(16, step=16)] = 160
    """Side of the square frames, a multiple of 16."""
    frames: Annotated[int, Limits(1)] = 6
    """Frames of a sequence."""
    speed_px: Annotated[tuple[float, float], Limits(0, above=True, ordered=True, unit="pixels a frame")] = (1.5, 24.0)
    """Mean background motion a frame step, log-uniform."""
    duty: Annotated[tuple[float, float], Limits(0, 1, ordered=True, unit="fractions of the frame step")] = (0.3, 1.0)
    """Exposure as a fraction of the frame step."""
    sharp_share: Share = 0.12
    """Share of sequences with a duty of at most 0.1: sharp must stay sharp."""
    foreground_share: Share = 0.6
    """Share of sequences with pieces in front."""
    noise_levels: Annotated[tuple[float, float], Limits(0, ordered=True, unit="8-bit levels")] = (0.0, 3.0)
    """Standard deviation of sensor noise at mid grey, in 8-bit levels."""
    curve: Curve = "srgb"
    fast: bool = False
    """Drawn for motion of up to about 72 pixels a frame: photographs large enough for the camera's way are chosen, so
    that none is enlarged; an exposure has a sub-frame a pixel, up to 65; no instant is faster than 1.3 times the upper
    ``speed_px``; clips are exposed over the frames between output frames. Off, as packs were drawn before."""
    foregrounds: Annotated[int, Limits(1, 8)] = 1
    """Pieces in front at most, where there are any; the later ones cover the earlier ones."""
    turning: Annotated[tuple[float, float], Limits(0, above=True, ordered=True)] = (1.0, 1.0)
    """Strength of roll, zoom and tilt, log-uniform; 1 is a calm hand, 8 moves corners by some 25 pixels a frame."""
    shutter_share: Share = 0.0
    """Share of sequences with a rolling shutter."""
    shutter: tuple[float, float] = (0.1, 0.7)
    """From the first row to the last, in frame steps."""
    bright_share: Share = 0.0
    """Share of sequences whose bright parts hold more light than a frame can show."""
    bright_gain: tuple[float, float] = (1.5, 8.0)
    """Light of white as a multiple of what a frame can show, log-uniform."""
    lamp_share: Share = 0.0
    """Share of sequences in the dark, with lamps: they leave saturated streaks."""
    lamp_gain: tuple[float, float] = (4.0, 40.0)
    """Light of the strongest lamp as a multiple of white, log-uniform."""
    lamp_dim: tuple[float, float] = (0.05, 0.5)
    """The photograph's light between lamps, of what it was, log-uniform."""
    lamps: tuple[int, int] = (5, 60)
    """Lamps in an area as large as a frame."""

    def __post_init__(self) -> None:
        check(self)
        if self.bright_share + self.lamp_share > 1:
            raise UsageError(
                f"`bright_share` {self.bright_share:g} and `lamp_share` {self.lamp_share:g}: "
                "expected shares that add up to 1 at most"
            )


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
    """(n, 3, 3), one a sub-frame: maps from view to piece pixels; (n, ROW_KNOTS, 3, 3) with a rolling shutter."""
    mask: np.ndarray | None = None
    """uint8 (side, side), what is opaque; None for all of it."""
    lamps: np.ndarray | None = None
    """(k, 6): x, y and radius in piece pixels, and levels of red, green and blue; None where the scene is not dark."""


@dataclass(frozen=True)
class Shot:
    """All of a sequence but its pixels and its noise: what each of its ``frames · subframes`` exposures shows."""

    duty: float
    subframes: int
    """Odd; the middle one of a frame is its sharp target."""
    layers: tuple[Layer, ...]
    """From back to front."""
    light: np.ndarray | None = None
    """float32 (256,): linear light of a level of the pieces, 1 and above is white; None for the plain curve."""


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


def _fitting_piece(
    shapes: Sequence[tuple[int, ...]], side: int, rng: np.random.Generator
) -> tuple[int, tuple[int, int, int], int]:
    """(photo, piece, side) from a photograph that need not be enlarged; where all are too small, a smaller side."""
    tried = [int(rng.integers(len(shapes)))]
    while min(shapes[tried[-1]][:2]) < side and len(tried) < _TRIES:
        tried.append(int(rng.integers(len(shapes))))
    photo = max(tried, key=lambda k: min(min(shapes[k][:2]), side))
    side = min(side, *shapes[photo][:2])
    return photo, _piece(shapes[photo], side, rng), side


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
    if fast:  # the count of sub-frames is not known yet
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
        share = (layer.side / size) ** 2 * (1 if layer.mask is None else 0.3)  # pieces in front carry fewer
        lamps = draw_lamps(rng, int(rng.integers(*ranges.lamps, endpoint=True) * share), layer.side) if dark else None
        layers.append(replace(layer, poses=_poses(times, shutter, path, place, turn), lamps=lamps))
    return Shot(duty, per_frame, tuple(layers), light)


def log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _odd(count: float) -> int:
    return int(count) + 1 - int(count) % 2


def _times(frames: int, duty: float, per_frame: int) -> np.ndarray:
    """(frames · per_frame,): when sub-frames are taken, in frame steps from the middle of the sequence."""
    offsets = np.linspace(-duty / 2, duty / 2, per_frame)
    return (np.arange(frames)[:, None] - (frames - 1) / 2 + offsets[None]).ravel()


def _peak_px(places: np.ndarray, times: np.ndarray) -> float:
    """Fastest motion, px a frame step, of places (n, …, 2)."""
    return float(np.linalg.norm(np.diff(places, axis=0), axis=-1).max() / (times[1] - times[0]))


def _hold_back(path: CameraPath, times: np.ndarray, most_px: float) -> None:
    """Shrink a path that is faster than ``most_px`` a frame step at some time."""
    path.scale *= min(1.0, most_px / max(_peak_px(path.at(times), times), 1e-6))


def _poses(times: np.ndarray, shutter: float, path: CameraPath, place: np.ndarray, turn: CameraTurn) -> np.ndarray:
    if not shutter:
        return turn.poses(times, place + path.at(times))
    rows = (times[:, None] + shutter * np.linspace(-0.5, 0.5, ROW_KNOTS)).ravel()
    return turn.poses(rows, place + path.at(rows)).reshape(len(times), ROW_KNOTS, 3, 3)


def row_poses(poses: np.ndarray, size: int) -> np.ndarray:
    """Poses (…, k, 3, 3) at rows spread evenly from the first to the last → one a row, (…, size, 3, 3)."""
    at = np.linspace(0, poses.shape[-3] - 1, size)
    before = np.minimum(at.astype(int), poses.shape[-3] - 2)
    part = (at - before)[:, None, None]
    return poses[..., before, :, :] * (1 - part) + poses[..., before + 1, :, :] * part


def _draw_light(rng: np.random.Generator, ranges: CameraRanges) -> tuple[np.ndarray | None, bool]:
    """Light of the levels, and whether the scene is dark with lamps."""
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
    """View of one sub-frame on a layer."""

    def __init__(self, pose: np.ndarray, size: int):
        self.pose, self.size = pose, size
        self.maps = None if pose.ndim == 2 else _row_maps(row_poses(pose, size).astype(np.float32))

    def of(self, picture: np.ndarray, method: int, border: int, part: tuple[slice, ...] = ()) -> np.ndarray:
        if self.maps is not None:
            return cv2.remap(picture, self.maps[0][part], self.maps[1][part], method, borderMode=border)
        flags = method | cv2.WARP_INVERSE_MAP
        return cv2.warpPerspective(picture, self.pose, (self.size, self.size), flags=flags, borderMode=border)[part]


def _row_maps(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (size, size) each: where the pixels of a view lie in the piece, for a pose a row (size, 3, 3)."""
    along = np.arange(len(poses), dtype=np.float32)
    across, start = poses[..., 0], poses[..., 1] * along[:, None] + poses[..., 2]
    x, y, w = (np.multiply.outer(across[:, k], along) + start[:, k, None] for k in range(3))
    return x / w, y / w


def _seen(layers: Sequence[Layer], pictures: Sequence[np.ndarray], i: int, size: int) -> np.ndarray:
    """Sub-frame ``i`` as levels of the pieces, uint8 (size, size, 3)."""
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
    light_of, shown = shot_light(shot, ranges.curve)
    pictures = [_cut(photos[layer.photo], layer) for layer in shot.layers]
    blurred = np.empty((frames, size, size, 3), np.uint8)
    sharp = np.empty_like(blurred)
    for t in range(frames):
        light = np.zeros((size, size, 3), np.float32)
        for k in range(shot.subframes):
            view = _seen(shot.layers, pictures, t * shot.subframes + k, size)
            light += light_of[view]
            if k == shot.subframes // 2:
                sharp[t] = shown[view]
        noise = sensor_noise(from_linear(light / shot.subframes, ranges.curve), rng, ranges.noise_levels)
        blurred[t] = quantise(noise)
    return Rendered(blurred, sharp, shot.duty)


def shot_light(shot: Shot, curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Linear light of every level of the pieces, float32 (256,), and the level that shows it, uint8 (256,)."""
    levels = np.arange(256, dtype=np.uint8)
    if shot.light is None:
        return to_linear(levels, curve), levels
    return shot.light, quantise(from_linear(shot.light, curve))


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
