"""``unsmear ablate``."""

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unsmear.cli import choices
from unsmear.cli.errors import EXIT_FAILED, complain, in_options
from unsmear.errors import UnsmearError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from unsmear.datasets.layouts import DataClip
    from unsmear.evaluation.ablation import AblationRow
    from unsmear.evaluation.pictures import Picture
    from unsmear.evaluation.results import Result
    from unsmear.restore.restorer import Restorer

_COST_FRAMES = 8


def ablate(
    table: Annotated[
        str,
        typer.Argument(
            help="I to IV: a table of the CPGD-Net paper; options: of its stage 2 (ours).", show_default=False
        ),
    ],
    data: Annotated[Path, typer.Option(help="Data set of blurred and sharp clips.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for the table, pictures and the page.", show_default="print only"),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="ROW=DIR",
            help="Weights of one row; those of `full` also run rows that they can express. Repeatable.",
            show_default="cpfp where it serves",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--rows", metavar="ROW,…", help="Only these rows, comma-separated.", show_default="all"),
    ] = None,
    raft: choices.Raft = None,
    protocol: choices.ProtocolName = "basicsr",
    metrics: Annotated[
        str | None, typer.Option(help="Comma-separated names.", show_default="all that need nothing more")
    ] = None,
    musiq: choices.Musiq = None,
    split: choices.Split = None,
    clip_list: choices.ClipList = None,
    role: choices.Role = None,
    archived_priors: choices.ArchivedPriors = False,
    steps: choices.Steps = None,
    guidance: choices.Guidance = None,
    prompt: choices.Prompt = None,
    negative_prompt: choices.NegativePrompt = None,
    seed: choices.Seed = None,
    device: choices.Device = "auto",
    dtype: choices.Dtype = "auto",
    debug: choices.Debug = False,
) -> None:
    """The tables of the CPGD-Net paper: our rows beside its own, as far as their parts exist.

    Of a model that generates, a picture shows where its control network looks (Fig. 10).

    Finished clips are kept: a run that was stopped goes on where it was.
    """
    del debug
    from unsmear.datasets.pairs import find_pairs
    from unsmear.evaluation.ablation import ablation_block, run_ablation
    from unsmear.evaluation.evaluate import Evaluator, Settings
    from unsmear.evaluation.formats import block_markdown
    from unsmear.evaluation.variants import TABLES, find_table
    from unsmear.restore.load import choose_device, load_restorer, samples

    table = find_table(table)
    weights = dict(_row_and_model(text) for text in models or [])
    choices.check_folder(out)
    names = choices.metric_names(metrics, musiq)
    sampling = choices.sampling(steps, guidance, prompt, negative_prompt, seed)
    if sampling and not any(row.part == "stage 2" for row in TABLES[table]):
        raise UsageError(f"`{next(iter(sampling))}`: no row of table {table} samples; leave it out")
    settings = Settings(
        protocol,
        names,
        device=str(choose_device(device)),
        pictures=1,
        musiq=musiq,
        archived_priors=archived_priors,
    )
    clips = find_pairs(data, split=split, clip_list=clip_list, role=role)
    failures: dict[str, UnsmearError] = {}
    with tempfile.TemporaryDirectory(prefix="unsmear-") as scratch:  # for frames, where nothing is to be kept
        runner = Evaluator(clips, data.resolve().name, out or Path(scratch), settings)

        def loaded(name: str) -> "Restorer":
            return load_restorer(name, device=device, dtype=dtype, **(sampling if samples(name) else {}))

        def evaluate(restorer: "Restorer", _row: str) -> "tuple[Result, list[Picture]]":
            done = runner.run(restorer, command="unsmear " + " ".join(sys.argv[1:]))
            failures.update(done.failures)
            return done.result, done.pictures

        measured = run_ablation(
            table,
            loaded,
            evaluate,
            models=weights,
            only=choices.names_of(only, ()) or None,
            raft=raft,
            sample=_sample(clips[0]) if table == "III" else (),
            dataset=str(data.resolve()),
            progress=lambda label: typer.echo(f"{label} …", err=True),
        )
    typer.echo(in_options(block_markdown(ablation_block(table, measured))))
    if out is not None:
        files = _write(table, measured, out)
        generates = next((row.model for row in measured if row.model), "")
        if generates:
            path = out / f"ablation-{table}.attention.png"
            files.append(_write_attention(loaded(generates), _sample(clips[0]), path))
        typer.echo(f"written: {', '.join(str(path) for path in files)}")
    for error in failures.values():
        complain(error)
    if failures:
        raise typer.Exit(EXIT_FAILED)


def _row_and_model(text: str) -> tuple[str, str]:
    row, equals, folder = text.partition("=")
    if not (row and equals and folder):
        raise UsageError(f"`models` {text!r} is not ROW=DIR, such as without_crs=runs/without-crs/best")
    return row, folder


def _sample(clip: "DataClip") -> "list[np.ndarray]":
    """The frames on which the cost of motion is measured."""
    from unsmear.video import open_video

    with open_video(clip.source) as reader:
        return [frame.rgb for frame in reader.frames(0, _COST_FRAMES)]


def _write(table: str, rows: "list[AblationRow]", out: Path) -> list[Path]:
    from unsmear.evaluation.ablation import ablation_block, ablation_figure, as_dicts
    from unsmear.evaluation.formats import LATEX_HEAD, block_latex, block_markdown
    from unsmear.evaluation.page import write_page
    from unsmear.evaluation.variants import FIGURES, TITLES
    from unsmear.files import make_folder, write_whole
    from unsmear.video.images import write_png

    block = ablation_block(table, rows)
    make_folder(out)
    base = out / f"ablation-{table}"
    texts = {
        ".md": block_markdown(block),
        ".tex": LATEX_HEAD + block_latex(block),
        ".json": json.dumps(as_dicts(rows), indent=2) + "\n",
    }
    for suffix, text in texts.items():
        write_whole(base.with_suffix(suffix), text.encode())
    done = [base.with_suffix(suffix) for suffix in texts]
    figure = ablation_figure(rows)
    if figure is not None:
        write_png(base.with_suffix(".png"), figure)
        done.append(base.with_suffix(".png"))
    page = base.with_suffix(".html")
    write_page(
        page,
        [row.result for row in rows if row.result],
        [picture for row in rows for picture in row.pictures],
        title=f"{TITLES[table]}: ablation",
        subtitle=f"Pictures: {FIGURES[table]}.",
        blocks=[block],
    )
    return [*done, page]


def _write_attention(restorer: "Restorer", frames: "list[np.ndarray]", path: Path) -> Path:
    """Fig. 10: where the control network looks in the middle of a few frames."""
    from unsmear.evaluation.attention import attention_figure
    from unsmear.restore.cpgd import CPGDRestorer
    from unsmear.restore.restorer import Clip
    from unsmear.video.images import write_png

    assert isinstance(restorer, CPGDRestorer)  # rows name no other models
    write_png(path, attention_figure(restorer, Clip.of(frames), len(frames) // 2))
    return path
