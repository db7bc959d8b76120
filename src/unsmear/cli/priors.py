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
from unsmear.errors import OutputError, UnsmearError, UsageError
from unsmear.priors.settings import PriorSettings

if TYPE_CHECKING:
    from unsmear.priors.extract import Extraction

Mode = Annotated[Literal["auto", "native", "reencode"], field(PriorSettings, "mode")]
Profile = Annotated[Literal["fast", "best"], field(PriorSettings, "profile")]
Qp = Annotated[int, field(PriorSettings, "qp")]
Chunk = Annotated[int, field(PriorSettings, "chunk_frames", "--chunk")]
Motion = Annotated[str, field(PriorSettings, "motion")]
MotionBack = Annotated[str, field(PriorSettings, "motion_back")]
Codec = Annotated[str, field(PriorSettings, "codec")]


def priors(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Videos, folders of videos or frames, images.")
    ],
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
    from unsmear.priors.archive import SUFFIX
    from unsmear.video import find_inputs

    logging.basicConfig(level=logging.ERROR if quiet else logging.WARNING, format="unsmear: %(message)s")
    settings = PriorSettings(mode, profile, qp, chunk_frames, motion, motion_back, codec)
    for name in (motion, motion_back):
        find_source(name, raft)
    if out.exists() and not out.is_dir():
        raise UsageError(f"`out` {out} is a file; name a folder")
    if report is not None and report.exists() and not overwrite:
        raise OutputError(f"{report} exists already; give `overwrite` or choose another `report`")
    failures: list[Exception] = []
    targets: dict[Path, Path] = {}
    for given in inputs:
        try:
            for path in find_inputs(given):
                name = path.resolve().name if path.is_dir() else path.stem
                target = out / f"{name}{SUFFIX}"
                if target in targets:
                    raise UsageError(f"{targets[target]} and {path} would both become {target}; rename one of them")
                targets[target] = path
        except UsageError:
            raise
        except UnsmearError as error:
            failures.append(error)
            complain(error)
    if preview is not None and len(targets) > 1:
        raise UsageError(f"`preview` {preview} is one file, but there are {len(targets)} inputs; give one input")

    def one(target: Path, path: Path) -> "Extraction":
        return _one(path, target, settings, preview, overwrite, quiet, raft)

    done = each(targets.items(), one, failures, debug)
    if report is not None and done:
        _write_report(report, [extraction.as_dict() for extraction in done])
    leave_with(failures, done)


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
            f"{target}: {done.frames} frames of {done.width}x{done.height} in {done.seconds:.1f} s, {origin} "
            f"({done.reason}), coverage {100 * done.coverage:.0f} %, median motion {done.motion_median_px:.1f} px"
        )
    return done


def _write_report(report: Path, entries: list[dict[str, Any]]) -> None:
    from unsmear.files import write_whole

    report.parent.mkdir(parents=True, exist_ok=True)
    write_whole(report, (json.dumps(entries, indent=2) + "\n").encode())
