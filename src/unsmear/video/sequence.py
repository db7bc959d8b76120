"""Files of several pictures that FFmpeg does not demux: animated WebP, and TIFF with several pages."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from PIL import WebPImagePlugin

from unsmear.errors import DamagedVideo
from unsmear.video.contents import Contents, contents, mapped
from unsmear.video.phototags import tags_of_pillow
from unsmear.video.pictures import Picture, of_pixels, pillow, read_picture
from unsmear.video.walk import tiff_pages, webp_chunks

WEBP_TIME_BASE = Fraction(1, 1000)

Shown = tuple[Path, Callable[[], Picture], int | None, int | None]
"""(file, function that reads the picture, presentation time, duration), times in units of ``WEBP_TIME_BASE``; None for
pictures without times."""


def pictures_in(path: Path) -> Iterator[Shown]:
    """Pictures of a file, to be read in this order. The functions raise DamagedVideo."""
    held = contents(path)
    if held is None or held.holding == "picture":
        return iter([(path, partial(read_picture, path, held), None, None)])
    return _pages(path, held) if held.format == "tiff" else _animation(path)


def webp_times(path: Path) -> list[tuple[int, int]]:
    """(presentation time, duration) of each picture of an animated WebP, in units of ``WEBP_TIME_BASE``."""
    times, at = [], 0
    with mapped(path) as data:
        for tag, begin, _ in webp_chunks(data):
            if tag == b"ANMF":
                duration = int.from_bytes(data[begin + 20 : begin + 23], "little")
                times.append((at, duration))
                at += duration
    return times


def _pages(path: Path, held: Contents) -> Iterator[Shown]:
    with mapped(path) as data:
        pages, _ = tiff_pages(data, path)
    for page in pages:
        yield path, partial(read_picture, path, held, page), None, None


def _animation(path: Path) -> Iterator[Shown]:
    with mapped(path) as data:
        end = max((end for _, _, end in webp_chunks(data)), default=12)
        cut = end < int.from_bytes(data[4:8], "little") + 8
        whole = b"RIFF" + (end - 8).to_bytes(4, "little") + data[8:end]
    image = pillow(path, WebPImagePlugin.WebPImageFile, whole)
    tags = tags_of_pillow(image)

    def read(number: int) -> Picture:
        try:
            image.seek(number)
            image.load()
            pixels = np.asarray(image)
        except (OSError, ValueError, EOFError) as error:
            raise DamagedVideo(f"{path}: picture {number} cannot be decoded; the file is damaged") from error
        return of_pixels(pixels, tags)

    def missing() -> Picture:
        raise DamagedVideo(f"{path}: the animation is cut short; copy or download it again")

    times = webp_times(path)
    for number, (begin, duration) in enumerate(times):
        yield path, partial(read, number), begin, duration
    if cut:
        yield path, missing, sum(times[-1]) if times else 0, None
