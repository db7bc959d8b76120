"""Training sequences, rendered once and read many times.

A pack is a folder of memory-mapped arrays, one row a sequence, with the coding priors of the blurred
frames beside them: priors always come from the real re-encode pass on what the network will see, never
from the trajectory that made the blur. Row i depends on the seed and i alone.
"""

import json
from collections.abc import Container, Iterable, Iterator, Sequence, Set
from contextlib import closing, suppress
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
from unsmear.files import make_folder, reserve, write_whole, writing
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
"""R is stored averaged over cells of 4×4 pixels, the grid on which networks read it."""

_FLOW_MARGIN = 24
_CLIP_PX, _RUN = 960, 60
"""Longest side of clips, and frames that belong together where not all of a clip are kept."""
_HDR_TRANSFERS = {16, 18}
_CUT_LEVELS, _MISMATCH_LEVELS = 25.0, 6.0
"""Mean difference of frames that follow one another, shrunk to 16×16, from which they are a cut; and of the two frames
half way between them that either gives along flow."""
_LEAVES_SIZE, _LEAVES_STREAM = (640, 960), 7


@dataclass(frozen=True)
class PackConfig:
    """Ranges and shares of the sequences of a pack."""

    sequences: Annotated[int, Limits(1)] = 4000
    """Sequences to render."""
    seed: Annotated[int, Limits(0)] = 0
    """Sequence i depends on the seed and i alone."""
    photo_share: Share = 0.6
    """Share of sequences from photographs, the rest is from clips."""
    interpolated_share: Share = 0.0
    """Of the sequences from photographs, those whose exposures are interpolated from sharp frames, as of clips."""
    camera: CameraRanges = field(default_factory=CameraRanges)
    crf: Annotated[tuple[float, float], Limits(ordered=True)] = (10.0, 27.0)
    """Range of the H.264 encode of the result."""
    uncompressed_share: Share = 0.2
    psnr_range: Annotated[tuple[float, float], Limits(ordered=True, unit="dB")] = (17.0, 38.0)
    """Blurred sequences outside are drawn again: hopeless ones and ones already sharp teach little."""
    detail: float = 6.0
    """Least standard deviation of the Laplacian of the sharp centre frame, in 8-bit levels."""
    clip_motion_px: Annotated[tuple[float, float], Limits(0, above=True, ordered=True, unit="pixels")] = (1.5, 25.0)
    """Range of motion in clips, pixels a frame."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Sources:
    """Decoded material: photographs (H, W, 3) and clips, each a list of frames, uint8 RGB."""

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
    """Read every photograph and clip below two folders, shrunk to ``longest_px`` (clips to 960).

    Args:
        photos, clips: the folders; None for none.
        longest_px: of photographs.
        leaves: pictures of dead leaves in the photographs' colours, drawn from ``seed``, are added to the photographs.
        seed: of the leaves.
        exclude: names of files to leave out.
        clip_frames: frames kept of a clip at most, in runs (a clip each) spread over it; None keeps all.

    Raises:
        DataLayoutError: a folder without material, a file that cannot be read, a name in ``exclude`` that is no file.
    """
    kept = [material(photos, IMAGE_SUFFIXES), material(clips, VIDEO_SUFFIXES)]
    names = {path.name for paths in kept for path in paths}
    for name in exclude:
        if name not in names:
            raise DataLayoutError(f"`exclude` {name}: no photograph or clip of this name; give the names of files")
    kept = [[path for path in paths if path.name not in exclude] for paths in kept]
    pictures = [read_photo(path, longest_px) for path in kept[0]]
    pictures += some_leaves(leaves, pictures, seed)
    return Sources(pictures, [run for path in kept[1] for run in _runs(path, clip_frames)])


def material(folder: Path | None, suffixes: Set[str]) -> list[Path]:
    """The files below ``folder`` with one of these suffixes, in order; none for None.

    Raises:
        DataLayoutError: there is no such file.
    """
    if folder is None:
        return []
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes)
    if not found:
        raise DataLayoutError(f"{folder} holds no file ending in {', '.join(sorted(suffixes))}")
    return found


def _runs(path: Path, most: int | None) -> list[list[np.ndarray]]:
    """The frames of a clip: all, or ``most`` of them in runs of ``_RUN``, spread evenly."""
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
    """Number of frames of a video, which it need not state."""
    try:
        with open_input(path) as container:
            return sum(1 for packet in container.demux(main_video_stream(container, path)) if packet.size)
    except UnsmearError as error:
        raise DataLayoutError(str(error)) from error
    except av.FFmpegError as error:
        raise DataLayoutError(f"{path}: cannot be read to its end ({reason(error)}); replace or remove it") from error


def some_leaves(count: int, photos: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Pictures of dead leaves in the colours of ``photos``."""
    rng, photographs = np.random.default_rng((seed, _LEAVES_STREAM)), list(photos)
    return [dead_leaves(_LEAVES_SIZE, rng, photographs) for _ in range(count)]


def read_photo(path: Path, longest_px: int) -> np.ndarray:
    """uint8 RGB (H, W, 3), shrunk to ``longest_px``. Raises DataLayoutError where it cannot be read."""
    try:
        return _shrunk(eight_bit(read_image(path)), longest_px)
    except UnsmearError as error:
        raise DataLayoutError(str(error)) from error


