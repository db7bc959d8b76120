"""Single images and folders of numbered frames."""

import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from unsmear.errors import OutputError
from unsmear.files import write_whole
from unsmear.video.alpha import as_deep
from unsmear.video.phototags import NO_TAGS, PictureTags
from unsmear.video.pictures import read_picture

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("png", "jpg", "jpeg", "jpe", "jfif", "tif", "tiff", "webp", "bmp", "ppm", "pgm", "pbm", "pnm", "pam", "pfm"),
        *("tga", "exr", "hdr", "qoi", "dpx", "jp2", "j2k", "avif", "heic", "heif"),
    )
)
_PNG_LEVEL = 2  # zlib level: a third of the time of the default for some per cent of size
_PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
_HEADER_END = len(_PNG_BEGIN) + 25  # of a PNG's first chunk, IHDR
_MARK = b"Software\0unsmear"


def is_image(path: Path) -> bool:
    """Whether the name of ``path`` is one of an image format that can be read."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def natural_key(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which ``frame2`` comes before ``frame10``."""
    parts = re.split(r"(\d+)", path.name.lower())
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part)


def list_images(folder: Path) -> list[Path]:
    """The images directly in ``folder`` in natural order of their names, hidden files left out."""
    found = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted((entry for entry in found if is_image(entry) and entry.is_file()), key=natural_key)


def read_image(path: Path | str) -> np.ndarray:
    """Read an image as ``(H, W, 3)`` RGB, uint8 or uint16 (files deeper than 8 bits), upright.

    The format is found by content. Gray and palette images become RGB; alpha is dropped; linear light (OpenEXR,
    HDR) is gamma-encoded. Raises UnsupportedVideo for a missing file, one that holds several pictures, or an unusual
    sample type, DamagedVideo for a file that cannot be decoded.
    """
    return read_picture(Path(path)).rgb


def gray_of_rgb(rgb: np.ndarray) -> np.ndarray:
    """``(H, W, 3)`` uint8 or uint16 → ``(H, W)``, BT.601 luma; what has three equal values keeps them."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY))


def write_png(
    path: Path | str,
    pixels: np.ndarray,
    alpha: np.ndarray | None = None,
    tags: PictureTags = NO_TAGS,
    *,
    marked: bool = False,
) -> None:
    """Write ``(H, W, 3)`` RGB or ``(H, W)`` gray, uint8 or uint16, as PNG of the same depth, losslessly.

    ``alpha``, ``(H, W)``, is for RGB; ``marked`` adds unsmear as ``Software``, which ``is_written_here`` finds. The
    file appears whole or not at all. Raises OutputError when it cannot be written.
    """
    path = Path(path)
    if not (pixels.ndim == 2 or pixels.shape[2:] == (3,)) or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected (H, W, 3) or (H, W), uint8 or uint16, got {pixels.shape} {pixels.dtype}")
    whole = np.ascontiguousarray(pixels)
    bgr = whole if pixels.ndim == 2 else cv2.cvtColor(whole, cv2.COLOR_RGB2BGR)
    if alpha is not None:
        bgr = np.dstack([bgr, as_deep(alpha, pixels)])
    encoded = tags.encoded(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL])
    if encoded is None:
        raise OutputError(f"{path}: cannot be encoded as PNG")
    data = encoded.tobytes()
    if marked:
        chunk = b"tEXt" + _MARK
        mark = struct.pack(">I", len(_MARK)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        data = data[:_HEADER_END] + mark + data[_HEADER_END:]
    write_whole(path, data)


def is_written_here(path: Path) -> bool:
    """Whether a file can be read and is a PNG that ``write_png`` marked."""
    try:
        with path.open("rb") as file:
            if file.read(len(_PNG_BEGIN)) != _PNG_BEGIN:
                return False
            while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
                length = int.from_bytes(head[:4], "big")
                if head[4:] == b"tEXt" and file.read(len(_MARK)) == _MARK:
                    return True
                file.seek(length + 4 - len(_MARK) * (head[4:] == b"tEXt"), 1)
    except OSError:
        pass
    return False


class FrameFolderWriter:
    """Frames as PNG files named by frame number, ``000000.png`` onwards, in one folder."""

    def __init__(self, folder: Path | str, *, marked: bool = False) -> None:
        """Make ``folder`` if it does not exist; ``marked`` is for ``write_png``. Raises OutputError when that fails."""
        self.folder, self.marked = Path(folder), marked
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be made ({error.strerror})") from error

    def path(self, index: int) -> Path:
        """Where frame ``index`` (from 0) is or will be."""
        return self.folder / f"{index:06d}.png"

    def has(self, index: int) -> bool:
        """Whether frame ``index`` has been written, by this writer or an earlier one."""
        return self.path(index).is_file()

    def write(
        self,
        index: int,
        pixels: np.ndarray,
        alpha: np.ndarray | None = None,
        tags: PictureTags = NO_TAGS,
    ) -> Path:
        """Write frame ``index`` as ``write_png`` does and return its path."""
        target = self.path(index)
        write_png(target, pixels, alpha, tags, marked=self.marked)
        return target
