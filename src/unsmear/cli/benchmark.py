"""``unsmear benchmark``."""

import json
import re
from typing import Annotated

import typer

from unsmear.cli import choices
from unsmear.errors import UsageError


def benchmark(
    model: Annotated[list[str] | None, typer.Option(help="Model or folder of weights; default: every shipped.")] = None,
    size: Annotated[list[str] | None, typer.Option(help="WIDTHxHEIGHT; default 640x360 and 1280x720.")] = None,
    frames: Annotated[int, typer.Option(min=8, help="Frames to restore at each size.")] = 24,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds whose median counts, after one to warm up.")] = 3,
    scene: Annotated[str, typer.Option(help="pan, or quiet: a still camera and a small object that moves.")] = "pan",
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps, of models that generate.")] = None,
    device: choices.Device = "auto",
    dtype: choices.Dtype = "auto",
    engine: choices.Engine = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: choices.Debug = False,
) -> None:
    """Seconds a frame and peak memory of each model at each size, on a synthetic clip.

    The table is Markdown, with the milliseconds of every stage. GFLOP counts convolutions and matrix products; "of
    peak" is the network's rate over that of its most frequent convolution alone.
    """
    del debug
    from unsmear.api import load
    from unsmear.models.zoo import shipped
    from unsmear.restore.benchmark import SCENES, markdown, measure

    if scene not in SCENES:
        raise UsageError(f"`scene` {scene}: expected {' or '.join(SCENES)}")
    sizes = [_size(text) for text in size or ["640x360", "1280x720"]]
    rows = []
    for name in model or [entry.name for entry in shipped()]:
        restorer = load(name, device=device, dtype=dtype, engine=engine, steps=steps)
        rows += [measure(restorer, width, height, frames, rounds, scene) for width, height in sizes]
    if as_json:
        typer.echo(json.dumps([row.as_dict() for row in rows], indent=2))
        return
    for line in markdown(rows):
        typer.echo(line)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or min(map(int, found.groups())) < 16:
        raise UsageError(f"`size` {text!r}: expected WIDTHxHEIGHT with sides of at least 16, such as 1280x720")
    return int(found[1]), int(found[2])