def _shrunk(image: np.ndarray, longest_px: int) -> np.ndarray:
    k = longest_px / max(image.shape[:2])
    return image if k >= 1 else cv2.resize(image, None, fx=k, fy=k, interpolation=cv2.INTER_AREA)


def read_clip(path: Path, longest_px: int, wanted: Container[int] | None = None) -> Iterator[np.ndarray]:
    """The frames of a video, uint8 RGB (H, W, 3), upright, shrunk to ``longest_px``.

    Args:
        path: the video.
        longest_px: longest side, pixels.
        wanted: numbers of the frames to give; None for all.

    Raises:
        DataLayoutError: it cannot be read to its end; or its light is coded for HDR (PQ or HLG), which would be read
            as something grey.
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
    """Renders a sequence from photographs, as :func:`unsmear.blur.camera.render` does."""

    def __call__(self, rng: np.random.Generator, ranges: CameraRanges, duty: float | None = None) -> Rendered: ...


def draw_frames(
    camera: Camera | None, clips: Sequence[list[np.ndarray]], rng: np.random.Generator, config: PackConfig
) -> Rendered | list[np.ndarray] | None:
    """Draw what a sequence is made of.

    Args:
        camera: renders from photographs; None where there are none.
        clips: frames of each, uint8 RGB.
        rng: the only source of randomness.
        config: what to draw.

    Returns:
        A finished exposure, or sharp frames still to be exposed along their flow, with a margin around and one frame
        more at either end; None if the draw fell on a clip that is too short.
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
    """Frames of a clip of which every ``step``-th becomes an output frame, exposed over the frames around it."""

    def __init__(self, frames: Iterable[np.ndarray] = (), step: int = 1):
        super().__init__(frames)
        self.step = step


def _half(step: int) -> int:
    """Frames on either side of an output frame that its exposure may reach."""
    return (step + 1) // 2


def _over_frames(crops: SpedUp, rng: np.random.Generator, config: PackConfig) -> Rendered | None:
    """Exposures over the frames between output frames; None if they move too little or too much, or flow fails."""
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
    """Exposures of all frames but the first and the last, cut out of the margin that flow needs; or None."""
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
                return None  # the flow does not join these frames: a cut
        times = subframe_times(duty, fastest)
        light = expose((near.at(float(s))[inner, inner] for s in times), ranges.curve)
        blurred.append(quantise(sensor_noise(light, rng, ranges.noise_levels)))
        sharp.append(centre[inner, inner])
    return Rendered(np.stack(blurred), np.stack(sharp), duty)


def draw_sequence(
    sources: Sources, rng: np.random.Generator, config: PackConfig
) -> tuple[np.ndarray, np.ndarray, float, list[Prior]]:
    """(blurred, sharp, duty, priors) of one accepted sequence; frames uint8 (T, S, S, 3)."""
    camera = partial(render, sources.photos) if sources.photos else None
    for _ in range(MOST_DRAWS):
        drawn = draw_frames(camera, sources.clips, rng, config)
        if drawn is not None and (sequence := finish_sequence(drawn, rng, config)) is not None:
            return sequence
    raise no_usable_sequence()


MOST_DRAWS = 200


def no_usable_sequence() -> DataLayoutError:
    """The error after ``MOST_DRAWS`` draws in vain."""
    return DataLayoutError(
        f"{MOST_DRAWS} draws gave no usable sequence: the material is too plain or too still for this configuration"
    )


def finish_sequence(
    drawn: Rendered | list[np.ndarray], rng: np.random.Generator, config: PackConfig
) -> tuple[np.ndarray, np.ndarray, float, list[Prior]] | None:
    """Expose what is still to be exposed, encode and decode it, and find its priors; None if it does not suit."""
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
    """One row of a pack: the arrays of ``ARRAYS``."""
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
"""``duty`` is what was asked for, ``duty_fitted`` what explains the middle frame best along its motion vectors, and
``duty_estimated`` what the estimator says of the blurred frames, -1 for nothing."""


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


FINISHED = "pack.json"  # which makes a pack whole

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
    """Render the sequences of a pack into ``folder``; ``pack.json`` is written last, and an error leaves nothing."""
    if config.camera.size_px % 16:
        raise DataLayoutError(f"sequence size {config.camera.size_px} must be a multiple of 16")
    make_folder(folder)
    rows, start = range(config.sequences), (sources, config, folder)
    try:
        with writing(folder):
            for name, (shape, dtype) in _shapes(config).items():
                np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape).flush()
                reserve(folder / f"{name}.npy")
        with closing(in_processes(_fill_row, rows, workers, start=_start_worker, arguments=start, at_once=8)) as filled:
            for _ in filled:
                pass
        write_whole(folder / FINISHED, json.dumps(asdict(config), indent=2).encode())
    except BaseException:
        for name in ARRAYS:
            (folder / f"{name}.npy").unlink(missing_ok=True)
        with suppress(OSError):  # what holds something else stays
            folder.rmdir()
        raise
    finally:
        _worker.clear()


def open_pack(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a finished pack, memory-mapped, read-only."""
    if not (folder / FINISHED).is_file():
        raise DataLayoutError(f"{folder} is not a finished pack (no {FINISHED}): make it with `unsmear data pack`")
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
