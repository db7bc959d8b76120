"""The command line: arguments in, words out. Errors raised on purpose become one line and an exit status."""

import sys
from typing import Annotated, NoReturn

import typer

import unsmear
from unsmear.cli import data, deblur, models, train
from unsmear.errors import Interrupted, UnsmearError, UsageError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="unsmear",
    help="Take the motion blur out of video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("deblur")(deblur.deblur)
app.command("models")(models.models)
app.command("train")(train.train)
app.add_typer(data.app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unsmear {unsmear.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Take the motion blur out of video."""
    del version


def main() -> NoReturn:
    """Run the command line and leave with its exit status."""
    try:
        app(standalone_mode=True)
    except UnsmearError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"unsmear: {error}", err=True)
        sys.exit(exit_status(error))
    except KeyboardInterrupt:
        typer.echo("unsmear: interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(EXIT_FAILED)
    sys.exit(0)


def exit_status(error: UnsmearError) -> int:
    """2 for wrong usage, 130 for an interruption, 1 for everything else."""
    if isinstance(error, Interrupted):
        return EXIT_INTERRUPTED
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
