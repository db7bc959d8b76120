"""``unsmear train``."""

import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unsmear.cli import choices


class Trainable(StrEnum):
    """Networks that can be trained."""

    autoencoder = "autoencoder"
    cpfp = "cpfp"
    cpgd = "cpgd"
    cpc = "cpc"
    """Former name of ``cpgd``, kept for one release."""
    vdm = "vdm"


def train(
    what: Annotated[Trainable, typer.Argument(help="The network.")],
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="Its configuration.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for checkpoints and the log.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Values instead of the file's, such as loop.steps=100.", show_default=False
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")] = False,
    debug: choices.Debug = False,
) -> None:
    """Train a network; a run that was stopped goes on with --resume."""
    del debug
    if what == Trainable.cpc:
        typer.echo("`unsmear train cpc` is `unsmear train cpgd` now; this name goes with the next release", err=True)
        what = Trainable.cpgd
    try:
        import accelerate  # noqa: F401
    except ImportError:
        from unsmear.errors import UsageError

        raise UsageError("training needs the extra 'train': pip install 'unsmear[train]'") from None
    from importlib import import_module

    from unsmear.training.loop import refuse_processes, refuse_run
    from unsmear.training.loop import train as run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    refuse_processes()
    refuse_run(output, resume)
    model, recipe, loop, finish = import_module(f"unsmear.training.{what}").prepare(
        config, resume and (output / "last").exists(), changes or ()
    )
    trained = sum(p.numel() for group in recipe.parameter_groups() for p in group["params"])
    typer.echo(f"{what}: {trained / 1e6:.2f} M parameters are trained, {loop.steps} steps")

    def report(step: int, figures: dict[str, float]) -> None:
        shown = ", ".join(f"{k} {v:.4f}" for k, v in figures.items() if k not in ("step", "seconds"))
        typer.echo(f"step {step}: {shown}")

    average = run(model, recipe, loop, output, resume=resume, on_step=report)
    if finish:
        finish(average, output)
