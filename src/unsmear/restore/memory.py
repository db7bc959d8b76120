"""Conversion of out-of-memory errors, the same for all restorers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unsmear.restore.restorer import OutOfMemory


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns what torch and Python raise when memory is short into ``OutOfMemory``."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(str(error)) from None
    except RuntimeError as error:  # the CPU allocator has no class of its own
        if "allocate memory" in str(error):
            raise OutOfMemory(str(error)) from None
        raise
