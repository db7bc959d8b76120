"""``unsmear data augment`` and ``unsmear data check``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsmear.cli import choices
from unsmear.cli.choices import WORKERS
from unsmear.cli.errors import EXIT_FAILED, complain
from unsmear.cli.priors import Chunk, Codec, Mode, Motion, MotionBack, Profile, Qp
from unsmear.options import counted
from unsmear.priors.settings import PriorSettings

if TYPE_CHECKING:
    from unsmear.datasets.check import ClipCheck
    from unsmear.priors.extract import Extraction

Dataset = Annotated[
    Path, typer.Argument(metavar="DATASET", help="Top folder: GoPro, DVD, BSD, raw YUV, or any folder of clips.")
]


def augment(
    dataset: Dataset,
    mode: Mode = PriorSettings.mode,
    profile: Profile = PriorSettings.profile,
    qp: Qp = PriorSettings.qp,
    chunk_frames: Chunk = PriorSettings.chunk_frames,
    motion: Motion = PriorSettings.motion,
    motion_back: MotionBack = PriorSettings.motion_back,
    codec: Codec = PriorSettings.codec,
    raft: choices.Raft = None,
    published: Annotated[
        Path | None,
        typer.Option("--from", help="Take the arrays that CPGD-Net's authors publish (MVs, resi).", show_default=False),
    ] = None,
    split: choices.Split = None,
    clip_list: choices.ClipList = None,
    role: choices.Role = None,
    yuv: choices.Yuv = None,
    workers: choices.Workers = WORKERS,
    overwrite: choices.Overwrite = False,
    debug: choices.Debug = False,
) -> None:
    """Motion and residual beside every clip of a data set, in CLIP.priors.npz.

    Finished archives are kept, so a run that was stopped goes on where it was.
    """
    from unsmear.datasets.augment import augment as run

    del debug
    settings = PriorSettings(mode, profile, qp, chunk_frames, motion, motion_back, codec)
    done = run(
        dataset,
        settings,
        workers=workers,
        overwrite=overwrite,
        on_clip=_report_made,
        split=split,
        clip_list=clip_list,
        role=role,
        raw=choices.raw_format(yuv),
        published=published,
        raft=raft,
    )
    for _, error in done.failures:
        complain(error)
    made = counted(len(done.made), "clip")
    typer.echo(f"{dataset}: {made} augmented, {len(done.kept)} were, {len(done.failures)} failed")
    if done.failures:
        raise typer.Exit(EXIT_FAILED)


def check(
    dataset: Dataset,
    split: choices.Split = None,
    clip_list: choices.ClipList = None,
    yuv: choices.Yuv = None,
    workers: choices.Workers = WORKERS,
    debug: choices.Debug = False,
) -> None:
    """Layout, counts, missing partners, damaged files, and whether priors belong to their frames.

    Where a set looks like GoPro or DVD, it is compared with what was published.
    """
    from unsmear.datasets.check import check as run
    from unsmear.datasets.check import describe

    del debug
    found = run(
        dataset, workers=workers, on_clip=_report_checked, split=split, clip_list=clip_list, raw=choices.raw_format(yuv)
    )
    for line in describe(found):
        typer.echo(line)
    bad = sum(1 for clip in found if clip.problems)
    paired, augmented = (sum(1 for clip in found if getattr(clip, name)) for name in ("paired", "augmented"))
    typer.echo(
        f"{dataset}: {counted(len(found), 'clip')}, "
        f"{counted(sum(clip.frames for clip in found), 'frame')}, {paired} with a sharp partner, "
        f"{augmented} with priors, {bad} with problems"
    )
    if bad:
        raise typer.Exit(EXIT_FAILED)


def _report_made(name: str, made: "Extraction") -> None:
    typer.echo(
        f"{name}: {counted(made.frames, 'frame')}, coverage {100 * made.coverage:.0f} %, "
        f"median motion {made.motion_median_px:.1f} px"
    )


def _report_checked(clip: "ClipCheck") -> None:
    if not clip.problems:
        typer.echo(f"{clip.name}: {counted(clip.frames, 'frame')} of {clip.width}x{clip.height}")
    for problem in clip.problems:
        complain(problem)
