"""Captions of the clips of a data set: ``captions.json`` in its top folder, {name of a clip: text}.

A clip has the name that it has in list files, such as GOPR0410_11_00, or its path in the data set.
"""

from collections.abc import Sequence
from pathlib import Path

from unsmear.datasets.layouts import DataClip
from unsmear.errors import DataLayoutError
from unsmear.files import read_json

CAPTIONS_FILE = "captions.json"


def read_captions(dataset: Path, clips: Sequence[DataClip]) -> list[str]:
    """Captions of clips of a data set; empty where there is none.

    Raises:
        DataLayoutError: the file is no mapping of names to texts, or names none of the clips.
    """
    path = dataset / CAPTIONS_FILE
    if not path.exists():
        return [""] * len(clips)
    stored = read_json(path, "expected {name of a clip: text}")
    wrong = next((name for name, text in stored.items() if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataLayoutError(f"{path}: the caption of {wrong} is no text; expected {{name of a clip: text}}")
    found = [stored.get(clip.name, stored.get(clip.sequence, "")) for clip in clips]
    if stored and clips and not any(found):
        raise DataLayoutError(f"{path}: names no clip; they are called {clips[0].sequence} and the like")
    return found
