"""The working folder of a job: what is finished survives a kill, and a second run goes on from there.

A hidden folder beside the output holds the finished segments, the model's state after the last one, and a
manifest of what the job is. A folder left by a different job (another input, model, option) is discarded.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from unsmear.errors import OutputError
from unsmear.restore.report import ChunkFigures
from unsmear.restore.restorer import State
from unsmear.restore.shots import DutyTracker
from unsmear.video.images import write_whole


@dataclass(frozen=True)
class Progressed:
    """What an earlier run has finished."""

    segments: int
    figures: list[ChunkFigures]
    state: State | None
    tracker: DutyTracker
    tile_px: int | None


class WorkFolder:
    """Files of one job.

    Args:
        output: the job's output; the folder is ``.NAME.unsmear`` beside it.
        job: everything that the result depends on, as JSON values.
    """

    def __init__(self, output: Path, job: dict[str, Any]):
        self.path = output.with_name(f".{output.name}.unsmear")
        self.job = json.loads(json.dumps(job))

    def segment(self, number: int) -> Path:
        return self.path / f"segment-{number:06d}.nut"

    def comparison(self, number: int) -> Path:
        return self.path / f"compare-{number:06d}.nut"

    def begin(self, resume: bool) -> Progressed:
        """Make the folder, or take over what is there if it belongs to the same job."""
        nothing = Progressed(0, [], None, DutyTracker(), None)
        if self.path.exists():
            found = self._found() if resume else None
            if found is not None:
                return found
            self.discard()
        try:
            self.path.mkdir(parents=True)
            write_whole(self.path / "job.json", json.dumps(self.job).encode())
        except OSError as error:
            raise OutputError(f"{self.path.parent} cannot be written ({error.strerror}): choose another -o") from None
        return nothing

    def _found(self) -> Progressed | None:
        try:
            if json.loads((self.path / "job.json").read_text()) != self.job:
                return None
            done = json.loads((self.path / "done.json").read_text())
            count = int(done["segments"])
            state = load_file(self.path / f"state-{count:06d}.safetensors")
            figures = [ChunkFigures(**row) for row in done["figures"]]
            return Progressed(count, figures, state, DutyTracker(**done["tracker"]), done["tile_px"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None

    def finished(
        self,
        segments: int,
        figures: list[ChunkFigures],
        state: State,
        tracker: DutyTracker,
        tile_px: int | None,
    ) -> None:
        """Record that ``segments`` segments are complete; ``done.json`` is what counts and is written last."""
        write_whole(self.path / f"state-{segments:06d}.safetensors", save(state))
        done = {
            "segments": segments,
            "figures": [asdict(f) for f in figures],
            "tracker": asdict(tracker),
            "tile_px": tile_px,
        }
        write_whole(self.path / "done.json", json.dumps(done).encode())
        (self.path / f"state-{segments - 1:06d}.safetensors").unlink(missing_ok=True)

    def discard(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
