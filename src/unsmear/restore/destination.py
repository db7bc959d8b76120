"""Names of outputs, and whether they may be written. Nothing that exists is touched here."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from unsmear.errors import OutputError, UnsmearError, UsageError
from unsmear.restore.options import Options
from unsmear.video import VideoInfo, probe
from unsmear.video.animated import ANIMATIONS
from unsmear.video.images import is_image, is_written_here
from unsmear.video.probe import KEPT_SUFFIXES, VIDEO_SUFFIXES

OutputKind = Literal["video", "frames", "image"]
SourceKind = Literal["video", "frames", "image"]

_NUMBERED = re.compile(r"\d{6,}\.png")


def default_output(source: Path, options: Options) -> Path:
    """``NAME.deblurred.EXT`` beside the input; ``NAME.deblurred`` for a folder of frames, and for one of PNG frames."""
    path = source if source.name not in ("", "..") else source.resolve()
    if path.is_dir():
        return path.with_name(f"{path.name}.deblurred")
    return path.with_name(f"{path.stem}.deblurred{'' if options.frames else path.suffix}")


def names_folder(output: str | Path) -> bool:
    """Whether a name says that it is a folder: one that is there, or one that ends in a slash."""
    return str(output).endswith(("/", os.sep)) or is_folder(Path(output))


def refuse_empty(output: str | Path) -> None:
    """Raise UsageError where the name of an output is empty, which would be the current folder as a Path, or ``-``."""
    if not str(output).strip():
        raise UsageError("`output` is empty; name a file or a folder, or leave it out")
    if str(output) == "-":
        raise UsageError("`output` -: nothing is written to standard output; name a file or a folder")


def in_folder(source: Path, output: str | Path | None, options: Options) -> tuple[Path | None, Options]:
    """What the output's name means for one input, while the slash at its end is still there: a Path has lost it.

    A folder is where the result goes, under its default name. Frames go right into it: those of a folder of frames,
    and with the option ``frames`` those of a video.

    Returns:
        The output for ``place``, and the options with it.

    Raises:
        UsageError: the name is empty.
    """
    if output is None:
        return None, options
    refuse_empty(output)
    if not names_folder(output):
        return Path(output), options
    if source.is_dir():
        return Path(output), replace(options, frames=True)
    return Path(output) if options.frames else Path(output) / default_output(source, options).name, options


def place(info: VideoInfo, output: Path | None, options: Options) -> tuple[Path, OutputKind]:
    """The output's path, and what will be there: a video, a folder of PNG frames or one image.

    A folder that is there, or a name without an ending, is where a video or an image goes under its default name.

    Raises:
        UsageError: the name does not go with the input.
    """
    target, kind = _placed(info.path, info.kind, info.suffix, output, options)
    if kind == "video" and is_image(target) and not (info.suffix == target.suffix.lower() in ANIMATIONS):
        many = "has many frames" if info.frames and info.frames > 1 else "is a video"
        raise UsageError(
            f"{target} names one image, but {info.path} {many}; name a video file, or a folder for PNG `frames`"
        )
    return target, kind


def _placed(
    source: Path, kind: SourceKind, suffix: str, output: Path | None, options: Options
) -> tuple[Path, OutputKind]:
    default = default_output(source, options)
    if output is None:
        output = default
    elif output.name in ("", ".."):
        output = output.resolve()
    if options.frames:
        return output, "frames"
    if output != default and (not output.suffix or is_folder(output)):
        if kind == "frames":
            return output, "frames"
        output = output / default.name
    if output.name == default.name:
        output = output.with_name(fitting_name(source, suffix))
    if kind == "image":
        return output, "image"
    if kind == "frames" and not is_image(output) and output.suffix.lower() not in VIDEO_SUFFIXES | {suffix}:
        return output, "frames"
    return output, "video"


def fitting_name(source: Path, suffix: str) -> str:
    """``NAME.deblurred.EXT`` with the suffix of the input's format; another suffix of the input stays part of NAME."""
    path = source if source.name not in ("", "..") else source.resolve()
    if path.is_dir():
        return f"{path.name}.deblurred"
    if path.suffix.lower() == suffix or not suffix:
        return f"{path.stem}.deblurred{path.suffix if suffix else ''}"
    return f"{path.name}.deblurred{suffix}"


