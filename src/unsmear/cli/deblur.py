"""``unsmear deblur``."""

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsmear.errors import Interrupted, UnsmearError, UsageError

if TYPE_CHECKING:
    from unsmear.restore.job import Options, Progress
    from unsmear.restore.report import Report
    from unsmear.restore.restorer import Restorer


def deblur(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Videos, folders of videos or frames, images.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File, or folder (ends in /) for PNG frames or for several inputs."),
    ] = None,
    model: Annotated[str, typer.Option(help="Shipped model or folder of weights.")] = "cpfp",
    strength: Annotated[float, typer.Option(help="0 keeps the input, 1 restores fully.")] = 1.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    tile: Annotated[str, typer.Option(help="auto, off or a size in pixels.")] = "auto",
    window: Annotated[int, typer.Option(help="Frames worked on at once; sets memory.")] = 24,
    start: Annotated[float | None, typer.Option(help="Restore from this time on, seconds.")] = None,
    end: Annotated[float | None, typer.Option(help="Restore up to this time, seconds.")] = None,
    codec: Annotated[str | None, typer.Option(help="Video encoder; default as the source.")] = None,
    crf: Annotated[int | None, typer.Option(help="Encoder quality, lower is better.")] = None,
    pix_fmt: Annotated[str | None, typer.Option(help="Pixel format; default as the source.")] = None,
    frames: Annotated[bool, typer.Option("--frames", help="Write PNG frames instead of a video.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Also write OUT.compare.mp4: before | after.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a JSON report.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
    no_resume: Annotated[bool, typer.Option("--no-resume", help="Start afresh after an interruption.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Deblur videos, folders of frames or images."""
    from unsmear.api import load
    from unsmear.restore.job import Options

    logging.basicConfig(level=logging.ERROR if quiet else logging.WARNING, format="unsmear: %(message)s")
    as_folder = output is not None and _is_folder_argument(output)
    paths, failures = _expand(inputs)
    several = len(paths) + len(failures) > 1 or any(p.is_dir() and p not in paths for p in inputs)
    if several and output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file, but there are {len(paths)} inputs; give a folder to -o")
    options = Options(
        strength=strength,
        tile=tile,
        window=window,
        start_s=start,
        end_s=end,
        codec=codec,
        crf=crf,
        pix_fmt=pix_fmt,
        frames=frames or (as_folder and not several),
        compare=compare,
        overwrite=overwrite,
        resume=not no_resume,
    )
    restorer = load(model, device=device, dtype=dtype)
    reports = []
    for error in failures:
        typer.echo(f"unsmear: {error}", err=True)
    for path in paths:
        try:
            target = _target(path, output, options, several)
            reports.append(_one(path, target, restorer, options, quiet))
        except Interrupted:
            raise
        except UnsmearError as error:
            if debug:
                raise
            failures.append(error)
            typer.echo(f"unsmear: {error}", err=True)
    if report is not None:
        _write_report(report, reports)
    if failures:
        usage = len(paths) + len(failures) == 1 or all(isinstance(e, UsageError) for e in failures)
        raise typer.Exit(2 if usage and isinstance(failures[-1], UsageError) else 1)


def _is_folder_argument(output: Path) -> bool:
    """Whether ``-o`` was written with a slash at its end (which ``Path`` drops) or is a folder."""
    ends = {f"{output}/", f"{output}\\"}
    return output.is_dir() or any(a.removeprefix("-o").removeprefix("--output=") in ends for a in sys.argv)


def _expand(inputs: list[Path]) -> tuple[list[Path], list[UnsmearError]]:
    from unsmear.video import find_inputs

    paths: list[Path] = []
    failures: list[UnsmearError] = []
    for given in inputs:
        try:
            paths += find_inputs(given)
        except UnsmearError as error:
            failures.append(error)
    return paths, failures


def _target(path: Path, output: Path | None, options: "Options", several: bool) -> Path | None:
    """Where the result of ``path`` goes; None for the default name beside it."""
    if output is None or not several:
        return output
    output.mkdir(parents=True, exist_ok=True)
    if options.frames or path.is_dir():
        return output / f"{path.stem if path.is_file() else path.name}.deblurred"
    return output / f"{path.stem}.deblurred{path.suffix}"


def _one(
    path: Path, target: Path | None, restorer: "Restorer", options: "Options", quiet: bool
) -> "Report":
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
        f"at {report.frames_per_second:.2f} frames/s ({report.device}, {report.dtype}), "
        f"blur {report.blur_before:.3f} -> {report.blur_after:.3f}"
    )
    return f"{line}\n  {report.note}" if report.note else line


def _write_report(path: Path, reports: list["Report"]) -> None:
    from unsmear.video.images import write_whole

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps([r.as_dict() for r in reports], indent=2).encode())


class _Bar:
    """Progress on a terminal: frames, frames/s and time left. Silent elsewhere."""

    def __init__(self, name: str, quiet: bool):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} frames, {task.fields[rate]:.2f} frames/s, left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self.task = self.bar.add_task(name, total=None, rate=0.0)

    def __enter__(self) -> "_Bar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, progress: "Progress") -> None:
        total = None if progress.total is None else max(progress.total, progress.done)
        self.bar.update(self.task, completed=progress.done, total=total, rate=progress.frames_per_second)
