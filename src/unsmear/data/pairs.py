"""Blurred and sharp frame pairs on disk, from sharp video, folders of frames or photographs.

Every clip becomes ``NAME/blur/000000.png …`` and ``NAME/sharp/000000.png …``, the layout of GoPro. How a
clip is blurred depends on the settings and its own name alone, so a set can grow without changing. Frames
stream: memory does not depend on the length of a clip.
"""

import hashlib
import json
import multiprocessing
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unsmear.data.camera import CameraRanges, render
from unsmear.data.compress import h264_round_trip
from unsmear.data.exposure import (
    DECIMATION,
    NEAR_STATIC_PX,
    averaging_window,
    blur_by_averaging,
    blur_by_flow,
    typical_motion_px,
)
from unsmear.data.light import Curve
from unsmear.errors import DataLayoutError, OutputError, UnsmearError, UsageError
from unsmear.metrics import psnr
from unsmear.video import FrameFolderWriter, VideoReader, find_inputs, open_video

ENTRY = "clip.json"
MANIFEST = "manifest.json"
_PARTIAL = ".partial"
_PHOTO_LONGEST_PX = 1920
_PHOTO_LEAST_PX = 64

Pair = tuple[np.ndarray, np.ndarray]
"""(blurred, sharp), uint8 RGB (H, W, 3) both."""


@dataclass(frozen=True)
class BlurSettings:
    """What the pairs of a set have in common.

    Raises UsageError for values out of range.
    """

    duty: tuple[float, float] = (0.4, 1.0)
    """Exposure as a fraction of the frame step, drawn evenly from this range for each clip."""
    seed: int = 0
    curve: Curve = "srgb"
    crf: float | None = 18
    """Quality of the H.264 encode that the blurred frames go through; None leaves it out."""
    max_frames: int | None = None
    """Frames read from a clip at most; None reads all."""
    photo_px: int = 480
    """Side of the square frames rendered from a photograph; less where the photograph is small."""
    photo_frames: int = 12

    def __post_init__(self) -> None:
        low, high = self.duty
        if not 0 <= low <= high <= 1:
            raise UsageError(f"--duty {low:g} {high:g}: expected 0 <= MIN <= MAX <= 1 (fractions of the frame step)")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: expected 0 or more")
        if self.curve not in ("srgb", "2.2"):
            raise UsageError(f"--gamma {self.curve}: expected srgb or 2.2")
        if self.crf is not None and not 0 <= self.crf <= 51:
            raise UsageError(f"--crf {self.crf:g}: expected 0 (lossless) to 51, or none for no encode")
        if self.max_frames is not None and self.max_frames < 3:
            raise UsageError(f"--max-frames {self.max_frames}: expected at least 3, as motion needs neighbours")

    def recorded(self) -> dict[str, Any]:
        """The settings as they stand beside every clip."""
        return {
            "duty_range": list(self.duty),
            "seed": self.seed,
            "gamma": self.curve,
            "crf": self.crf,
            "max_frames": self.max_frames,
        }


@dataclass(frozen=True)
class PairSet:
    """What ``make_pairs`` did: the manifest, which clips were there already, and what failed."""

    manifest: dict[str, Any]
    skipped: list[str]
    failures: list[tuple[Path, UnsmearError]]


