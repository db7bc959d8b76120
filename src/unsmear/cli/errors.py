"""Errors on the command line: one line each, and an exit status.

Messages of the library name fields in backticks (```overwrite` replaces it``). Where the command has an option for that
field, the line that is printed names the option.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import typer

from unsmear.errors import Interrupted, UnsmearError, UsageError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
T = TypeVar("T")

_options: dict[str, str] = {}
"""Option of each parameter of the command that runs."""


def name_options(command: Any) -> None:
    """Take the options of ``command`` for those that messages name."""
    _options.clear()
    for parameter in getattr(command, "params", ()):
        spelled = sorted((o for o in parameter.opts if o.startswith("-")), key=len)
        if spelled:
            _options[parameter.name] = spelled[-1]


def in_options(words: str) -> str:
    """A message with options of the running command in place of fields."""

    def option(field: re.Match[str]) -> str:
        """Also where the field has a unit in its name and the option has not."""
        return _options.get(field[1]) or _options.get(re.sub("_(s|px)$", "", field[1])) or field[0]

    return re.sub(r"`(\w+)`", option, words)


def complain(error: BaseException | str) -> None:
    """One line on stderr, whatever names hold; where an error was not raised on purpose, also what kind it is."""
    words = in_options(str(error))
    if isinstance(error, MemoryError):
        words = (
            f"there is too little memory ({words or 'no more is given'}); end other programs, or give smaller frames"
        )
    elif not isinstance(error, UnsmearError | str):
        first = (words.strip().splitlines() or ["no message"])[0]
        words = f"unexpected {type(error).__name__}: {first}; --debug shows where"
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    typer.echo(f"unsmear: {line}", err=True)


def exit_status(error: Exception) -> int:
    """2 for wrong usage, 130 for an interruption, 1 for everything else."""
    if isinstance(error, Interrupted):
        return EXIT_INTERRUPTED
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED


def each(
    items: Iterable[tuple[Any, ...]], task: Callable[..., T], failures: list[Exception], debug: bool = False
) -> list[T]:
    """Results of a task for every item of a batch; one that fails is reported and the others are still done.

    Args:
        items: arguments of ``task``.
        task: raises what goes wrong.
        failures: grows by the errors.
        debug: raise the first error.
    """
    done = []
    for item in items:
        try:
            done.append(task(*item))
        except (Interrupted, BrokenPipeError):  # nobody reads on
            raise
        except Exception as error:
            if debug:
                raise
            failures.append(error)
            complain(error)
    return done


def leave_with(failures: list[Exception], done: list[Any]) -> None:
    """Leave with the exit status of a batch, if something failed: 2 where all of it was wrong usage."""
    if failures:
        usage = not done and all(isinstance(error, UsageError) for error in failures)
        raise typer.Exit(EXIT_USAGE if usage else EXIT_FAILED)
