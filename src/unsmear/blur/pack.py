"""Packs of rendered training sequences.

A pack is a folder of memory-mapped arrays with one row per sequence, including the coding priors of the blurred frames.
Priors always come from the re-encode pass on the final frames, as in restoration, never from the camera path that
caused the blur. Row i depends on the seed and i only.
"""

import json
from collections.abc import Container, Iterable, Iterator, Sequence, Set
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated, Any, Protocol

import av
import cv2
import numpy as np

from unsmear.blur.camera import CameraRanges, Rendered, draw_duty, render, sensor_noise
from unsmear.blur.compress import h264_round_trip
from unsmear.blur.exposure import Gap, Neighbourhood, blur_between, fitted_duty, subframe_times
from unsmear.blur.leaves import dead_leaves
from unsmear.blur.light import expose
from unsmear.errors import DataLayoutError, UnsmearError
from unsmear.files import write_whole
from unsmear.metrics import psnr
from unsmear.options import Limits, Share, check
from unsmear.priors import Prior, chunk_priors
from unsmear.priors.duty import estimate_duty, mean_line
from unsmear.processes import in_processes
from unsmear.video import eight_bit, open_video, upright
from unsmear.video.ffmpeg import main_video_stream, open_input, reason
from unsmear.video.images import IMAGE_SUFFIXES, read_image
from unsmear.video.light import quantise
from unsmear.video.probe import VIDEO_SUFFIXES

RESIDUAL_CELL = 4
"""Pixels per cell of the stored residual, each way, as in network inputs."""

_FLOW_MARGIN = 24
_CLIP_PX, _RUN = 960, 60
"""Longest side of clips in pixels, and length of the runs of consecutive frames where not all of a clip are kept."""
_HDR_TRANSFERS = {16, 18}
_CUT_LEVELS, _MISMATCH_LEVELS = 25.0, 6.0
"""Mean difference of consecutive frames, shrunk to 16×16, above which they are a cut; and of the two frames warped half
way along flow, above which the flow is rejected."""
_LEAVES_SIZE, _LEAVES_STREAM = (640, 960), 7


