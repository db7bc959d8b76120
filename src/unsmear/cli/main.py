"""The command line: arguments in, words out. Errors raised on purpose become one line and an exit status."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

import unsmear
from unsmear.cli import ablate, benchmark, data, deblur, evaluate, models, priors, train
from unsmear.cli.words import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, complain, exit_status

_WrongArguments: type[Exception] = typer.BadParameter.__mro__[1]
"""The base of the parser's complaints, wherever Typer keeps it."""

app = typer.Typer(
    name="unsmear",
    help="Take the motion blur out of video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("deblur")(deblur.deblur)
app.command("priors")(priors.priors)
app.command("benchmark")(benchmark.benchmark)
app.command("models")(models.models)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("ablate")(ablate.ablate)
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
    arguments = sys.argv[1:]
    try:
        status = run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or leaving would complain once more
        status = EXIT_FAILED
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command → its exit status. Whatever goes wrong is one line on stderr, unless ``--debug`` is given."""
    try:
        # Not app(): that prints in its own words, over several lines, and takes interruptions for its own.
        command = typer.main.get_command(app)
        with command.make_context("unsmear", list(arguments)) as context:
            command.invoke(context)
        return 0
    except typer.Exit as left:
        return left.exit_code
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    except _WrongArguments as error:
        _explain(error)
        return EXIT_USAGE
    except Exception as error:
        if "--debug" in arguments:
            raise
        complain(error)
        return exit_status(error)


def _explain(error: Exception) -> None:
    """One line for arguments that do not parse; the help where there were none at all."""
    words = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(words, nl=bool(words))  # empty where it was printed already
        return
    context = getattr(error, "ctx", None)
    path = "unsmear" if context is None else context.command_path
    words = " ".join(words.split()).rstrip(".")
    complain(f"{words[:1].lower()}{words[1:]}; '{path} --help' tells more")
