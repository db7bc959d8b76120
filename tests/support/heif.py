"""HEIC files, as phones write them: a picture by itself, or one put together from tiles."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np

from support.clips import make_clip

TILE = 64


def box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", len(body) + 8) + name + body


def full(name: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return box(name, struct.pack(">I", version << 24 | flags), *parts)


def coded(path: Path, picture: np.ndarray, pix_fmt: str) -> tuple[bytes, bytes]:
    """(configuration, sample) of a picture as HEVC."""
    clip = make_clip(path, codec="libx265", pix_fmt=pix_fmt, content=[picture])
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        sample = next(bytes(packet) for packet in container.demux(stream) if packet.size)
        return bytes(stream.codec_context.extradata), sample


def make_heic(
    path: Path, pictures: list[np.ndarray], columns: int = 1, *, turn: int = 0, pix_fmt: str = "yuv420p"
) -> Path:
    """Write a HEIC file.

    Args:
        path: of it.
        pictures: one, or several that are the tiles of one, row by row, all of the same size.
        columns: of tiles.
        turn: quarter turns counter-clockwise, which its properties ask for.
        pix_fmt: of the coded pictures.
    """
    items = [coded(path.with_suffix(".mp4"), picture, pix_fmt) for picture in pictures]
    path.with_suffix(".mp4").unlink()
    (height, width), rows = pictures[0].shape[:2], len(pictures) // columns
    grid = len(pictures) > 1
    numbers = list(range(1, len(pictures) + 1))
    main = len(pictures) + 1 if grid else 1
    names = [full(b"infe", 2, int(grid), struct.pack(">HH", n, 0), b"hvc1", b"\0") for n in numbers]
    samples = [sample for _, sample in items]
    if grid:
        names.append(full(b"infe", 2, 0, struct.pack(">HH", main, 0), b"grid", b"\0"))
        samples.append(struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, columns * width, rows * height))
    properties = [
        box(b"hvcC", items[0][0]),
        full(b"ispe", 0, 0, struct.pack(">II", width, height)),
        full(b"ispe", 0, 0, struct.pack(">II", columns * width, rows * height)),
        box(b"irot", bytes([turn])),
    ]
    of_tile = bytes([2, 0x81, 2])
    associations = [struct.pack(">H", n) + of_tile for n in numbers]
    if grid:
        associations.append(struct.pack(">H", main) + bytes([1, 3]))
    elif turn:
        associations = [struct.pack(">H", 1) + bytes([3, 0x81, 2, 0x84])]
    linked = struct.pack(">HH", main, len(numbers)) + b"".join(struct.pack(">H", n) for n in numbers)
    reference = full(b"iref", 0, 0, box(b"dimg", linked)) if grid else b""
    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")

    def meta(begin: int) -> bytes:
        places, at = [], begin
        for number, sample in enumerate(samples, 1):
            places.append(struct.pack(">HHHII", number, 0, 1, at, len(sample)))
            at += len(sample)
        return full(
            b"meta",
            0,
            0,
            full(b"hdlr", 0, 0, bytes(4), b"pict", bytes(13)),
            full(b"pitm", 0, 0, struct.pack(">H", main)),
            full(b"iloc", 0, 0, b"\x44\0", struct.pack(">H", len(samples)), *places),
            full(b"iinf", 0, 0, struct.pack(">H", len(names)), *names),
            reference,
            box(
                b"iprp",
                box(b"ipco", *properties),
                full(b"ipma", 0, 0, struct.pack(">I", len(associations)), *associations),
            ),
        )

    begin = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(begin) + box(b"mdat", *samples))
    return path
