"""Sharpness of the running shot, and limits of change that follow from it. Ours.

The exposure of a shot is one number, refined chunk by chunk. Shots that are sharp already stay close to what they are,
and so does what is flat.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from unsmear.priors import Prior
from unsmear.priors.duty import SLOWEST_PX, estimate_duty

SHARP_DUTY = 0.25
"""Where the exposure is estimated below this there is no blur worth the name, unless motion is fast: sharp clips are
estimated up to it."""

LONG_BLUR_PX = 8.0
"""Blur longer than this is blur whatever the exposure: a short one of fast motion."""


def typical_motion_px(priors: Sequence[Prior]) -> float:
    """Median over frames, and in each over what moves, of the motion a frame step, pixels; 0 where nothing moves."""
    lengths = []
    for prior in priors:
        sides = [(prior.reset, prior.motion), (prior.reset_back, prior.motion_back)]
        found = [np.linalg.norm(motion(), axis=0).ravel() for missing, motion in sides if not missing]
        length = np.concatenate(found) if found else np.zeros(0)
        moving = length[length > SLOWEST_PX]
        lengths.append(float(np.median(moving)) if moving.size else 0.0)
    return float(np.median(lengths)) if lengths else 0.0


def is_sharp(duty: float | None, blur: float) -> bool:
    """Whether a shot of this estimated exposure and blur, pixels, has no blur worth the name."""
    return duty is not None and duty < SHARP_DUTY and blur < LONG_BLUR_PX


@dataclass
class DutyTracker:
    """Running means of what is known of a shot; forgotten at a cut."""

    mean: float | None = None
    """Of the duty cycles that were estimated."""
    count: int = 0
    motion_px: float = 0.0
    """Of the typical motion of its chunks, pixels from frame to frame."""
    chunks: int = 0

    @property
    def blur_px(self) -> float:
        """Typical length of the shot's blur, pixels; 0 where its exposure is unknown."""
        return self.motion_px * (self.mean or 0.0)

    def update(self, lumas: Sequence[np.ndarray], priors: Sequence[Prior]) -> float | None:
        """Take in a chunk and return the duty cycle to use for it, None if nothing is known yet.

        A chunk with a cut inside is judged by the part after its last cut.
        """
        cuts = [i for i, p in enumerate(priors) if p.reset]
        if cuts:
            self.mean, self.count, self.motion_px, self.chunks = None, 0, 0.0, 0
            if cuts[-1] < len(priors) - 2:
                lumas, priors = lumas[cuts[-1] :], priors[cuts[-1] :]
        self.motion_px = (self.motion_px * self.chunks + typical_motion_px(priors)) / (self.chunks + 1)
        self.chunks = min(self.chunks + 1, 8)
        found = estimate_duty(lumas, priors)
        if found is not None:
            known = self.mean if self.mean is not None else 0.0
            self.mean = (known * self.count + found) / (self.count + 1)
            self.count = min(self.count + 1, 8)
        return self.mean


CLOSE_DB = 41.0
"""Frames of a sharp shot change by no more than this PSNR, at 8 bits some 2.3 levels of root mean square: 40 are
promised, and estimates of the exposure scatter."""

FREE_DUTY, FREE_BLUR_PX, FREE_DB = 0.35, 10.0, 32.0
"""From this exposure or this blur on they may change as they like; just below it, by no more than this."""

FLAT_REACH_PX, FLAT_SHARE, FLAT_LEVELS, FLAT_NOISE = 8, 0.5, 1.0, 3.0
"""A pixel changes by no more than this share of what values range over so far around it, and this many 8-bit levels;
the noise of a plain sky, so many levels, is no range."""


def flat_kept(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """``after``, where nothing was to be seen before nothing is to be seen.

    An edge that was blurred still shows as a slope. Where ``before`` is flat, an edge in ``after`` comes from a motion
    vector that was wrong, as those of skies and walls often are.

    Args:
        before, after: (T, H, W, 3), uint8 or uint16.
    """
    unit = np.iinfo(before.dtype).max / 255
    around = np.ones((2 * FLAT_REACH_PX + 1, 2 * FLAT_REACH_PX + 1), np.uint8)
    out = np.empty_like(after)
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        smooth = cv2.GaussianBlur(old, (0, 0), 1.0)
        limit = cv2.subtract(cv2.dilate(smooth, around), cv2.erode(smooth, around)).astype(np.float32)
        least = np.minimum(limit, np.float32(FLAT_LEVELS * unit))  # nothing at all where all is one level
        limit = np.maximum(limit - np.float32(FLAT_NOISE * unit), 0) * np.float32(FLAT_SHARE) + least
        here = old.astype(np.float32)
        out[i] = np.rint(np.clip(new, np.maximum(here - limit, 0), np.minimum(here + limit, 255 * unit)))
    return out


def closeness_db(duty: float | None, blur: float = 0.0) -> float | None:
    """How close a frame stays to itself, PSNR; None: no bound.

    Args:
        duty: estimated exposure of its shot. Up to ``SHARP_DUTY`` ``CLOSE_DB``; from there the bound loosens evenly,
            for estimates of what is sharp scatter.
        blur: its typical length, pixels. From ``LONG_BLUR_PX`` on it loosens too: what moves fast is blurred by a short
            exposure as well.
    """
    if duty is None:
        return None
    by_duty = (duty - SHARP_DUTY) / (FREE_DUTY - SHARP_DUTY)
    by_length = (blur - LONG_BLUR_PX) / (FREE_BLUR_PX - LONG_BLUR_PX)
    loosened = max(by_duty, by_length, 0.0)
    return None if loosened >= 1 else CLOSE_DB + loosened * (FREE_DB - CLOSE_DB)


def restrained(before: np.ndarray, after: np.ndarray, duty: float | None, blur: float = 0.0) -> np.ndarray:
    """``after``, each frame drawn back towards ``before`` as far as a sharp shot asks for.

    Args:
        before, after: (T, H, W, 3), uint8 or uint16.
        duty, blur: estimated exposure of the shot and typical length of its blur; see ``closeness_db``.
    """
    close = closeness_db(duty, blur)
    if close is None:
        return after
    most = np.iinfo(before.dtype).max * 10 ** (-close / 20)
    out = after.copy()
    for frame, old in zip(out, before, strict=True):
        change = frame.astype(np.float32) - old
        rms = float(np.sqrt(np.mean(change**2, dtype=np.float64)))
        if rms > most:
            frame[:] = np.rint(old + change * np.float32(most / rms))
    return out
