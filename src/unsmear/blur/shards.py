"""Shards: compressed photographs and clips, small enough to be copied to an accelerator, with checksums.

A folder of JPEG images and H.264 clips, each a shard, and ``manifest.json``, which lists the kind, size and checksum of
every shard, and the name, checksum, author and licence of its source file. The same material and settings give the same
bytes.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import av
import cv2
import numpy as np

from unsmear.blur.compress import SMALL_PX
from unsmear.blur.pack import Sources, material, read_clip, read_photo, some_leaves
from unsmear.errors import DataLayoutError, OutputError, UsageError
from unsmear.files import sha256, whole_folder
from unsmear.options import Limits, check
from unsmear.video.images import IMAGE_SUFFIXES
from unsmear.video.probe import VIDEO_SUFFIXES

MANIFEST = "manifest.json"

_COPYLEFT = re.compile(r"GPL|-SA\b", re.IGNORECASE)
_CLIP_RATE = 25
"""Frame rate in the container, which is not used."""


@dataclass(frozen=True)
class ShardSettings:
    """Sizes and quality of shards. Raises UsageError for values out of range."""

    photo_px: Annotated[int, Limits(64, 1 << 14)] = 1600
    """Longest side of photographs, pixels."""
    quality: Annotated[int, Limits(1, 100)] = 92
    """Quality of their JPEG compression, 1 to 100."""
    clip_px: Annotated[int, Limits(64, 1 << 14)] = 960
    """Longest side of clips, pixels."""
    clip_frames: Annotated[int, Limits(1)] | None = None
    """Maximum number of frames kept of a clip, from its start; None keeps all."""
    crf: Annotated[int, Limits(0, 51)] = 16
    """Constant rate factor of the H.264 encode of clips, 0 to 51."""
    leaves: Annotated[int, Limits(0)] = 0
    """Number of dead-leaves images to add, in colours of the photographs."""
    seed: Annotated[int, Limits(0)] = 0
    """Seed of the dead-leaves images."""
    most_mb: Annotated[float, Limits(0)] = 60.0
    """Maximum size of the folder, in 10⁶ bytes."""
    permissive_only: bool = False
    """Leave out files under a copyleft licence: GPL, LGPL, CC-BY-SA."""

    def __post_init__(self) -> None:
        check(self)


def build_shards(
    folder: Path,
    photos: Path | None,
    clips: Path | None,
    settings: ShardSettings | None = None,
    *,
    listing: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write shards to ``folder``, completely or not at all.

    Args:
        folder: output folder.
        photos: folder of photographs, including subfolders; None for none.
        clips: folder of videos, including subfolders; None for none.
        settings: sizes and quality; None for the defaults.
        listing: CSV with the columns file, author, licence and sha256, for all files.
        overwrite: replace ``folder`` if it exists.

    Returns:
        The manifest.

    Raises:
        UsageError: no source is given, or ``permissive_only`` without a listing.
        OutputError: ``folder`` exists and ``overwrite`` is not set; the shards exceed ``most_mb``.
        DataLayoutError: a file cannot be read, is not listed, or has another checksum than listed.
    """
    settings = settings or ShardSettings()
    if photos is None and clips is None and not settings.leaves:
        raise UsageError("nothing to build from: give `photos`, `clips`, `leaves` or several of them")
    if settings.permissive_only and listing is None:
        raise UsageError("`permissive_only` needs `listing`, a CSV with the licence of every file")
    if folder.exists() and not overwrite:
        raise OutputError(f"{folder} exists: give `overwrite` or another folder")
    with whole_folder(folder) as fresh:
        origins = _Origins(listing, settings.permissive_only)
        shards = list(_write_shards(fresh, photos, clips, settings, origins))
        if not shards:
            raise DataLayoutError("nothing is left to build from: all of it is under a copyleft licence")
        total = sum(shard["bytes"] for shard in shards)
        if total > settings.most_mb * 1e6:
            raise OutputError(
                f"the shards take {total / 1e6:.1f} MB, more than `most_mb` {settings.most_mb:g}: "
                "lower `photo_px`, `quality`, `clip_px`, `clip_frames` or `leaves`, or raise `crf`"
            )
        manifest = {"settings": asdict(settings), "bytes": total, "shards": shards}
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def open_shards(folder: Path) -> Sources:
    """Decode the photographs (including dead leaves) and clips of a folder of shards.

    Raises:
        DataLayoutError: ``folder`` holds no shards, or a file is missing or has another checksum than its manifest.
    """
    try:
        listed = json.loads((folder / MANIFEST).read_text())["shards"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataLayoutError(f"{folder} holds no shards ({MANIFEST}): build them with `unsmear data shards`") from None
    photos, clips = [], []
    for shard in listed:
        path = folder / shard["file"]
        if not path.is_file() or sha256(path) != shard["sha256"]:
            raise DataLayoutError(f"{path} does not match {MANIFEST}: copy it again, or build the shards again")
        if shard["kind"] == "clip":
            clips.append(list(read_clip(path, shard["longest_px"])))
        else:
            photos.append(read_photo(path, shard["longest_px"]))
    return Sources(photos, clips)


class _Origins:
    """Authors and licences of source files, from a listing."""

    def __init__(self, listing: Path | None, permissive_only: bool):
        self.listing, self.permissive_only = listing, permissive_only
        self.rows: dict[str, dict[str, str]] = {}
        if listing is not None:
            try:
                with listing.open(newline="") as file:
                    self.rows = {row["file"]: row for row in csv.DictReader(file)}
                    if any(not row.get("licence") for row in self.rows.values()):
                        raise KeyError("licence")
            except (OSError, UnicodeDecodeError, KeyError) as error:
                raise DataLayoutError(
                    f"{listing}: expected a CSV with file, author, licence and sha256 ({error})"
                ) from None

    def of(self, path: Path) -> dict[str, str] | None:
        """Name, checksum and, with a listing, author and licence of a file; None if it is to be left out.

        Raises:
            DataLayoutError: the file is not listed, or has another checksum than listed.
        """
        origin = {"source": path.name, "source_sha256": sha256(path)}
        if self.listing is None:
            return origin
        row = self.rows.get(path.name)
        if row is None:
            raise DataLayoutError(f"{path} is not listed in {self.listing}: add it with its author and licence")
        if row.get("sha256", origin["source_sha256"]) != origin["source_sha256"]:
            raise DataLayoutError(f"{path} is not the file that {self.listing} lists: its checksum differs")
        if self.permissive_only and _COPYLEFT.search(row["licence"]):
            return None
        return origin | {"author": row.get("author", ""), "licence": row["licence"]}


def _write_shards(
    folder: Path, photos: Path | None, clips: Path | None, settings: ShardSettings, origins: _Origins
) -> Iterator[dict[str, Any]]:
    """Write all shards and yield their manifest entries."""
    pictures = []
    for path in material(photos, IMAGE_SUFFIXES):
        if (origin := origins.of(path)) is not None:
            pictures.append(read_photo(path, settings.photo_px))
            file = _write_picture(folder / f"photo{len(pictures) - 1:03d}.jpg", pictures[-1], settings.quality)
            yield _entry("photo", file, settings.photo_px, origin)
    for i, picture in enumerate(some_leaves(settings.leaves, pictures, settings.seed)):
        file = _write_picture(folder / f"leaves{i:03d}.jpg", picture, settings.quality)
        yield _entry("leaves", file, max(picture.shape), {"source": f"dead leaves, seed {settings.seed}"})
    number = 0
    for path in material(clips, VIDEO_SUFFIXES):
        if (origin := origins.of(path)) is not None:
            frames = read_clip(path, settings.clip_px)
            file = _write_clip(folder / f"clip{number:03d}.mp4", frames, settings.crf, settings.clip_frames)
            yield _entry("clip", file, settings.clip_px, origin)
            number += 1


def _entry(kind: str, file: Path, longest_px: int, origin: dict[str, str]) -> dict[str, Any]:
    facts = {"kind": kind, "bytes": file.stat().st_size, "longest_px": longest_px}
    return {"file": file.name, **facts, "sha256": sha256(file), **origin}


def _write_picture(path: Path, picture: np.ndarray, quality: int) -> Path:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    if not cv2.imwrite(str(path), bgr, options):
        raise OutputError(f"{path}: cannot be written; is the disk full?")
    return path


def _write_clip(path: Path, frames: Iterable[np.ndarray], crf: int, most: int | None) -> Path:
    """Encode with libx264 in one thread, for reproducible bytes; odd sizes are cropped by a row or column."""
    with av.open(str(path), "w") as container:
        stream: Any = None
        for i, frame in enumerate(frames):
            if i == most:
                break
            even = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
            if stream is None:
                same = "asm=0" if min(even.shape[:2]) < SMALL_PX else "cpu-independent=1"
                options = {"crf": str(crf), "preset": "medium", "x264-params": same}
                stream = container.add_stream("libx264", rate=_CLIP_RATE, options=options)
                stream.height, stream.width = even.shape[:2]
                stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
            picture = av.VideoFrame.from_ndarray(even, format="rgb24")
            picture.pts, picture.time_base = i, Fraction(1, _CLIP_RATE)
            container.mux(stream.encode(picture))
        if stream is None:
            raise DataLayoutError(f"a clip for {path.name} holds not one frame: remove it")
        container.mux(stream.encode(None))
    return path