@dataclass(frozen=True)
class PackConfig:
    """Ranges and shares of the sequences of a pack."""

    sequences: Annotated[int, Limits(1)] = 4000
    """Number of sequences to render."""
    seed: Annotated[int, Limits(0)] = 0
    """Seed; sequence i depends on the seed and i only."""
    photo_share: Share = 0.6
    """Share of sequences from photographs; the others are from clips."""
    interpolated_share: Share = 0.0
    """Share of the sequences from photographs whose exposures are interpolated from sharp frames, as those of clips."""
    camera: CameraRanges = field(default_factory=CameraRanges)
    crf: Annotated[tuple[float, float], Limits(ordered=True)] = (10.0, 27.0)
    """Range of the constant rate factor of the H.264 encode."""
    uncompressed_share: Share = 0.2
    """Share of sequences without H.264 encode."""
    psnr_range: Annotated[tuple[float, float], Limits(ordered=True, unit="dB")] = (17.0, 38.0)
    """Range of the PSNR of blurred frames; others are drawn again, since very strong or weak blur teaches little."""
    detail: float = 6.0
    """Least standard deviation of the Laplacian of the sharp centre frame, in 8-bit levels."""
    clip_motion_px: Annotated[tuple[float, float], Limits(0, above=True, ordered=True, unit="pixels")] = (1.5, 25.0)
    """Range of motion in clips, pixels per frame."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Sources:
    """Decoded source material: photographs (H, W, 3) and clips, each a list of frames, uint8 RGB."""

    photos: list[np.ndarray]
    clips: list[list[np.ndarray]]


def load_sources(
    photos: Path | None,
    clips: Path | None,
    longest_px: int = 1920,
    leaves: int = 0,
    seed: int = 0,
    exclude: Sequence[str] = (),
    clip_frames: int | None = None,
) -> Sources:
    """Read all photographs and clips in two folders, shrunk to ``longest_px`` (clips to 960).

    Args:
        photos, clips: the folders, including subfolders; None for none.
        longest_px: longest side of photographs, pixels.
        leaves: number of dead-leaves images to add to the photographs, in their colours.
        seed: seed of the dead-leaves images.
        exclude: names of files to leave out.
        clip_frames: maximum number of frames kept of a clip, in evenly spread runs that become clips; None keeps all.

    Raises:
        DataLayoutError: a folder has no such files, a file cannot be read, or a name in ``exclude`` does not exist.
    """
    paths = [material(photos, IMAGE_SUFFIXES), material(clips, VIDEO_SUFFIXES)]
    names = {path.name for kind in paths for path in kind}
    for name in exclude:
        if name not in names:
            raise DataLayoutError(f"`exclude` {name}: no photograph or clip of this name; give the names of files")
    photo_paths, clip_paths = ([path for path in kind if path.name not in exclude] for kind in paths)
    pictures = [read_photo(path, longest_px) for path in photo_paths]
    pictures += some_leaves(leaves, pictures, seed)
    return Sources(pictures, [run for path in clip_paths for run in _runs(path, clip_frames)])


def material(folder: Path | None, suffixes: Set[str]) -> list[Path]:
    """Sorted list of the files in ``folder`` and its subfolders with one of these suffixes; empty for None.

    Raises:
        DataLayoutError: there is no such file.
    """
    if folder is None:
        return []
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes)
    if not paths:
        raise DataLayoutError(f"{folder} holds no file ending in {', '.join(sorted(suffixes))}")
    return paths


def _runs(path: Path, most: int | None) -> list[list[np.ndarray]]:
    """Frames of a clip: all, or at most ``most`` in evenly spread runs of ``_RUN``."""
    if most is None:
        return [list(read_clip(path, _CLIP_PX))]
    total = _frames(path)
    if total <= most:
        return [list(read_clip(path, _CLIP_PX))]
    length, count = min(most, _RUN), max(most // _RUN, 1)
    starts = [round((k + 0.5) / count * (total - length * count)) + k * length for k in range(count)]
    runs: list[list[np.ndarray]] = [[] for _ in starts]
    for i, frame in enumerate(read_clip(path, _CLIP_PX, {s + k for s in starts for k in range(length)})):
        runs[i // length].append(frame)
    return [run for run in runs if run]


def _frames(path: Path) -> int:
    """Number of frames of a video, counted by packets."""
    try:
        with open_input(path) as container:
            return sum(1 for packet in container.demux(main_video_stream(container, path)) if packet.size)
    except UnsmearError as error:
        raise DataLayoutError(str(error)) from error
    except av.FFmpegError as error:
        raise DataLayoutError(f"{path}: cannot be read to its end ({reason(error)}); replace or remove it") from error


def some_leaves(count: int, photos: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Render ``count`` dead-leaves images in the colours of ``photos``, each (H, W, 3) uint8."""
    rng, photographs = np.random.default_rng((seed, _LEAVES_STREAM)), list(photos)
    return [dead_leaves(_LEAVES_SIZE, rng, photographs) for _ in range(count)]


def read_photo(path: Path, longest_px: int) -> np.ndarray:
    """Read a photograph as uint8 RGB (H, W, 3), shrunk to ``longest_px``. Raises DataLayoutError on failure."""
    try:
        return _shrunk(eight_bit(read_image(path)), longest_px)
    except UnsmearError as error:
        raise DataLayoutError(str(error)) from error


def _shrunk(image: np.ndarray, longest_px: int) -> np.ndarray:
    k = longest_px / max(image.shape[:2])
    return image if k >= 1 else cv2.resize(image, None, fx=k, fy=k, interpolation=cv2.INTER_AREA)


def read_clip(path: Path, longest_px: int, wanted: Container[int] | None = None) -> Iterator[np.ndarray]:
    """Read the frames of a video, uint8 RGB (H, W, 3), upright, shrunk to ``longest_px``.

    Args:
        path: the video.
        longest_px: longest side, pixels.
        wanted: numbers of the frames to return; None for all.

    Raises:
        DataLayoutError: the video cannot be read to its end, or is HDR (PQ or HLG), which would need tone mapping.
    """
    try:
        with open_video(path) as reader:
            if reader.info.color_trc in _HDR_TRANSFERS:
                raise DataLayoutError(
                    f"{path}: HDR (PQ or HLG) is not tone-mapped here; convert it to SDR or leave it out"
                )
            for frame in reader.frames(wanted=wanted):
                yield upright(_shrunk(eight_bit(frame.rgb), longest_px), reader.info)
    except DataLayoutError:
        raise
    except UnsmearError as error:
        raise DataLayoutError(str(error)) from error


