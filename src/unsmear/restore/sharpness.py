"""Exposure of the running shot, one number refined chunk by chunk, and whether the shot is sharp already. Ours."""

from collections.abc import Sequence
from dataclasses import dataclass

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
