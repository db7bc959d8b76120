"""Writing that fails, as on a full disk: no file of this process may grow beyond a size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

resource = pytest.importorskip("resource", reason="this system has no limits of a process")


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files, also those of processes that start meanwhile, can have ``size`` bytes at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