class Camera(Protocol):
    """Renderer of sequences from photographs, such as :func:`unsmear.blur.camera.render`."""

    def __call__(self, rng: np.random.Generator, ranges: CameraRanges, duty: float | None = None) -> Rendered: ...


def draw_frames(
    camera: Camera | None, clips: Sequence[list[np.ndarray]], rng: np.random.Generator, config: PackConfig
) -> Rendered | list[np.ndarray] | None:
    """Draw the frames of a sequence.

    Args:
        camera: renderer of photographs; None without photographs.
        clips: frames of each clip, uint8 RGB.
        rng: the only source of randomness.
        config: ranges of the draws.

    Returns:
        A rendered sequence, or sharp frames to be exposed along optical flow, with a margin and one more frame at
        either end; None if the drawn clip is too short.
    """
    if camera is None or (clips and rng.random() >= config.photo_share):
        return _clip_frames(clips, rng, config)
    if rng.random() >= config.interpolated_share:
        return camera(rng, config.camera)
    size, frames = config.camera.size_px + 2 * _FLOW_MARGIN, config.camera.frames + 2
    wide = replace(config.camera, size_px=size, frames=frames, noise_levels=(0.0, 0.0), bright_share=0, lamp_share=0)
    return list(camera(rng, wide, 0.0).sharp)


def _clip_frames(
    clips: Sequence[list[np.ndarray]], rng: np.random.Generator, config: PackConfig
) -> list[np.ndarray] | None:
    ranges = config.camera
    frames = clips[int(rng.integers(len(clips)))]
    stride = int(rng.choice([1, 1, 2, 3, 4, 6, 8]))
    span = (ranges.frames + 1) * stride + 1
    if ranges.fast:
        span = (ranges.frames - 1) * stride + 2 * _half(stride) + 1
    if len(frames) < span:
        return None
    first = int(rng.integers(0, len(frames) - span + 1))
    side = ranges.size_px + 2 * _FLOW_MARGIN
    h, w = frames[0].shape[:2]
    take = min(int(side / rng.uniform(0.55, 1.0)), h, w)
    y, x = int(rng.integers(0, h - take + 1)), int(rng.integers(0, w - take + 1))
    picked = frames[first : first + span : 1 if ranges.fast else stride]
    crops = [cv2.resize(f[y : y + take, x : x + take], (side, side), interpolation=cv2.INTER_AREA) for f in picked]
    return SpedUp(crops, stride) if ranges.fast else crops


class SpedUp(list[np.ndarray]):
    """Frames of a clip to be sped up by ``step``: every ``step``-th is a target, exposed over the frames around it."""

    def __init__(self, frames: Iterable[np.ndarray] = (), step: int = 1):
        super().__init__(frames)
        self.step = step


def _half(step: int) -> int:
    """Maximum number of frames on either side of a target that its exposure covers."""
    return (step + 1) // 2


def _over_frames(crops: SpedUp, rng: np.random.Generator, config: PackConfig) -> Rendered | None:
    """Expose targets over the frames between them; None if motion is out of range or optical flow fails."""
    ranges, step = config.camera, crops.step
    duty = draw_duty(rng, ranges)
    small = [cv2.resize(f, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32) for f in crops]
    if max(float(np.abs(a - b).mean()) for a, b in pairwise(small)) > _CUT_LEVELS:
        return None
    middle = len(crops) // 2
    gap = Gap.of(crops[middle], crops[middle + 1])
    low, high = config.clip_motion_px
    if not low <= step * gap.fastest_px() <= high or gap.mismatch() > _MISMATCH_LEVELS:
        return None
    start = _half(step) - int(np.ceil(duty * step / 2))
    pairs = list(islice(blur_between(crops[start:], step, duty, ranges.curve), ranges.frames))
    inner = slice(_FLOW_MARGIN, _FLOW_MARGIN + ranges.size_px)
    blurred = [quantise(sensor_noise(b[inner, inner].astype(np.float32), rng, ranges.noise_levels)) for b, _ in pairs]
    return Rendered(np.stack(blurred), np.stack([sharp[inner, inner] for _, sharp in pairs]), duty)


