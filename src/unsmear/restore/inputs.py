"""Inputs as users name them: files, folders of videos or of frames, links; and what is none."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from unsmear.errors import UnsmearError, UsageError
from unsmear.video import find_inputs
from unsmear.video.contents import is_folder
from unsmear.video.probe import list_videos, named_input


@dataclass
class Batch:
    """What several names stand for."""

    paths: list[Path] = field(default_factory=list)
    """Videos, images and folders of frames, each once, in order."""
    failures: list[Exception] = field(default_factory=list)
    """Errors of names that stand for nothing."""
    notes: list[str] = field(default_factory=list)
    """What is left out, a line each."""
    several: bool = False
    """Whether more than one input was named, or a folder that holds inputs."""


def single_input(given: str | Path) -> Path:
    """The path of one video, image or folder of frames.

    Raises:
        UsageError: it names no input, or a folder of videos, each of which is an input of its own.
    """
    path = named_input(given)
    videos = list_videos(path) if is_folder(path) else []
    if videos:
        raise UsageError(
            f"{path} holds {'a video' if len(videos) == 1 else f'{len(videos)} videos'}, each an input of its own: "
            f"give {videos[0]} and so on one by one; unsmear.video.find_inputs lists them"
        )
    return path


def find_batch(given: Iterable[str | Path]) -> Batch:
    """What the inputs of a command stand for. Names that stand for nothing do not stop the others.

    A file that is named twice, also through a link, counts once, by the name that is no link. Of a folder, what an
    earlier run over it wrote (``NAME.deblurred.EXT``) is left out.
    """
    batch = Batch()
    names = list(given)
    batch.several = len(names) > 1
    found: list[Path] = []
    for name in names:
        try:
            inside = find_inputs(name)
        except UnsmearError as error:
            batch.failures.append(error)
            continue
        if inside != [Path(name)]:
            batch.several = True
            inside = [path for path in inside if not _is_ours(path)] or inside
        found += inside
    chosen: dict[str, Path] = {}
    for path in found:
        before = chosen.setdefault(os.path.realpath(path), path)
        if before.is_symlink() and not path.is_symlink():
            chosen[os.path.realpath(path)] = path
    batch.paths = [path for path in dict.fromkeys(found) if chosen[os.path.realpath(path)] == path]
    left_out = [path for path in dict.fromkeys(found) if chosen[os.path.realpath(path)] != path]
    batch.notes += [f"{path} is {chosen[os.path.realpath(path)]}, which is done once" for path in left_out]
    return batch


def _is_ours(path: Path) -> bool:
    """Whether the name is one that an earlier run over the same folder gave."""
    return path.stem.endswith((".deblurred", ".deblurred.compare"))
