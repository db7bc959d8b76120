"""The command line as people meet it: exit status, and what it writes to stdout and stderr."""

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

from unsmear.cli.main import run


class Answer(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    @property
    def complaint(self) -> str:
        """The one line on stderr of a command that failed."""
        [line] = self.stderr.splitlines()
        return line


def unsmear(*arguments: object) -> Answer:
    """Run one command."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        status = run([*map(str, arguments)])
    return Answer(status, out.getvalue(), err.getvalue())