def _interpolated(crops: list[np.ndarray], rng: np.random.Generator, config: PackConfig) -> Rendered | None:
    """Expose all frames but the first and the last along optical flow, and crop the margin; None if unsuitable."""
    if isinstance(crops, SpedUp):
        return _over_frames(crops, rng, config)
    ranges = config.camera
    duty = draw_duty(rng, ranges)
    inner = slice(_FLOW_MARGIN, _FLOW_MARGIN + ranges.size_px)
    blurred: list[np.ndarray] = []
    sharp: list[np.ndarray] = []
    near: Neighbourhood | None = None
    for previous, centre, following in zip(crops, crops[1:], crops[2:], strict=False):
        near = Neighbourhood.of(previous, centre, following, near)
        fastest = near.fastest_px()
        if not blurred:
            if not config.clip_motion_px[0] <= fastest <= config.clip_motion_px[1]:
                return None
            if np.abs(near.at(0.999).astype(np.float32) - near.at(0.001)).mean() > 12:
                return None  # the flow does not map one frame to the other: a cut
        times = subframe_times(duty, fastest)
        light = expose((near.at(float(s))[inner, inner] for s in times), ranges.curve)
        blurred.append(quantise(sensor_noise(light, rng, ranges.noise_levels)))
        sharp.append(centre[inner, inner])
    return Rendered(np.stack(blurred), np.stack(sharp), duty)


def draw_sequence(
    sources: Sources, rng: np.random.Generator, config: PackConfig
) -> tuple[np.ndarray, np.ndarray, float, list[Prior]]:
    """Draw sequences until one is accepted: (blurred, sharp, duty, priors), frames uint8 (T, S, S, 3).

    Raises:
        DataLayoutError: none is accepted in ``MOST_DRAWS`` draws.
    """
    camera = partial(render, sources.photos) if sources.photos else None
    for _ in range(MOST_DRAWS):
        drawn = draw_frames(camera, sources.clips, rng, config)
        if drawn is not None and (sequence := finish_sequence(drawn, rng, config)) is not None:
            return sequence
    raise no_usable_sequence()


MOST_DRAWS = 200
"""Maximum number of draws for a sequence."""


def no_usable_sequence() -> DataLayoutError:
    """Error after ``MOST_DRAWS`` rejected draws."""
    return DataLayoutError(
        f"{MOST_DRAWS} draws gave no usable sequence: the material has too little detail or motion for this "
        "configuration"
    )


def finish_sequence(
    drawn: Rendered | list[np.ndarray], rng: np.random.Generator, config: PackConfig
) -> tuple[np.ndarray, np.ndarray, float, list[Prior]] | None:
    """Expose sharp frames, encode and decode, and compute the priors of a drawn sequence; None if it is rejected."""
    shot = _interpolated(drawn, rng, config) if isinstance(drawn, list) else drawn
    if shot is None:
        return None
    blurred, sharp, duty = shot.blurred, shot.sharp, shot.duty
    middle = len(sharp) // 2
    gray = cv2.cvtColor(sharp[middle], cv2.COLOR_RGB2GRAY)
    if cv2.Laplacian(gray, cv2.CV_32F).std() < config.detail:
        return None
    low, high = config.psnr_range
    if duty > 0.1 and not low <= psnr(blurred[middle], sharp[middle]) <= high:
        return None
    if rng.random() >= config.uncompressed_share:
        blurred = np.stack(list(h264_round_trip(blurred, float(rng.uniform(*config.crf)))))
    lumas = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in blurred]
    return blurred, sharp, duty, chunk_priors(lumas, before=None, after=None, workers=1)


