"""Names of outputs, and whether they may be written. Nothing that exists is touched here."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from unsmear.errors import OutputError, UsageError
from unsmear.restore.options import Options
from unsmear.video import VideoInfo
from unsmear.video.animated import ANIMATIONS
from unsmear.video.images import is_image
from unsmear.video.probe import VIDEO_SUFFIXES

OutputKind = Literal["video", "frames", "image"]

_NUMBERED = re.compile(r"\d{6,}\.png")


def default_output(source: Path, options: Options) -> Path:
    """``NAME.deblurred.EXT`` beside the input; ``NAME.deblurred`` for a folder of frames, and for one of PNG frames."""
    path = source if source.name not in ("", "..") else source.resolve()
    if path.is_dir():
        return path.with_name(f"{path.name}.deblurred")
    return path.with_name(f"{path.stem}.deblurred{'' if options.frames else path.suffix}")


def names_folder(output: str | Path) -> bool:
    """Whether a name says that it is a folder: one that is there, or one that ends in a slash."""
    return str(output).endswith(("/", os.sep)) or Path(output).is_dir()


def in_folder(source: Path, output: str | Path | None, options: Options) -> tuple[Path | None, Options]:
    """What the output's name means for one input, while the slash at its end is still there: a Path has lost it.

    A folder is where the result goes, under its default name. Frames go right into it: those of a folder of frames,
    and with the option ``frames`` those of a video.

    Returns:
        The output for ``place``, and the options with it.
    """
    if output is None or not names_folder(output):
        return None if output is None else Path(output), options
    if source.is_dir():
        return Path(output), replace(options, frames=True)
    return Path(output) if options.frames else Path(output) / default_output(source, options).name, options


def place(info: VideoInfo, output: Path | None, options: Options) -> tuple[Path, OutputKind]:
    """The output's path, and what will be there: a video, a folder of PNG frames or one image.

    A folder that is there, or a name without an ending, is where a video or an image goes under its default name.

    Raises:
        UsageError: the name does not go with the input.
    """
    default = default_output(info.path, options)
    if output is None:
        output = default
    elif output.name in ("", ".."):
        output = output.resolve()
    if options.frames:
        return output, "frames"
    if output != default and (output.is_dir() or not output.suffix):
        if info.kind == "frames":
            return output, "frames"
        output = output / default.name
    if output.name == default.name:
        output = output.with_name(fitting_name(info))
    if info.kind == "image":
        return output, "image"
    if is_image(output) and not (info.suffix == output.suffix.lower() in ANIMATIONS):
        raise UsageError(f"{output} names one image, but {info.path} has many frames; name a video file or a folder")
    if info.kind == "frames" and output.suffix.lower() not in VIDEO_SUFFIXES | {info.suffix}:
        return output, "frames"
    return output, "video"


def fitting_name(info: VideoInfo) -> str:
    """``NAME.deblurred.EXT`` with the suffix of the input's format; another suffix of the input stays part of NAME."""
    path = info.path if info.path.name not in ("", "..") else info.path.resolve()
    if path.is_dir():
        return f"{path.name}.deblurred"
    if path.suffix.lower() == info.suffix or not info.suffix:
        return f"{path.stem}.deblurred{path.suffix if info.suffix else ''}"
    return f"{path.name}.deblurred{info.suffix}"


def ending_note(info: VideoInfo, output: Path) -> list[str]:
    """Note for a default output whose suffix differs from that of the input."""
    if output.name != fitting_name(info) or info.path.is_dir() or output.suffix.lower() == info.path.suffix.lower():
        return []
    if not info.suffix:
        return ["its pages become PNG frames"]
    own = info.path.suffix
    return [f"{f'{own} is not written' if own else 'its name has no ending'}, so the output is {info.suffix}"]


def comparison_path(output: Path) -> Path:
    """``OUT.compare.mp4`` beside the output."""
    return output.with_name(f"{output.stem if output.suffix else output.name}.compare.mp4")


def check_free(output: Path, kind: OutputKind, source: Path, options: Options) -> None:
    """Refuse an output that is the input, or that exists without ``overwrite``.

    Raises:
        OutputError: one of these.
    """
    targets = [output, comparison_path(output)] if options.compare else [output]
    for target in targets:
        if target.resolve() == source.resolve() or (target.exists() and target.samefile(source)):
            raise OutputError(f"{target} is the input itself; choose another `output`")
        folder = kind == "frames" and target == output
        if folder and target.exists() and not target.is_dir():
            raise OutputError(f"{target} is a file, but frames need a folder; choose another `output`")
        if not folder and target.is_dir():
            raise OutputError(f"{target} is a folder, but a file is to be written there; choose another `output`")
        taken = bool(numbered_frames(target)) if folder else target.exists()
        if taken and not options.overwrite:
            raise OutputError(f"{target} exists already; give `overwrite` or choose another `output`")


def numbered_frames(folder: Path) -> list[Path]:
    """Files in ``folder`` with names such as those of written frames; whatever else is there is the user's."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NUMBERED.fullmatch(path.name))


@contextmanager
def writable_folder(folder: Path) -> Iterator[None]:
    """Make ``folder`` if need be and see that it can be written; take away what was made if the body fails.

    Raises:
        OutputError: it cannot be made or written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
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
