"""``unsmear deblur``."""

import json
import logging
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsmear.cli import choices
from unsmear.cli.choices import field
from unsmear.cli.errors import complain, each, leave_with
from unsmear.errors import OutputError, UnsmearError, UsageError
from unsmear.restore.options import Options

if TYPE_CHECKING:
    from unsmear.restore.options import Progress
    from unsmear.restore.report import Report
    from unsmear.restore.restorer import Restorer


def deblur(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Videos, folders of videos or frames, images.")
    ],
    output: Annotated[  # a str, since Path drops the slash at the end
        str | None,
        typer.Option("-o", "--output", help="File, or folder (ends in /) that takes the result under its name."),
    ] = None,
    model: Annotated[str, typer.Option(help="Shipped model or folder of weights.")] = "cpfp",
    strength: Annotated[float, field(Options, "strength")] = Options.strength,
    steps: choices.Steps = None,
    guidance: choices.Guidance = None,
    prompt: choices.Prompt = None,
    negative_prompt: choices.NegativePrompt = None,
    seed: choices.Seed = None,
    fidelity: Annotated[float | None, typer.Option(help="0 generates freely, 1 stays with stage 1.")] = None,
    device: choices.Device = "auto",
    dtype: choices.Dtype = "auto",
    tile: Annotated[str, field(Options, "tile")] = str(Options.tile),
    window: Annotated[int, field(Options, "window")] = Options.window,
    start_s: Annotated[float | None, field(Options, "start_s", "--start")] = Options.start_s,
    end_s: Annotated[float | None, field(Options, "end_s", "--end")] = Options.end_s,
    priors: Annotated[str | None, field(Options, "priors")] = Options.priors,
    codec: Annotated[str | None, field(Options, "codec")] = Options.codec,
    crf: Annotated[int | None, field(Options, "crf")] = Options.crf,
    pix_fmt: Annotated[str | None, field(Options, "pix_fmt")] = Options.pix_fmt,
    frames: Annotated[bool, field(Options, "frames", "--frames")] = Options.frames,
    compare: Annotated[bool, field(Options, "compare", "--compare")] = Options.compare,
    report: Annotated[Path | None, typer.Option(help="Write a JSON report.")] = None,
    overwrite: choices.Overwrite = Options.overwrite,
    no_resume: Annotated[bool, typer.Option("--no-resume", help="Start afresh after an interruption.")] = (
        not Options.resume
    ),
    quiet: choices.Quiet = False,
    debug: choices.Debug = False,
) -> None:
    """Deblur videos, folders of frames or images."""
    from unsmear.api import load
    from unsmear.restore.destination import writable_folder

    logging.basicConfig(level=logging.ERROR if quiet else logging.WARNING, format="unsmear: %(message)s")
    paths, failures, several = _expand(inputs)
    options = Options(
        strength=strength,
        tile=tile,
        window=window,
        start_s=start_s,
        end_s=end_s,
        priors=priors,
        codec=codec,
        crf=crf,
        pix_fmt=pix_fmt,
        frames=frames,
        compare=compare,
        overwrite=overwrite,
        resume=not no_resume,
    )
    if several and priors:
        raise UsageError(f"`priors` {priors} belongs to a single input; restore that separately")
    if several:
        targets = _targets(paths, output, options, len(paths) + len(failures))
    elif paths:
        targets, options = _target(paths[0], output, options)
    else:
        targets = []
    _refuse_clashes(paths, targets)
    if report is not None and report.exists() and not overwrite:
        raise OutputError(f"{report} exists already; give `overwrite` or choose another `report`")
    for error in failures:
        complain(error)
    with nullcontext() if report is None else writable_folder(report.parent):
        reports: list[Report] = []
        if paths:
            restorer = load(
                model,
                device=device,
                dtype=dtype,
                steps=steps,
                guidance=guidance,
                prompt=prompt,
                negative_prompt=negative_prompt,
                seed=seed,
                fidelity=fidelity,
            )

            def one(path: Path, target: Path | None) -> "Report":
                return _one(path, target, restorer, options, quiet)

            reports = each(zip(paths, targets, strict=True), one, failures, debug)
        if report is not None and reports:
            _write_report(report, reports)
        leave_with(failures, reports)


