"""``unsmear evaluate``: models on data sets, or an output against its target, under a named protocol."""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unsmear.cli import choices
from unsmear.cli.choices import field
from unsmear.cli.errors import EXIT_FAILED, complain
from unsmear.errors import UsageError
from unsmear.options import counted
from unsmear.restore.options import Options

if TYPE_CHECKING:
    from unsmear.evaluation.evaluate import Evaluation, Settings
    from unsmear.evaluation.results import ClipResult
    from unsmear.restore.restorer import Restorer


def evaluate(
    given: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[OUTPUT TARGET]", help="Videos or folders of frames to compare.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for tables, pictures and the page.", show_default=False)
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Shipped model, folder of weights, or a baseline: identity, unsharp, richardson-lucy. Repeatable.",
            show_default="cpfp",
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data set of blurred and sharp clips.", show_default=False)] = None,
    split: choices.Split = None,
    clip_list: choices.ClipList = None,
    role: choices.Role = None,
    protocol: choices.ProtocolName = "basicsr",
    metrics: Annotated[
        str | None, typer.Option(help="Comma-separated names.", show_default="all that need nothing more")
    ] = None,
    lpips_vgg: Annotated[
        Path | None, typer.Option(help="Weights for the metric lpips_vgg.", show_default=False)
    ] = None,
    musiq: choices.Musiq = None,
    blurred: Annotated[
        Path | None, typer.Option(help="With OUTPUT TARGET: the input, measured too.", show_default=False)
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Frames of each clip on the page.")] = 2,
    keep_frames: Annotated[bool, typer.Option("--keep-frames", help="Keep all restored frames as PNG.")] = False,
    sharp: Annotated[
        bool, typer.Option("--sharp", help="Also restore the sharp clips: how much of them is kept, in dB.")
    ] = False,
    archived_priors: choices.ArchivedPriors = False,
    steps: choices.Steps = None,
    guidance: choices.Guidance = None,
    prompt: choices.Prompt = None,
    negative_prompt: choices.NegativePrompt = None,
    seed: choices.Seed = None,
    strength: Annotated[float, field(Options, "strength")] = Options.strength,
    tile: Annotated[str, field(Options, "tile")] = str(Options.tile),
    window: Annotated[int, field(Options, "window")] = Options.window,
    device: choices.Device = "auto",
    dtype: choices.Dtype = "auto",
    engine: choices.Engine = "auto",
    debug: choices.Debug = False,
) -> None:
    """Measure restored video: tables (Markdown, CSV, LaTeX, JSON) and a page of pictures.

    Either models on a data set, or one output against its target. Finished clips are kept: a run that was stopped
    goes on where it was.
    """
    del debug
    from unsmear.datasets.pairs import find_pairs
    from unsmear.evaluation.evaluate import Evaluator, Settings
    from unsmear.restore.load import ONNX_DEVICES, choose_device

    choices.check_folder(out)
    names = choices.metric_names(metrics, musiq)
    settings = Settings(
        protocol,
        names,
        lpips_vgg,
        str(choose_device("cpu" if device in ONNX_DEVICES else device)),
        pictures,
        keep_frames,
        sharp,
        Options(strength=strength, tile=tile, window=window),
        musiq,
        archived_priors,
    )
    if given:
        if len(given) != 2 or data is not None or model:
            raise UsageError("give OUTPUT and TARGET, or `model` and `data`, not both")
        _compare(given[0], given[1], blurred, settings, out)
        return
    if data is None:
        raise UsageError("give OUTPUT and TARGET, or `data` (and `model`)")
    clips = find_pairs(data, split=split, clip_list=clip_list, role=role)
    sampling = choices.sampling(steps, guidance, prompt, negative_prompt, seed)
    methods = _methods(model or [choices.MODEL], sampling, device=device, dtype=dtype, engine=engine)
    labels = [method.name for method in methods]
    if len(set(labels)) < len(labels):
        raise UsageError(f"two models are called {max(labels, key=labels.count)!r}: rename one of the folders")
    with tempfile.TemporaryDirectory(prefix="unsmear-") as scratch:  # for frames, where nothing is to be kept
        runner = Evaluator(clips, data.resolve().name, out or Path(scratch), settings)
        runs = [runner.run(method, _report, "unsmear " + " ".join(sys.argv[1:])) for method in methods]
    failures = {name: error for run in runs for name, error in run.failures}
    _write(runs, out)
    for error in failures.values():
        complain(error)
    if failures:
        raise typer.Exit(EXIT_FAILED)


def _methods(names: list[str], sampling: dict[str, Any], **computed: str) -> "list[Restorer]":
    """Models and baselines by name; ``sampling`` is for those that sample, ``computed`` says on what and how."""
    from unsmear.restore.baselines import find_baseline
    from unsmear.restore.load import load_restorer, samples

    sampled = {name for name in names if find_baseline(name) is None and samples(name)}
    if sampling and not sampled:
        raise UsageError(f"`{next(iter(sampling))}`: {', '.join(names)} does not sample; choose a model that generates")
    return [
        find_baseline(name) or load_restorer(name, **computed, **(sampling if name in sampled else {}))
        for name in names
    ]


def _compare(output: Path, target: Path, blurred: Path | None, settings: "Settings", out: Path | None) -> None:
    """One output against its target."""
    from unsmear.evaluation.evaluate import compare
    from unsmear.restore.inputs import single_input

    output, target = single_input(output), single_input(target)
    blurred = None if blurred is None else single_input(blurred)
    _write([compare(output, target, blurred, settings, "unsmear " + " ".join(sys.argv[1:]))], out)


def _write(runs: "list[Evaluation]", out: Path | None) -> None:
    """The tables on stdout, and with ``-o`` in files."""
    from unsmear.evaluation.formats import markdown
    from unsmear.evaluation.output import write_report

    typer.echo(markdown([run.result for run in runs]))
    if out is not None:
        typer.echo(f"written: {', '.join(str(path) for path in write_report(runs, out))}")


def _report(method: str, row: "ClipResult") -> None:
    figures = ", ".join(f"{name} {row.values[name]:.4g}" for name in ("psnr", "ssim", "lpips") if name in row.values)
    typer.echo(f"{method}: {row.clip}: {counted(row.frames, 'frame')}, {figures}", err=True)
