"""Resuming: the working folder of a job, from which a second run goes on after a kill.

A hidden folder beside the output holds the finished segments, the model's state after the last one, and a
manifest of what the job is. A folder left by a different job (another input, model, option, version) is discarded.
While a run works in it, a lock keeps others out; the operating system takes it back from a process that ends anyhow.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from unsmear.errors import OutputError
from unsmear.files import write_whole
from unsmear.restore.destination import numbered_frames, placed_frames, work_folder
from unsmear.restore.report import Figures
from unsmear.restore.restorer import State
from unsmear.restore.sharpness import DutyTracker
from unsmear.version import __version__
from unsmear.video.images import list_images

LOCK = "lock"
_PATIENCE_S = 0.5
"""How long the lock of a run that is just ending is waited for."""


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Keep other runs from the working folder of ``output`` while the body runs; an empty one is taken away.

    Raises:
        OutputError: another run works in it, or it cannot be made.
    """
    folder = work_folder(output)
    lock = FileLock(folder / LOCK, timeout=_PATIENCE_S)
    try:
        folder.mkdir(exist_ok=True)
        lock.acquire()
    except Timeout:
        raise OutputError(f"{output}: another run is writing it; wait for it, or choose another `output`") from None
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        raise OutputError(f"{output}: cannot be written ({error.strerror}); choose another `output`") from None
    try:
        yield
    finally:
        if os.name == "nt":  # where nobody can remove what is open, and elsewhere only who holds it may
            lock.release()
        with suppress(OSError):
            (folder / LOCK).unlink()
        lock.release()
        with suppress(OSError):  # the work of an interrupted run stays
            folder.rmdir()


def stamp(source: Path) -> list[Any]:
    """A value that changes when an input does: by name, size and time of the file, or of all images of the folder."""
    files = list_images(source) if source.is_dir() else [source]
    stats = [(file.name, found.st_size, found.st_mtime_ns) for file in files if (found := file.stat())]
    return [str(source.resolve()), len(stats), hashlib.sha256(repr(stats).encode()).hexdigest()]


def versions() -> dict[str, Any]:
    """Versions of everything that computes frames or writes them."""
    return {
        "unsmear": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "av": av.__version__,
        "ffmpeg": {name: list(number) for name, number in av.library_versions.items()},
    }


@dataclass
class SoFar:
    """How far a job has come, and all that the rest of it depends on."""

    segments: int = 0
    """Finished segments of the output."""
    next_chunk: int | None = None
    """The chunk after those; None at the beginning."""
    figures: Figures = field(default_factory=Figures)
    state: State | None = None
    """The model's, after the last chunk."""
    tracker: DutyTracker = field(default_factory=DutyTracker)
    tile_px: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def frames(self) -> int:
        return self.figures.frames


class WorkFolder:
    """Files of one job.

    Args:
        output: the job's output; the folder is ``.NAME.unsmear`` beside it.
        job: everything that the result depends on besides versions, as JSON values.
    """

    def __init__(self, output: Path, job: dict[str, Any]):
        self.path, self.output = work_folder(output), output
        self.job = json.loads(json.dumps(job | {"versions": versions()}))

    @property
    def frames(self) -> Path:
        return self.path / "frames"

    def segment(self, number: int) -> Path:
        return self.path / f"segment-{number:06d}.nut"

    def comparison(self, number: int) -> Path:
        return self.path / f"compare-{number:06d}.nut"

    def begin(self, resume: bool, tile_px: int | None) -> SoFar:
        """Make the folder, or take over what is there if it belongs to the same job.

        Args:
            resume: False starts afresh in any case.
            tile_px: of a job that starts afresh.

        Raises:
            OutputError: the folder cannot be made.
        """
        found = self._found() if resume else None
        if found is not None:
            return found
        self.discard()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "job.json", json.dumps(self.job).encode())
        except OSError as error:
            raise OutputError(
                f"{self.path.parent} cannot be written ({error.strerror}); choose another `output`"
            ) from None
        return SoFar(tile_px=tile_px)

    def frames_kept(self) -> int:
        """How many frames a second run of the same job would find finished."""
        found = self._found()
        return found.frames if found else 0

    def _found(self) -> SoFar | None:
        """What an earlier run of the same job has recorded; None where it is absent or damaged in any way."""
        try:
            if json.loads((self.path / "job.json").read_text()) != self.job:
                return None
            done = json.loads((self.path / "done.json").read_text())
            done["figures"] = Figures.from_json(done["figures"])
            done["tracker"] = DutyTracker(**done["tracker"])
            so_far = SoFar(**done, state=load_file(self._state(done["segments"])))
            return so_far if self._whole(so_far) else None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None

    def _whole(self, so_far: SoFar) -> bool:
        """Whether the files of all finished segments are there, or all finished frames, some in their place already."""
        if not self.frames.is_dir():
            return all(self.segment(i).is_file() for i in range(so_far.segments))
        there = {path.name for path in numbered_frames(self.frames)}
        if placed_frames(self.output).is_file():
            there |= {path.name for path in numbered_frames(self.output)}
            return there >= set(json.loads(placed_frames(self.output).read_bytes()))
        return len(there) >= so_far.frames

    def record(self, so_far: SoFar) -> None:
        """Make ``so_far`` what a second run finds; ``done.json`` is what counts and is written last."""
        assert so_far.state is not None
        write_whole(self._state(so_far.segments), save({k: v.contiguous() for k, v in so_far.state.items()}))
        done = {k: v for k, v in vars(so_far).items() if k != "state"}
        done |= {"figures": so_far.figures.as_json(), "tracker": asdict(so_far.tracker)}
        write_whole(self.path / "done.json", json.dumps(done).encode())
        self._state(so_far.segments - 1).unlink(missing_ok=True)

    def _state(self, segments: int) -> Path:
        return self.path / f"state-{segments:06d}.safetensors"

    def discard(self) -> None:
        """Remove all but the lock of the run that works here."""
        with suppress(OSError):
            for entry in list(self.path.iterdir()):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                elif entry.name != LOCK:
                    entry.unlink(missing_ok=True)
