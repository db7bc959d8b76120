"""Blurred and sharp frame pairs from sharp video, folders of frames or photographs.

In general, sub-frames are interpolated along optical flow and averaged. For near-static clips, and with ``average``,
real consecutive frames are averaged, as in GoPro and DVD. Photographs are rendered by a virtual camera. Clips can be
sped up for strong blur. Sensor noise and an H.264 encode are optional.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np

from unsmear.blur.camera import CameraRanges, log_uniform, noisy, render
from unsmear.blur.exposure import (
    DECIMATION,
    NEAR_STATIC_PX,
    average_stream,
    averaging_window,
    blur_between,
    blur_by_averaging,
    blur_by_flow,
    fast_motion_px,
    typical_motion_px,
)
from unsmear.blur.pairset import Pair, PairSet, Prepared, clip_generator, make_set, upright_frames, write_manifest
from unsmear.datasets.published import gopro_window
from unsmear.errors import DataLayoutError, UsageError
from unsmear.options import Limits, OptionError, check
from unsmear.video import RawFormat, VideoReader
from unsmear.video.light import Curve, quantise

__all__ = ["BlurSettings", "Pair", "PairSet", "clip_generator", "make_pairs", "write_manifest"]

_PHOTO_LONGEST_PX = 1920
_PHOTO_LEAST_PX = 64
_FEWEST_OUTPUT, _LONGEST_STEP = 8, 12
"""Least number of output frames of a clip that is sped up, and maximum factor of the speed."""


@dataclass(frozen=True)
class BlurSettings:
    """Settings of all pairs of a set; a :class:`~unsmear.blur.pairset.Recipe`.

    Raises UsageError for values out of range.
    """

    duty: Annotated[tuple[float, float], Limits(0, 1, ordered=True, unit="fractions of the frame step")] = (0.4, 1.0)
    """Exposure as a fraction of the frame step, drawn uniformly from this range for each clip."""
    seed: Annotated[int, Limits(0)] = 0
    """Seed; a clip depends on the seed and its name only."""
    curve: Curve = "srgb"
    """Transfer curve that is inverted for the averaging of light."""
    crf: float | tuple[float, float] | None = 18
    """Constant rate factor of the H.264 encode of blurred frames, or a range from which it is drawn uniformly
    for each clip; None omits the encode."""
    max_frames: Annotated[int, Limits(3, unit="motion needs neighbours")] | None = None
    """Maximum number of frames read from a clip; None reads all."""
    photo_px: int = 480
    """Side of the square frames rendered from a photograph; less for small photographs."""
    photo_frames: int = 12
    """Number of frames rendered from a photograph."""
    average: tuple[int, ...] | Literal["name"] | None = None
    """Average real frames only: an odd number, drawn from these for each clip, or as stated by names of GoPro
    (GOPR0384_11_00: 11). The middle frame is the target. None averages real frames of near-static clips only."""
    step: int | None = None
    """With ``average``: frames from one target to the next; None: the number of averaged frames, as in GoPro."""
    motion_px: (
        Annotated[tuple[float, float], Limits(0, above=True, ordered=True, unit="pixels an output frame")] | None
    ) = None
    """Speed clips up: source frames are decimated so that the 90th percentile of the motion between output frames is
    close to a number drawn (log-uniform) from this range for each clip, in pixels, and the 99th percentile below twice
    the upper end. Exposures cover the frames in between. None keeps the speed."""
    noise: Annotated[tuple[float, float], Limits(0, ordered=True, unit="8-bit levels")] = (0.0, 0.0)
    """Standard deviation of sensor noise at mid grey in 8-bit levels, drawn uniformly for each clip."""
    raw: RawFormat | None = None
    """Format of ``.yuv`` files; None: what their names state."""

    command = "unsmear data blur"
    optional = ("average", "step", "motion_range_px", "noise", "yuv", "crf_range")

    def __post_init__(self) -> None:
        check(self)
        for crf in self.crf if isinstance(self.crf, tuple) else (self.crf,):
            if crf is not None and not 0 <= crf <= 51:
                raise OptionError("crf", crf, "0 (lossless) to 51, or none for no encode")
        if isinstance(self.crf, tuple) and self.crf[0] > self.crf[1]:
            raise OptionError("crf", f"{self.crf[0]:g}-{self.crf[1]:g}", "the lower one first")
        if self.motion_px is not None and self.average is not None:
            raise UsageError("`motion_px` speeds clips up by itself: leave `average` out")
        self._check_average()

    def _check_average(self) -> None:
        if self.step is not None and (self.average is None or self.step < 1):
            raise OptionError("step", self.step, "1 or more, together with `average`")
        if self.average is None or self.average == "name":
            return
        wrong = next((window for window in self.average if window < 3 or window % 2 == 0), None)
        if wrong is not None or not self.average:
            raise OptionError("average", wrong, "odd numbers from 3 on, as the middle frame is the target")
        if self.step is not None and self.step < max(self.average):
            raise UsageError(
                f"`step` {self.step}: shorter than `average` {max(self.average)}; "
                "an exposure cannot outlast the frame step"
            )

    def recorded(self) -> dict[str, Any]:
        """Settings as recorded in the manifest entry of every clip."""
        extra: dict[str, Any] = {}
        if self.average is not None:
            extra = {"average": self.average if isinstance(self.average, str) else list(self.average)}
            extra |= {"step": self.step} if self.step is not None else {}
        if self.motion_px is not None:
            extra["motion_range_px"] = list(self.motion_px)
        if self.noise != (0, 0):
            extra["noise"] = list(self.noise)
        if self.raw is not None:
            extra["yuv"] = f"{self.raw} {self.raw.frame_rate}"
        drawn = isinstance(self.crf, tuple)
        return {
            "duty_range": list(self.duty),
            "seed": self.seed,
            "gamma": self.curve,
            "crf_range" if drawn else "crf": self.crf,
            "max_frames": self.max_frames,
            **extra,
        }

    def prepare(self, name: str, reader: VideoReader) -> Prepared:
        """Draw the blur of the clip ``name`` and prepare its pairs. Raises DataLayoutError where that fails."""
        rng = clip_generator(self.seed, name)
        duty = float(rng.uniform(*self.duty))
        facts: dict[str, Any] = {}
        if self.average is not None:
            window = self._window(name, reader)
            step = self.step or window
            if step < window:
                raise DataLayoutError(f"{reader.info.path}: averages {window} frames, more than `step` {step}")
            pairs = average_stream(upright_frames(reader, self.max_frames), window, step, self.curve)
            method, duty, facts = "average", window / step, {"window": window, "target_every": step}
        elif reader.info.kind == "image":
            pairs, method = _photo_pairs(reader, duty, rng, self), "camera"
        elif self.motion_px is not None:
            target = log_uniform(clip_generator(self.seed, f"{name}/motion"), self.motion_px)
            step, moved = _speed_up(reader, target, 2 * self.motion_px[1], duty, self.max_frames)
            pairs, method = blur_between(upright_frames(reader, self.max_frames), step, duty, self.curve), "between"
            facts = {"target_every": step, "motion_p90_px": round(moved, 2)}
        elif _near_static(reader, self.max_frames):
            window = averaging_window(duty)
            pairs, method, duty = _averaged_pairs(reader, window, self), "average", window / DECIMATION
        else:
            pairs, method = _flow_pairs(reader, duty, self), "flow"
        # Noise and crf have generators of their own, so that the blur does not depend on these options.
        if self.noise != (0, 0):
            own = clip_generator(self.seed, f"{name}/noise")
            sigma = float(own.uniform(*self.noise))
            pairs, facts["noise_level"] = _noisy_pairs(pairs, sigma, own), round(sigma, 4)
        crf = self.crf
        if isinstance(crf, tuple):
            crf = facts["crf"] = round(float(clip_generator(self.seed, f"{name}/crf").uniform(*crf)), 2)
        return Prepared(pairs, {"method": method, "duty": round(duty, 6), **facts}, crf)

    def _window(self, name: str, reader: VideoReader) -> int:
        if reader.info.kind == "image":
            raise DataLayoutError(f"{reader.info.path}: one image has no frames to average; leave `average` out")
        if isinstance(self.average, tuple):
            return int(clip_generator(self.seed, f"{name}/average").choice(self.average))
        window = gopro_window(name)
        if window is None:
            raise DataLayoutError(
                f"{reader.info.path}: its name does not state how many frames to average, as GOPR0384_11_00 does; "
                "give their number as `average`"
            )
        return window

    def too_short(self, source: Path) -> str:
        """Message for a clip without any pair."""
        if self.average is not None:
            return f"{source}: fewer frames than are to be averaged; give a longer clip or a smaller `average`"
        return f"{source}: fewer than 3 frames, too few to blur along their motion; give a longer clip"


def make_pairs(
    inputs: Iterable[Path],
    folder: Path,
    settings: BlurSettings | None = None,
    *,
    workers: int = 1,
    overwrite: bool = False,
    on_clip: Callable[[dict[str, Any]], None] | None = None,
) -> PairSet:
    """Make a set of blurred and sharp pairs: :func:`unsmear.blur.pairset.make_set` with ``settings``."""
    recipe = settings or BlurSettings()
    return make_set(inputs, folder, recipe, workers=workers, overwrite=overwrite, on_clip=on_clip)


def _noisy_pairs(pairs: Iterator[Pair], sigma: float, rng: np.random.Generator) -> Iterator[Pair]:
    for blurred, sharp in pairs:
        yield quantise(noisy(blurred.astype(np.float32), rng, sigma)), sharp


def _flow_pairs(reader: VideoReader, duty: float, settings: BlurSettings) -> Iterator[Pair]:
    """Pairs at full frame rate for all frames but the first and the last; three frames in memory."""
    recent: deque[np.ndarray] = deque(maxlen=3)
    for frame in upright_frames(reader, settings.max_frames):
        recent.append(frame)
        if len(recent) == 3:
            yield from blur_by_flow(list(recent), duty, settings.curve)


def _averaged_pairs(reader: VideoReader, window: int, settings: BlurSettings) -> Iterator[Pair]:
    """One pair per ``DECIMATION`` frames, which are in memory together."""
    group: list[np.ndarray] = []
    for frame in upright_frames(reader, settings.max_frames):
        group.append(frame)
        if len(group) == DECIMATION:
            yield from blur_by_averaging(group, window, DECIMATION, settings.curve)
            group = []
    yield from blur_by_averaging(group, window, DECIMATION, settings.curve)


def _photo_pairs(reader: VideoReader, duty: float, rng: np.random.Generator, settings: BlurSettings) -> Iterator[Pair]:
    photo = next(upright_frames(reader, None))
    shrink = _PHOTO_LONGEST_PX / max(photo.shape[:2])
    if shrink < 1:
        photo = cv2.resize(photo, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    size = min(settings.photo_px, int(min(photo.shape[:2]) * 0.6)) // 16 * 16
    if size < _PHOTO_LEAST_PX:
        raise DataLayoutError(
            f"{reader.info.path}: {photo.shape[1]}x{photo.shape[0]} is too small for camera motion: "
            f"expected sides of at least {_PHOTO_LEAST_PX * 2} pixels"
        )
    ranges = CameraRanges(
        size_px=size,
        frames=settings.photo_frames,
        duty=(duty, duty),
        sharp_share=0.0,
        speed_px=settings.motion_px or CameraRanges.speed_px,
        fast=settings.motion_px is not None,
        noise_levels=(0.0, 0.0),
        curve=settings.curve,
    )
    shot = render([photo], rng, ranges)
    yield from zip(shot.blurred, shot.sharp, strict=True)


def _near_static(reader: VideoReader, max_frames: int | None) -> bool:
    """Whether a clip has too little motion for blur by interpolation, and is long enough to be decimated.

    The criterion is ``exposure.typical_motion_px``, computed from the six pairs of frames that it samples.
    """
    total = _length(reader, max_frames)
    if total < 3 * DECIMATION:
        return False
    motions = [typical_motion_px(pair) for pair in _sampled_pairs(reader, total)]
    return bool(motions) and float(np.median(motions)) < NEAR_STATIC_PX


def _speed_up(
    reader: VideoReader, target_px: float, most_px: float, duty: float, max_frames: int | None
) -> tuple[int, float]:
    """Source frames per output frame, and the 90th percentile of the motion over them, in pixels.

    The motion is as close to ``target_px`` as possible, with the 99th percentile below ``most_px`` (small objects in
    front of a static background would otherwise vanish), at most ``_LONGEST_STEP`` source frames per output frame, and
    at least ``_FEWEST_OUTPUT`` output frames.
    """
    total = _length(reader, max_frames)
    motions = [fast_motion_px(*pair) for pair in _sampled_pairs(reader, total)] or [(0.0, 0.0)]
    motion, fastest = (max(float(value), 1e-3) for value in np.median(motions, axis=0))
    step = int(np.clip(min(round(target_px / motion), most_px // fastest), 1, _LONGEST_STEP))
    while step > 1 and 2 * np.ceil(duty * step / 2) + (_FEWEST_OUTPUT - 1) * step + 1 > total:
        step -= 1
    return step, step * motion


def _length(reader: VideoReader, max_frames: int | None) -> int:
    total = reader.info.frames or sum(1 for _ in upright_frames(reader, max_frames))
    return total if max_frames is None else min(total, max_frames)


def _sampled_pairs(reader: VideoReader, total: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Up to six pairs of consecutive frames, spread over the first ``total`` frames."""
    picks = {int(i) for i in np.linspace(0, max(total - 2, 0), 6)}
    previous = None
    for i, frame in enumerate(upright_frames(reader, max(picks) + 2)):
        if i - 1 in picks and previous is not None:
            yield previous, frame
        previous = frame if i in picks else None