def make_pairs(
    inputs: Iterable[Path],
    folder: Path,
    settings: BlurSettings | None = None,
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
        settings: how to blur.
        workers: clips made at the same time, in processes of their own.
        overwrite: make clips again that are there already.
        on_clip: called with the manifest entry of every clip as it is finished.

    A clip that fails is reported in the result and does not stop the others.

    Raises:
        DataLayoutError: two inputs of one name.
        OutputError: ``folder`` cannot be made.
    """
    settings = settings or BlurSettings()
    failures: list[tuple[Path, UnsmearError]] = []
    sources = _named_sources(inputs, failures)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); name another folder with -o") from None
    skipped, todo = [], []
    for name, source in sources.items():
        if overwrite or not (folder / name).exists():
            todo.append((name, source))
            continue
        try:
            _check_same(folder / name, source, settings)
            skipped.append(name)
        except UnsmearError as error:
            failures.append((source, error))

    def finished(source: Path, result: "dict[str, Any] | UnsmearError") -> None:
        if isinstance(result, UnsmearError):
            failures.append((source, result))
        elif on_clip is not None:
            on_clip(result)

    if workers > 1 and len(todo) > 1:
        # "spawn": FFmpeg's and OpenCV's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(todo)), context, cv2.setNumThreads, (1,)) as pool:
            jobs = {pool.submit(_try_clip, name, source, folder, settings): source for name, source in todo}
            for job in as_completed(jobs):
                finished(jobs[job], job.result())
    else:
        for name, source in todo:
            finished(source, _try_clip(name, source, folder, settings))
    shutil.rmtree(folder / _PARTIAL, ignore_errors=True)
    return PairSet(write_manifest(folder), skipped, failures)


def write_manifest(folder: Path) -> dict[str, Any]:
    """Gather the entries of all finished clips of a set into its manifest, write it and return it."""
    clips = [json.loads(entry.read_text()) for entry in sorted(folder.glob(f"*/{ENTRY}"))]
    manifest: dict[str, Any] = {"clips": clips}
    if clips:
        manifest["mean_input_psnr_db"] = round(float(np.mean([c["input_psnr_db"] for c in clips])), 3)
    fresh = folder / f".{MANIFEST}.partial"
    fresh.write_text(json.dumps(manifest, indent=2) + "\n")
    fresh.replace(folder / MANIFEST)
    return manifest


def clip_generator(seed: int, name: str) -> np.random.Generator:
    """The randomness of one clip: it depends on the seed and the clip's name, not on the other clips."""
    return np.random.default_rng((seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])))


def _named_sources(inputs: Iterable[Path], failures: list[tuple[Path, UnsmearError]]) -> dict[str, Path]:
    sources: dict[str, Path] = {}
    for given in inputs:
        try:
            found = find_inputs(given)
        except UnsmearError as error:
            failures.append((given, error))
            continue
        for path in found:
            name = path.resolve().name if path.is_dir() else path.stem
            if name in sources:
                raise DataLayoutError(
                    f"{sources[name]} and {path} would both become the clip {name!r}: rename one of them"
                )
            sources[name] = path
    return sources


def _check_same(clip: Path, source: Path, settings: BlurSettings) -> None:
    """Refuse to pass off a clip made in another way as one made with these settings."""
    try:
        entry = json.loads((clip / ENTRY).read_text())
    except (OSError, ValueError):
        raise DataLayoutError(
            f"{clip} exists and was not made by `unsmear data blur`: name another folder, or give --overwrite"
        ) from None
    wanted = {"source": source.name, **settings.recorded()}
    for key, value in wanted.items():
        if entry.get(key) != value:
            raise DataLayoutError(
                f"{clip} was made with {key} {entry.get(key)}, not {value}: use --overwrite or another folder"
            )


def _try_clip(name: str, source: Path, folder: Path, settings: BlurSettings) -> "dict[str, Any] | UnsmearError":
    try:
        return _make_clip(name, source, folder, settings)
    except UnsmearError as error:
        return error
    except OSError as error:
        return OutputError(f"{folder / name}: cannot be written ({error.strerror})")


def _make_clip(name: str, source: Path, folder: Path, settings: BlurSettings) -> dict[str, Any]:
    """Make one clip under a temporary name, rename it, and return its entry."""
    partial = folder / _PARTIAL / name
    shutil.rmtree(partial, ignore_errors=True)
    rng = clip_generator(settings.seed, name)
    duty = float(rng.uniform(*settings.duty))
    with open_video(source) as reader:
        if reader.info.kind == "image":
            pairs, method = _photo_pairs(reader, duty, rng, settings), "camera"
        elif _near_static(reader, settings.max_frames):
            window = averaging_window(duty)
            pairs, method, duty = _averaged_pairs(reader, window, settings), "average", window / DECIMATION
        else:
            pairs, method = _flow_pairs(reader, duty, settings), "flow"
        psnrs, size = _write_pairs(pairs, partial, settings.crf)
    if not psnrs:
        raise DataLayoutError(f"{source}: fewer than 3 frames, too few to blur along their motion; give a longer clip")
    entry = {
        "name": name,
        "source": source.name,
        "method": method,
        "duty": round(duty, 6),
        **settings.recorded(),
        "frames": len(psnrs),
        "width": size[0],
        "height": size[1],
        "input_psnr_db": round(float(np.mean(psnrs)), 3),
        "sha256": _checksum(partial),
    }
    (partial / ENTRY).write_text(json.dumps(entry, indent=2) + "\n")
    final = folder / name
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
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


