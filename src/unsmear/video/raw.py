"""Uncompressed video: raw ``.yuv``, which says nothing about itself, and ``.y4m``, which says nearly all.

A decoder takes whatever bytes it is given for a picture, so everything that can be known beforehand is checked
here: that the file holds whole frames, and that its samples are as deep as stated.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np

from unsmear.errors import DamagedVideo, UnsupportedVideo, UsageError

RAW_SUFFIX = ".yuv"
Y4M_SUFFIX = ".y4m"
DEPTHS = (8, 10, 12, 16)
EXAMPLE = "1920x1080_50fps_8bit"
"""Example of size, frame rate and bit depth, as written in names and by the user."""

_UNSPECIFIED = 2
_MATRICES = {"bt709": 1, "bt601": 6, "bt2020": 9}
_CHROMA = ("420", "422", "444")
_HIGHEST_BARE_RATE = 300  # a bare number above this, such as 420, is no frame rate
_SIZE = re.compile(r"(?:^|[_\-. ])(\d{1,5})x(\d{1,5})(?=[_\-. @]|$)", re.IGNORECASE)
_RATE = re.compile(r"(?:^|[_\-. @])(\d{1,3}(?:\.\d{1,3})?)(fps|hz|p)(?=[_\-. ]|$)", re.IGNORECASE)
_BARE_RATE = re.compile(r"[_\-@](\d{1,3}(?:\.\d{1,3})?)(?=[_\-. ]|$)")
_DEPTH = re.compile(r"(?:^|[_\-. ])(\d{1,2})-?b(?:its?)?(?=[_\-. ]|$)", re.IGNORECASE)
_PIXELS = re.compile(r"(?:^|[_\-. ])(?:yuv)?(420|422|444)(?:p(?:(\d{2})(?:le)?)?)?(?=[_\-. ]|$)", re.IGNORECASE)
_Y4M_MAGIC = b"YUV4MPEG2"
_Y4M_HEADER_BYTES = 1024
_Y4M_FRAME_LINE_BYTES = 80


@dataclass(frozen=True)
class RawFormat:
    """Format of a ``.yuv`` file: planes of Y, U and V, one frame after the other.

    ``bit_depth`` above 8 means two bytes a sample, the lower one first, as the reference codecs write them.
    ``colorspace`` is the matrix in H.273's numbers, 2 where it is not known.
    """

    width: int
    height: int
    bit_depth: int = 8
    frame_rate: Fraction = Fraction(25)
    chroma: Literal["420", "422", "444"] = "420"
    colorspace: int = _UNSPECIFIED

    def __post_init__(self) -> None:
        """Raises UsageError for what no file can be."""
        if not (0 < self.width <= 16384 and 0 < self.height <= 16384):
            raise UsageError(f"raw video of {self.width}x{self.height}: expected sides of 1 to 16384 pixels")
        if self.bit_depth not in DEPTHS:
            raise UsageError(f"raw video of {self.bit_depth} bits: expected 8, 10, 12 or 16")
        if self.frame_rate <= 0:
            raise UsageError(f"raw video at {self.frame_rate} frames/s: expected more than 0")

    @property
    def pixel_format(self) -> str:
        """FFmpeg's name for it."""
        return f"yuv{self.chroma}p" + (f"{self.bit_depth}le" if self.bit_depth > 8 else "")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return frame_bytes(self.pixel_format, self.width, self.height)

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.bit_depth}-bit 4:{self.chroma[1]}:{self.chroma[2]}"


def parse_raw_format(text: str) -> RawFormat | None:
    """Size, frame rate, depth and chroma from a file's name without its suffix, or from what a user typed.

    ``NAME_1920x1080_50fps_8bit``, ``NAME_832x480_50``, ``NAME_3840x2160_60fps_10bit_420_jvet`` and the like, as
    the test sequences of video coding are named. Where they are silent: 8 bits, 25 frames/s, 4:2:0.

    Returns:
        None where no size is found.

    Raises:
        UsageError: what is found cannot be, such as 11 bits.
    """
    sizes = list(_SIZE.finditer(text))
    if not sizes:
        return None
    size = sizes[-1]
    rest = text[size.end() :]
    rate = _RATE.search(rest)
    if rate is None:
        bare = _BARE_RATE.match(rest)
        rate = bare if bare and 0 < float(bare[1]) <= _HIGHEST_BARE_RATE else None
    # What stands behind the size is meant for it; what stands before may be part of a title.
    depth, pixels = (form.search(rest) or form.search(text[: size.start()]) for form in (_DEPTH, _PIXELS))
    stated = depth[1] if depth else (pixels[2] if pixels and pixels[2] else "8")
    chroma = pixels[1] if pixels else _CHROMA[0]
    return RawFormat(
        width=int(size[1]),
        height=int(size[2]),
        bit_depth=int(stated),
        frame_rate=Fraction(rate[1]) if rate else Fraction(25),
        chroma=chroma,  # type: ignore[arg-type]  # one of _CHROMA, by the expression
        colorspace=next((number for name, number in _MATRICES.items() if name in text.lower()), _UNSPECIFIED),
    )


