"""A video as a stream of windows: an absolute chunk of frames and priors, and what comes after it. Ours.

Chunks are counted from the first frame of the file, so that a whole, a resumed and a partial run cut the
video at the same places.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np

from unsmear.priors import Prior, stream_priors
from unsmear.video import Frame, VideoReader

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """One chunk: ``frames`` to restore and ``after`` to look at, each frame with its prior."""

    number: int
    """Chunk number in the file: its first frame is ``number`` × N."""
    frames: list[tuple[Frame, Prior]]
    after: list[tuple[Frame, Prior]]

    @property
    def pixels(self) -> np.ndarray:
        """(T, H, W, 3) of the chunk and what comes after."""
        return np.stack([frame.rgb for frame, _ in chain(self.frames, self.after)])

    @property
    def priors(self) -> list[Prior]:
        return [prior for _, prior in chain(self.frames, self.after)]


def windows(reader: VideoReader, chunk_frames: int, look_ahead: int, first_chunk: int = 0) -> Iterator[Window]:
    """Windows from chunk ``first_chunk`` to the end of the video.

    Args:
        reader: of the input.
        chunk_frames: N.
        look_ahead: L, at most N.
        first_chunk: where to begin.
    """
    first = first_chunk * chunk_frames
    frames = iter(reader.frames(first=max(first - 1, 0)))
    before = None
    if first > 0:
        lead = next(frames, None)
        before = None if lead is None else lead.luma
    paired = stream_priors(frames, luma=lambda f: f.luma, chunk_frames=chunk_frames, before=before)
    number = first_chunk
    current: list[tuple[Frame, Prior]] = []
    for chunk in _grouped(prefetched(paired, chunk_frames), chunk_frames):
        if current:
            yield Window(number, current, chunk[:look_ahead])
            number += 1
        current = chunk
    if current:
        yield Window(number, current, [])


def _grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    group: list[T] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def prefetched(items: Iterator[T], depth: int) -> Iterator[T]:
    """Draw ``items`` in a thread of their own, at most ``depth`` ahead; errors come out where they belong."""
    ready: queue.Queue = queue.Queue(depth)
    stop = threading.Event()
    end = object()

    def put(value: object) -> bool:
        while not stop.is_set():
            try:
                ready.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((end, None))
        except BaseException as error:  # handed to the consumer, whatever it is
            put((end, error))

    worker = threading.Thread(target=run, name="unsmear-reader", daemon=True)
    worker.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        worker.join()
