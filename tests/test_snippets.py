"""Documents: their Python runs, and their command lines name commands, options and values that exist."""

import os
import re
import shlex
from pathlib import Path

import pytest

from support.clips import make_clip
from unsmear.cli.main import COMMANDS, load

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets() -> dict[str, str]:
    """Python blocks of all pages, by page and line."""
    found = {}
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            found[f"{page.name}:{text[: block.start()].count(chr(10)) + 1}"] = block[1]
    return found


def commands() -> dict[str, str]:
    """Lines of all pages that are indented and run ``unsmear``, without comments, by page and line."""
    found = {}
    for page in PAGES:
        lines = iter(enumerate(page.read_text().splitlines(), 1))
        for number, line in lines:
            if not re.match(r" {4,}(?:\w+=\S+ |time )*unsmear ", line):
                continue
            whole = line
            while whole.endswith("\\"):
                whole = whole[:-1] + next(lines)[1]
            found[f"{page.name}:{number}"] = whole.split("unsmear ", 1)[1]
    return found


SNIPPETS, LINES = snippets(), commands()


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return make_clip(tmp_path_factory.mktemp("video") / "in.mp4", size=(48, 32), frames=5)


@pytest.mark.parametrize("place", SNIPPETS)
def test_python_runs(place, video, tmp_path, monkeypatch):
    for name in ("in.mp4", "clip.mp4"):
        os.link(video, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(SNIPPETS[place], place, "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("place", LINES)
def test_command_lines_are_understood(place):
    understood(LINES[place])


def understood(line: str) -> None:
    """Parse a command line as far as can be without doing what it says."""
    name, *words = shlex.split(line, comments=True)
    assert name in COMMANDS
    command = load(name)
    if words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    command.make_context(name, words)


def test_there_is_something_to_run_and_errors_are_found():
    assert len(SNIPPETS) >= 4 and len(LINES) >= 60
    for wrong in ("deblur a.mp4 --sharpness 3", "data blur x -o y --duty 0.4", "priors a.mp4 -o b --mode guess"):
        with pytest.raises(Exception, match=r"sharpness|duty|guess"):
            understood(wrong)
