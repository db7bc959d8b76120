"""The analysis file of x265 (``analysis-save``): the vectors of every P-frame, which no HEVC decoder gives.

The layout is that of x265 4.2, little-endian, with ``analysis-save-reuse-level=10``. The file begins with 20 int32
of options, among them width, height and the side of a coding tree unit. One record a frame follows:

=========================================================== ====================================================
field                                                       type
=========================================================== ====================================================
bytes of the record, entries n                              uint32 each
order of display, slice type (IDR 1, I 2, P 3), scene cut   int32 each
cost of the lookahead                                       int64
coding tree units, partitions of 4x4 samples in each        int32 each
weights of prediction (P)                                   16 bytes
depth, mode, shape, merge flag, direction, chroma mode (P)  uint8 ``(n,)`` each
predictor, reference index (P)                              uint8 ``(n,)``, int8 ``(n,)``
vectors (P)                                                 int32 ``(n, 2)``, (x, y) in quarter samples
intra modes                                                 uint8, one a partition
=========================================================== ====================================================

An entry is a coding unit, halved ``depth`` times from the tree unit; those of a tree unit come in z-order.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from unsmear.errors import UnsupportedVideo
from unsmear.priors.grid import Mask, MotionGrid

TREE_PX = 16
"""Side of a coding tree unit, in samples, that the encoder has to be set to; coding units have 16 or 8."""

_OPTIONS = struct.Struct("<20i")
_WIDTH, _HEIGHT, _TREE = 17, 18, 19
_RECORD = struct.Struct("<IIiiiqii")
_P_SLICE = 3
_WEIGHT_BYTES = 16
_FIELDS_OF_ONE_BYTE = 8
_INTRA = 2
_CELLS = (TREE_PX // 8) ** 2


def read_analysis(data: bytes, height: int, width: int) -> list[tuple[MotionGrid, Mask]]:
    """Motion of every frame of an encode without B-frames, rectangular partitions and chroma.

    Args:
        data: content of the file.
        height: rows of the coded picture, a multiple of 16.
        width: columns of it, the same.

    Returns:
        For each frame, ``(height / 8, width / 8, 2)`` int16 (dx, dy) in quarter pixels, zero where unknown, and
        ``(height / 8, width / 8)`` bool, True in inter blocks; all False for an I-frame.

    Raises:
        UnsupportedVideo: the file has another layout, as of another version of x265.
    """
    try:
        options = _OPTIONS.unpack_from(data)
        if (options[_WIDTH], options[_HEIGHT], options[_TREE]) != (width, height, TREE_PX):
            raise ValueError("its options are not those of this encode")
        return [_frame(record, height, width) for record in _records(data)]
    except (struct.error, ValueError) as error:
        raise UnsupportedVideo(
            f"the analysis file of libx265 has another layout than that of x265 4.2 ({error}); choose `codec` h264"
        ) from None


def _records(data: bytes) -> Iterator[bytes]:
    at = _OPTIONS.size
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        if not _RECORD.size <= size <= len(data) - at:
            raise ValueError(f"a record of {size} bytes")
        yield data[at : at + size]
        at += size


def _frame(record: bytes, height: int, width: int) -> tuple[MotionGrid, Mask]:
    size, entries, _, slice_type, _, _, trees, partitions = _RECORD.unpack_from(record)
    rows, columns = height // TREE_PX, width // TREE_PX
    if slice_type < _P_SLICE:
        return np.zeros((rows * 2, columns * 2, 2), np.int16), np.zeros((rows * 2, columns * 2), np.bool_)
    vectors_at = _RECORD.size + _WEIGHT_BYTES + _FIELDS_OF_ONE_BYTE * entries
    if slice_type != _P_SLICE or trees != rows * columns or size != vectors_at + 8 * entries + trees * partitions:
        raise ValueError(f"a record of {size} bytes for {entries} coding units")
    depth, mode = (
        np.frombuffer(record, np.uint8, entries, _RECORD.size + _WEIGHT_BYTES + i * entries).astype(np.int64)
        for i in range(2)
    )
    vectors = np.frombuffer(record, "<i4", 2 * entries, vectors_at).reshape(entries, 2)
    cells = _CELLS >> np.minimum(2 * depth, 31)
    if depth.max(initial=0) > 1 or cells.sum() != trees * _CELLS:
        raise ValueError(f"{entries} coding units that do not cover the picture")
    motion = _painted(vectors.clip(-32768, 32767).astype(np.int16), cells, rows, columns)
    valid = _painted((mode != _INTRA)[:, None], cells, rows, columns)[..., 0]
    motion[~valid] = 0
    return motion, valid


def _painted(
    values: npt.NDArray[np.generic], cells: npt.NDArray[np.int64], rows: int, columns: int
) -> npt.NDArray[Any]:
    """Values of coding units (n, C) on the grid of 8x8 cells, (2 rows, 2 columns, C)."""
    quads = np.repeat(values, cells, axis=0).reshape(rows, columns, 2, 2, -1)
    return np.ascontiguousarray(quads.transpose(0, 2, 1, 3, 4)).reshape(rows * 2, columns * 2, -1)
