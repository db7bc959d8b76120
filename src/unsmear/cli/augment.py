"""``unsmear data augment`` and ``unsmear data check``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsmear.cli.priors import ChunkOption, ModeOption, MotionBackOption, MotionOption, ProfileOption, QpOption
from unsmear.cli.words import EXIT_FAILED, complain
from unsmear.errors import UsageError

if TYPE_CHECKING:
    from unsmear.data.check import ClipCheck
    from unsmear.data.extract import Extraction
    from unsmear.video import RawFormat

_WORKERS = min(os.cpu_count() or 1, 8)

Dataset = Annotated[
    Path, typer.Argument(metavar="DATASET", help="Top folder: GoPro, DVD, BSD, raw YUV, or any folder of clips.")
]
SplitOption = Annotated[str | None, typer.Option(help="Only train, valid or test.", show_default="all")]
ListOption = Annotated[
    Path | None,
    typer.Option("--list", help="Only the clips of a list file: NAME FRAMES, a clip a line.", show_default="all"),
]
YuvOption = Annotated[
    str | None,
    typer.Option(
        metavar="WxH_FPS_BITS",
        help="What .yuv files hold, such as 1920x1080_50fps_10bit.",
        show_default="what their names state",
    ),
]


def augment(
    dataset: Dataset,
    mode: ModeOption = "auto",
    profile: ProfileOption = "fast",
    qp: QpOption = 24,
    chunk: ChunkOption = 24,
    motion: MotionOption = "mv",
    motion_back: MotionBackOption = "mv",
    split: SplitOption = None,
    clip_list: ListOption = None,
    yuv: YuvOption = None,
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
    done = run(
        dataset,
        settings,
        workers=workers,
        overwrite=overwrite,
        on_clip=_tell_made,
        split=split,
        clip_list=clip_list,
        raw=raw_option(yuv),
    )
    for _, error in done.failures:
        complain(error)
    typer.echo(f"{dataset}: {len(done.made)} clips augmented, {len(done.kept)} were, {len(done.failures)} failed")
    if done.failures:
        raise typer.Exit(EXIT_FAILED)


def check(
    dataset: Dataset,
    split: SplitOption = None,
    clip_list: ListOption = None,
    yuv: YuvOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Clips read at the same time.")] = _WORKERS,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Layout, counts, missing partners, damaged files, and whether priors belong to their frames.

    Where a set looks like GoPro or DVD, it is compared with what was published.
    """
    from unsmear.data.check import check as run
    from unsmear.data.check import describe

    del debug
    found = run(dataset, workers=workers, on_clip=_tell_checked, split=split, clip_list=clip_list, raw=raw_option(yuv))
    for line in describe(found):
        typer.echo(line)
    bad = sum(1 for clip in found if clip.problems)
    paired, augmented = (sum(1 for clip in found if getattr(clip, name)) for name in ("paired", "augmented"))
    typer.echo(
        f"{dataset}: {len(found)} clips, {sum(clip.frames for clip in found)} frames, {paired} with a sharp partner, "
        f"{augmented} with priors, {bad} with problems"
    )
    if bad:
        raise typer.Exit(EXIT_FAILED)


def raw_option(text: str | None) -> "RawFormat | None":
    """What ``--yuv`` states. Raises UsageError where it states no size."""
    from unsmear.video import parse_raw_format

    if text is None:
        return None
    found = parse_raw_format(text)
    if found is None:
        raise UsageError(f"--yuv {text}: expected size, frame rate and bit depth, such as 1920x1080_50fps_10bit")
    return found


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
