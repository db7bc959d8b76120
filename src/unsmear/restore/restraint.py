"""What is sharp already stays within a hair of what it was, whatever a model makes of it. Ours."""

import numpy as np

from unsmear.restore.shots import SHARP_DUTY

CLOSE_DB = 40.0
"""Frames of a sharp shot change by no more than this PSNR: at 8 bits some 2.5 levels of root mean square."""


def restrained(before: np.ndarray, after: np.ndarray, duty: float | None) -> np.ndarray:
    """``after``, each frame drawn back towards ``before`` as far as a sharp shot asks for.

    Args:
        before, after: (T, H, W, 3), uint8 or uint16.
        duty: estimated exposure of the shot; from ``SHARP_DUTY`` on, or None, nothing is drawn back.
    """
    if duty is None or duty >= SHARP_DUTY:
        return after
    most = np.iinfo(before.dtype).max * 10 ** (-CLOSE_DB / 20)
    out = after.copy()
    for frame, old in zip(out, before, strict=True):
        change = frame.astype(np.float32) - old
        rms = float(np.sqrt(np.mean(change**2, dtype=np.float64)))
        if rms > most:
            frame[:] = np.rint(old + change * np.float32(most / rms))
    return out
