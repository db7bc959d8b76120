"""The command line: arguments in, words out. Errors raised on purpose become one line and an exit status."""

import io
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

import unsmear
from unsmear.cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, complain, exit_status, name_options

_WrongArguments: type[Exception] = typer.BadParameter.__mro__[1]
"""The base of the parser's complaints, wherever Typer keeps it."""

COMMANDS = {
    "deblur": "Deblur videos, folders of frames or images.",
    "priors": "Motion and residual of every frame, from the codec, into an archive.",
    "benchmark": "Seconds a frame and peak memory of each model at each size, on a synthetic clip.",
    "models": "List, show, import, export and average models. `unsmear models NAME` shows one.",
    "train": "Train a network; a run that was stopped goes on with --resume.",
    "evaluate": "Measure restored video: tables (Markdown, CSV, LaTeX, JSON) and a page of pictures.",
    "ablate": "The tables of the CPGD-Net paper: our rows beside its own, as far as their parts exist.",
    "data": "Make data sets and training material.",
}
"""Each in the module of its name, which is imported when it runs: what it needs takes time to import."""


class Commands(TyperGroup):
    """The commands, of which help needs the names alone."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return TyperCommand(cmd_name, callback=None, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS and (near := get_close_matches(args[0], COMMANDS, 1)):
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        name, command, rest = super().resolve_command(ctx, args)
        return name, None if command is None else load(str(name)), rest


def load(name: str) -> Any:
    """The parser of a command."""
    module = import_module(f"unsmear.cli.{name}")
    own = getattr(module, "app", None)
    if own is None:
        own = typer.Typer(add_completion=False, context_settings=HELP)
        own.command()(getattr(module, name))
    command = typer.main.get_command(own)
    command.name = name
    return command


HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="unsmear",
    cls=Commands,
    help="Take the motion blur out of video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unsmear {unsmear.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("-V", "--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the motion blur out of video."""
    del version


def main() -> NoReturn:
    """Run the command line and leave with its exit status."""
    arguments = sys.argv[1:]
    _open_standard_files()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may hold what the terminal's encoding does not
    if "--debug" not in arguments:
        _silence_libraries()
    try:
        status = run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or leaving would complain once more
        status = EXIT_FAILED
    sys.exit(status)


def _open_standard_files() -> None:
    """Fill the places of standard files that were closed, or a file that is written to would come to be one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _silence_libraries() -> None:
    """Give Python a standard error of its own: on the process's, libraries such as libpng and x264 print by themselves,
    beside the one line that says what is wrong."""
    if sys.stderr is None:
        return
    sys.stderr.flush()
    encoding, errors = sys.stderr.encoding, sys.stderr.errors
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=encoding, errors=errors)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def run(arguments: Sequence[str]) -> int:
    """Run one command → its exit status. Whatever goes wrong is one line on stderr, unless ``--debug`` is given."""
    try:
        # Not app(): that prints in its own words, over several lines, and takes interruptions for its own.
        command = typer.main.get_command(app)
        with command.make_context("unsmear", list(arguments)) as context:
            name_options(_command(arguments))
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


def _command(arguments: Sequence[str]) -> Any:
    """The command that arguments name, a sub-command where they name one; None where they name none."""
    words = [word for word in arguments if not word.startswith("-")]
    if not words or words[0] not in COMMANDS:
        return None
    command = load(words[0])
    return getattr(command, "commands", {}).get(words[1], command) if len(words) > 1 else command


def _explain(error: Exception) -> None:
    """One line for arguments that do not parse; the help where there were none at all."""
    words = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(words, nl=bool(words))  # empty where it was printed already
        return
    context = getattr(error, "ctx", None)
    path = "unsmear" if context is None else context.command_path
    words = " ".join(words.split()).rstrip(".").replace("Value error, ", "")
    joint = "" if words.endswith("?") else ";"
    complain(f"{words[:1].lower()}{words[1:]}{joint} '{path} --help' tells more")
