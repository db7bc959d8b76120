"""A video as a stream of windows: an absolute chunk of frames and priors, and what comes after it. Ours.

Chunks are counted from the first frame of the file, so that a whole, a resumed and a partial run cut the
video at the same places.
"""

import queue
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from unsmear.errors import DataLayoutError
from unsmear.priors import Prior, PriorArchive, PriorSettings, stream
from unsmear.video import Frame, VideoReader
from unsmear.video.damage import REORDERED_FRAMES

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


def windows(
    reader: VideoReader,
    chunk_frames: int,
    look_ahead: int,
    first_chunk: int = 0,
    end_s: float | None = None,
    archive: PriorArchive | None = None,
) -> Generator[Window, None, None]:
    """Windows from chunk ``first_chunk`` to the end. Close it to stop the thread that reads ahead.

    Args:
        reader: reader of the input.
        chunk_frames: N.
        look_ahead: L, at most N.
        first_chunk: where to begin.
        end_s: nothing is read beyond the frames that are looked at after this time, on the source's clock.
        archive: the priors of the file, where they are there; they are re-encoded otherwise.

    Raises:
        DataLayoutError: the archive is damaged, or made of other frames.
    """
    first = first_chunk * chunk_frames
    frames = iter(reader.frames(first=max(first - 1, 0)))
    if end_s is not None:
        frames = _until(frames, end_s, look_ahead + 1, reader)
    before = None
    if first > 0:
        lead = next(frames, None)
        if lead is None:
            return
        before = lead.luma
    # Always re-encoded, whatever the file holds: networks were trained on such priors.
    settings = PriorSettings(mode="reencode", chunk_frames=chunk_frames)
    made = stream(frames, settings, first=first, before=before) if archive is None else _archived(frames, archive)
    paired = iter(made)
    number = first_chunk
    current: list[tuple[Frame, Prior]] = []
    with closing(prefetched(paired, chunk_frames)) as ahead:
        for chunk in _grouped(ahead, chunk_frames):
            if current:
                yield Window(number, current, chunk[:look_ahead])
                number += 1
            current = chunk
        if current:
            yield Window(number, current, [])


def _archived(frames: Iterator[Frame], archive: PriorArchive) -> Iterator[tuple[Frame, Prior]]:
    for frame in frames:
        if frame.index >= len(archive) or zlib.crc32(frame.luma.tobytes()) != archive.luma_crc32[frame.index]:
            raise DataLayoutError(
                f"{archive.path}: was made of other frames from frame {frame.index} on; make it again"
            )
        yield frame, archive[frame.index]


def _until(frames: Iterator[Frame], end_s: float, more: int, reader: VideoReader) -> Iterator[Frame]:
    """Frames before ``end_s`` and up to ``more`` after it. More are read where a gap may turn out to be damage."""
    beyond = unseen = 0
    for frame in frames:
        if beyond < more:
            beyond += frame.time_s >= end_s
            yield frame
        else:
            unseen += 1
        if beyond == more and (unseen == REORDERED_FRAMES or not reader.damage.uncertain):
            return


def _grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    group: list[T] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def prefetched(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Draw ``items`` in a thread of their own, at most ``depth`` ahead; errors come out where they belong."""
    ready: queue.Queue[Any] = queue.Queue(depth)
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
