"""Format of a file by its first bytes, and the limit of picture sizes. File names are not evidence of the format."""

import mmap
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unsmear.errors import DamagedVideo, UnsupportedVideo, UsageError
from unsmear.video.walk import (
    Data,
    apng_frames,
    frame_chunks,
    is_motion_jpeg,
    is_pnm_stream,
    png_chunk,
    stated_size,
    tiff_pages,
    webp_chunks,
)

LIMIT_VARIABLE = "UNSMEAR_MAX_PIXELS"
DEFAULT_MAX_PIXELS = 2**27
"""Default limit of picture sizes, 134 million pixels, slightly more than 15360x8640. Decoders allocate memory for the
size in the header, which a file of a few bytes can set to any value."""

_ANY_PIXELS = 2**31 - 1  # beyond what decoders support

Holding = Literal["picture", "pictures", "playlist"]

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (rb"\x89PNG", "png"),
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
    (rb"GIF8", "gif"),
    (rb"YUV4MPEG2", "y4m"),
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
_STATED = {"gif", "y4m"}
_GIF_REPEATS = b"NETSCAPE2.0\x03\x01"
_TGA_SUFFIXES = {".tga", ".icb", ".vda", ".vst"}
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"
_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class Contents:
    """Format of a file of pictures, or of a playlist.

    Attributes:
        format: ``png``, ``jpeg`` and so on; the kind of playlist in words.
        holding: one picture, several pictures, or names of other files.
        count: number of pictures.
        left_out: number of pages of a TIFF that are skipped because their size differs.
    """

    format: str
    holding: Holding
    count: int = 1
    left_out: int = 0


def contents(path: Path) -> Contents | None:
    """Format of a file of pictures or of a playlist; None for everything else, such as videos and GIF.

    Raises:
        UnsupportedVideo: the file cannot be read, holds camera raw data, or is larger than the limit.
        DamagedVideo: the file is empty.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(-min(len(_TGA_FOOTER), len(head)), os.SEEK_END)
            foot = file.read()
    except OSError as error:
        raise unreadable(path, error) from error
    if not head:
        raise empty(path)
    for pattern, words in _PLAYLISTS:
        if pattern.match(head.removeprefix(b"\xef\xbb\xbf").lstrip()):
            return Contents(words, "playlist")
    found = next((name for pattern, name in _MAGIC_PATTERNS if pattern.match(head)), None)
    if found is None and (path.suffix.lower() in _TGA_SUFFIXES or foot == _TGA_FOOTER):
        found = "tga"
    if found is None:
        return None
    check_size(path, *stated_size(head, found))
    if found in _STATED:  # FFmpeg finds their size only while decoding
        return None
    with mapped(path) as data:
        return _of_pictures(path, data, found)


def _of_pictures(path: Path, data: Data, form: str) -> Contents | None:
    if form == "png":
        return None if apng_frames(data) > 1 else Contents(form, "picture")
    if (form == "jpeg" and is_motion_jpeg(data)) or (form == "pnm" and is_pnm_stream(data)):
        return None
    if form == "webp":
        count = sum(tag == b"ANMF" for tag, _, _ in webp_chunks(data))
        animated = data[12:16] == b"VP8X" and len(data) > 20 and data[20] & 2
        return Contents(form, "pictures" if animated else "picture", count or 1)
    if form == "tiff":
        pages, left_out = tiff_pages(data, path)
        return Contents(form, "pictures" if len(pages) > 1 else "picture", len(pages), left_out)
    return Contents(form, "picture")


def is_pam(path: Path) -> bool:
    """Whether a file holds pictures of Netpbm's PAM format."""
    with path.open("rb") as file:
        return file.read(3) == b"P7\n"


@contextmanager
def mapped(path: Path) -> Iterator[Data]:
    """Memory map of a file. Raises UnsupportedVideo where it cannot be read, DamagedVideo where it is empty."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise empty(path)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data
    except OSError as error:
        raise unreadable(path, error) from error


def empty(path: Path) -> DamagedVideo:
    """The error for an empty file, one line."""
    return DamagedVideo(f"{path}: the file is empty (0 bytes); copy or download it again")


def is_folder(path: Path) -> bool:
    """Whether a folder has this name. Raises UnsupportedVideo where no file can have it, or it cannot be looked at."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
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
    """Limit of picture sizes in pixels. Raises UsageError where the environment variable is not a number."""
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


def loops_of(path: Path) -> int:
    """Number of times that a GIF, animated PNG or WebP plays, 0 for endless; 0 for all other files."""
    if not path.is_file():
        return 0
    with mapped(path) as data:
        if bytes(data[:8]) == b"\x89PNG\r\n\x1a\n":
            return int.from_bytes(png_chunk(data, b"acTL")[4:8], "big")
        if bytes(data[:4]) == b"GIF8":
            at = data.find(_GIF_REPEATS)
            repeats = int.from_bytes(data[at + len(_GIF_REPEATS) :][:2], "little")
            return 1 if at < 0 else repeats + 1 if repeats else 0
        if bytes(data[8:12]) == b"WEBP":
            begin = next((begin for tag, begin, _ in webp_chunks(data) if tag == b"ANIM"), None)
            return 0 if begin is None else int.from_bytes(data[begin + 12 : begin + 14], "little")
    return 0


def is_lossy_webp(path: Path) -> bool:
    """Whether a file is an animated WebP in which at least one picture is coded lossily."""
    if not path.is_file():
        return False
    with mapped(path) as data:
        if bytes(data[8:12]) != b"WEBP":
            return False
        return any(tag == b"ANMF" and b"VP8 " in frame_chunks(data, at, end) for tag, at, end in webp_chunks(data))
