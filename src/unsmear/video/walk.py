"""Structure of picture files: where they end, their size, and the number of pictures.

Decoders fill in what is missing of a truncated file and allocate memory for any size in a header, so both are checked
here first.
"""

import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unsmear.errors import DamagedVideo, UnsupportedVideo

Data = bytes | bytearray | mmap.mmap

_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_JPEG_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length: TEM, RST0 to RST7, SOI
_JPEG_END = 0xD9
_REDUCED, _CFA, _LINEAR_RAW = 1, 32803, 34892


def check_png(data: Data) -> int | None:
    """Where a PNG ends; None where it is cut short or its checksums do not fit."""
    end, tag = 8, b""
    for tag, begin, end in _png_chunks(data):
        if tag[:1].isupper() and zlib.crc32(data[begin - 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return None
    return end if tag == b"IEND" else None


def png_chunk(data: Data, name: bytes) -> bytes:
    """The content of the first chunk of that name; empty where there is none."""
    for tag, begin, end in _png_chunks(data):
        if tag == name:
            return bytes(data[begin : end - 4])
    return b""


def _png_chunks(data: Data) -> Iterator[tuple[bytes, int, int]]:
    """(name, where its content begins, where the next chunk begins) of the chunks that are whole, up to IEND."""
    at, tag = 8, b""
    while tag != b"IEND" and at + 12 <= len(data):
        size, tag = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
        begin, at = at + 8, at + 12 + size
        if at > len(data):
            return
        yield tag, begin, at


def apng_frames(data: Data) -> int:
    """Number of pictures in the header of an animated PNG; 1 for a plain PNG."""
    for tag, begin, _ in _png_chunks(data):
        if tag == b"acTL":
            return int.from_bytes(data[begin : begin + 4], "big")
        if tag == b"IDAT":
            break
    return 1


def jpeg_end(data: Data, begin: int = 0) -> int | None:
    """Where the JPEG that starts at ``begin`` ends; None where it is cut short."""
    at = begin + 2
    while (found := _JPEG_MARKER.search(data, at)) is not None:
        marker, at = found[1][0], found.end()
        if marker == _JPEG_END:
            return at
        if marker not in _JPEG_ALONE:  # a scan's own data follows its header and holds no other markers than restarts
            at += int.from_bytes(data[at : at + 2], "big")
    return None


def is_motion_jpeg(data: Data) -> bool:
    """Whether further JPEGs follow directly. Previews that cameras append are marked in the first picture (MPF)."""
    end = jpeg_end(data)
    if end is None or bytes(data[end : end + 3]) != b"\xff\xd8\xff":
        return False
    return data.find(b"MPF\0", 0, end) < 0


_PNM_HEADER = re.compile(rb"P([456])" + 2 * rb"(?:\s|#[^\n]*\n)+(\d{1,10})" + rb"(?:(?:\s|#[^\n]*\n)+(\d{1,10}))?\s")
_PAM_HEADER = re.compile(rb"P7\n(?:[^\n]*\n)*?ENDHDR\n")
_PAM_FIELD = re.compile(rb"^(WIDTH|HEIGHT|DEPTH|MAXVAL) (\d{1,10})", re.MULTILINE)


def is_pnm_stream(data: Data) -> bool:
    """Whether further pictures follow a binary PBM, PGM, PPM or PAM directly, as Netpbm's programs write them."""
    if (found := _PNM_HEADER.match(data)) is not None:
        kind, width, height = (int(group) for group in found.groups()[:3])
        deep = 2 if kind > 4 and int(found[4] or 0) > 255 else 1
        begin = found.end() if kind > 4 else found.end(3) + 1
        row = (width + 7) // 8 if kind == 4 else width * deep * (3 if kind == 6 else 1)
    elif (found := _PAM_HEADER.match(data)) is not None:
        fields = {name: int(value) for name, value in _PAM_FIELD.findall(found[0])}
        width, height, depth, most = (fields.get(name, 0) for name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
        begin, row = found.end(), width * depth * (2 if most > 255 else 1)
    else:
        return False
    end = begin + row * height
    return end < len(data) and re.match(rb"P[4-7]\s", data[end : end + 3]) is not None


@dataclass(frozen=True)
class TiffPage:
    """A page of a TIFF: number, offset of its directory, size in pixels, and sample layout."""

    number: int
    offset: int
    width: int
    height: int
    orientation: int
    alpha: bool
    associated: bool
    """Colours are multiplied by alpha."""
    gray: bool


def tiff_pages(data: Data, path: Path) -> tuple[list[TiffPage], int]:
    """Pages of a TIFF whose size is that of the first, and the number of other pages; reduced copies are not counted.

    Raises:
        DamagedVideo: the directory cannot be read.
        UnsupportedVideo: the file holds camera raw data.
    """
    pages: list[TiffPage] = []
    left_out, previews, raw = 0, False, bytes(data[8:10]) == b"CR"
    for number, (at, tags) in enumerate(_tiff_directories(data)):
        raw |= tags.get("photometric") in (_CFA, _LINEAR_RAW) or "dng" in tags
        if not tags.get("width") or not tags.get("height"):
            continue
        if tags.get("subfile", 0) & _REDUCED:
            previews = True
            continue
        gray = tags.get("photometric") in _TIFF_GRAY and not tags.get("alpha")
        turn = tags.get("orientation", 1)
        extra = tags.get("samples", 1) - (3 if tags.get("photometric") == _TIFF_RGB else 1)
        alpha = extra > 0 and tags.get("photometric") in (*_TIFF_GRAY, _TIFF_RGB)  # of palettes no decoder has it
        associated = tags.get("alpha") == _ASSOCIATED
        page = TiffPage(number, at, tags["width"], tags["height"], turn, alpha, associated, gray)
        if not pages or (page.width, page.height) == (pages[0].width, pages[0].height):
            pages.append(page)
        else:
            left_out += 1
    if raw or (previews and not pages):
        raise UnsupportedVideo(f"{path}: holds the raw data of a camera's sensor; develop it to TIFF or PNG first")
    if not pages:
        raise DamagedVideo(f"{path}: cannot be decoded as an image; the file is damaged or is not an image")
    return pages, left_out


_TIFF_TAGS = {
    254: "subfile",
    256: "width",
    257: "height",
    262: "photometric",
    274: "orientation",
    277: "samples",
    338: "alpha",
    50706: "dng",
}
_TIFF_TYPES = {1: 1, 3: 2, 4: 4, 16: 8}
_TIFF_GRAY, _TIFF_RGB = (0, 1), 2
_ASSOCIATED = 1


def only_page(data: Data, page: TiffPage) -> bytes:
    """The same TIFF with ``page`` as its first page."""
    big, order = 43 in (data[2], data[3]), "little" if data[:1] == b"I" else "big"
    begin, end = (8, 16) if big else (4, 8)
    return bytes(data[:begin]) + page.offset.to_bytes(end - begin, order) + bytes(data[end:])  # type: ignore[arg-type]


def _tiff_directories(data: Data) -> Iterator[tuple[int, dict[str, int]]]:
    """(offset, tags by name) of the directory of each page; only tags used here."""
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
    big = 43 in (data[2], data[3])
    offset_bytes, count_bytes, entry_bytes = (8, 8, 20) if big else (4, 2, 12)

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    at, seen = number(8 if big else 4, offset_bytes), set()
    while 0 < at < len(data) and at not in seen:
        seen.add(at)
        entries = number(at, count_bytes)
        first = at + count_bytes
        if first + entries * entry_bytes > len(data):
            return
        tags = {}
        for entry in range(first, first + entries * entry_bytes, entry_bytes):
            name, size = _TIFF_TAGS.get(number(entry, 2)), _TIFF_TYPES.get(number(entry + 2, 2))
            if name and size:
                tags[name] = number(entry + entry_bytes - offset_bytes, size)
        yield at, tags
        at = number(first + entries * entry_bytes, offset_bytes)


def orientation(exif: bytes) -> int:
    """Orientation, 1 to 8, in Exif data, whose layout is that of a TIFF; 1 where there is none."""
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    return next((tags.get("orientation", 1) for _, tags in _tiff_directories(exif)), 1)


def webp_chunks(data: Data) -> Iterator[tuple[bytes, int, int]]:
    """(name, where it begins, where the next one begins) of the chunks of a WebP that are whole."""
    at = 12
    while at + 8 <= len(data):
        end = at + 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1) // 2 * 2
        if end > len(data):
            return
        yield bytes(data[at : at + 4]), at, end
        at = end


def frame_chunks(data: Data, begin: int, end: int) -> set[bytes]:
    """Names of the chunks in one picture of an animated WebP."""
    inner = b"\0" * 12 + bytes(data[begin + 24 : end])
    return {tag for tag, _, _ in webp_chunks(inner)}


_EXR_UNCHECKED = 0x1A00  # tiles, deep data, several parts


def exr_is_whole(data: Data) -> bool:
    """Whether an OpenEXR picture is complete according to its table of offsets; tiles and parts are not checked."""
    at = 8
    while 0 < (end := data.find(b"\0", at)) > at:  # attributes: name, type, size, value; an empty name ends them
        value = data.find(b"\0", end + 1) + 5
        at = value + int.from_bytes(data[value - 4 : value], "little")
    table = at + 1
    first = int.from_bytes(data[table : table + 8], "little")
    if not table < first < len(data):
        return False
    if int.from_bytes(data[4:8], "little") & _EXR_UNCHECKED:
        return True
    count = (first - table) // 8
    last = max(struct.unpack(f"<{count}Q", data[table : table + 8 * count]))
    return last + 8 + int.from_bytes(data[last + 4 : last + 8], "little") <= len(data)


# Where formats state their width and height: place and how, for ``struct``.
_SIZES = {"png": (16, ">II"), "bmp": (18, "<ii"), "qoi": (4, ">II"), "tga": (12, "<HH"), "gif": (6, "<HH")}
_SIZE_TEXTS = {
    "pnm": re.compile(rb"P[1-6]" + 2 * rb"(?:\s|#[^\n]*\n)+(\d{1,10})"),
    "pam": re.compile(rb"P7\n(?:[^\n]*\n)*?WIDTH (\d{1,10})\n(?:[^\n]*\n)*?HEIGHT (\d{1,10})"),
    "pfm": re.compile(rb"P[FfHh]\s+(\d{1,10})\s+(\d{1,10})"),
    "hdr": re.compile(rb"#\?.*?\n[-+]Y (?P<height>\d{1,10}) [-+]X (?P<width>\d{1,10})\n", re.DOTALL),
    "y4m": re.compile(rb"YUV4MPEG2(?: [^W\n]\S*)*? W(\d{1,10})(?: [^H\n]\S*)*? H(\d{1,10})"),
}
_SIZE_BYTES = 1 << 16


def stated_size(data: Data, form: str) -> tuple[int, int]:
    """Width and height in the header of a picture, zeros where there are none."""
    head = bytes(data[:_SIZE_BYTES])
    if form == "webp":
        return _webp_size(head)
    if form == "heif":  # of several, such as tiles and previews, the largest
        boxes = [
            struct.unpack_from(">II", head, at.end() + 4)
            for at in re.finditer(b"ispe", head)
            if len(head) - at.end() >= 12
        ]
        return max(boxes, key=lambda size: size[0] * size[1], default=(0, 0))
    if form == "exr":
        at = head.find(b"displayWindow\0box2i\0") + len(b"displayWindow\0box2i\0") + 4
        if at < 30 or len(head) < at + 16:
            return 0, 0
        left, top, right, bottom = struct.unpack_from("<iiii", head, at)
        return right - left + 1, bottom - top + 1
    if form == "dpx":
        found = struct.unpack_from("<II" if head[:4] == b"XPDS" else ">II", head, 772) if len(head) >= 780 else (0, 0)
        return found[0], found[1]
    if form == "jp2":
        at = head.find(b"ihdr") + 4
        height, width = struct.unpack_from(">II", head, at) if 4 <= at <= len(head) - 8 else (0, 0)
        return width, height
    if form in _SIZES:
        at, how = _SIZES[form]
        width, height = struct.unpack_from(how, head, at) if len(head) >= at + struct.calcsize(how) else (0, 0)
        return abs(width), abs(height)
    text = _SIZE_TEXTS["pam" if head[:2] == b"P7" else form].match(head) if form in _SIZE_TEXTS else None
    if text is None:
        return 0, 0
    named = text.groupdict()
    return (int(named["width"]), int(named["height"])) if named else (int(text[1]), int(text[2]))


def _webp_size(head: bytes) -> tuple[int, int]:
    form, body = head[12:16], head[20:30]
    if len(body) < 10:
        return 0, 0
    if form == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if form == b"VP8L":
        both = int.from_bytes(body[1:5], "little")
        return 1 + (both & 0x3FFF), 1 + (both >> 14 & 0x3FFF)
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
