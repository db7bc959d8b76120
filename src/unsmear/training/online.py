"""Sequences rendered during training: on the device and in worker processes, ahead of the step that uses them.

Threads draw and render. Processes do the work of the CPU: exposure along optical flow, encoding, extraction of priors,
augmentation. A sequence depends on the seed, its step and its place in the batch only, not on the number of workers.
(Noise also depends on the type of device that draws it.)
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from unsmear.blur.camera import Rendered
from unsmear.blur.pack import (
    MOST_DRAWS,
    Camera,
    PackConfig,
    Sources,
    draw_frames,
    finish_sequence,
    no_usable_sequence,
    sequence_arrays,
)
from unsmear.blur.shards import open_shards
from unsmear.errors import UsageError
from unsmear.processes import process_pool
from unsmear.training.sequences import Arrays, DataConfig, augment

Drawn = Rendered | list[np.ndarray]
Task = Callable[[Drawn, np.random.Generator], Arrays | None]
"""(draw, generator) → the finished sequence; None if it is rejected."""


class OnlineSequences:
    """Unlimited sequences from shards.

    Args:
        sources: photographs and clips.
        config: ranges of the draws, number of workers, and batches drawn ahead.
        seed: seed of all draws.
        device: where photographs are rendered; None: on CUDA if available.

    Raises:
        UsageError: ``config.crop_px`` is below 64.
    """

    def __init__(self, sources: Sources, config: DataConfig, seed: int, device: str | None = None):
        import torch

        from unsmear.blur.device_camera import DeviceCamera

        if config.crop_px < 64:
            raise UsageError(f"data.crop_px {config.crop_px}: expected a multiple of 16, at least 64, with shards")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.config, self.seed, self.clips = config, seed, sources.clips
        ranges = replace(config.draw.camera, size_px=config.crop_px, frames=config.frames)
        self.draw: PackConfig = replace(config.draw, camera=ranges)
        self.camera: Camera | None = DeviceCamera(sources.photos, device) if sources.photos else None
        self.finish: Task = partial(_train_sequence, config=config, draw=self.draw)
        self.turn = threading.Lock()

    @classmethod
    def open(cls, config: DataConfig, seed: int, device: str | None = None) -> "OnlineSequences":
        """Open the shards of ``config``. Raises DataLayoutError where they are missing or damaged."""
        opened = [open_shards(Path(folder)) for folder in config.shards]
        photos, clips = ([item for sources in opened for item in getattr(sources, k)] for k in ("photos", "clips"))
        return cls(Sources(photos, clips), config, seed, device)

    def batches(self, steps: Sequence[int], size: int) -> Generator[list[Arrays], None, None]:
        """``size`` sequences for each step, as in ``training.sequences``. Closing the generator stops the workers.

        Raises:
            DataLayoutError: no draw gave a usable sequence. Other errors of workers are raised unchanged.
        """
        keys = ((step, place) for step in steps for place in range(size))
        with closing(self._in_order(keys, self.finish, self.config.ahead * size)) as drawn:
            for _ in steps:
                yield list(islice(drawn, size))

    def rows(self, count: int) -> dict[str, np.ndarray]:
        """``count`` sequences as the arrays of a pack, without augmentation."""
        keys = ((0, place) for place in range(count))
        with closing(self._in_order(keys, partial(_row, draw=self.draw), count)) as drawn:
            rows = list(drawn)
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def render(self, key: tuple[int, ...]) -> tuple[Drawn | None, np.random.Generator]:
        """The draw of a key before it is finished by a worker, and the generator to continue with."""
        rng = np.random.default_rng((self.seed, *key))
        with self.turn:
            return draw_frames(self.camera, self.clips, rng, self.draw), rng

    def _in_order(self, keys: Iterable[tuple[int, ...]], task: Task, most: int) -> Generator[Arrays, None, None]:
        """Results of ``task`` for the keys, in order, with up to ``most`` more in progress."""
        workers = self.config.workers
        waiting: deque[Future[Arrays]] = deque()
        # Two threads more than workers: while the others wait for a worker, the next sequences are rendered.
        with process_pool(workers) as pool, ThreadPoolExecutor(workers + 2) as threads:
            try:
                for key in keys:
                    waiting.append(threads.submit(self._sequence, key, task, pool))
                    if len(waiting) > most:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
                pool.shutdown(wait=False, cancel_futures=True)

    def _sequence(self, key: tuple[int, ...], task: Task, pool: ProcessPoolExecutor) -> Arrays:
        for attempt in range(MOST_DRAWS):
            drawn, rng = self.render((*key, attempt))
            if drawn is not None and (finished := pool.submit(task, drawn, rng).result()) is not None:
                return finished
        raise no_usable_sequence()


def _row(drawn: Drawn, rng: np.random.Generator, draw: PackConfig) -> Arrays | None:
    finished = finish_sequence(drawn, rng, draw)
    return None if finished is None else sequence_arrays(*finished)


def _train_sequence(drawn: Drawn, rng: np.random.Generator, config: DataConfig, draw: PackConfig) -> Arrays | None:
    row = _row(drawn, rng, draw)
    return None if row is None else augment({name: array[None] for name, array in row.items()}, 0, rng, config)