def _target(path: Path, output: str | None, options: Options) -> tuple[list[Path | None], Options]:
    """Where the result of a single input goes, and the options with it."""
    from unsmear.restore.destination import in_folder

    target, options = in_folder(path, output, options)
    return [target], options


def _targets(paths: list[Path], output: str | None, options: Options, count: int) -> list[Path | None]:
    """Where the results of a batch of ``count`` inputs go, some of which may not be readable."""
    from unsmear.restore.destination import default_output, names_folder

    if output is None:
        return [None] * len(paths)
    if not names_folder(output):
        _refuse_file(Path(output), count)
    return [Path(output) / default_output(path, options).name for path in paths]


def _expand(inputs: list[Path]) -> tuple[list[Path], list[Exception], bool]:
    """The clips that the arguments stand for, what is wrong with others, and whether this is a batch."""
    from unsmear.video import find_inputs

    paths: list[Path] = []
    failures: list[Exception] = []
    batch = len(inputs) > 1
    for given in inputs:
        try:
            found = find_inputs(given)
        except UnsmearError as error:
            failures.append(error)
            continue
        if found != [given]:
            batch = True
            found = [path for path in found if not _is_ours(path)] or found
        paths += found
    return paths, failures, batch


def _is_ours(path: Path) -> bool:
    """Whether the name is one that an earlier run over the same folder gave."""
    return path.stem.endswith((".deblurred", ".deblurred.compare"))


def _refuse_file(target: Path, count: int) -> None:
    from unsmear.video.images import is_image
    from unsmear.video.probe import VIDEO_SUFFIXES

    if target.exists() or is_image(target) or target.suffix.lower() in VIDEO_SUFFIXES:
        raise UsageError(f"`output` {target} is a file, but there are {count} inputs; name a folder, with / at its end")


def _refuse_clashes(paths: list[Path], targets: list[Path | None]) -> None:
    """No input may replace what another one of the same batch gave."""
    seen: dict[Path, Path] = {}
    for path, target in zip(paths, targets, strict=True):
        if target is None:
            target = path.resolve()
        if target in seen:
            raise UsageError(f"{seen[target]} and {path} would both become {target}; restore them one by one")
        seen[target] = path


def _one(path: Path, target: Path | None, restorer: "Restorer", options: Options, quiet: bool) -> "Report":
    from unsmear.restore.job import restore_video

    with _Bar(path.name, quiet) as bar:
        report = restore_video(path, target, restorer, options, bar.update)
    if not quiet:
        typer.echo(summary(report))
    return report


def summary(report: "Report") -> str:
    """One line that says what was done."""
    line = (
        f"{report.output}: {report.frames} frames of {report.width}x{report.height} "
        f"at {report.frames_per_second:.2f} frames/s ({report.device}, {report.dtype}), {report.sharpness}"
    )
    if report.resumed_frames:
        line += f"; {report.resumed_frames} of them were there from an earlier run"
    return f"{line}\n  {report.note}" if report.note else line


def _write_report(path: Path, reports: list["Report"]) -> None:
    from unsmear.files import write_whole

    write_whole(path, json.dumps([r.as_dict() for r in reports], indent=2).encode())


class _Bar:
    """Progress on a terminal: frames, frames/s and time left. Silent elsewhere."""

    def __init__(self, name: str, quiet: bool):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[words]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self.task = self.bar.add_task(name, total=None, words="starting")

    def __enter__(self) -> "_Bar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, progress: "Progress") -> None:
        total = None if progress.total is None else max(progress.total, progress.done)
        self.bar.update(self.task, completed=progress.done, total=total, words=progress_words(progress))


def progress_words(progress: "Progress") -> str:
    """Frames, frames/s and time left. The rate is the whole run's: chunks may be minutes apart."""
    done, total, rate = progress.done, progress.total, progress.frames_per_second
    if total is None or total < done:
        return f"{done} frames, {rate:.2f} frames/s"
    words = f"{done}/{total} frames, {rate:.2f} frames/s"
    return f"{words}, {timedelta(seconds=round((total - done) / rate))} left" if rate > 0 else words
