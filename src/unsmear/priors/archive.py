"""Archive of priors: one compressed file per clip, readable frame by frame without a codec.

The file is a NumPy ``.npz``, a ZIP of ``.npy`` files: ``frame/000000.npy`` and so on, one record per frame, then the
tables ``resets.npy``, ``origin.npy``, ``luma_crc32.npy`` and ``motion_source.npy`` with one row per frame, and
``provenance.json``. ``docs/priors.md`` specifies the format. Archives of version 1, without ``motion_source.npy``, are
also read.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from unsmear.errors import DataLayoutError, OutputError, UnsupportedVideo
from unsmear.files import WholeFile, unwritable
from unsmear.priors.grid import grid_shape
from unsmear.priors.prior import FoundBy, Prior
from unsmear.video.probe import VideoInfo

SUFFIX = ".priors.npz"
FORMAT, VERSION = "unsmear-priors", 2
ORIGINS = ("reencode", "native", "published")
"""Meaning of the numbers in ``origin.npy``."""
FOUND_BY: tuple[FoundBy, ...] = ("none", "codec", "coarse", "borrowed", "flow")
"""Meaning of the numbers in ``motion_source.npy``."""

_LEVEL = 4  # of zlib: 6 saves a further tenth and takes half as long again
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a constant timestamp, so that equal priors give equal files
_HEADER_BYTES = 1024  # more than any .npy header here
_JSON_BYTES = 1 << 20
_MAX_SIDE = 16384
_TABLES: dict[str, tuple[str, int]] = {
    "resets": ("?", 2),
    "origin": ("u1", 1),
    "luma_crc32": ("<u4", 1),
    "motion_source": ("u1", 2),
}


def record_type(height: int, width: int) -> np.dtype[Any]:
    """Record type of a frame: ``motion (2, gh, gw, 2)`` int16 in quarter pixels and ``valid (2, gh, gw)`` bool, both to
    the previous [0] and to the next [1] frame, and ``residual (H, W)`` uint8 in luma levels.
    """
    gh, gw = grid_shape(height, width)
    return np.dtype(
        [("motion", "<i2", (2, gh, gw, 2)), ("valid", "?", (2, gh, gw)), ("residual", "u1", (height, width))]
    )


class ArchiveWriter:
    """Writer of an archive, frame by frame; the file is complete when the context ends without error, else removed."""

    def __init__(self, path: Path | str, provenance: dict[str, Any], *, overwrite: bool = False) -> None:
        """Open a temporary file beside ``path``.

        Args:
            path: the archive to write.
            provenance: origin and settings of the priors, JSON values; format, version and sizes are added.
            overwrite: replace an existing file.

        Raises:
            OutputError: the file exists, or its folder cannot be written to.
        """
        self.path, self.provenance = Path(path), dict(provenance)
        if self.path.exists() and not overwrite:
            raise OutputError(f"{self.path} exists already; give `overwrite` or choose another folder")
        self._whole = WholeFile(self.path)
        self._rows: dict[str, list[Any]] = {name: [] for name in _TABLES}
        self._size: tuple[int, int] | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._whole.partial.open("wb")
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_DEFLATED)

    def __enter__(self) -> Self:
        return self

    def add(self, prior: Prior, luma: npt.NDArray[np.uint8]) -> None:
        """Append the next frame.

        Args:
            prior: of that frame.
            luma: the frame, ``(H, W)`` uint8; only its checksum is stored.

        Raises:
            UnsupportedVideo: the frame has another size than the first.
            OutputError: writing fails.
        """
        size = (prior.height, prior.width)
        self._size = self._size or size
        if size != self._size or luma.shape != size:
            raise UnsupportedVideo(
                f"{self.path}: frame {len(self)} is {size[1]}x{size[0]} where the first is "
                f"{self._size[1]}x{self._size[0]}; an archive holds frames of one size"
            )
        record = np.zeros((), record_type(*size))
        record["motion"] = prior.motion_q, prior.motion_back_q
        record["valid"] = prior.valid, prior.valid_back
        record["residual"] = prior.residual
        self._write(f"frame/{len(self):06d}.npy", _npy(record))
        self._rows["resets"].append((prior.reset, prior.reset_back))
        self._rows["origin"].append(ORIGINS.index(prior.origin))
        self._rows["luma_crc32"].append(zlib.crc32(luma.tobytes()))
        found_by = (prior.motion_source, prior.motion_back_source)
        self._rows["motion_source"].append([FOUND_BY.index(name) for name in found_by])

    def __len__(self) -> int:
        return len(self._rows["resets"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for file in (self._zip, self._file):
                with suppress(OSError, ValueError):  # the file is removed next
                    file.close()
            self._whole.drop()

    def _finish(self) -> None:
        if self._size is None:
            raise UnsupportedVideo(f"{self.path}: there is not one frame to store priors of")
        for name, (dtype, columns) in _TABLES.items():
            shape = (len(self), columns) if columns > 1 else (len(self),)
            self._write(f"{name}.npy", _npy(np.array(self._rows[name], dtype).reshape(shape)))
        height, width = self._size
        head = {"format": FORMAT, "version": VERSION, "frames": len(self), "height": height, "width": width}
        self._write("provenance.json", json.dumps(head | self.provenance, indent=1).encode() + b"\n")
        try:
            self._zip.close()
            self._file.close()
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._whole.keep()

    def _write(self, name: str, data: bytes) -> None:
        member = zipfile.ZipInfo(name, _EPOCH)
        member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        try:
            self._zip.writestr(member, data, compresslevel=_LEVEL)
        except OSError as error:
            raise unwritable(self.path, error) from error


class PriorArchive(Sequence[Prior]):
    """Priors of a clip, read from disk one frame at a time: ``archive[t]``, ``len(archive)``, iteration.

    Attributes:
        provenance: origin and settings of the priors.
        resets: ``(T, 2)`` bool, ``reset`` and ``reset_back`` of every frame.
        origin: ``(T,)`` uint8, origin of every frame's forward motion, an index into :data:`ORIGINS`.
        luma_crc32: ``(T,)`` uint32, CRC-32 of every frame's ``(H, W)`` luma bytes.
        motion_source: ``(T, 2)`` uint8, source of every frame's forward and backward motion, indices into
            :data:`FOUND_BY`.
    """

    def __init__(self, path: Path | str) -> None:
        """Open an archive and read its tables.

        Raises:
            DataLayoutError: the file is missing, damaged, or not an archive of a known version.
        """
        self.path = Path(path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DataLayoutError(
                f"{self.path}: cannot be opened as an archive of priors ({error}); make it again with `unsmear priors`"
            ) from error
        try:
            self._open()
        except BaseException:
            self._zip.close()
            raise

    def _open(self) -> None:
        try:
            self.provenance: dict[str, Any] = json.loads(self._read("provenance.json", _JSON_BYTES))
            version = (self.provenance["format"], self.provenance["version"])
            height, width, frames = (self.provenance[key] for key in ("height", "width", "frames"))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._damaged("its provenance.json is not that of an archive of priors") from None
        if version not in ((FORMAT, 1), (FORMAT, VERSION)):
            raise self._damaged(f"it is {version[0]} version {version[1]} where {FORMAT} version {VERSION} is expected")
        sides_fit = all(type(side) is int and 1 <= side <= _MAX_SIDE for side in (height, width))
        if not sides_fit or type(frames) is not int or not 1 <= frames <= len(self._zip.filelist):
            raise self._damaged(f"it states {frames} frames of {width}x{height}, which cannot be")
        self.height, self.width, self._frames = height, width, frames
        self._record = record_type(height, width)
        tables: dict[str, npt.NDArray[Any]] = {}
        for name, (dtype, columns) in _TABLES.items():
            if name == "motion_source" and version[1] == 1:
                tables[name] = (~tables["resets"]).astype(np.uint8)  # "codec", or "none"
                continue
            tables[name] = self._array(f"{name}.npy", (frames, columns) if columns > 1 else (frames,), np.dtype(dtype))
        if tables["origin"].max() >= len(ORIGINS):
            raise self._damaged("origin.npy holds unknown numbers")
        if tables["motion_source"].max() >= len(FOUND_BY):
            raise self._damaged("motion_source.npy holds unknown numbers")
        self.resets, self.origin, self.luma_crc32, self.motion_source = (tables[name] for name in _TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def __len__(self) -> int:
        return self._frames

    def __iter__(self) -> Iterator[Prior]:
        return (self[t] for t in range(len(self)))

    @overload
    def __getitem__(self, t: int) -> Prior: ...
    @overload
    def __getitem__(self, t: slice) -> list[Prior]: ...
    def __getitem__(self, t: int | slice) -> Prior | list[Prior]:
        """Prior of frame ``t``, or a list for a slice. Raises IndexError, or DataLayoutError for a damaged file."""
        if isinstance(t, slice):
            return [self[i] for i in range(*t.indices(len(self)))]
        if not -len(self) <= t < len(self):
            raise IndexError(f"frame {t} of {len(self)}")
        t %= len(self)
        record = self._array(f"frame/{t:06d}.npy", (), self._record)
        return Prior(
            motion_q=record["motion"][0],
            motion_back_q=record["motion"][1],
            valid=record["valid"][0],
            valid_back=record["valid"][1],
            residual=record["residual"],
            reset=bool(self.resets[t, 0]),
            reset_back=bool(self.resets[t, 1]),
            origin=ORIGINS[self.origin[t]],
            motion_source=FOUND_BY[self.motion_source[t, 0]],
            motion_back_source=FOUND_BY[self.motion_source[t, 1]],
        )

    def _array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        data = self._read(name, size + _HEADER_BYTES)
        stream = io.BytesIO(data)
        try:
            np.lib.format.read_magic(stream)
            stored, fortran, kind = np.lib.format.read_array_header_1_0(stream, max_header_size=_HEADER_BYTES)
        except Exception as error:  # the header is a Python literal, whose parser raises various types
            raise self._damaged(f"{name} is no .npy file") from error
        body = data[stream.tell() :]
        if (stored, fortran, kind) != (shape, False, dtype) or len(body) != size:
            raise self._damaged(f"{name} holds {kind} {stored} where {dtype} {shape} is expected")
        return np.ndarray(shape, dtype, body)

    def _read(self, name: str, limit: int) -> bytes:
        try:
            member = self._zip.getinfo(name)
            if member.file_size > limit:
                raise self._damaged(f"{name} states {member.file_size} bytes, more than expected")
            return self._zip.read(member)
        except KeyError:
            raise self._damaged(f"{name} is missing") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise self._damaged(f"{name} cannot be read ({error})") from error

    def _damaged(self, what: str) -> DataLayoutError:
        return DataLayoutError(f"{self.path}: {what}; make it again with `overwrite`")


def open_archive(path: Path, info: VideoInfo) -> PriorArchive:
    """Open the archive of a video and compare it with the number and size of its frames; to be closed by the caller.

    Raises:
        DataLayoutError: it is missing or damaged, or was made of another number or size of frames. The frames
            themselves are not compared; see ``luma_crc32``.
    """
    archive = PriorArchive(path)
    if (archive.width, archive.height) != (info.width, info.height):
        problem = f"{archive.width}x{archive.height} where the clip is {info.width}x{info.height}"
    elif info.frames and len(archive) != info.frames:
        problem = f"{len(archive)} frames where the clip has {info.frames}"
    else:
        return archive
    archive.close()
    raise DataLayoutError(f"{path}: holds priors of {problem}; make it again with `unsmear data augment`")


def _npy(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()