def _flow_pairs(reader: VideoReader, duty: float, settings: BlurSettings) -> Iterator[Pair]:
    """Full frame rate without the first and the last frame; three frames in memory."""
    recent: deque[np.ndarray] = deque(maxlen=3)
    for frame in _frames(reader, settings.max_frames):
        recent.append(frame)
        if len(recent) == 3:
            yield from blur_by_flow(list(recent), duty, settings.curve)


def _averaged_pairs(reader: VideoReader, window: int, settings: BlurSettings) -> Iterator[Pair]:
    """One pair of every ``DECIMATION`` frames; as many frames in memory."""
    group: list[np.ndarray] = []
    for frame in _frames(reader, settings.max_frames):
        group.append(frame)
        if len(group) == DECIMATION:
            yield from blur_by_averaging(group, window, DECIMATION, settings.curve)
            group = []
    yield from blur_by_averaging(group, window, DECIMATION, settings.curve)


def _photo_pairs(reader: VideoReader, duty: float, rng: np.random.Generator, settings: BlurSettings) -> Iterator[Pair]:
    photo = next(_frames(reader, None))
    shrink = _PHOTO_LONGEST_PX / max(photo.shape[:2])
    if shrink < 1:
        photo = cv2.resize(photo, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    size = min(settings.photo_px, int(min(photo.shape[:2]) * 0.6)) // 16 * 16
    if size < _PHOTO_LEAST_PX:
        raise DataLayoutError(
            f"{reader.info.path}: {photo.shape[1]}x{photo.shape[0]} is too small for a camera to move over: "
            f"expected at least {_PHOTO_LEAST_PX * 2} pixels each way"
        )
    ranges = CameraRanges(
        size_px=size,
        frames=settings.photo_frames,
        duty=(duty, duty),
        sharp_share=0.0,
        noise_levels=(0.0, 0.0),
        curve=settings.curve,
    )
    shot = render([photo], rng, ranges)
    yield from zip(shot.blurred, shot.sharp, strict=True)


def _near_static(reader: VideoReader, max_frames: int | None) -> bool:
    """Whether a clip moves too little for interpolation to add blur, and is long enough to be decimated.

    The measure of ``exposure.typical_motion_px``, on the six pairs of frames that it would pick.
    """
    total = reader.info.frames or sum(1 for _ in _frames(reader, max_frames))
    if max_frames is not None:
        total = min(total, max_frames)
    if total < 3 * DECIMATION:
        return False
    picks = {int(i) for i in np.linspace(0, total - 2, 6)}
    motions, previous = [], None
    for i, frame in enumerate(_frames(reader, max(picks) + 2)):
        if i - 1 in picks and previous is not None:
            motions.append(typical_motion_px([previous, frame]))
        previous = frame if i in picks else None
    return bool(motions) and float(np.median(motions)) < NEAR_STATIC_PX


def _frames(reader: VideoReader, last: int | None) -> Iterator[np.ndarray]:
    """Upright uint8 RGB frames."""
    for frame in reader.frames(0, last):
        rgb = frame.rgb
        if rgb.dtype == np.uint16:
            rgb = ((rgb.astype(np.uint32) + 128) // 257).astype(np.uint8)
        yield np.ascontiguousarray(np.rot90(rgb, reader.info.rotation // 90)) if reader.info.rotation else rgb


def _checksum(clip: Path) -> str:
    """SHA-256 over the bytes of the PNG files: all of ``blur`` in order, then all of ``sharp``."""
    digest = hashlib.sha256()
    for kind in ("blur", "sharp"):
        for file in sorted((clip / kind).iterdir()):
            digest.update(file.read_bytes())
    return digest.hexdigest()
