"""What a file holds, by its first bytes: names say what people like to call it."""

import mmap
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unsmear.errors import DamagedVideo, UnsupportedVideo, UsageError

LIMIT_VARIABLE = "UNSMEAR_MAX_PIXELS"
DEFAULT_MAX_PIXELS = 2**27
"""Largest picture that is read, 134 million pixels: more than a video of 15360x8640. A header of a few bytes can claim
any size, and a decoder reserves the memory for it."""

_ANY_PIXELS = 2**31 - 1  # more than decoders take

Data = bytes | bytearray | mmap.mmap
Holding = Literal["picture", "pictures", "playlist"]

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (rb"\x89PNG\r\n\x1a\n", "png"),
    (rb"\xff\xd8\xff", "jpeg"),
    (rb"(?:II[*+]\0|MM\0[*+])", "tiff"),
    (rb"RIFF....WEBP", "webp"),
    (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "bmp"),
    (rb"P[1-6][\s#]|P7\n", "pnm"),
    (rb"P[Ff]\s|P[Hh]\s", "pfm"),
    (rb"qoif", "qoi"),
    (rb"SDPX|XPDS", "dpx"),
    (rb"\x76\x2f\x31\x01", "exr"),
    (rb"#\?(?:RADIANCE|RGBE)", "hdr"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "jp2"),
    (rb"....ftyp(?:avif|heic|heix|heim|heis|mif1)", "heif"),
)
_MAGIC_PATTERNS = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in _MAGIC)
_PLAYLISTS = (
    (re.compile(rb"#EXTM3U"), "HLS or M3U playlist"),
    (re.compile(rb"ffconcat version"), "list of files for FFmpeg"),
    (re.compile(rb"v=0\r?\n[a-z]="), "description of a session (SDP)"),
    (
        re.compile(rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:MPD|SmoothStreamingMedia|smil|asx)[\s>]", re.S | re.I),
        "manifest",
    ),
    (re.compile(rb"\[playlist\]", re.I), "playlist"),
    (re.compile(rb"(?:https?|rtsp|rtmp|mms|file)://\S+\s*$", re.I), "address"),
    (re.compile(rb"RTSPtext", re.I), "address"),
)
_TGA_SUFFIXES = {".tga", ".icb", ".vda", ".vst"}
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"
_HEAD_BYTES = 4096
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_JPEG_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length: TEM, RST0 to RST7, SOI
_JPEG_END, _JPEG_SCAN = 0xD9, 0xDA
_REDUCED, _CFA, _LINEAR_RAW = 1, 32803, 34892


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        format: ``png``, ``jpeg`` and so on; for a playlist what it is, in words.
        holding: one picture, several of them with or without a clock, or names of other files.
        count: of pictures.
        left_out: pages of a TIFF that are not among them, since they have another size.
    """

    format: str
    holding: Holding
    count: int = 1
    left_out: int = 0


def contents(path: Path) -> Contents | None:
    """What a file holds, as far as it is pictures or a playlist; None for all else, such as videos and GIF.

    Raises:
        UnsupportedVideo: the file cannot be read, or holds the raw data of a camera's sensor.
        DamagedVideo: it is empty.
    """
    with mapped(path) as data:
        head = bytes(data[:_HEAD_BYTES])
        for pattern, words in _PLAYLISTS:
            if pattern.match(head.removeprefix(b"\xef\xbb\xbf").lstrip()):
                return Contents(words, "playlist")
        if head[:4] == b"GIF8" and len(head) >= 10:  # FFmpeg learns its size only when it decodes
            check_size(path, *struct.unpack("<HH", head[6:10]))
        found = next((name for pattern, name in _MAGIC_PATTERNS if pattern.match(head)), None)
        if found is None:
            tga = path.suffix.lower() in _TGA_SUFFIXES or data[-len(_TGA_FOOTER) :] == _TGA_FOOTER
            return Contents("tga", "picture") if tga else None
        if found == "png":
            count = _apng_frames(data)
            return None if count > 1 else Contents(found, "picture")
        if (found == "jpeg" and _is_motion_jpeg(data)) or (found == "pnm" and _is_pnm_stream(data)):
            return None
        if found == "webp":
            count = sum(tag == b"ANMF" for tag, _, _ in webp_chunks(data))
            return Contents(found, "pictures" if head[12:16] == b"VP8X" and head[20] & 2 else "picture", count or 1)
        if found == "tiff":
            pages, left_out = tiff_pages(data, path)
            return Contents(found, "pictures" if len(pages) > 1 else "picture", len(pages), left_out)
        return Contents(found, "picture")


@contextmanager
def mapped(path: Path) -> Iterator[Data]:
    """The bytes of a file, read as they are needed. Raises UnsupportedVideo or DamagedVideo, naming it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise DamagedVideo(f"{path}: the file is empty (0 bytes); copy or download it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> UnsupportedVideo:
    """The error for a file that cannot be opened or read, one line."""
    if isinstance(error, FileNotFoundError):
        return UnsupportedVideo(f"{path}: no such file; give a video, an image or a folder of either")
    if isinstance(error, PermissionError):
        return UnsupportedVideo(f"{path}: permission denied; make the file readable")
    return UnsupportedVideo(f"{path}: cannot be read ({error.strerror or error}); give a readable file")


def max_pixels() -> int:
    """Pixels of the largest picture that is read. Raises UsageError where the environment says no number."""
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return DEFAULT_MAX_PIXELS
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= _ANY_PIXELS:
        raise UsageError(f"{LIMIT_VARIABLE} {text}: expected pixels of the largest picture, 1 to {_ANY_PIXELS}")
    return int(text)


def check_size(path: Path, width: int, height: int) -> None:
    """Raise UnsupportedVideo for a picture larger than :func:`max_pixels`."""
    most, size = max_pixels(), width * height
    if size > most:
        remedy = "the file is damaged, or is not meant to be opened"
        if size <= _ANY_PIXELS:
            remedy = f"if it is that large, set the environment variable {LIMIT_VARIABLE} to {size}"
        raise UnsupportedVideo(
            f"{path}: claims a picture of {width}x{height}, where {most} pixels are allowed; {remedy}"
        )


def check_png(data: Data) -> int | None:
    """Where a PNG ends; None where it is cut short or its checksums do not fit."""
    end, tag = 8, b""
    for tag, begin, end in _png_chunks(data):
        if tag[:1].isupper() and zlib.crc32(data[begin - 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return None
    return end if tag == b"IEND" else None


def png_size(data: Data) -> tuple[int, int]:
    """Width and height that a PNG states; zeros where it states none."""
    if bytes(data[12:16]) != b"IHDR" or len(data) < 24:
        return 0, 0
    return struct.unpack(">II", data[16:24])


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


def _apng_frames(data: Data) -> int:
    """How many pictures an animated PNG says it has; 1 for a plain one."""
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


def _is_motion_jpeg(data: Data) -> bool:
    """Whether further JPEGs follow at once. Cameras put previews behind a picture, too, and say so in it (MPF)."""
    end = jpeg_end(data)
    if end is None or bytes(data[end : end + 3]) != b"\xff\xd8\xff":
        return False
    return data.find(b"MPF\0", 0, end) < 0


_PNM_HEADER = re.compile(rb"P([456])" + 2 * rb"(?:\s|#[^\n]*\n)+(\d+)" + rb"(?:(?:\s|#[^\n]*\n)+(\d+))?\s")
_PAM_HEADER = re.compile(rb"P7\n(?:[^\n]*\n)*?ENDHDR\n")
_PAM_FIELD = re.compile(rb"^(WIDTH|HEIGHT|DEPTH|MAXVAL) (\d+)", re.MULTILINE)


def _is_pnm_stream(data: Data) -> bool:
    """Whether further pictures follow a binary PBM, PGM, PPM or PAM at once, as Netpbm's programs write them."""
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
    """A page of a TIFF: its number among all of them, its size, and how its samples are to be taken."""

    number: int
    width: int
    height: int
    orientation: int
    alpha: bool
    gray: bool


def tiff_pages(data: Data, path: Path) -> tuple[list[TiffPage], int]:
    """The pages of a TIFF that are as large as its first, and how many are not; smaller copies count as neither.

    Raises:
        DamagedVideo: its directory cannot be read.
        UnsupportedVideo: it is the raw data of a camera's sensor.
    """
    pages: list[TiffPage] = []
    left_out, previews, raw = 0, False, bytes(data[8:10]) == b"CR"
    for number, tags in enumerate(_tiff_directories(data)):
        raw |= tags.get("photometric") in (_CFA, _LINEAR_RAW) or "dng" in tags
        if not tags.get("width") or not tags.get("height"):
            continue
        if tags.get("subfile", 0) & _REDUCED:
            previews = True
            continue
        gray = tags.get("photometric") in _TIFF_GRAY and not tags.get("alpha")
        turn = tags.get("orientation", 1)
        alpha = "alpha" in tags or (tags.get("photometric") == _TIFF_RGB and tags.get("samples", 3) > 3)
        page = TiffPage(number, tags["width"], tags["height"], turn, alpha, gray)
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
_TIFF_GRAY = (0, 1)
_TIFF_RGB = 2


def _tiff_directories(data: Data) -> Iterator[dict[str, int]]:
    """The tags of each page that matter here, by name."""
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
        yield tags
        at = number(first + entries * entry_bytes, offset_bytes)


def orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, that Exif data states, which are those of a TIFF; 1 where it states none."""
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    return next(_tiff_directories(exif), {}).get("orientation", 1)


def loops_of(path: Path) -> int:
    """How often an animated PNG or WebP plays; 0, for ever, for all else, too."""
    if not path.is_file():
        return 0
    with mapped(path) as data:
        if bytes(data[:8]) == b"\x89PNG\r\n\x1a\n":
            return int.from_bytes(png_chunk(data, b"acTL")[4:8], "big")
        if bytes(data[8:12]) == b"WEBP":
            begin = next((begin for tag, begin, _ in webp_chunks(data) if tag == b"ANIM"), None)
            return 0 if begin is None else int.from_bytes(data[begin + 12 : begin + 14], "little")
    return 0


def is_lossy_webp(path: Path) -> bool:
    """Whether a file is an animated WebP with a picture that is not coded losslessly."""
    if not path.is_file():
        return False
    with mapped(path) as data:
        if bytes(data[8:12]) != b"WEBP":
            return False
        return any(tag == b"ANMF" and b"VP8 " in _frame_chunks(data, at, end) for tag, at, end in webp_chunks(data))


def webp_chunks(data: Data) -> Iterator[tuple[bytes, int, int]]:
    """(name, where it begins, where the next one begins) of the chunks of a WebP that are whole."""
    at = 12
    while at + 8 <= len(data):
        end = at + 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1) // 2 * 2
        if end > len(data):
            return
        yield bytes(data[at : at + 4]), at, end
        at = end


def _frame_chunks(data: Data, begin: int, end: int) -> set[bytes]:
    """Names of the chunks in one picture of an animated WebP."""
    inner = b"\0" * 12 + bytes(data[begin + 24 : end])
    return {tag for tag, _, _ in webp_chunks(inner)}


def webp_size(data: Data) -> tuple[int, int]:
    """Width and height of a WebP, (0, 0) where it states none."""
    form, body = bytes(data[12:16]), bytes(data[20:30])
    if len(body) < 10:
        return 0, 0
    if form == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if form == b"VP8L":
        both = int.from_bytes(body[1:5], "little")
        return 1 + (both & 0x3FFF), 1 + (both >> 14 & 0x3FFF)
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


_EXR_UNCHECKED = 0x1A00  # tiles, deep data, several parts


def exr_is_whole(data: Data) -> bool:
    """Whether all lines of an OpenEXR picture are there, as far as its table of offsets says."""
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
