"""Results and pictures as one self-contained HTML file, which needs no network, other files or server."""

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unsmear.evaluation.pictures import FULL_ERROR, Box, Picture, Rgb, error_map, error_scale, most_blurred_crop
from unsmear.evaluation.results import Result
from unsmear.evaluation.tables import Block, Cell, clip_blocks, overall_blocks, published_blocks
from unsmear.files import write_whole

WHOLE_PX = (1280, 960, 640, 480)
"""Longer side of whole frames, pixels; the first value is used at which the page does not exceed its size."""

WHOLE_QUALITY = 85
"""WebP quality of whole frames. Crops are lossless."""

CROP_SIZE = (320, 240)
"""(width, height) of crops, pixels."""

MAX_BYTES = 48_000_000
"""Maximum size of all encoded pictures of a page, bytes."""


def write_page(
    path: Path,
    results: Sequence[Result],
    pictures: Sequence[Picture],
    *,
    title: str = "Video deblurring, measured",
    subtitle: str = "",
    blocks: Sequence[Block] = (),
    max_bytes: int = MAX_BYTES,
) -> None:
    """Write the page.

    Args:
        path: the HTML file, replaced if it exists.
        results: results for the tables.
        pictures: pictures for the viewer; those of one clip and frame become one entry with several methods.
        title: heading of the page.
        subtitle: line below the heading; by default methods, devices and version.
        blocks: tables to show before all others.
        max_bytes: maximum size of all pictures. Whole frames are shrunk to meet it; pictures that still do not fit
            are left out from the end, and the page states their number.

    Raises:
        OutputError: the file cannot be written.
        ValueError: a picture is not uint8 RGB, or its parts differ in size.
    """
    data, quality = _viewer_data(pictures, max_bytes)
    rest = [*_section("Published figures", published_blocks(results)), *_section("Clip by clip", clip_blocks(results))]
    parts = {
        "TITLE": escape(title),
        "SUBTITLE": escape(subtitle or _methods(results)),
        "OVERALL": "\n".join(_table(block) for block in [*blocks, *overall_blocks(results)]),
        "QUALITY": escape(quality),
        "REST": "\n".join(rest),
        # In a script element only "<" must be escaped.
        "DATA": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    }
    pieces = (files("unsmear.evaluation") / "page.html").read_text(encoding="utf-8").split("@@")
    page = "".join(piece if i % 2 == 0 else parts[piece] for i, piece in enumerate(pieces))
    write_whole(path, page.encode())


def _methods(results: Sequence[Result]) -> str:
    """Methods with device, dtype and weights, and version of unsmear."""
    lines = dict.fromkeys(
        ", ".join(
            filter(None, (r.method, r.device, r.dtype, r.weights_sha256[:12] and f"weights {r.weights_sha256[:12]}"))
        )
        for r in results
    )
    versions = dict.fromkeys(f"unsmear {r.version}" for r in results if r.version)
    return "; ".join([*lines, *versions])


def _section(name: str, blocks: Sequence[Block]) -> list[str]:
    if not blocks:
        return []
    return [f"<details open><summary>{name}</summary>", *(_table(block) for block in blocks), "</details>"]


def _table(block: Block) -> str:
    def head(i: int, text: str) -> str:
        return f'<th scope="col"{_word(i)}><button type="button">{escape(text)}</button></th>'

    def entry(i: int, cell: Cell) -> str:
        best = " best" if cell.best else ""
        kind = f' class="{("w" if i < block.words else "") + best}"'.replace(' class=""', "")
        ends = f"<small>{escape(cell.interval[0])} … {escape(cell.interval[1])}</small>" if cell.interval else ""
        value = _sort_key(cell.value)
        return f'<td{kind} data-v="{escape(value)}">{escape(cell.text)}{ends}</td>'

    def _word(i: int) -> str:
        return ' class="w"' if i < block.words else ""

    rows = "\n".join("<tr>" + "".join(entry(i, c) for i, c in enumerate(row)) + "</tr>" for row in block.rows)
    notes = "".join(f"<li>{escape(note)}</li>" for note in block.notes)
    return (
        f"<h3>{escape(block.title)}</h3>"
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + f'<div class="wide" tabindex="0" role="region" aria-label="{escape(block.title)}"><table class="sortable">'
        + f"<thead><tr>{''.join(head(i, c) for i, c in enumerate(block.columns))}</tr></thead>\n"
        + f"<tbody>{rows}</tbody></table></div>"
    )


def _sort_key(value: float | str | None) -> str:
    """Value as read by the script of the page; empty values are sorted last."""
    if value is None or value != value:
        return ""
    return value if isinstance(value, str) else str(value).replace("inf", "Infinity")


