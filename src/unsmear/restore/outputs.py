"""Where the output of an input goes, and whether it may go there. Nothing that exists is touched here."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from unsmear.errors import OutputError, UsageError
from unsmear.restore.options import Options
from unsmear.video import VideoInfo
from unsmear.video.images import is_image
from unsmear.video.probe import VIDEO_SUFFIXES

OutputKind = Literal["video", "frames", "image"]

_NUMBERED = re.compile(r"\d{6,}\.png")


def default_output(info: VideoInfo, options: Options) -> Path:
    """``NAME.deblurred.EXT`` beside the input; ``NAME.deblurred`` for a folder of frames."""
    path = info.path if info.path.name not in ("", "..") else info.path.resolve()
    if info.kind == "frames":
        return path.with_name(f"{path.name}.deblurred")
    return path.with_name(f"{path.stem}.deblurred{'' if options.frames else path.suffix}")


def place(info: VideoInfo, output: Path | None, options: Options) -> tuple[Path, OutputKind]:
    """The output's path, and what will be there: a video, a folder of PNG frames or one image.

    Raises:
        UsageError: the name does not go with the input.
    """
    if output is None:
        output = default_output(info, options)
    if output.name in ("", ".."):
        output = output.resolve()
    if info.kind == "image" and not options.frames and output.is_dir():
        output = output / default_output(info, options).name
    if options.frames or output.is_dir() or not output.suffix:
        return output, "frames"
    if info.kind == "image":
        return output, "image"
    if is_image(output):
        raise UsageError(f"{output} names one image, but {info.path} has many frames; name a video file or a folder")
    if info.kind == "frames" and output.suffix.lower() not in VIDEO_SUFFIXES:
        return output, "frames"
    return output, "video"


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
            raise OutputError(f"{target} is the input itself; choose another -o")
        folder = kind == "frames" and target == output
        if folder and target.exists() and not target.is_dir():
            raise OutputError(f"{target} is a file, but frames need a folder; choose another -o")
        if not folder and target.is_dir():
            raise OutputError(f"{target} is a folder, but a file is to be written there; choose another -o")
        taken = bool(numbered_frames(target)) if folder else target.exists()
        if taken and not options.overwrite:
            raise OutputError(f"{target} exists already; add --overwrite or choose another -o")


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
            raise OutputError(f"{folder} cannot be written ({error.strerror}); choose another -o") from None
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):  # what holds something stays
                path.rmdir()
        raise
