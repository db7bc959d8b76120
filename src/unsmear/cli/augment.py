"""``unsmear data augment`` and ``unsmear data check``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsmear.cli.priors import ChunkOption, ModeOption, MotionBackOption, MotionOption, ProfileOption, QpOption
from unsmear.cli.words import EXIT_FAILED, complain

if TYPE_CHECKING:
    from unsmear.data.check import ClipCheck
    from unsmear.data.extract import Extraction

_WORKERS = min(os.cpu_count() or 1, 8)

Dataset = Annotated[
    Path, typer.Argument(metavar="DATASET", help="Top folder: GoPro, DVD, BSD, or any folder of clips.")
]


def augment(
    dataset: Dataset,
    mode: ModeOption = "auto",
    profile: ProfileOption = "fast",
    qp: QpOption = 24,
    chunk: ChunkOption = 24,
    motion: MotionOption = "mv",
    motion_back: MotionBackOption = "mv",
    workers: Annotated[int, typer.Option(min=1, help="Clips worked on at the same time.")] = _WORKERS,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make finished archives again.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Motion and residual beside every clip of a data set, in CLIP.priors.npz.

    Finished archives are kept, so a run that was stopped goes on where it was.
    """
    from unsmear.data.augment import augment as run
    from unsmear.data.extract import PriorSettings

    del debug
    settings = PriorSettings(mode, profile, qp, chunk, motion, motion_back)
    done = run(dataset, settings, workers=workers, overwrite=overwrite, on_clip=_tell_made)
    for _, error in done.failures:
        complain(error)
    typer.echo(f"{dataset}: {len(done.made)} clips augmented, {len(done.kept)} were, {len(done.failures)} failed")
    if done.failures:
        raise typer.Exit(EXIT_FAILED)


def check(
    dataset: Dataset,
    workers: Annotated[int, typer.Option(min=1, help="Clips read at the same time.")] = _WORKERS,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Layout, counts, damaged files, and whether priors belong to their frames."""
    from unsmear.data.check import check as run

    del debug
    found = run(dataset, workers=workers, on_clip=_tell_checked)
    bad = sum(1 for clip in found if clip.problems)
    paired, augmented = (sum(1 for clip in found if getattr(clip, name)) for name in ("paired", "augmented"))
    typer.echo(
        f"{dataset}: {len(found)} clips, {sum(clip.frames for clip in found)} frames, {paired} with a sharp partner, "
        f"{augmented} with priors, {bad} with problems"
    )
    if bad:
        raise typer.Exit(EXIT_FAILED)


def _tell_made(name: str, made: "Extraction") -> None:
    typer.echo(
        f"{name}: {made.frames} frames, coverage {100 * made.coverage:.0f} %, "
        f"median motion {made.motion_median_px:.1f} px"
    )


def _tell_checked(clip: "ClipCheck") -> None:
    if not clip.problems:
        typer.echo(f"{clip.name}: {clip.frames} frames of {clip.width}x{clip.height}")
    for problem in clip.problems:
        complain(problem)
