"""Single images and folders of numbered frames."""

import re
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


def write_png(
    path: Path | str,
    rgb: np.ndarray,
    alpha: np.ndarray | None = None,
    tags: PictureTags = NO_TAGS,
) -> None:
    """Write ``(H, W, 3)`` uint8 or uint16 RGB as PNG of the same depth, losslessly, with ``(H, W)`` alpha and tags.

    The file appears whole or not at all. Raises OutputError when it cannot be written.
    """
    path = Path(path)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected (H, W, 3) uint8 or uint16, got {rgb.shape} {rgb.dtype}")
    bgr = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR)
    pixels = bgr if alpha is None else np.dstack([bgr, as_deep(alpha, rgb)])
    data = tags.encoded(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL])
    if data is None:
        raise OutputError(f"{path}: cannot be encoded as PNG")
    write_whole(path, data.tobytes())


class FrameFolderWriter:
    """Frames as PNG files named by frame number, ``000000.png`` onwards, in one folder."""

    def __init__(self, folder: Path | str) -> None:
        """Make ``folder`` if it does not exist. Raises OutputError when that fails."""
        self.folder = Path(folder)
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
        rgb: np.ndarray,
        alpha: np.ndarray | None = None,
        tags: PictureTags = NO_TAGS,
    ) -> Path:
        """Write frame ``index`` as ``write_png`` does and return its path."""
        target = self.path(index)
        write_png(target, rgb, alpha, tags)
        return target