def raw_format(path: Path, given: RawFormat | None = None) -> RawFormat:
    """The format of a ``.yuv`` file: ``given``, else what its name states, after comparing it with the file.

    Raises:
        UnsupportedVideo: neither states a size.
        DamagedVideo: the file holds no whole number of such frames, or samples of another depth.
    """
    try:
        found = given or parse_raw_format(path.stem)
    except UsageError as error:
        raise UnsupportedVideo(f"{path}: its name states {error}; rename it NAME_{EXAMPLE}.yuv") from None
    if found is None:
        raise UnsupportedVideo(
            f"{path}: raw video does not state its size, and neither does its name; "
            f"rename it NAME_{EXAMPLE}.yuv, or give {EXAMPLE} as `yuv` where there is that option"
        )
    size, each = path.stat().st_size, found.frame_bytes
    if size % each:
        raise DamagedVideo(
            f"{path}: holds {size // each} frames of {found} and {size % each} bytes of another of {each}; "
            "it is cut short or of another size or depth: copy it again, or correct what its name states"
        )
    _check_depth(path, found)
    return found


def _check_depth(path: Path, form: RawFormat) -> None:
    """Compare the luma of the first frame with the depth that is stated."""
    try:
        with path.open("rb") as file:
            luma = file.read(form.width * form.height * (2 if form.bit_depth > 8 else 1))
    except OSError as error:
        raise UnsupportedVideo(f"{path}: cannot be read ({error.strerror}); make the file readable") from error
    if form.bit_depth > 8:
        highest = int(np.frombuffer(luma, "<u2").max())
        if highest >= 1 << form.bit_depth:
            raise DamagedVideo(
                f"{path}: its first frame holds a sample of {highest} where {form.bit_depth} bits end at "
                f"{(1 << form.bit_depth) - 1}; correct the bit depth that its name states, which may be 8"
            )
        return
    # Two bytes a sample would show as every other byte being next to nothing.
    low, high = (np.frombuffer(luma, np.uint8)[start : len(luma) // 2 * 2 : 2] for start in (0, 1))
    if high.size >= 64 and high.max() < 16 <= int(low.max()) - int(low.min()) and high.any():
        raise DamagedVideo(
            f"{path}: its samples are two bytes wide, more than the 8 bits that are stated or supposed; "
            "state the bit depth in its name, such as NAME_1920x1080_50fps_10bit.yuv"
        )


def frame_bytes(pixel_format: str, width: int, height: int) -> int:
    """Bytes of a frame of planes that are not padded."""
    form = av.VideoFormat(pixel_format, width, height)
    return sum(part.width * part.height * (2 if part.bits > 8 else 1) for part in form.components)


@dataclass(frozen=True)
class Y4mContents:
    """Content of a ``.y4m`` file: whole frames, bytes after the last of them, and chroma siting."""

    frames: int
    left_over_bytes: int
    siting: Literal["left", "center"]


def walk_y4m(path: Path, each_bytes: int) -> Y4mContents:
    """Step from frame to frame without reading the pictures; a demuxer takes a cut last frame for the end.

    Args:
        path: of the file.
        each_bytes: of a frame without its header line.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(_Y4M_HEADER_BYTES).split(b"\n", 1)[0]
        tags = header.split(b" ")
        if tags[0] != _Y4M_MAGIC:
            return Y4mContents(0, size, "left")
        chroma = next((tag[1:] for tag in tags[1:] if tag.startswith(b"C")), b"420jpeg")
        siting: Literal["left", "center"] = "center" if chroma in (b"420", b"420jpeg") else "left"
        position, frames = len(header) + 1, 0
        while position < size:
            file.seek(position)
            line = file.read(_Y4M_FRAME_LINE_BYTES).split(b"\n", 1)[0]
            following = position + len(line) + 1 + each_bytes
            if not line.startswith(b"FRAME") or following > size:
                break
            position, frames = following, frames + 1
    return Y4mContents(frames, size - position, siting)
