"""``unsmear deblur``."""

import json
import logging
import os
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsmear.cli import choices
from unsmear.cli.choices import field
from unsmear.cli.errors import complain, each, in_options, leave_with
from unsmear.errors import DamagedVideo, OutputError, UsageError
from unsmear.options import counted
from unsmear.restore.options import Options

if TYPE_CHECKING:
    from unsmear.restore.inputs import Batch
    from unsmear.restore.options import Progress
    from unsmear.restore.report import Report
    from unsmear.restore.restorer import Restorer


def deblur(
    inputs: choices.Inputs,
    output: Annotated[  # a str, since Path drops the slash at the end
        str | None,
        typer.Option("-o", "--output", help="File, or folder (ends in /) that takes the result under its name."),
    ] = None,
    model: Annotated[str, typer.Option(help="Shipped model or folder of weights.")] = choices.MODEL,
    strength: Annotated[float, field(Options, "strength")] = Options.strength,
    steps: choices.Steps = None,
    guidance: choices.Guidance = None,
    prompt: choices.Prompt = None,
    negative_prompt: choices.NegativePrompt = None,
    seed: choices.Seed = None,
    fidelity: Annotated[float | None, typer.Option(help="0 generates freely, 1 stays with stage 1.")] = None,
    device: choices.Device = "auto",
    dtype: choices.Dtype = "auto",
    engine: choices.Engine = "auto",
    tile: Annotated[str, field(Options, "tile")] = str(Options.tile),
    window: Annotated[int, field(Options, "window")] = Options.window,
    start_s: Annotated[float | None, field(Options, "start_s", "--start", **choices.TIME)] = Options.start_s,
    end_s: Annotated[float | None, field(Options, "end_s", "--end", **choices.TIME)] = Options.end_s,
    fps: Annotated[float | None, field(Options, "fps")] = Options.fps,
    priors: Annotated[str | None, field(Options, "priors")] = Options.priors,
    codec: Annotated[str | None, field(Options, "codec")] = Options.codec,
    crf: Annotated[int | None, field(Options, "crf")] = Options.crf,
    pix_fmt: Annotated[str | None, field(Options, "pix_fmt")] = Options.pix_fmt,
    deinterlace: Annotated[str, field(Options, "deinterlace")] = Options.deinterlace,
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
    from unsmear.restore.destination import refuse_existing, writable_folder
    from unsmear.restore.inputs import find_batch

    logging.basicConfig(level=logging.ERROR if quiet else logging.WARNING, format="unsmear: %(message)s")
    batch = find_batch(inputs)
    options = Options(
        strength=strength,
        tile=tile,
        window=window,
        start_s=start_s,
        end_s=end_s,
        fps=fps,
        priors=priors,
        codec=codec,
        crf=crf,
        pix_fmt=pix_fmt,
        deinterlace=deinterlace,  # type: ignore[arg-type]  # checked where it is declared
        frames=frames,
        compare=compare,
        overwrite=overwrite,
        resume=not no_resume,
    )
    jobs, options = _jobs(batch, output, options, report)
    if priors and len(jobs) > 1:
        raise UsageError(f"`priors` {priors} belongs to a single input; restore that separately")
    failures = batch.failures
    for error in failures:
        complain(error)
    if not quiet:
        for note in batch.notes:
            typer.echo(note)
    if report is not None and jobs:
        refuse_existing(report, "report", overwrite)
    with nullcontext() if report is None or not jobs else writable_folder(report.parent):
        reports: list[Report] = []
        if jobs:
            from unsmear.api import load

            restorer = load(
                model,
                device=device,
                dtype=dtype,
                engine=engine,
                steps=steps,
                guidance=guidance,
                prompt=prompt,
                negative_prompt=negative_prompt,
                seed=seed,
                fidelity=fidelity,
            )

            def one(path: Path, target: Path | None) -> "Report":
                done = _one(path, target, restorer, options, quiet)
                if done.damage:
                    failures.append(DamagedVideo(done.damage))
                    complain(failures[-1])
                return done

            reports = each(jobs, one, failures, debug)
        if report is not None and reports:
            _write_report(report, reports)
        leave_with(failures, reports)


def _jobs(
    batch: "Batch", output: str | None, options: Options, report: Path | None
) -> tuple[list[tuple[Path, Path | None]], Options]:
    """Every input that is to be done with its output, and the options with it; finished ones become notes.

    Raises:
        UnsmearError: an output would replace an input, another output or the report.
    """
    from unsmear.restore.destination import in_folder, is_finished, outputs_of, refuse_clashes

    if batch.several:
        targets = _targets(batch, output, options)
    elif batch.paths:
        target, options = in_folder(batch.paths[0], output, options)
        targets = [target]
    else:
        targets = []
    jobs: dict[Path, Path | None] = {}
    outputs: dict[Path, list[Path]] = {}
    finished: list[Path] = []
    for path, target in zip(batch.paths, targets, strict=True):
        try:
            files = outputs_of(path, target, options)
            if batch.several and not options.overwrite and is_finished(files):
                finished.append(path)
        except OutputError as error:  # a name that no file can have
            batch.failures.append(error)
            continue
        jobs[path], outputs[path] = target, files
    if finished:
        made = {os.path.realpath(file) for path in finished for file in outputs[path]}
        again = {path for path in jobs if os.path.realpath(path) in made}
        for path in finished:
            also = os.path.realpath(outputs[path][0]) in {os.path.realpath(path) for path in again}
            batch.notes.append(f"{outputs[path][0]}: already there{', and not restored again' if also else ''}")
        jobs = {path: target for path, target in jobs.items() if path not in {*finished, *again}}
        outputs = {path: files for path, files in outputs.items() if path not in again}
    refuse_clashes(list(outputs.items()), {"report": report})
    return list(jobs.items()), options


def _targets(batch: "Batch", output: str | None, options: Options) -> list[Path | None]:
    """Where the results of a batch go."""
    from unsmear.restore.destination import default_output, names_folder, refuse_empty

    if output is None:
        return [None] * len(batch.paths)
    refuse_empty(output)
    if not names_folder(output):
        _refuse_file(Path(output), len(batch.paths) + len(batch.failures))
    return [Path(output) / default_output(path, options).name for path in batch.paths]


def _refuse_file(target: Path, count: int) -> None:
    from unsmear.video.images import is_image
    from unsmear.video.probe import VIDEO_SUFFIXES

    if target.exists() or is_image(target) or target.suffix.lower() in VIDEO_SUFFIXES:
        raise UsageError(f"`output` {target} is a file, but there are {count} inputs; name a folder, with / at its end")


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
        f"{report.output}: {counted(report.frames, 'frame')} of {report.width}x{report.height} "
        f"at {report.frames_per_second:.2f} frames/s ({report.device}, {report.dtype}), {report.sharpness}"
    )
    if report.resumed_frames:
        line += f"; {report.resumed_frames} of them were there from an earlier run"
    return f"{line}\n  {in_options(report.note)}" if report.note else line


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
