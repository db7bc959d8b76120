"""Whole-or-nothing writes, checksums, and JSON files read with one-line errors.

A file is written beside its place under a name that begins with a dot, and renamed when it is complete and on the disk:
whoever looks finds the old one, or the new one, or none. An error leaves nothing behind.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from unsmear.errors import DataLayoutError, OutputError, UnsmearError

if TYPE_CHECKING:
    import numpy as np


class WholeFile:
    """A file that appears complete or not at all. Write ``partial``, then ``keep`` it or ``drop`` it.

    As a context manager it gives ``partial``, keeps it at the end, and drops it after an exception.

    Attributes:
        path: the file to be.
        partial: where it is written; not made here.
    """

    def __init__(self, path: Path | str, *, same_suffix: bool = False) -> None:
        """``same_suffix``: ``partial`` ends as ``path`` does, for writers that go by it."""
        self.path = Path(path)
        name = f".{self.path.stem}.partial{self.path.suffix}" if same_suffix else f".{self.path.name}.partial"
        self.partial = self.path.with_name(name)

    def __enter__(self) -> Path:
        return self.partial

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.keep()
            return
        self.drop()
        if isinstance(error, OSError) and _concerns(error, self.partial, self.path):
            raise unwritable(self.path, error) from error

    def keep(self) -> None:
        """Rename the finished file once it is on the disk. Raises OutputError, and drops it, when that fails."""
        try:
            sync(self.partial)
            self.partial.replace(self.path)
        except OSError as error:
            self.drop()
            raise unwritable(self.path, error) from error

    def drop(self) -> None:
        """Remove what was written."""
        try:
            self.partial.unlink(missing_ok=True)
        except OSError:  # its folder cannot even be searched, so that nothing was written either
            return


def write_whole(path: Path | str, data: bytes) -> None:
    """Write a file, complete or not at all. Raises OutputError when it cannot be written."""
    with WholeFile(path) as partial:
        partial.write_bytes(data)


@contextmanager
def whole_folder(path: Path | str, partial: Path | None = None) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``path`` at the end, or never.

    Args:
        path: the folder to be. One that is there stays until it is replaced.
        partial: the folder to fill, on the same disk; default ``.NAME.partial`` beside it. Its old content is removed.

    Raises:
        OutputError: it cannot be written; also where an OSError in the body says so.
    """
    path = Path(path)
    partial = partial or path.with_name(f".{path.name}.partial")
    replaced = _replaced(partial)
    try:
        settle_folder(path, partial)
        for left_over in (partial, replaced):
            shutil.rmtree(left_over, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if path.exists():
            path.rename(replaced)
        try:
            partial.rename(path)
        except OSError:
            if replaced.exists():
                replaced.rename(path)
            raise
    except OSError as error:
        if not _concerns(error, partial, path):
            raise
        raise unwritable(path, error) from error
    finally:
        for left_over in (partial, replaced):
            shutil.rmtree(left_over, ignore_errors=True)


def make_folder(path: Path | str) -> Path:
    """Make a folder with those above it, if it is not there → its path. Raises OutputError when that fails."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made ({error.strerror}); free space or name another folder") from error
    return path


def refuse_foreign(folder: Path, ours: bool, what: str, *inputs: Path | None) -> None:
    """Refuse to replace a folder that is none of ours, or that holds what is read.

    Args:
        folder: that is to be replaced as a whole; an empty one, and one that is not there, may be.
        ours: whether it holds what the same command wrote before.
        what: that command writes, for the message: ``set of shards``.
        inputs: of the command.

    Raises:
        OutputError: one of these.
    """
    if folder.exists() and not ours and not (folder.is_dir() and not any(folder.iterdir())):
        raise OutputError(f"{folder} is no {what}, so it stays; choose another folder")
    for path in inputs:
        if path is not None and path.resolve().is_relative_to(folder.resolve()):
            raise OutputError(f"{path} lies in {folder}, which would be replaced; choose another folder")


def new_array(file: Path, dtype: Any, shape: tuple[int, ...]) -> "np.memmap[Any, Any]":
    """Create a ``.npy`` file of zeros, mapped into memory, with all its space on the disk.

    A full disk would kill the process later, when a page of the map is written.

    Raises:
        OutputError: the file cannot be written, or the disk has too little space.
    """
    import numpy as np

    with writing(file):
        array = np.lib.format.open_memmap(file, "w+", dtype, shape)
        _reserve(file)
    return array


def _reserve(file: Path) -> None:
    """Give a sparse file its space on the disk, or where no disk can do that compare it with what is free."""
    size = file.stat().st_size
    if hasattr(os, "posix_fallocate"):
        try:
            with file.open("r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
    if shutil.disk_usage(file).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def settle_folder(path: Path, partial: Path | None = None) -> None:
    """Give a folder its name back, where :func:`whole_folder` was killed between its two renames."""
    replaced = _replaced(partial or path.with_name(f".{path.name}.partial"))
    if replaced.exists() and not path.exists():
        replaced.rename(path)


def _replaced(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.replaced")


def unwritable(path: Path, error: BaseException) -> OutputError:
    """The error for a file or folder that cannot be written, one line."""
    why = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    return OutputError(f"{path}: cannot be written ({why}); free space or choose another place")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Any OSError of the body is that ``path`` cannot be written: OutputError."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def _concerns(error: OSError, *places: Path) -> bool:
    """Whether an error is about what is written here, and not about another file that the body names."""
    if error.filename is None or not isinstance(error.filename, str | os.PathLike):
        return True
    name = Path(error.filename)
    return any(name.is_relative_to(place) or place.is_relative_to(name) for place in places)


def sync(path: Path) -> None:
    """Wait until a finished file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, remedy: str, kind: type[UnsmearError] = DataLayoutError) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        remedy: what to do where it cannot be read, for the message.
        kind: of the error.

    Raises:
        UnsmearError: of that ``kind``: the file cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise kind(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise kind(f"{path}: is not a JSON object; {remedy}")
    return value
