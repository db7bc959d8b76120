"""``unsmear priors``."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unsmear.cli import choices
from unsmear.cli.choices import field
from unsmear.cli.errors import complain, each, leave_with
from unsmear.errors import UsageError
from unsmear.options import counted
from unsmear.priors.settings import PriorSettings

if TYPE_CHECKING:
    from unsmear.priors.extract import Extraction
    from unsmear.restore.inputs import Batch

Mode = Annotated[Literal["auto", "native", "reencode"], field(PriorSettings, "mode")]
Profile = Annotated[Literal["fast", "best"], field(PriorSettings, "profile")]
Qp = Annotated[int, field(PriorSettings, "qp")]
Chunk = Annotated[int, field(PriorSettings, "chunk_frames", "--chunk")]
Motion = Annotated[str, field(PriorSettings, "motion")]
MotionBack = Annotated[str, field(PriorSettings, "motion_back")]
Codec = Annotated[str, field(PriorSettings, "codec")]


def priors(
    inputs: choices.Inputs,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for NAME.priors.npz.", show_default=False)],
    mode: Mode = PriorSettings.mode,
    preview: Annotated[
        Path | None, typer.Option(help="Also draw motion, residual and validity beside each frame.")
    ] = None,
    profile: Profile = PriorSettings.profile,
    qp: Qp = PriorSettings.qp,
    chunk_frames: Chunk = PriorSettings.chunk_frames,
    motion: Motion = PriorSettings.motion,
    motion_back: MotionBack = PriorSettings.motion_back,
    codec: Codec = PriorSettings.codec,
    raft: choices.Raft = None,
    report: Annotated[Path | None, typer.Option(help="Write a JSON report.")] = None,
    overwrite: choices.Overwrite = False,
    quiet: choices.Quiet = False,
    debug: choices.Debug = False,
) -> None:
    """Motion and residual of every frame, from the codec, into an archive."""
    from unsmear.models.motion_sources import find_source
    from unsmear.restore.destination import refuse_existing
    from unsmear.restore.inputs import find_batch

    logging.basicConfig(level=logging.ERROR if quiet else logging.WARNING, format="unsmear: %(message)s")
    settings = PriorSettings(mode, profile, qp, chunk_frames, motion, motion_back, codec)
    for name in (motion, motion_back):
        find_source(name, raft)
    choices.check_folder(out)
    batch = find_batch(inputs)
    if preview is not None and len(batch.paths) > 1:
        raise UsageError(f"`preview` {preview} is one file, but there are {len(batch.paths)} inputs; give one input")
    jobs = _jobs(batch, out, overwrite, {"preview": preview, "report": report})
    for error in batch.failures:
        complain(error)
    if not quiet:
        for note in batch.notes:
            typer.echo(note)
    if report is not None and jobs:
        refuse_existing(report, "report", overwrite)

    def one(path: Path, target: Path) -> "Extraction":
        return _one(path, target, settings, preview, overwrite, quiet, raft)

    done = each(jobs, one, batch.failures, debug)
    if report is not None and done:
        _write_report(report, [extraction.as_dict() for extraction in done])
    leave_with(batch.failures, done)


def _jobs(batch: "Batch", out: Path, overwrite: bool, others: "dict[str, Path | None]") -> list[tuple[Path, Path]]:
    """Every input that is to be done with its archive; of a batch, finished ones become notes.

    Raises:
        UnsmearError: an archive would replace an input, another archive or one of ``others``.
    """
    from unsmear.priors.archive import SUFFIX
    from unsmear.restore.destination import refuse_clashes

    targets = {path: out / f"{path.resolve().name if path.is_dir() else path.stem}{SUFFIX}" for path in batch.paths}
    refuse_clashes([(path, [target]) for path, target in targets.items()], others)
    finished = [path for path, target in targets.items() if batch.several and not overwrite and target.exists()]
    batch.notes += [f"{targets.pop(path)}: already there" for path in finished]
    return list(targets.items())


def _one(
    path: Path,
    target: Path,
    settings: PriorSettings,
    preview: Path | None,
    overwrite: bool,
    quiet: bool,
    raft: Path | None,
) -> "Extraction":
    from unsmear.models.motion_sources import find_source
    from unsmear.priors.extract import extract

    sources = partial(find_source, weights=raft)
    done = extract(path, target, settings, preview=preview, overwrite=overwrite, find_source=sources)
    if not quiet:
        origin = "native" if done.native_frames == done.frames else "re-encoded"
        if 0 < done.native_frames < done.frames:
            origin = f"{done.native_frames} native, {done.frames - done.native_frames} re-encoded"
        typer.echo(
            f"{target}: {counted(done.frames, 'frame')} of {done.width}x{done.height} in {done.seconds:.1f} s, "
            f"{origin} ({done.reason}), "
            f"coverage {100 * done.coverage:.0f} %, median motion {done.motion_median_px:.1f} px"
        )
    return done


def _write_report(report: Path, entries: list[dict[str, Any]]) -> None:
    from unsmear.files import make_folder, write_whole

    make_folder(report.parent)
    write_whole(report, (json.dumps(entries, indent=2) + "\n").encode())
