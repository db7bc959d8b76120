"""Work on full-size planes in bands of rows, by several threads.

A plane of a 720p frame does not fit in a processor's cache, so that each of ten operations on it waits for memory; a
band does. OpenCV and NumPy release the interpreter's lock, so that threads work on bands side by side.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np
import torch


class Buffers(threading.local):
    """Arrays that are used again: the first touch of fresh memory costs as much as an operation on it.

    Each thread has its own. What an array of a name held is lost when the name is taken again.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def take(self, name: str, *shape: int) -> np.ndarray:
        """Array (float32, not initialised) of this shape; the rows of a larger one where there is one."""
        array = self._arrays.get(name)
        if array is None or len(array) < shape[0] or array.shape[1:] != shape[1:]:
            array = self._arrays[name] = np.empty(shape, np.float32)
        return array[: shape[0]]


_BAND_PIXELS = 40_000
"""Of a band: four float32 channels take 640 KB. OpenCV starts threads of its own from 65,536 pixels on."""


def in_bands(height: int, width: int, work: Callable[[slice], None], multiple: int = 1) -> None:
    """Call ``work`` with slices of rows that cover ``height``, on as many threads as torch uses.

    Args:
        height: of the plane that is to be written.
        width: of the plane; with it the number of rows in a band is chosen.
        work: reads what it likes and writes these rows only.
        multiple: rows of a band, but for the last one, are a multiple of it.
    """
    rows = max(_BAND_PIXELS // width // multiple, 1) * multiple
    bands = [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
    threads = min(torch.get_num_threads(), len(bands))
    if threads > 1:
        mode = torch.is_inference_mode_enabled()  # each thread has its own

        def work_so(rows: slice) -> None:
            with torch.inference_mode(mode):
                work(rows)

        list(_pool(os.getpid(), threads).map(work_so, bands))
    else:
        for band in bands:
            work(band)


def enlarged(plane: np.ndarray, rows: slice, scale: int, height: int) -> np.ndarray:
    """Rows of the bilinear enlargement of a plane (h, w) by a whole number ``scale`` to (``height``, w·scale).

    Equal to these rows of the enlarged plane, as ``interpolate(…, align_corners=False)`` makes it.
    """
    top, bottom = max(rows.start // scale - 1, 0), min(-(-rows.stop // scale) + 1, height // scale)
    size = plane.shape[1] * scale, (bottom - top) * scale
    large = cv2.resize(plane[top:bottom], size, interpolation=cv2.INTER_LINEAR)
    return large[rows.start - top * scale : rows.stop - top * scale]


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    del process  # a forked process has none of its parent's threads
    pool, started = ThreadPoolExecutor(threads, "bands"), threading.Barrier(threads)

    def start(_: int) -> None:
        torch.set_num_threads(1)  # of operations within a band
        started.wait()

    list(pool.map(start, range(threads)))
    torch.set_num_threads(threads)  # of those outside; the call above set both
    return pool
