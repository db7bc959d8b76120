"""Baselines, which need no training: nothing at all, an unsharp mask, and Richardson–Lucy."""

from collections.abc import Callable

import cv2
import numpy as np

from unsmear.priors import Prior
from unsmear.priors.duty import mean_line
from unsmear.restore.restorer import Clip, Restorer, State
from unsmear.video.light import from_linear, to_linear

UNKNOWN_DUTY = 0.7
"""Taken for the exposure where it is unknown."""

_UNSHARP_SIGMA_PX, _UNSHARP_AMOUNT = 2.0, 0.5
_ITERATIONS = 10
_LEAST_BLUR_PX = 1.0
_MOST_TAPS = 33
_FLOOR = 1e-3

Restore = Callable[[np.ndarray, Prior, float], np.ndarray]
"""(frame in levels 0 … 255 float32 (H, W, 3), its prior, duty) → restored, same shape and range, not clipped."""


class Baseline(Restorer):
    """A frame-by-frame method as a Restorer. It runs on the CPU, whole frames at a time."""

    def __init__(self, name: str, method: Restore):
        self.name, self._method = name, method

    def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        """See ``Restorer``. Nothing is carried from chunk to chunk, and tiles are not needed."""
        del state, tile_px
        top = np.iinfo(clip.frames.dtype).max
        duty = UNKNOWN_DUTY if clip.duty is None else clip.duty
        out = np.empty_like(clip.frames[: clip.wanted])
        for i in range(clip.wanted):
            levels = clip.frames[i].astype(np.float32) * np.float32(255 / top)
            restored = self._method(levels, clip.priors[i], duty)
            out[i] = np.rint(np.clip(restored, 0, 255) * (top / 255))
        return out, {}


def _unchanged(frame: np.ndarray, prior: Prior, duty: float) -> np.ndarray:
    del prior, duty
    return frame


def _unsharp(frame: np.ndarray, prior: Prior, duty: float) -> np.ndarray:
    """Half of what a Gaussian of two pixels takes away, added on top."""
    del prior, duty
    return frame + _UNSHARP_AMOUNT * (frame - cv2.GaussianBlur(frame, (0, 0), _UNSHARP_SIGMA_PX))


def _richardson_lucy(frame: np.ndarray, prior: Prior, duty: float) -> np.ndarray:
    """Ten iterations in linear light; the kernel at a pixel is the line that its content covered, duty · V̄.

    The adjoint of blurring along a line that changes slowly is blurring along it once more.
    """
    blur = duty * mean_line(prior)
    longest = float(np.percentile(np.hypot(blur[0], blur[1]), 99))
    if longest < _LEAST_BLUR_PX:
        return frame
    taps = int(min(np.ceil(longest), _MOST_TAPS // 2)) * 2 + 1
    height, width = frame.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    maps = [(x + np.float32(a) * blur[0], y + np.float32(a) * blur[1]) for a in np.linspace(-0.5, 0.5, taps)]

    def blurred(image: np.ndarray) -> np.ndarray:
        total = np.zeros_like(image)
        for map_x, map_y in maps:
            total += cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return total / np.float32(taps)

    seen = to_linear(np.rint(frame).astype(np.uint8))
    estimate = seen.copy()
    for _ in range(_ITERATIONS):
        estimate *= blurred((seen + _FLOOR) / (blurred(estimate) + _FLOOR))
    return from_linear(estimate)


BASELINES: dict[str, Restore] = {
    "identity": _unchanged,
    "unsharp": _unsharp,
    "richardson-lucy": _richardson_lucy,
}


def find_baseline(name: str) -> Baseline | None:
    """By name, None where it is none."""
    method = BASELINES.get(name)
    return None if method is None else Baseline(name, method)
