"""What is known of the running shot: its exposure. One number a shot, refined chunk by chunk. Ours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unsmear.priors import Prior
from unsmear.priors.duty import estimate_duty

SHARP_DUTY = 0.25
"""Where the exposure is estimated below this there is no blur worth the name: sharp clips are estimated up to it."""


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
