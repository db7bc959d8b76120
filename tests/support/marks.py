"""Clips with side data, put into finished files byte by byte."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import av

_PATH = ((b"moov", 0), (b"trak", 0), (b"mdia", 0), (b"minf", 0), (b"stbl", 0), (b"stsd", 8))
_SAMPLE_ENTRY = 78

MASTERING = (13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450, 10_000_000, 50)
"""Green, blue, red and white in 0.00002, brightest and darkest in 0.0001 cd/m²."""
LIGHT = (1000, 400)


def box(name: bytes, content: bytes) -> bytes:
    """A box of ISO/IEC 14496-12."""
    return struct.pack(">I", 8 + len(content)) + name + content


HDR = box(b"mdcv", struct.pack(">8H2I", *MASTERING)) + box(b"clli", struct.pack(">2H", *LIGHT))
_PROJECTION = box(b"proj", box(b"prhd", bytes(16)) + box(b"equi", bytes(20)))
SPHERE = box(b"sv3d", box(b"svhd", bytes(4) + b"test\0") + _PROJECTION)
STEREO = box(b"st3d", bytes(4) + b"\1")  # top and bottom
CROPPING = box(b"clap", struct.pack(">8I", 48, 1, 40, 1, 0, 1, 0, 1))


def dolby_vision(compatible: int) -> bytes:
    """The box of profile 8 (``compatible`` 1, 2 or 4) or 5 (0)."""
    profile = 8 if compatible else 5
    return box(b"dvvC" if compatible else b"dvcC", bytes([1, 0, profile << 1, 0b1101, compatible << 4]) + bytes(19))


def put_boxes(path: Path, boxes: bytes, entry: bytes = b"avc1") -> Path:
    """Put boxes at the end of the sample entry of an MP4 whose one ``moov`` is its last box."""
    data = bytearray(path.read_bytes())
    at, begins = 0, []
    for name, before_children in (*_PATH, (entry, _SAMPLE_ENTRY)):
        while data[at + 4 : at + 8] != name:
            at += struct.unpack_from(">I", data, at)[0]
        begins.append(at)
        at += 8 + before_children
    end = begins[-1] + struct.unpack_from(">I", data, begins[-1])[0]
    data[end:end] = boxes
    for begin in begins:
        struct.pack_into(">I", data, begin, struct.unpack_from(">I", data, begin)[0] + len(boxes))
    path.write_bytes(data)
    return path


def put_captions(path: Path) -> Path:
    """Put a caption of its own (A/53) before every picture of a raw H.264 stream with one slice each."""
    count = 0

    def with_caption(start: re.Match[bytes]) -> bytes:
        nonlocal count
        count += 1
        words = b"\xb5\x00\x31GA94" + bytes([3, 0x41, 0xFF, 0xFC, 0x94, 0x20 + count, 0xFF])
        return b"\0\0\0\1\6\4" + bytes([len(words)]) + words + b"\x80" + start[0]

    slices = rb"\x00\x00\x00?\x01(?=[\x65\x41\x01\x61\x21])"
    path.write_bytes(re.sub(slices, with_caption, path.read_bytes()))
    return path


def captions_of(path: Path) -> list[bytes]:
    """The captions of every frame, in order of presentation."""
    with av.open(str(path)) as container:
        return [_captions(frame) for frame in container.decode(video=0)]


def _captions(frame: Any) -> bytes:
    return b"".join(bytes(data) for data in frame.side_data if data.type.name == "A53_CC")
