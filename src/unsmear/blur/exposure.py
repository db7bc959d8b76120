"""Blur from sharp video: sub-frames interpolated along optical flow, averaged over an exposure.

The sharp target is the unchanged centre frame. The exposure never exceeds the distance to the next output frame
(duty cycle ≤ 1), as in a camera; longer exposures degrade training (ours, measured).
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from unsmear.blur.light import expose
from unsmear.metrics.temporal import FLOW_LEAST_PX
from unsmear.video.light import Curve, quantise

MAX_SUBFRAMES = 65
"""Maximum number of sub-frames of an exposure; 64 px of motion at a duty cycle of 1."""

NEAR_STATIC_PX = 2.5
"""Median motion in pixels per frame step below which real frames are averaged and decimated instead."""

DECIMATION = 7
"""Frames per output frame of a near-static clip."""

_MOST_BETWEEN = 129
"""Maximum number of sub-frames of an exposure over several source frames."""


def optical_flow(source: np.ndarray, target: np.ndarray, dis: cv2.DISOpticalFlow | None = None) -> np.ndarray:
    """DIS (medium) flow (H, W, 2) in pixels: content at p in ``source`` is at p + flow in ``target``.

    Zero for frames that are too small for it.
    """
    if min(source.shape[:2]) < FLOW_LEAST_PX:
        return np.zeros((*source.shape[:2], 2), np.float32)
    dis = dis or cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in (source, target)]
    return dis.calc(gray[0], gray[1], None)  # type: ignore[call-overload]  # None makes a new field


def _backward_sample(frame: np.ndarray, offset: np.ndarray, grid: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    x, y = grid
    return cv2.remap(frame, x + offset[..., 0], y + offset[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class Neighbourhood:
    """A frame with its neighbours, uint8 (H, W, 3), and the flows between them, (H, W, 2) in pixels per frame step."""

    previous: np.ndarray
    centre: np.ndarray
    following: np.ndarray
    to_previous: np.ndarray
    to_following: np.ndarray
    from_previous: np.ndarray
    from_following: np.ndarray

    @classmethod
    def of(
        cls, previous: np.ndarray, centre: np.ndarray, following: np.ndarray, before: "Neighbourhood | None" = None
    ) -> "Neighbourhood":
        """Compute the flows; those in ``before``, the neighbourhood of ``previous``, are reused."""
        return cls(
            previous,
            centre,
            following,
            optical_flow(centre, previous) if before is None else before.from_following,
            optical_flow(centre, following),
            optical_flow(previous, centre) if before is None else before.to_following,
            optical_flow(following, centre),
        )

    def fastest_px(self) -> float:
        """99th percentile of the motion to either neighbour, in pixels."""
        both = [np.linalg.norm(f[::2, ::2], axis=-1) for f in (self.to_previous, self.to_following)]
        return float(np.percentile(both, 99))

    def at(self, s: float) -> np.ndarray:
        """Interpolate the frame at time ``s`` in [-1, 1] (0 is exactly the centre frame), uint8 (H, W, 3).

        The two enclosing frames are warped to ``s`` and blended by their distance from it.
        """
        if s == 0:
            return self.centre
        if s > 0:
            gap = Gap(self.centre, self.following, self.to_following, self.from_following)
        else:
            gap = Gap(self.centre, self.previous, self.to_previous, self.from_previous)
        return gap.at(abs(s))


@dataclass(frozen=True)
class Gap:
    """Two consecutive frames, in either order, and the flows between them."""

    first: np.ndarray
    second: np.ndarray
    out: np.ndarray
    """Flow from the first to the second (H, W, 2), pixels."""
    back: np.ndarray
    """Flow from the second to the first."""

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> "Gap":
        """Compute the flows between two frames."""
        return cls(first, second, optical_flow(first, second), optical_flow(second, first))

    def fastest_px(self) -> float:
        """99th percentile of the motion, in pixels."""
        return float(np.percentile(np.linalg.norm(self.out[::2, ::2], axis=-1), 99))

    def mismatch(self) -> float:
        """Mean difference, in 8-bit levels, between the first and the second frame warped half way."""
        return float(cv2.absdiff(*self._sides(0.5)).mean())

    def at(self, a: float) -> np.ndarray:
        """Interpolate the frame at time ``a`` in [0, 1] from the first to the second, uint8 (H, W, 3)."""
        here, there = self._sides(a)
        return cv2.addWeighted(here, 1 - a, there, a, 0)

    def _sides(self, a: float) -> tuple[np.ndarray, np.ndarray]:
        h, w = self.first.shape[:2]
        grid = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
        here = _backward_sample(self.first, -a * self.out, grid)
        return here, _backward_sample(self.second, -(1 - a) * self.back, grid)


def subframe_times(duty: float, fastest_px: float, most: int = MAX_SUBFRAMES) -> np.ndarray:
    """Times of sub-frames over ±duty/2: an odd number, one or more per pixel of the fastest motion, about ``most``
    at most."""
    n = int(np.clip(np.ceil(duty * fastest_px) + 1, 3, most))
    n += 1 - n % 2
    return np.linspace(-duty / 2, duty / 2, n)


def blur_by_flow(
    frames: Sequence[np.ndarray], duty: float, curve: Curve = "srgb"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (blurred, sharp) uint8 for every frame but the first and the last, at full frame rate.

    Args:
        frames: sharp frames, uint8 (H, W, 3).
        duty: exposure as a fraction of the frame step, in [0, 1].
        curve: transfer curve that is inverted for averaging.

    Raises:
        ValueError: ``duty`` is out of range.
    """
    if not 0 <= duty <= 1:
        raise ValueError(f"duty {duty} is outside [0, 1]: an exposure cannot outlast the frame step")
    near: Neighbourhood | None = None
    for previous, centre, following in zip(frames, frames[1:], frames[2:], strict=False):
        near = Neighbourhood.of(previous, centre, following, near)
        times = subframe_times(duty, near.fastest_px())
        yield quantise(expose((near.at(float(s)) for s in times), curve)), centre


