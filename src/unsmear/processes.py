"""Work in several processes: results in order, and nothing left running or half written after an interruption.

Processes are spawned, not forked: threads of FFmpeg, OpenCV and CUDA do not survive a fork.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_PATIENCE_S = 10.0  # for a task to clean up after it was interrupted


def in_processes(
    function: Callable[[T], R],
    items: Iterable[T],
    workers: int,
    *,
    start: Callable[..., object] | None = None,
    arguments: tuple[Any, ...] = (),
    at_once: int = 1,
) -> Generator[R, None, None]:
    """``function(item)`` for each item, in the order of the items.

    Ctrl-C, or closing the iterator, interrupts tasks under way as it would in this process, so that they clean up.

    Args:
        function: with ``items``, ``start`` and ``arguments``, something that can be pickled.
        items: arguments of ``function``.
        workers: processes. With one, or a single item, everything runs in this process.
        start: called first, with ``arguments``, in every process that works.
        arguments: of ``start``.
        at_once: items that are sent to a process together.

    Raises:
        Exception: what ``function`` raises, at the place of its result.
    """
    items = list(items)
    if workers <= 1 or len(items) <= 1:
        if start is not None:
            start(*arguments)
        yield from map(function, items)
        return
    with process_pool(min(workers, len(items)), start, arguments) as pool:
        yield from pool.map(partial(_task, function), items, chunksize=at_once)


@contextmanager
def process_pool(
    workers: int, start: Callable[..., object] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of spawned processes with one OpenCV thread each, which ends with this process, even if that is killed.

    An exception in the body cancels what waits. Ctrl-C reaches this process alone.
    """
    context = multiprocessing.get_context("spawn")
    ended, end = context.Pipe(duplex=False)  # never written to: it closes with this process
    pool = ProcessPoolExecutor(workers, context, _begin, (ended, start, arguments))
    try:
        yield pool
        pool.shutdown()
    finally:
        end.close()
        pool.shutdown(cancel_futures=True)
        ended.close()


class _State:
    """What the one task of a worker process is about."""

    working = False
    interrupted = False
    stopped = False


def _task(function: Callable[[T], R], item: T) -> R:
    if _State.stopped:
        raise KeyboardInterrupt
    _State.working = True
    try:
        return function(item)
    finally:
        _State.working = False


def _begin(ended: Connection, start: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    import cv2

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, _interrupted)
    threading.Thread(target=_end_with_parent, args=(ended,), daemon=True).start()
    if start is not None:
        start(*arguments)


def _interrupted(number: int, frame: object) -> None:
    """Ctrl-C stops the task under way. Where there is none, the parent ends this process."""
    del number, frame
    _State.stopped = True
    if _State.working and not _State.interrupted:
        _State.interrupted = True
        raise KeyboardInterrupt


def _end_with_parent(ended: Connection) -> None:
    with suppress(OSError):
        ended.poll(None)
    _State.stopped = True
    _interrupt_main_thread()
    patience = time.monotonic() + _PATIENCE_S
    while _State.working and time.monotonic() < patience:
        time.sleep(0.05)
    parent = multiprocessing.parent_process()
    if not _State.working and parent is not None:
        parent.join()  # which, while it lives, ends this process in good order
    os._exit(1)


def _interrupt_main_thread() -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGINT)  # wakes it, too
    else:
        signal.raise_signal(signal.SIGINT)
