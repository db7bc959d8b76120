"""Sets of blurred and sharp frame pairs on disk, for any recipe: layout, resuming, manifest, checksums.

Every clip is written to ``NAME/blur/000000.png …`` and ``NAME/sharp/000000.png …``, the layout of GoPro. A clip depends
on the recipe and its name only, so that clips can be added to a set without changing it. Frames are streamed: memory
does not depend on the length of a clip.
"""

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unsmear.blur.compress import h264_round_trip
from unsmear.errors import DataLayoutError, OutputError, UnsmearError
from unsmear.files import read_json, unwritable, whole_folder, write_whole
from unsmear.metrics import psnr
from unsmear.processes import in_processes
from unsmear.video import FrameFolderWriter, RawFormat, VideoReader, eight_bit, find_inputs, open_video, upright

ENTRY = "clip.json"
MANIFEST = "manifest.json"
_PARTIAL = ".partial"

Pair = tuple[np.ndarray, np.ndarray]
"""(blurred, sharp), uint8 RGB (H, W, 3) both."""


@dataclass(frozen=True)
class Prepared:
    """A clip to be written: an iterator over its pairs, values of its manifest entry, and the constant rate factor of
    the H.264 encode of the blurred frames (None for no encode).
    """

    pairs: Iterator[Pair]
    facts: dict[str, Any]
    crf: float | None = None


class Recipe(Protocol):
    """Recipe that makes pairs from sharp video. It must be picklable, for worker processes."""

    @property
    def command(self) -> str:
        """Command that makes such sets, for messages."""

    @property
    def raw(self) -> RawFormat | None:
        """Format of ``.yuv`` files; None: what their names state."""

    @property
    def optional(self) -> tuple[str, ...]:
        """Keys of ``recorded`` that are omitted where they have no value."""

    def recorded(self) -> dict[str, Any]:
        """Settings as recorded in the manifest entry of every clip."""

    def prepare(self, name: str, reader: VideoReader) -> Prepared:
        """Prepare the clip ``name`` from an open video."""

    def too_short(self, source: Path) -> str:
        """Message for a clip without any pair."""


@dataclass(frozen=True)
class PairSet:
    """Result of ``make_set``: the manifest, names of clips that existed already, failed inputs with their errors."""

    manifest: dict[str, Any]
    skipped: list[str]
    failures: list[tuple[Path, UnsmearError]]


def make_set(
    inputs: Iterable[Path],
    folder: Path,
    recipe: Recipe,
    *,
    workers: int = 1,
    overwrite: bool = False,
    on_clip: Callable[[dict[str, Any]], None] | None = None,
) -> PairSet:
    """Make ``folder``/NAME/{blur,sharp} for every input, and ``folder``/manifest.json.

    Args:
        inputs: videos, folders of frames (a clip each), folders of videos, photographs.
        folder: folder of the set. Finished clips in it are kept, so that an interrupted run can be resumed.
        recipe: recipe of the pairs.
        workers: number of worker processes, one clip each.
        overwrite: make existing clips again.
        on_clip: called with the manifest entry of every finished clip.

    Returns:
        The result, which lists clips that failed; they do not stop the others.

    Raises:
        DataLayoutError: two inputs have the same name.
        OutputError: ``folder`` cannot be created.
    """
    failures: list[tuple[Path, UnsmearError]] = []
    sources = _named_sources(inputs, failures)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); name another folder") from None
    skipped, todo = [], []
    for name, source in sources.items():
        if overwrite or not (folder / name).exists():
            todo.append((name, source))
            continue
        try:
            _check_same(folder / name, source, recipe)
            skipped.append(name)
        except UnsmearError as error:
            failures.append((source, error))

    def finished(source: Path, result: "dict[str, Any] | UnsmearError") -> None:
        if isinstance(result, UnsmearError):
            failures.append((source, result))
        elif on_clip is not None:
            on_clip(result)

    make = partial(_try_clip, folder=folder, recipe=recipe)
    with closing(in_processes(make, todo, workers)) as results:
        for (_, source), result in zip(todo, results, strict=True):
            finished(source, result)
    shutil.rmtree(folder / _PARTIAL, ignore_errors=True)
    return PairSet(write_manifest(folder), skipped, failures)


def write_manifest(folder: Path) -> dict[str, Any]:
    """Write and return the manifest of a set, collected from the entries of its finished clips."""
    clips = [read_json(entry, "make the clip again") for entry in sorted(folder.glob(f"*/{ENTRY}"))]
    manifest: dict[str, Any] = {"clips": clips}
    if clips:
        manifest["mean_input_psnr_db"] = round(float(np.mean([c["input_psnr_db"] for c in clips])), 3)
    write_whole(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def clip_generator(seed: int, name: str) -> np.random.Generator:
    """Random generator of one clip, which depends on the seed and the clip's name only."""
    return np.random.default_rng((seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])))