def sequence_arrays(blurred: np.ndarray, sharp: np.ndarray, duty: float, priors: Sequence[Prior]) -> dict[str, Any]:
    """Arrays of one row of a pack, by the names in ``ARRAYS``."""
    middle, coarse = len(sharp) // 2, (sharp.shape[2] // RESIDUAL_CELL, sharp.shape[1] // RESIDUAL_CELL)
    estimated = estimate_duty([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in blurred], priors)
    residual = [cv2.resize(p.residual01(), coarse, interpolation=cv2.INTER_AREA)[None] for p in priors]
    return {
        "blurred": blurred,
        "sharp": sharp,
        "motion": np.stack([p.motion() for p in priors]).astype(np.float16),
        "motion_back": np.stack([p.motion_back() for p in priors]).astype(np.float16),
        "residual": np.stack(residual).astype(np.float16),
        "reset": np.array([p.reset for p in priors]),
        "reset_back": np.array([p.reset_back for p in priors]),
        "duty": np.float32(duty),
        "duty_fitted": np.float32(fitted_duty(blurred[middle], sharp[middle], mean_line(priors[middle]))),
        "duty_estimated": np.float32(-1 if estimated is None else estimated),
    }


ARRAYS = (
    *("blurred", "sharp", "motion", "motion_back", "residual", "reset", "reset_back"),
    *("duty", "duty_fitted", "duty_estimated"),
)
"""Arrays of a pack. ``duty`` is the nominal duty cycle, ``duty_fitted`` the result of ``fitted_duty`` for the middle
frame, ``duty_estimated`` the estimate from the blurred frames, -1 for none."""


def _shapes(config: PackConfig) -> dict[str, tuple[tuple[int, ...], type]]:
    n, t, s = config.sequences, config.camera.frames, config.camera.size_px
    cells, coarse = s // 8, s // RESIDUAL_CELL
    return {
        "blurred": ((n, t, s, s, 3), np.uint8),
        "sharp": ((n, t, s, s, 3), np.uint8),
        "motion": ((n, t, 2, cells, cells), np.float16),
        "motion_back": ((n, t, 2, cells, cells), np.float16),
        "residual": ((n, t, 1, coarse, coarse), np.float16),
        "reset": ((n, t), np.bool_),
        "reset_back": ((n, t), np.bool_),
        "duty": ((n,), np.float32),
        "duty_fitted": ((n,), np.float32),
        "duty_estimated": ((n,), np.float32),
    }


_worker: dict[str, Any] = {}


def _start_worker(sources: Sources, config: PackConfig, folder: Path) -> None:
    cv2.setNumThreads(1)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ARRAYS}
    _worker.update(sources=sources, config=config, arrays=arrays)


def _fill_row(i: int) -> None:
    config, out = _worker["config"], _worker["arrays"]
    rng = np.random.default_rng((config.seed, i))
    row = sequence_arrays(*draw_sequence(_worker["sources"], rng, config))
    for name, array in row.items():
        out[name][i] = array


def build_pack(sources: Sources, folder: Path, config: PackConfig, workers: int = 2) -> None:
    """Render ``config.sequences`` sequences to ``folder``; ``pack.json`` is written last.

    Raises:
        DataLayoutError: no usable sequence can be drawn.
    """
    if config.camera.size_px % 16:
        raise DataLayoutError(f"sequence size {config.camera.size_px} must be a multiple of 16")
    folder.mkdir(parents=True, exist_ok=True)
    for name, (shape, dtype) in _shapes(config).items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape).flush()
    rows, start = range(config.sequences), (sources, config, folder)
    with closing(in_processes(_fill_row, rows, workers, start=_start_worker, arguments=start, at_once=8)) as filled:
        for _ in filled:
            pass
    _worker.clear()
    write_whole(folder / "pack.json", json.dumps(asdict(config), indent=2).encode())


def open_pack(folder: Path) -> dict[str, np.ndarray]:
    """Open the arrays of a finished pack, memory-mapped, read-only. Raises DataLayoutError for other folders."""
    if not (folder / "pack.json").is_file():
        raise DataLayoutError(f"{folder} is not a finished pack (no pack.json): make it with `unsmear data pack`")
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
