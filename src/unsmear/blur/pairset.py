"""A set of blurred and sharp frame pairs on disk, however they are made: names, resuming, manifest, checksums.

Every clip becomes ``NAME/blur/000000.png …`` and ``NAME/sharp/000000.png …``, the layout of GoPro. What a clip
becomes depends on the recipe and its own name alone, so a set can grow without changing. Frames stream: memory
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
from unsmear.errors import DataLayoutError, UnsmearError
from unsmear.files import make_folder, read_json, refuse_foreign, unwritable, whole_folder, write_whole
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
    """A clip about to be written: its pairs to come, the facts for its entry, and the H.264 quality that the blurred
    frames go through, None for no encode.
    """

    pairs: Iterator[Pair]
    facts: dict[str, Any]
    crf: float | None = None


class Recipe(Protocol):
    """Makes pairs of sharp video. Recipes are sent to other processes."""

    @property
    def command(self) -> str:
        """The command that makes such sets, for messages."""

    @property
    def raw(self) -> RawFormat | None:
        """Format of ``.yuv`` files, None for what their names state."""

    @property
    def optional(self) -> tuple[str, ...]:
        """Keys of ``recorded`` that are left out where they hold nothing."""

    def recorded(self) -> dict[str, Any]:
        """The settings as they stand beside every clip."""

    def prepare(self, name: str, reader: VideoReader) -> Prepared:
        """Prepare the clip ``name`` from an open video."""

    def too_short(self, source: Path) -> str:
        """The message for a clip that gives no pair."""


@dataclass(frozen=True)
class PairSet:
    """Result of ``make_set``: the manifest, which clips were there already, and what failed."""

    manifest: dict[str, Any]
    skipped: list[str]
    failures: list[tuple[Path, UnsmearError]]


def make_set(
    inputs: Iterable[str | Path],
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
        folder: where the set is or will be. Clips that it holds already are kept; a killed run goes on where
            it stopped.
        recipe: how to make pairs.
        workers: clips made at the same time, in processes of their own.
        overwrite: make clips again that are there already.
        on_clip: called with the manifest entry of every clip as it is finished.

    A clip that fails is reported in the result and does not stop the others.

    Raises:
        DataLayoutError: two inputs of one name.
        OutputError: ``folder`` cannot be made.
    """
    failures: list[tuple[Path, UnsmearError]] = []
    sources = _named_sources(inputs, failures)
    if not sources:
        return PairSet({"clips": []}, [], failures)
    new = not folder.exists()
    make_folder(folder)
    skipped, todo = [], []
    for name, source in sources.items():
        try:
            if (folder / name).exists() and not overwrite:
                _check_same(folder / name, source, recipe)
                skipped.append(name)
                continue
            refuse_foreign(folder / name, (folder / name / ENTRY).is_file(), "clip of such a set", source)
            todo.append((name, source))
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
    if new and not any(folder.iterdir()):
        folder.rmdir()
        return PairSet({"clips": []}, skipped, failures)
    return PairSet(write_manifest(folder), skipped, failures)


def write_manifest(folder: Path) -> dict[str, Any]:
    """Gather the entries of all finished clips of a set into its manifest, write it and return it."""
    clips = [read_json(entry, "make the clip again") for entry in sorted(folder.glob(f"*/{ENTRY}"))]
    manifest: dict[str, Any] = {"clips": clips}
    if clips:
        manifest["mean_input_psnr_db"] = round(float(np.mean([c["input_psnr_db"] for c in clips])), 3)
    write_whole(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def clip_generator(seed: int, name: str) -> np.random.Generator:
    """The randomness of one clip: it depends on the seed and the clip's name, not on the other clips."""
    return np.random.default_rng((seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])))


def upright_frames(reader: VideoReader, last: int | None) -> Iterator[np.ndarray]:
    """The first ``last`` frames (None: all) as upright uint8 RGB (H, W, 3); deeper ones are rounded to 8 bit."""
    for frame in reader.frames(0, last):
        yield upright(eight_bit(frame.rgb), reader.info)


def _named_sources(inputs: Iterable[str | Path], failures: list[tuple[Path, UnsmearError]]) -> dict[str, Path]:
    sources: dict[str, Path] = {}
    for given in inputs:
        try:
            found = find_inputs(given)
        except UnsmearError as error:
            failures.append((Path(given), error))
            continue
        for path in found:
            name = path.resolve().name if path.is_dir() else path.stem
            if name in sources:
                raise DataLayoutError(
                    f"{sources[name]} and {path} would both become the clip {name!r}: rename one of them"
                )
            sources[name] = path
    return sources


def _check_same(clip: Path, source: Path, recipe: Recipe) -> None:
    """Refuse to pass off a clip made in another way as one made with these settings."""
    try:
        entry = json.loads((clip / ENTRY).read_text())
    except (OSError, ValueError):
        raise DataLayoutError(
            f"{clip} exists and was not made by `{recipe.command}`: name another folder, or give `overwrite`"
        ) from None
    # Settings have gone through JSON in the entry, so they do here.
    wanted = json.loads(json.dumps({"source": source.name, **recipe.recorded()}))
    for key in (*wanted, *(key for key in recipe.optional if key not in wanted)):
        if entry.get(key) != wanted.get(key):
            raise DataLayoutError(
                f"{clip} was made with {key} {entry.get(key)}, not {wanted.get(key)}: use `overwrite` or another folder"
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
    """Write both folders of a clip; PSNR in dB of every frame, and (width, height)."""
    waiting: deque[np.ndarray] = deque()  # sharp frames whose blurred twin is still inside the encoder

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