def upright_frames(reader: VideoReader, last: int | None) -> Iterator[np.ndarray]:
    """Read the first ``last`` frames (None: all) as upright uint8 RGB (H, W, 3); higher depths are rounded to 8 bit."""
    for frame in reader.frames(0, last):
        yield upright(eight_bit(frame.rgb), reader.info)


def _named_sources(inputs: Iterable[Path], failures: list[tuple[Path, UnsmearError]]) -> dict[str, Path]:
    sources: dict[str, Path] = {}
    for argument in inputs:
        try:
            paths = find_inputs(argument)
        except UnsmearError as error:
            failures.append((argument, error))
            continue
        for path in paths:
            name = path.resolve().name if path.is_dir() else path.stem
            if name in sources:
                raise DataLayoutError(
                    f"{sources[name]} and {path} would both become the clip {name!r}: rename one of them"
                )
            sources[name] = path
    return sources


def _check_same(clip: Path, source: Path, recipe: Recipe) -> None:
    """Raise DataLayoutError where an existing clip was made from another source or with other settings."""
    try:
        entry = json.loads((clip / ENTRY).read_text())
    except (OSError, ValueError):
        raise DataLayoutError(
            f"{clip} exists and was not made by `{recipe.command}`: name another folder, or give `overwrite`"
        ) from None
    # Converted through JSON, as the stored entry was.
    expected = json.loads(json.dumps({"source": source.name, **recipe.recorded()}))
    for key in (*expected, *(key for key in recipe.optional if key not in expected)):
        if entry.get(key) != expected.get(key):
            raise DataLayoutError(
                f"{clip} was made with {key} {entry.get(key)}, not {expected.get(key)}: "
                "use `overwrite` or another folder"
            )


def _try_clip(clip: tuple[str, Path], folder: Path, recipe: Recipe) -> "dict[str, Any] | UnsmearError":
    name, source = clip
    try:
        return _make_clip(name, source, folder, recipe)
    except UnsmearError as error:
        return error
    except OSError as error:
        return unwritable(folder / name, error)


def _make_clip(name: str, source: Path, folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Make one clip under a temporary name, rename it, and return its entry."""
    with whole_folder(folder / name, folder / _PARTIAL / name) as clip:
        with open_video(source, recipe.raw) as reader:
            prepared = recipe.prepare(name, reader)
            psnrs, size = _write_pairs(prepared.pairs, clip, prepared.crf)
        if not psnrs:
            raise DataLayoutError(recipe.too_short(source))
        entry = {
            "name": name,
            "source": source.name,
            **prepared.facts,
            **recipe.recorded(),
            "frames": len(psnrs),
            "width": size[0],
            "height": size[1],
            "input_psnr_db": round(float(np.mean(psnrs)), 3),
            "sha256": _checksum(clip),
        }
        (clip / ENTRY).write_text(json.dumps(entry, indent=2) + "\n")
    return entry


def _write_pairs(pairs: Iterator[Pair], clip: Path, crf: float | None) -> tuple[list[float], tuple[int, int]]:
    """Write both folders of a clip; returns the PSNR of every frame in dB, and (width, height)."""
    waiting: deque[np.ndarray] = deque()  # sharp frames whose blurred partners are still in the encoder

    def blurred() -> Iterator[np.ndarray]:
        for blur, sharp in pairs:
            waiting.append(sharp)
            yield blur

    writers: tuple[FrameFolderWriter, FrameFolderWriter] | None = None
    psnrs, size = [], (0, 0)
    for i, frame in enumerate(blurred() if crf is None else h264_round_trip(blurred(), crf)):
        writers = writers or (FrameFolderWriter(clip / "blur"), FrameFolderWriter(clip / "sharp"))
        sharp = waiting.popleft()
        writers[0].write(i, frame)
        writers[1].write(i, sharp)
        psnrs.append(psnr(frame, sharp))
        size = sharp.shape[1], sharp.shape[0]
    return psnrs, size


def _checksum(clip: Path) -> str:
    """SHA-256 over the bytes of the PNG files: all of ``blur`` in order, then all of ``sharp``."""
    digest = hashlib.sha256()
    for kind in ("blur", "sharp"):
        for file in sorted((clip / kind).iterdir()):
            digest.update(file.read_bytes())
    return digest.hexdigest()
