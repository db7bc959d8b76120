"""The child of the tests with hostile files: mutated files, one after the other, through one task of the library.

``python fuzz.py TASK SEEDS WORK FIRST LAST MEMORY_MB SECONDS`` prints a line for each mutant, flushed: what the task
made of it, or the error it ended in. TASK is a key of ``TASKS``. A crash, a hang (the alarm ends the process), memory
beyond the limit, an error that is not raised on purpose, files left over, or an output that is not what the report says
end the output early.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import unsmear
from unsmear.video import open_video

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.restorers import Identity

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


def priors(path: Path) -> str:
    return f"{sum(1 for _ in unsmear.extract_priors(path))} frames"


def deblur(path: Path) -> str:
    """Restore, read the output back, and remove it."""
    report = unsmear.deblur(path, model=Identity(), window=8)
    output = Path(report.output)
    try:
        with open_video(output) as reader:
            found = [frame.rgb.shape for frame in reader]
    except unsmear.UnsmearError as error:
        raise AssertionError(f"the output of {report} cannot be read: {error}") from error
    assert set(found) == {(report.height, report.width, 3)}, f"{path.name}: {set(found)} in {report}"
    assert len(found) == report.frames, f"{path.name}: {len(found)} frames in the output of {report}"
    if output.is_dir():
        shutil.rmtree(output)
    else:
        output.unlink()
    return f"{report.frames} frames{', damaged' if report.damage else ''}"


TASKS: dict[str, Callable[[Path], str]] = {"priors": priors, "deblur": deblur}


def main() -> None:
    task, seeds, work, first, last, memory_mb, seconds = sys.argv[1:]
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
            words = TASKS[task](path)
        except unsmear.UnsmearError as error:
            words = f"error {type(error).__name__}: {error}"
            assert "\n" not in str(error), words
        signal.alarm(0)
        path.unlink()
        left = sorted(entry.name for entry in Path(work).iterdir())
        assert not left, f"{path.name} leaves {left}"
        sys.stdout.write(f"{i} {seed.name} {words}\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
