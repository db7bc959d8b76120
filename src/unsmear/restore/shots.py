"""What is known of the running shot: its exposure. One number a shot, refined chunk by chunk. Ours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unsmear.priors import Prior
from unsmear.priors.duty import SLOWEST_PX, estimate_duty, line_of

SHARP_DUTY = 0.25
"""Where the exposure is estimated below this there is no blur worth the name, unless motion is fast: sharp clips are
estimated up to it."""

LONG_BLUR_PX = 8.0
"""Blur longer than this is blur whatever the exposure: a short one of fast motion."""


def blur_px(prior: Prior, duty: float | None) -> float:
    """Typical length of a frame's blur in pixels: ``duty`` times the median motion of what moves; 0 where unknown."""
    if duty is None:
        return 0.0
    length = np.linalg.norm(line_of(prior.motion(), prior.motion_back(), prior.reset, prior.reset_back), axis=0)
    moving = length[length > SLOWEST_PX]
    return duty * float(np.median(moving)) if moving.size else 0.0


def is_sharp(duty: float | None, blur: float) -> bool:
    """Whether a frame of this estimated exposure and blur, pixels, has no blur worth the name."""
    return duty is not None and duty < SHARP_DUTY and blur < LONG_BLUR_PX


@dataclass
class DutyTracker:
    """Running mean of the duty cycles estimated in a shot; forgotten at a cut."""

    mean: float | None = None
    count: int = 0

    def update(self, lumas: Sequence[np.ndarray], priors: Sequence[Prior]) -> float | None:
        """Take in a chunk and return the duty cycle to use for it, None if nothing is known yet.

        A chunk with a cut inside is judged by the part after its last cut.
        """
        cuts = [i for i, p in enumerate(priors) if p.reset]
        if cuts:
            self.mean, self.count = None, 0
            if cuts[-1] < len(priors) - 2:
                lumas, priors = lumas[cuts[-1] :], priors[cuts[-1] :]
        found = estimate_duty(lumas, priors)
        if found is not None:
            known = self.mean if self.mean is not None else 0.0
            self.mean = (known * self.count + found) / (self.count + 1)
            self.count = min(self.count + 1, 8)
        return self.mean