def ending_note(info: VideoInfo, output: Path) -> list[str]:
    """Note for a default output whose suffix differs from that of the input."""
    fitting = fitting_name(info.path, info.suffix)
    if output.name != fitting or info.path.is_dir() or output.suffix.lower() == info.path.suffix.lower():
        return []
    if not info.suffix:
        return ["its pages become PNG frames"]
    own = info.path.suffix
    return [f"{f'{own} is not written' if own else 'its name has no ending'}, so the output is {info.suffix}"]


def comparison_path(output: Path, kind: OutputKind) -> Path:
    """``OUT.compare.mp4`` beside the output; of an image ``OUT.compare.EXT``."""
    name = output.stem if output.suffix else output.name
    return output.with_name(f"{name}.compare{output.suffix if kind == 'image' else '.mp4'}")


def outputs_of(source: Path, output: Path | None, options: Options) -> list[Path]:
    """What a job writes. Inputs whose names do not say what they hold are opened for it."""
    target, becomes = _placed(source, *_held(source), output, options)
    return [target, comparison_path(target, becomes)] if options.compare else [target]


def _held(source: Path) -> tuple[SourceKind, str]:
    """What an input is, and the suffix of its format, as ``probe`` says."""
    suffix = source.suffix.lower()
    if source.is_dir():
        return "frames", ""
    if suffix in KEPT_SUFFIXES:
        return "video", suffix
    try:
        info = probe(source)
    except UnsmearError:  # which the job reports
        return "image" if is_image(source) else "video", suffix
    return info.kind, info.suffix


def check_free(output: Path, kind: OutputKind, source: Path, options: Options) -> None:
    """Refuse an output that is the input, or that exists without ``overwrite``.

    Raises:
        OutputError: one of these, or a name that no file can have.
    """
    targets = [output, comparison_path(output, kind)] if options.compare else [output]
    for target in targets:
        if _marks(target) & _marks(source):
            raise OutputError(f"{target} is the input itself; choose another `output`")
        folder = kind == "frames" and target == output
        if folder and exists(target) and not is_folder(target):
            raise OutputError(f"{target} is a file, but frames need a folder; choose another `output`")
        if not folder and is_folder(target):
            raise OutputError(f"{target} is a folder, but a file is to be written there; choose another `output`")
        if folder:
            refuse_foreign_frames(target)
        if is_taken(target, folder) and not options.overwrite and not placed_frames(output).exists():
            raise OutputError(f"{target} exists already; give `overwrite` or choose another `output`")


def is_taken(target: Path, folder: bool) -> bool:
    """Whether an output is there: a file, or PNG frames in a folder."""
    return bool(numbered_frames(target)) if folder else exists(target)


def is_finished(outputs: Sequence[Path]) -> bool:
    """Whether all ``outputs_of`` a job are there already, and no work of an unfinished one."""
    target, *more = outputs
    return is_taken(target, is_folder(target)) and all(map(exists, more)) and not exists(work_folder(target))


def is_folder(path: Path) -> bool:
    """Whether a folder has this name. Raises OutputError as ``exists`` does."""
    return exists(path) and path.is_dir()


