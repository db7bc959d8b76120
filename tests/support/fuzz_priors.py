"""The child of test_priors_fuzz: priors of mutated files, one after the other; every file ends in priors or an error.

``python fuzz_priors.py SEEDS WORK FIRST LAST MEMORY_MB SECONDS`` prints a line for each mutant, flushed. A crash, a
hang (the alarm ends the process) or memory beyond the limit ends the output early.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np

import unsmear

HEADER_BYTES = 1024
EDGES = [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\0\0\1\x67", b"\0\1\0\0"]


def mutant(data: bytes, rng: np.random.Generator) -> bytes:
    """A few changes of one kind to some bytes of a file; half of the time near its start, where headers are."""
    out = bytearray(data)

    def place(room: int = 1) -> int:
        span = min(HEADER_BYTES, len(out)) if rng.random() < 0.5 else len(out)
        return int(rng.integers(max(1, span - room)))

    def length() -> int:
        return int(rng.integers(1, 64))

    kind = rng.choice(["flip", "flip", "flip", "set", "zero", "cut", "drop", "copy", "swap", "noise", "edge"])
    if kind == "cut":
        return bytes(out[: place()])
    for _ in range(int(rng.integers(1, 12))):
        at = place(4)
        if kind == "flip":
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == "set":
            out[at] = int(rng.integers(256))
        elif kind == "zero":
            n = min(length(), len(out) - at)
            out[at : at + n] = bytes(n)
        elif kind == "drop" and len(out) > 256:
            del out[at : at + length()]
        elif kind == "copy":
            out[at:at] = out[place() :][: length()]
        elif kind == "swap":
            other, n = place(), length()
            out[at : at + n], out[other : other + n] = out[other : other + n], out[at : at + n]
        elif kind == "noise":
            out[at:at] = rng.bytes(length())
        elif kind == "edge":
            out[at : at + 4] = EDGES[int(rng.integers(len(EDGES)))]
    return bytes(out)


def main() -> None:
    seeds, work, first, last, memory_mb, seconds = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_mb) << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    files = sorted(Path(seeds).iterdir())
    for i in range(int(first), int(last)):
        rng = np.random.default_rng((20, i))
        seed = files[i % len(files)]
        path = Path(work) / f"{i}{seed.suffix}"
        path.write_bytes(mutant(seed.read_bytes(), rng))
        signal.alarm(int(seconds))
        try:
            frames = sum(1 for _ in unsmear.extract_priors(path))
            words = f"{frames} frames"
        except unsmear.UnsmearError as error:
            words = f"error {type(error).__name__}: {error}"
            assert "\n" not in str(error), words
        signal.alarm(0)
        path.unlink()
        sys.stdout.write(f"{i} {seed.name} {words}\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