class _Images:
    """Encoded pictures by a short name, each stored once."""

    def __init__(self) -> None:
        self.uris: dict[str, str] = {}

    @property
    def size(self) -> int:
        return sum(map(len, self.uris.values()))

    def add(self, image: Rgb, quality: int) -> str:
        """Encode ``(H, W, 3)`` and return its name. Quality above 100 is lossless, as in OpenCV."""
        bgr = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
        if not done:
            raise ValueError(f"a picture of {image.shape} cannot be encoded as WebP")
        name = hashlib.sha256(data.tobytes()).hexdigest()[:16]
        self.uris[name] = "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()
        return name


def _viewer_data(pictures: Sequence[Picture], max_bytes: int) -> tuple[dict[str, Any], str]:
    """Data for the script of the page, and a sentence on quality."""
    groups = _grouped(pictures)
    for side in WHOLE_PX:
        images, entries, left_out = _encoded(groups, side, max_bytes, last=side == WHOLE_PX[-1])
        if images is not None:
            break
    assert images is not None  # the smallest side always returns images
    quality = f"Whole frames: at most {side} px, WebP of quality {WHOLE_QUALITY}; crops: every pixel, lossless."
    if left_out:
        quality += f" {left_out} pictures were left out to keep this page within {max_bytes / 1e6:.0f} MB."
    data = {"images": images.uris, "pictures": entries, "scale": error_scale(), "full_error": FULL_ERROR}
    return data, quality


def _grouped(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """Group pictures of one clip and frame with the same input and truth."""
    groups: dict[tuple[str, int, str, str], list[Picture]] = {}
    for picture in pictures:
        shapes = {part.shape for part in (picture.before, picture.after, picture.truth) if part is not None}
        kinds = {part.dtype for part in (picture.before, picture.after, picture.truth) if part is not None}
        if len(shapes) != 1 or kinds != {np.dtype(np.uint8)} or picture.after.ndim != 3:
            raise ValueError(
                f"{picture.clip}, frame {picture.frame}: expected uint8 RGB of one size, got {shapes}, {kinds}"
            )
        key = (picture.clip, picture.frame, _digest(picture.before), _digest(picture.truth))
        groups.setdefault(key, []).append(picture)
    return list(groups.values())


def _digest(image: Rgb | None) -> str:
    return "" if image is None else hashlib.sha256(image.tobytes()).hexdigest()


def _encoded(
    groups: Sequence[Sequence[Picture]], side: int, max_bytes: int, *, last: bool
) -> tuple[_Images | None, list[dict[str, Any]], int]:
    """Encode pictures at this size; None where they exceed ``max_bytes`` and a smaller size can be tried."""
    images = _Images()
    entries: list[dict[str, Any]] = []
    for count, group in enumerate(groups):
        before = dict(images.uris)
        entry = _entry(group, images, side)
        if images.size > max_bytes:
            if not last:
                return None, [], 0
            images.uris = before
            return images, entries, len(groups) - count
        entries.append(entry)
    return images, entries, 0


def _entry(group: Sequence[Picture], images: _Images, side: int) -> dict[str, Any]:
    first = group[0]
    height, width = first.after.shape[:2]
    box = _box(first)
    scale = min(1.0, side / max(height, width))
    whole = (max(1, round(width * scale)), max(1, round(height * scale)))

    def both(image: Rgb | None) -> dict[str, str] | None:
        if image is None:
            return None
        small = image if scale == 1 else np.asarray(cv2.resize(image, whole, interpolation=cv2.INTER_AREA), np.uint8)
        return {"whole": images.add(small, WHOLE_QUALITY), "crop": images.add(box.cut(image), 101)}

    def method(picture: Picture) -> dict[str, Any]:
        error = None if picture.truth is None else error_map(picture.after, picture.truth)
        return {"name": picture.method, "after": both(picture.after), "error": both(error)}

    return {
        "clip": first.clip,
        "frame": first.frame,
        "size": [width, height],
        "whole": list(whole),
        "box": list(box),
        "before": both(first.before),
        "truth": both(first.truth),
        "methods": [method(picture) for picture in group],
    }


def _box(picture: Picture) -> Box:
    """Box of the crop: the largest error of the input, without truth the largest change, else the middle."""
    if picture.before is not None:
        other = picture.after if picture.truth is None else picture.truth
        return most_blurred_crop(picture.before, other, CROP_SIZE)
    if picture.truth is not None:
        return most_blurred_crop(picture.after, picture.truth, CROP_SIZE)
    height, width = picture.after.shape[:2]
    w, h = min(width, CROP_SIZE[0]), min(height, CROP_SIZE[1])
    return Box((width - w) // 2, (height - h) // 2, w, h)
