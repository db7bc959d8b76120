"""Limits of change: shots that are sharp already, and what is flat, stay as they are. Ours."""

import cv2
import numpy as np

from unsmear.restore.sharpness import LONG_BLUR_PX, SHARP_DUTY

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