def exists(path: Path) -> bool:
    """Whether something has this name.

    Raises:
        OutputError: no file can have it: it is too long, or links lead in a circle.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another `output`") from None
    return True


def refuse_clashes(jobs: Sequence[tuple[Path, Sequence[Path]]], others: Mapping[str, Path | None]) -> None:
    """Refuse outputs of which one would replace another, or an input of the same command.

    Names count as one where they lead to one file: through links, or by the case of letters on disks to which that
    makes no difference.

    Args:
        jobs: inputs, each with what it becomes.
        others: further outputs of the command, each by the name of its option; None where it is not given.

    Raises:
        OutputError: an output is an input, or one of its frames.
        UsageError: two outputs are one.
    """
    inputs = {mark: source for source, _ in jobs for mark in _marks(source)}
    written: dict[object, str] = {}
    named = [(str(source), path) for source, paths in jobs for path in paths]
    named += [(f"`{name}`", path) for name, path in others.items() if path is not None]
    for what, path in named:
        marks = _marks(path)
        source = next((inputs[mark] for mark in marks if mark in inputs), None)
        if source is not None and str(source) == what:
            raise OutputError(f"{path} is the input itself; choose another `output`")
        if source is not None:
            raise OutputError(f"{path} is an input, which {what} would replace; choose another name, or leave one out")
        frames = inputs.get(_mark(path.parent))
        if frames is not None and is_image(path) and exists(path):
            raise OutputError(f"{path} is a frame of {frames}, which {what} would replace; choose another name")
        other = next((written[mark] for mark in marks if mark in written), None)
        if other is not None:
            raise UsageError(f"{other} and {what} would both become {path}; choose other names, or do one by one")
        written |= dict.fromkeys(marks, what)


def refuse_existing(path: Path, name: str, overwrite: bool) -> None:
    """Raise OutputError where the output that the option ``name`` names is a folder, or is not to be replaced."""
    if is_folder(path):
        raise OutputError(f"{path} is a folder, but a file is to be written there; choose another `{name}`")
    if exists(path) and not overwrite:
        raise OutputError(f"{path} exists already; give `overwrite` or choose another `{name}`")


def _marks(path: Path) -> set[object]:
    """All by which a file is known: its name without links, and where it exists its number on the disk."""
    marks: set[object] = {_mark(path)}
    with suppress(OSError):
        found = path.stat()
        marks.add((found.st_dev, found.st_ino))
    return marks


def _mark(path: Path) -> str:
    real = os.path.realpath(path)
    return real.casefold() if folds_case(Path(real)) else real


def folds_case(path: Path) -> bool:
    """Whether the disk on which ``path`` is or would be takes ``A`` and ``a`` for one name."""
    for place in (path, *path.parents):
        other = place.with_name(place.name.swapcase()) if place.name else place
        if other != place and os.path.lexists(place):
            return os.path.lexists(other) and place.samefile(other)
    return False


def work_folder(output: Path) -> Path:
    """The working folder of the job that writes ``output``: ``.NAME.unsmear`` beside it."""
    return output.with_name(f".{output.name}.unsmear")


def placed_frames(output: Path) -> Path:
    """The list of frames, in the working folder, of a job that has begun to move them to ``output``."""
    return work_folder(output) / "placed.json"


def numbered_frames(folder: Path) -> list[Path]:
    """Files in ``folder`` with names such as those of written frames; whatever else is there is the user's."""
    if not is_folder(folder):
        return []
    return sorted(path for path in folder.iterdir() if _NUMBERED.fullmatch(path.name))


def refuse_foreign_frames(folder: Path) -> None:
    """Raise OutputError where a file by the name of a frame is not one that unsmear wrote."""
    for path in numbered_frames(folder):
        if not is_written_here(path):
            raise OutputError(f"{path} was not written by unsmear, so it stays; choose another `output` for frames")


@contextmanager
def writable_folder(folder: Path) -> Iterator[None]:
    """Make ``folder`` if need be and see that it can be written; take away what was made if the body fails.

    Raises:
        OutputError: it cannot be made or written.
    """
    made: list[Path] = []
    try:
        try:
            made += [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OutputError(f"{folder} cannot be written ({error.strerror}); choose another `output`") from None
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):  # what holds something stays
                path.rmdir()
        raise