def blur_between(
    frames: Iterable[np.ndarray], step: int, duty: float, curve: Curve = "srgb"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (blurred, sharp) for every ``step``-th of a stream of frames, which speeds the clip up by ``step``.

    An exposure spans duty · step source frames around its target. Its sub-frames are real frames and frames that are
    interpolated between consecutive ones, so that motion over a step need not be linear, and optical flow is needed
    between neighbours only.

    Args:
        frames: sharp frames, uint8 (H, W, 3).
        step: source frames from one target to the next, at least 1.
        duty: exposure as a fraction of the time from one target to the next, in [0, 1].
        curve: transfer curve that is inverted for averaging.

    Raises:
        ValueError: ``duty`` or ``step`` is out of range.
    """
    if not 0 <= duty <= 1 or step < 1:
        raise ValueError(f"duty {duty}, step {step}: expected a duty in [0, 1] and a step of at least 1")
    half = int(np.ceil(duty * step / 2))
    recent: deque[np.ndarray] = deque(maxlen=2 * half + 1)
    for i, frame in enumerate(frames):
        recent.append(frame)
        if i >= 2 * half and (i - 2 * half) % step == 0:
            yield quantise(expose(_between(list(recent), duty * step), curve)), recent[half]


def _between(frames: list[np.ndarray], length: float) -> Iterator[np.ndarray]:
    """Sub-frames of an exposure of ``length`` source steps around the middle one of ``frames``."""
    half = len(frames) // 2
    if not length:
        yield frames[half]
        return
    gaps = [Gap.of(first, second) for first, second in pairwise(frames)]
    travel = 0.0
    for j, gap in enumerate(gaps):
        exposed = min(j + 1 - half, length / 2) - max(j - half, -length / 2)
        travel += exposed * gap.fastest_px()
    for s in subframe_times(length, travel / length, _MOST_BETWEEN):
        whole = int(np.floor(s))
        yield frames[half + whole] if s == whole else gaps[half + whole].at(float(s - whole))


def blur_by_averaging(
    frames: Sequence[np.ndarray], window: int, step: int, curve: Curve = "srgb"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (blurred, sharp) from real consecutive frames: the average of ``window`` (odd) frames every ``step``."""
    if window % 2 == 0 or window > step:
        raise ValueError(f"window {window} must be odd and no longer than the step {step}")
    for first in range(0, len(frames) - window + 1, step):
        yield quantise(expose(frames[first : first + window], curve)), frames[first + window // 2]


def average_stream(
    frames: Iterable[np.ndarray], window: int, step: int, curve: Curve = "srgb"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (blurred, sharp) from a stream of real frames: the average of ``window`` frames every ``step``, its middle.

    With ``step`` equal to ``window`` this is the procedure of GoPro: blurred frame k (from 0) is the average of frames
    k·N … k·N+N−1. ``window`` frames are in memory. An incomplete window at the end is left out.

    Args:
        frames: sharp frames, uint8 (H, W, 3).
        window: number of averaged frames, odd.
        step: frames from one target to the next, at least ``window``.
        curve: transfer curve that is inverted for averaging.

    Raises:
        ValueError: ``window`` is even or exceeds ``step``.
    """
    if window % 2 == 0 or window > step:
        raise ValueError(f"window {window} must be odd and no longer than the step {step}")
    recent: deque[np.ndarray] = deque(maxlen=window)
    for i, frame in enumerate(frames):
        recent.append(frame)
        if i % step == window - 1:
            yield quantise(expose(recent, curve)), recent[window // 2]


def typical_motion_px(frames: Sequence[np.ndarray]) -> float:
    """Median motion in pixels per frame step, over pixels and then over six sampled steps."""
    picks = np.linspace(0, len(frames) - 2, min(6, len(frames) - 1)).astype(int)
    flows = (optical_flow(frames[i], frames[i + 1]) for i in picks)
    return float(np.median([np.median(np.linalg.norm(f, axis=-1)) for f in flows]))


def fast_motion_px(source: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """90th and 99th percentile of the motion from one frame to another, in pixels."""
    fast, fastest = np.percentile(np.linalg.norm(optical_flow(source, target)[::2, ::2], axis=-1), (90, 99))
    return float(fast), float(fastest)


def averaging_window(duty: float) -> int:
    """Odd number of real frames, at least 3 and at most ``DECIMATION``, for an exposure of ``duty``."""
    return min(max(3, int(duty * DECIMATION) // 2 * 2 + 1), DECIMATION)


FITTED_DUTIES = np.linspace(0, 1.2, 13)
"""Duty cycles at which the error is evaluated."""
_LINE_SAMPLES, _FIT_BORDER = 13, 8


def fitted_duty(blurred: np.ndarray, sharp: np.ndarray, line: np.ndarray) -> float:
    """Fit the duty cycle for which ``sharp``, blurred along duty · V̄, is closest to ``blurred``.

    It exceeds the nominal duty cycle where frames were interpolated, since optical flow is not exact and every warp
    softens, and where motion vectors are too short. The estimate from the blur alone approximates the same value.
    Lines are sampled bilinearly, as in networks, which makes short blur slightly shorter.

    Args:
        blurred, sharp: uint8 (H, W, 3).
        line: V̄, float32 (2, h, w), pixels per frame step, on any grid.

    Returns:
        A number from 0 to about 1.2.
    """
    height, width = sharp.shape[:2]
    dx, dy = (cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR) for part in line)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    light, observed = (cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(np.float32) ** 2 for f in (sharp, blurred))
    inner = slice(_FIT_BORDER, -_FIT_BORDER)
    errors = []
    for duty in FITTED_DUTIES:
        total = np.zeros_like(light)
        for a in np.linspace(-duty / 2, duty / 2, _LINE_SAMPLES).astype(np.float32):
            total += cv2.remap(light, x + a * dx, y + a * dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        difference = (total / _LINE_SAMPLES) ** 0.5 - observed**0.5
        errors.append(float((difference[inner, inner] ** 2).mean()))
    best = int(np.argmin(errors))
    if 0 < best < len(errors) - 1:  # vertex of the parabola through the minimum and its neighbours
        before, here, after = errors[best - 1 : best + 2]
        bend = before - 2 * here + after
        shift = 0.5 * (before - after) / bend if bend > 0 else 0.0
    else:
        shift = 0.0
    return float(FITTED_DUTIES[best] + shift * (FITTED_DUTIES[1] - FITTED_DUTIES[0]))
