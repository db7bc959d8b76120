"""Training batches: sequences of packs, data sets or shards side by side, as tensors."""

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from unsmear.models.cpfp.network import PriorTensors
from unsmear.training.online import OnlineSequences
from unsmear.training.sequences import Arrays, DataConfig, open_sources


class Batch(NamedTuple):
    """``blurred`` and ``sharp`` (B, T, 3, H, W) uint8, a quarter of the bytes of float32 on the way to a device."""

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


class Batches(Protocol):
    """Training batches by the number of their step."""

    def at(self, steps: Sequence[int]) -> Generator[Batch, None, None]:
        """The batch of each step; its draws come from the seed and the step's number alone.

        All steps are named at once, since batches may be drawn ahead. Closing the generator ends what draws them.
        """


def open_batches(config: DataConfig, seed: int, count: int, priors: bool = True) -> Batches:
    """Batches of ``count`` sequences from all that a configuration names: packs and data sets, or shards.

    ``priors``: whether those of data sets are wanted; without, the data sets need none, and batches hold zeros.

    Raises:
        UsageError, DataLayoutError: as ``open_sources`` and ``OnlineSequences.open``.
    """
    return ShardBatches(config, seed, count) if config.shards else PackBatches(config, seed, count, priors)


class ShardBatches:
    """Batches that are drawn from shards while training."""

    def __init__(self, config: DataConfig, seed: int, count: int):
        self.online, self.count = OnlineSequences.open(config, seed), count

    def at(self, steps: Sequence[int]) -> Generator[Batch, None, None]:
        with closing(self.online.batches(steps, self.count)) as drawn:
            yield from map(stacked, drawn)


class PackBatches:
    """Batches from packs and data sets."""

    def __init__(self, config: DataConfig, seed: int, count: int, priors: bool = True):
        self.config, self.seed, self.count = config, seed, count
        self.sources = open_sources(config, priors)
        self.ends = np.cumsum([len(source) for source in self.sources])

    def at(self, steps: Sequence[int]) -> Generator[Batch, None, None]:
        for step in steps:
            rng = np.random.default_rng((self.seed, step))
            yield stacked([self._sample(rng) for _ in range(self.count)])

    def _sample(self, rng: np.random.Generator) -> Arrays:
        row = int(rng.integers(self.ends[-1]))
        which = int(np.searchsorted(self.ends, row, side="right"))
        return self.sources[which].sample(row - int(self.ends[which] - len(self.sources[which])), rng, self.config)
