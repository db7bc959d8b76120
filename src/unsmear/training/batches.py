"""Training sequences side by side, as tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unsmear.models.cpfp import PriorTensors
from unsmear.training.sequences import Arrays, DataConfig, open_sources


class Batch(NamedTuple):
    """``blurred`` and ``sharp`` (B, T, 3, H, W) uint8, which is a quarter of what a device would have to be sent."""

    blurred: Tensor
    sharp: Tensor
    priors: PriorTensors


def stacked(samples: Sequence[Arrays]) -> Batch:
    """Sequences of one size → a batch."""
    joined = {k: torch.from_numpy(np.stack([s[k] for s in samples])) for k in samples[0]}
    blurred, sharp = (joined[k].permute(0, 1, 4, 2, 3) for k in ("blurred", "sharp"))
    priors = PriorTensors(
        joined["motion"].float(),
        joined["motion_back"].float(),
        joined["residual"].float(),
        joined["reset"],
        joined["reset_back"],
        joined["duty"].reshape(-1, 1).expand(-1, blurred.shape[1]),
    )
    return Batch(blurred, sharp, priors)


class PackBatches:
    """Batches from packs and data sets; that of a step comes from the seed and the step's number alone.

    Raises:
        UsageError, DataLayoutError: as ``open_sources``.
    """

    def __init__(self, config: DataConfig, seed: int, count: int):
        self.config, self.seed, self.count = config, seed, count
        self.sources = open_sources(config)
        self.ends = np.cumsum([len(source) for source in self.sources])

    def at(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        return stacked([self._sample(rng) for _ in range(self.count)])

    def _sample(self, rng: np.random.Generator) -> Arrays:
        row = int(rng.integers(self.ends[-1]))
        which = int(np.searchsorted(self.ends, row, side="right"))
        return self.sources[which].sample(row - int(self.ends[which] - len(self.sources[which])), rng, self.config)
