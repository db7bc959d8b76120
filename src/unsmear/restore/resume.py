"""Resuming: the working folder of a job, from which a second run goes on after a kill.

A hidden folder beside the output holds the finished segments, the model's state after the last one, and a
manifest of what the job is. A folder left by a different job (another input, model, option) is discarded.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from unsmear.errors import OutputError
from unsmear.files import write_whole
from unsmear.restore.report import Figures
from unsmear.restore.restorer import State
from unsmear.restore.sharpness import DutyTracker


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
        job: everything that the result depends on, as JSON values.
    """

    def __init__(self, output: Path, job: dict[str, Any]):
        self.path = output.with_name(f".{output.name}.unsmear")
        self.job = json.loads(json.dumps(job))

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
            self.path.mkdir(parents=True)
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
        """Whether the files of all finished segments are there."""
        return self.frames.is_dir() or all(self.segment(i).is_file() for i in range(so_far.segments))

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
        shutil.rmtree(self.path, ignore_errors=True)
