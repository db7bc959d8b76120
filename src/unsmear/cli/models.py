"""``unsmear models``."""

from typing import Annotated

import typer


def models(
    name: Annotated[str | None, typer.Argument(help="A shipped model or a folder of weights.")] = None,
) -> None:
    """List the shipped models, or show the card and checksum of one."""
    from unsmear.models import zoo

    if name is None:
        for entry in zoo.shipped():
            card = entry.card
            typer.echo(f"{entry.name}\t{card.get('parameters', 0) / 1e6:.2f} M\t{card.get('summary', '')}")
        return
    entry = zoo.find(name)
    actual = entry.checksum()
    stated = entry.card.get("sha256")
    verdict = "no checksum in its card" if not stated else "as its card says" if actual == stated else "NOT its card's"
    typer.echo(f"{entry.name}: {entry.weights}\nSHA-256 {actual} ({verdict})")
    if entry.card_text:
        typer.echo(entry.card_text)
