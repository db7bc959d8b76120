"""Times of single packets in Matroska files, changed where they stand: muxers refuse to write such files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_SEGMENT, _CLUSTER, _GROUP = 0x18538067, 0x1F43B675, 0xA0
_BLOCKS = (0xA3, 0xA1)


def move_packet(path: Path, track: int, number: int, by_ms: int) -> Path:
    """Move packet ``number`` (from 0) of ``track`` (from 1) by ``by_ms`` milliseconds; return ``path``."""
    data = bytearray(path.read_bytes())
    own = [at for found, at in _blocks(data, 0, len(data)) if found == track]
    at = own[number]
    time = int.from_bytes(data[at : at + 2], "big", signed=True) + by_ms
    data[at : at + 2] = time.to_bytes(2, "big", signed=True)
    path.write_bytes(data)
    return path


def _blocks(data: bytes, at: int, end: int) -> Iterator[tuple[int, int]]:
    """(track, where its time stands) of every block."""
    while at < end:
        name, at = _number(data, at, whole=True)
        size, at = _number(data, at)
        after = min(at + size, end)
        if name in (_SEGMENT, _CLUSTER, _GROUP):
            yield from _blocks(data, at, after)
        elif name in _BLOCKS:
            yield _number(data, at)
        at = after


def _number(data: bytes, at: int, *, whole: bool = False) -> tuple[int, int]:
    """A number of variable length, with ``whole`` its marker, too, and where it ends."""
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big")
    return value if whole else value & ((1 << 7 * length) - 1), at + length
