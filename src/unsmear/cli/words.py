"""How errors are put to people: one line each, and an exit status."""

import typer

from unsmear.errors import Interrupted, UnsmearError, UsageError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def complain(error: BaseException | str) -> None:
    """One line on stderr; where an error was not raised on purpose, also what kind it is."""
    words = str(error)
    if not isinstance(error, UnsmearError | str):
        first = (words.strip().splitlines() or ["no message"])[0]
        words = f"unexpected {type(error).__name__}: {first}; --debug shows where"
    typer.echo(f"unsmear: {words}", err=True)


def exit_status(error: Exception) -> int:
    """2 for wrong usage, 130 for an interruption, 1 for everything else."""
    if isinstance(error, Interrupted):
        return EXIT_INTERRUPTED
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
