"""Colour profiles and camera data of picture files."""

import io
import logging
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from unsmear.video.walk import Data, png_chunk, webp_chunks

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # damaged tags are no errors here

_EXIF, _ICC, _CICP = 0, 2, 3  # OpenCV's numbers of kinds of metadata
_ORIENTATION = 0x0112
# TIFF tags of the picture, not of the file: title, camera, program, time, author and rights.
_TIFF_WORDS = frozenset((0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298))
_EXIF_DIRECTORIES = (0x8769, 0x8825)  # of the exposure, and of the place
_UNREADABLE = (OSError, ValueError, SyntaxError, LookupError, TypeError, ArithmeticError, struct.error)
_HOLDS_TAGS = frozenset((".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp"))
_TIFF = frozenset((".tif", ".tiff"))
_PROFILE, _CAMERA, _COLOURS, _XMP = "ICC profile", "camera data (Exif)", "colour tags (cICP)", "XMP metadata"


@dataclass(frozen=True)
class PictureTags:
    """Tags of an upright picture.

    Attributes:
        icc: colour profile; empty where there is none, as for the others.
        exif: camera data, without a thumbnail.
        cicp: colour tags of a PNG, H.273's numbers.
        has_xmp: whether the file has XMP, which is not kept: it refers to other parts of its file, such as gain maps.
        lossless_webp: whether the file is a lossless WebP.
    """

    icc: bytes = b""
    exif: bytes = b""
    cicp: bytes = b""
    has_xmp: bool = False
    lossless_webp: bool = False

    @property
    def side_data(self) -> Mapping[str, bytes]:
        """The kinds in words."""
        held = {_PROFILE: self.icc, _CAMERA: self.exif, _COLOURS: self.cicp, _XMP: self.has_xmp}
        return {kind: b"" for kind, value in held.items() if value}

    def left_out(self, suffix: str, *, deep: bool = False) -> list[str]:
        """Kinds that files with this suffix do not support, of more than 8 bits if ``deep``."""
        in_tiff = suffix in _TIFF and not deep
        kept = {
            _PROFILE: self._of_rgb and (suffix in _HOLDS_TAGS or in_tiff),
            _CAMERA: suffix in _HOLDS_TAGS or (in_tiff and self._parsed_exif() is not None),
            _COLOURS: suffix == ".png",
        }
        return [kind for kind in self.side_data if not kept.get(kind)]

    def _parsed_exif(self) -> Image.Exif | None:
        """Exif for Pillow, None where Pillow cannot parse it."""
        exif = Image.Exif()
        try:
            exif.load(self.exif)
            for directory in _EXIF_DIRECTORIES:
                exif.get_ifd(directory)  # loads it: otherwise its offset alone is written
            exif.tobytes()
        except _UNREADABLE:
            return None
        return exif

    @property
    def _of_rgb(self) -> bool:
        """Whether the profile is one for RGB, to which all pictures are converted."""
        return self.icc[16:20] == b"RGB "

    def encoded(self, suffix: str, pixels: np.ndarray, quality: list[int]) -> np.ndarray | None:
        """A file encoded by OpenCV from pixels in its channel order, with the tags supported; None where that fails.

        Raises:
            cv2.error: as OpenCV does.
        """
        blocks = {_EXIF: self.exif, _ICC: self.icc if self._of_rgb else b"", _CICP: self.cicp * (suffix == ".png")}
        held = {kind: np.frombuffer(block, np.uint8)[None] for kind, block in blocks.items() if block}
        if held and suffix in _HOLDS_TAGS:
            done, data = cv2.imencodeWithMetadata(suffix, pixels, list(held), list(held.values()), quality)
        else:
            done, data = cv2.imencode(suffix, pixels, quality)
        return data if done else None

    def encoded_tiff(self, pixels: np.ndarray) -> bytes:
        """A TIFF encoded by Pillow from ``(H, W, 3 or 4)`` uint8: OpenCV writes no tags and does not mark alpha."""
        exif = self._parsed_exif() or Image.Exif()
        compression = None if len(exif) else "tiff_lzw"  # libtiff, which compresses, writes no directories of Exif
        file = io.BytesIO()
        profile = self.icc if self._of_rgb else None
        Image.fromarray(pixels).save(file, "TIFF", compression=compression, icc_profile=profile, exif=exif)
        return file.getvalue()


NO_TAGS = PictureTags()


def tags_of_pillow(image: Any) -> PictureTags:
    """Tags of a JPEG or WebP opened by Pillow."""
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    return PictureTags(image.info.get("icc_profile") or b"", _upright(exif), has_xmp=bool(image.info.get("xmp")))


def tags_of_png(data: Data) -> PictureTags:
    """Tags of a PNG."""
    _, _, profile = png_chunk(data, b"iCCP").partition(b"\0")
    try:
        icc = zlib.decompress(profile[1:]) if profile else b""
    except zlib.error:
        icc = b""
    has_xmp = png_chunk(data, b"iTXt").startswith(b"XML:com.adobe.xmp")
    return PictureTags(icc, _upright(png_chunk(data, b"eXIf")), png_chunk(data, b"cICP"), has_xmp)


def tags_of_tiff(data: bytes) -> PictureTags:
    """Tags of the first page of a TIFF."""
    try:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(data)) as image:
            found, kept = image.getexif(), Image.Exif()
            for tag in _TIFF_WORDS & found.keys():
                kept[tag] = found[tag]
            for directory in _EXIF_DIRECTORIES:
                kept.get_ifd(directory).update(found.get_ifd(directory))
            is_empty = not kept and not any(map(kept.get_ifd, _EXIF_DIRECTORIES))
            exif = b"" if is_empty else kept.tobytes().removeprefix(b"Exif\0\0")
            return PictureTags(image.info.get("icc_profile") or b"", exif, has_xmp=bool(image.info.get("xmp")))
    except _UNREADABLE:
        return NO_TAGS


def is_lossless_webp(data: Data) -> bool:
    """Whether a WebP of one picture is lossless."""
    return any(tag == b"VP8L" for tag, _, _ in webp_chunks(data))


def _upright(exif: bytes) -> bytes:
    """Exif with the orientation reset and without the thumbnail; empty where it is damaged.

    Patched in place, since makers' notes contain offsets.
    """
    order = "<" if exif[:2] == b"II" else ">"
    data = bytearray(exif)
    try:
        (begin,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, begin)
        for at in range(begin + 2, begin + 2 + 12 * count, 12):
            if struct.unpack_from(f"{order}H", data, at)[0] == _ORIENTATION:
                struct.pack_into(f"{order}H", data, at + 8, 1)
        struct.pack_into(f"{order}I", data, begin + 2 + 12 * count, 0)  # where the thumbnail's directory is
    except struct.error:
        return b""
    return bytes(data)
