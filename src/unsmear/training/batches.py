"""Training batches: stacked sequences of packs, data sets or shards, as tensors."""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from unsmear.models.cpfp.network import PriorTensors
from unsmear.training.online import OnlineSequences
from unsmear.training.sequences import Arrays, DataConfig, open_sources


class Batch(NamedTuple):
    """``blurred`` and ``sharp`` (B, T, 3, H, W) uint8 (a quarter of the bytes of float32 to copy), and their priors."""

    blurred: Tensor
    sharp: Tensor
    priors: PriorTensors
    captions: tuple[str, ...] = ()
    """One per clip, empty where there is none."""


def stacked(samples: Sequence[Arrays]) -> Batch:
    """Stack sequences of one size to a batch."""
    names = [name for name in samples[0] if name != "caption"]
    joined = {k: torch.from_numpy(np.stack([s[k] for s in samples])) for k in names}
    blurred, sharp = (joined[k].permute(0, 1, 4, 2, 3) for k in ("blurred", "sharp"))
    priors = PriorTensors(
        joined["motion"].float(),
        joined["motion_back"].float(),
        joined["residual"].float(),
        joined["reset"],
        joined["reset_back"],
        joined["duty"].reshape(-1, 1).expand(-1, blurred.shape[1]),
    )
    return Batch(blurred, sharp, priors, tuple(s.get("caption", "") for s in samples))


class Batches(Protocol):
    """Source of training batches by step number."""

    captions: frozenset[str]
    """All captions."""

    def at(self, steps: Sequence[int]) -> Generator[Batch, None, None]:
        """Batches of ``steps``, in order; their draws depend on the seed and the step number only.

        All steps are given at once, since batches may be drawn ahead. Closing the generator stops the workers.
        """


def open_batches(config: DataConfig, seed: int, count: int, priors: bool = True, captions: bool = False) -> Batches:
    """Open the packs and data sets, or the shards, of a configuration for batches of ``count`` sequences.

    ``priors``: whether those of data sets are wanted; without, the data sets need none, and batches hold zeros.
    ``captions``: whether those of data sets are wanted; without, they are empty.

    Raises:
        UsageError, DataLayoutError: as ``open_sources`` and ``OnlineSequences.open``.
    """
    return ShardBatches(config, seed, count) if config.shards else PackBatches(config, seed, count, priors, captions)


class ShardBatches:
    """Batches of sequences that are rendered from shards during training."""

    def __init__(self, config: DataConfig, seed: int, count: int):
        self.online, self.count = OnlineSequences.open(config, seed), count
        self.captions: frozenset[str] = frozenset()

    def at(self, steps: Sequence[int]) -> Generator[Batch, None, None]:
        with closing(self.online.batches(steps, self.count)) as drawn:
            yield from map(stacked, drawn)


class PackBatches:
    """Batches of stored sequences of packs and data sets, read ahead by threads: most of it is decoding of images."""

    def __init__(self, config: DataConfig, seed: int, count: int, priors: bool = True, captions: bool = False):
        self.config, self.seed, self.count = config, seed, count
        self.sources = open_sources(config, priors, captions)
        self.ends = np.cumsum([len(source) for source in self.sources])
        self.captions = frozenset(text for source in self.sources for text in source.captions)

    def at(self, steps: Sequence[int]) -> Generator[Batch, None, None]:
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.config.workers) as threads:
            try:
                for step in steps:
                    waiting.append(threads.submit(self._batch, step))
                    if len(waiting) > self.config.ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _batch(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        return stacked([self._sample(rng) for _ in range(self.count)])

    def _sample(self, rng: np.random.Generator) -> Arrays:
        row = int(rng.integers(self.ends[-1]))
        which = int(np.searchsorted(self.ends, row, side="right"))
        return self.sources[which].sample(row - int(self.ends[which] - len(self.sources[which])), rng, self.config)
