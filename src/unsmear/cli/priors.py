"""``unsmear priors``."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unsmear.cli.words import EXIT_FAILED, EXIT_USAGE, complain
from unsmear.errors import Interrupted, OutputError, UnsmearError, UsageError

if TYPE_CHECKING:
    from unsmear.data.extract import Extraction, PriorSettings

ModeOption = Annotated[
    Literal["auto", "native", "reencode"],
    typer.Option(help="The file's own vectors if they qualify, those or nothing, or always re-encoded ones."),
]
ProfileOption = Annotated[Literal["fast", "best"], typer.Option(help="Search of the re-encode.")]
QpOption = Annotated[int, typer.Option(help="Quantiser of the re-encode, 1 to 51.")]
ChunkOption = Annotated[int, typer.Option(help="Frames a chunk; part of the result.")]
_SOURCES = "mv, dis, none; with torchvision raft-4, raft-20, raft-4-warm."
MotionOption = Annotated[str, typer.Option(help=f"Source of the motion to the frame before: {_SOURCES}")]
MotionBackOption = Annotated[str, typer.Option(help="The same for the motion to the frame after.")]


def priors(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Videos, folders of videos or frames, images.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for NAME.priors.npz.", show_default=False)],
    mode: ModeOption = "auto",
    preview: Annotated[
        Path | None, typer.Option(help="Also draw motion, residual and validity beside each frame.")
    ] = None,
    profile: ProfileOption = "fast",
    qp: QpOption = 24,
    chunk: ChunkOption = 24,
    motion: MotionOption = "mv",
    motion_back: MotionBackOption = "mv",
    report: Annotated[Path | None, typer.Option(help="Write a JSON report.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Motion and residual of every frame, from the codec, into an archive."""
    from unsmear.data.extract import PriorSettings, find_source
    from unsmear.priors.archive import SUFFIX
    from unsmear.video import find_inputs

    logging.basicConfig(level=logging.ERROR if quiet else logging.WARNING, format="unsmear: %(message)s")
    settings = PriorSettings(mode, profile, qp, chunk, motion, motion_back)
    for name in (motion, motion_back):
        find_source(name)
    if out.exists() and not out.is_dir():
        raise UsageError(f"-o {out} is a file; name a folder")
    if report is not None and report.exists() and not overwrite:
        raise OutputError(f"{report} exists already; add --overwrite or choose another --report")
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
        raise UsageError(f"--preview {preview} is one file, but there are {len(targets)} inputs; give one input")
    done: list[Extraction] = []
    for target, path in targets.items():
        try:
            done.append(_one(path, target, settings, preview, overwrite, quiet))
        except Interrupted:
            raise
        except Exception as error:  # the other inputs are still done
            if debug:
                raise
            failures.append(error)
            complain(error)
    if report is not None and done:
        _write_report(report, [extraction.as_dict() for extraction in done])
    if failures:
        usage = not done and all(isinstance(error, UsageError) for error in failures)
        raise typer.Exit(EXIT_USAGE if usage else EXIT_FAILED)


def _one(
    path: Path, target: Path, settings: "PriorSettings", preview: Path | None, overwrite: bool, quiet: bool
) -> "Extraction":
    from unsmear.data.extract import extract

    done = extract(path, target, settings, preview=preview, overwrite=overwrite)
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
    from unsmear.video.images import write_whole

    report.parent.mkdir(parents=True, exist_ok=True)
    write_whole(report, (json.dumps(entries, indent=2) + "\n").encode())
