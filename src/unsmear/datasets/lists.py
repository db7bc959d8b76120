"""List files such as ``GoPro_test.txt``, one clip a line with its number of frames: ``GOPR0410_11_00 134``."""

from dataclasses import dataclass
from pathlib import Path

from unsmear.errors import DataLayoutError


@dataclass(frozen=True)
class ListedClip:
    """A clip that a list names: its line there, and its frames, None where the line does not say."""

    name: str
    frames: int | None
    line: int


def read_clip_list(path: Path) -> list[ListedClip]:
    """The clips of a list file.

    A line is a name and, if it is stated, a number of frames; what follows them (such as a size) is left to
    others. Empty lines and lines that begin with ``#`` mean nothing.

    Raises:
        DataLayoutError: the file cannot be read, names no clip, names one twice, or states no number.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataLayoutError(
            f"{path}: cannot be read as a list of clips ({_reason(error)}); give a text file"
        ) from None
    listed: dict[str, ListedClip] = {}
    for number, text in enumerate(lines, 1):
        words = text.split()
        if not words or words[0].startswith("#"):
            continue
        name, frames = words[0].strip("/"), None
        if len(words) > 1:
            if not (words[1].isascii() and words[1].isdigit() and int(words[1]) > 0):
                raise DataLayoutError(
                    f"{path}: line {number} has {words[1]!r} after {name}; expected its number of frames, or nothing"
                )
            frames = int(words[1])
        if name in listed:
            raise DataLayoutError(
                f"{path}: line {number} names {name} again, after line {listed[name].line}; remove one"
            )
        listed[name] = ListedClip(name, frames, number)
    if not listed:
        raise DataLayoutError(f"{path}: names no clip; expected lines such as 'GOPR0410_11_00 134'")
    return list(listed.values())


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or "no reason given" if isinstance(error, OSError) else "it is not UTF-8 text"
