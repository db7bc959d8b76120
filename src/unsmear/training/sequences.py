"""Training sequences: random crops, flips and transpositions of packs, or of data sets with stored priors.

A sequence is a dictionary of arrays: ``blurred`` and ``sharp`` uint8 (T, S, S, 3), ``motion`` and ``motion_back``
float16 (T, 2, S/8, S/8) in pixels, ``residual`` float16 (T, 1, S/4, S/4) in [0, 1], ``reset`` and ``reset_back`` bool
(T,), and ``duty`` float32, the duty cycle that the network is conditioned on, -1 for none; of data sets also the text
``caption``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import cv2
import numpy as np

from unsmear.blur.pack import RESIDUAL_CELL, PackConfig, open_pack
from unsmear.datasets.captions import read_captions
from unsmear.datasets.layouts import DataClip
from unsmear.datasets.pairs import PairSet, open_priors
from unsmear.errors import DataLayoutError, UsageError
from unsmear.options import Limits, Share, check
from unsmear.priors import Prior
from unsmear.priors.duty import estimate_duty
from unsmear.video import eight_bit
from unsmear.video.colour import luma_of_rgb
from unsmear.video.images import list_images, read_image

SHARP_DUTY, SHARP_CONDITION = 0.1, 0.25
"""Duty cycle up to which a sequence is sharp, and the largest one that the network is conditioned on for it, which is
also the limit below which restoration considers a video sharp. Larger values would teach it to ignore short exposures.
"""


@dataclass(frozen=True)
class DataConfig:
    """Training sequences and validation data."""

    packs: list[str] = field(default_factory=list)
    """Folders made by ``unsmear data pack``."""
    pairs: list[str | PairSet] = field(default_factory=list)
    """Data sets of blurred and sharp clips (GoPro, DVD, …) with stored priors (``unsmear data augment``). Names of
    folders, or mappings with a ``dataset`` and ``split``, ``role`` or ``clip_list`` of its own."""
    shards: list[str] = field(default_factory=list)
    """Instead of both: folders made by ``unsmear data shards``, from which sequences are rendered during training."""
    draw: PackConfig = field(default_factory=PackConfig)
    """Ranges and shares of sequences from shards; ``crop_px`` and ``frames`` of this configuration override its size
    and number of frames."""
    workers: Annotated[int, Limits(1)] = 2
    """Threads that read packs and data sets; worker processes for sequences from shards."""
    ahead: Annotated[int, Limits(1)] = 4
    """Maximum number of batches that are read or rendered ahead."""
    split: Literal["train", "valid", "test"] | None = "train"
    """Split of those ``pairs`` that state none: train, valid, test, or None for all."""
    role: str | None = None
    """Of those ``pairs`` that state none: only clips in folders of this name, such as blur_gamma."""
    crop_px: Annotated[int, Limits(16, step=16)] = 256
    """Side of square crops, pixels."""
    frames: Annotated[int, Limits(1)] = 6
    """Frames per sequence."""
    blur_px: Annotated[tuple[float, float], Limits(0, ordered=True)] | None = None
    """Of ``packs``: only sequences whose blur, the fitted duty cycle times the mean length of V̄, is in this range."""
    duty_estimated: Share = 0.05
    """Share of sequences conditioned on the estimated duty cycle; sharp ones never are on the true one."""
    duty_noise: Annotated[float, Limits(0)] = 0.08
    """Standard deviation of the noise on the fitted duty cycle, on which the other sequences are conditioned."""
    duty_unknown: Share = 0.12
    """Share of sequences conditioned on no duty cycle."""
    sharp_unknown: Share = 0.15
    """The same share for sharp sequences: fast motion that was filmed sharp must be recognised from the frames."""
    validation: str | PairSet | None = None
    """Data set of blurred and sharp clips in any layout. Where it states no split: its validation clips, else its test
    clips, else all."""

    def __post_init__(self) -> None:
        check(self)
        if self.shards and (self.packs or self.pairs):
            raise UsageError("data.shards stand alone: take data.packs and data.pairs out, or the shards")


Arrays = dict[str, Any]


class Source(Protocol):
    """Source of sequences."""

    captions: Sequence[str]
    """All captions; none in packs."""

    def __len__(self) -> int: ...

    def sample(self, i: int, rng: np.random.Generator, config: DataConfig) -> Arrays:
        """Sequence ``i``, randomly cropped, flipped and transposed."""


def open_sources(config: DataConfig, priors: bool = True, captions: bool = False) -> list[Source]:
    """Open the packs and data sets of a configuration; ``priors``, ``captions``: whether those of data sets are read.

    Raises:
        UsageError: there are none.
        DataLayoutError: a pack is unfinished; a data set lacks priors or partners, or has captions of other clips.
    """
    if not config.packs and not config.pairs:
        raise UsageError(
            "data.packs and data.pairs are empty: name a folder made by `unsmear data pack`, a data set with priors, "
            "or shards in data.shards"
        )
    packs: list[Source] = [PackSource(Path(p), config.blur_px) for p in config.packs]
    sets = [PairSet.of(given) for given in config.pairs]
    sets = [replace(given, role=given.role or config.role) for given in sets]
    return packs + [_pair_source(given, config.split, priors, captions) for given in sets]


def _pair_source(given: PairSet, split: str | None, priors: bool, captions: bool) -> "PairSource":
    clips = given.clips(split)
    return PairSource(clips, priors, read_captions(Path(given.dataset), clips) if captions else ())


class PackSource:
    """Sequences rendered by ``unsmear data pack``."""

    def __init__(self, folder: Path, blur_px: tuple[float, float] | None = None):
        """Args: blur_px: range of mean blur to keep. Raises DataLayoutError: no pack, or no sequence in the range."""
        self.arrays = open_pack(folder)
        self.captions: Sequence[str] = ()
        self.rows = np.arange(len(self.arrays["duty"]))
        if blur_px is not None:
            blur = mean_blur_px(self.arrays)
            self.rows = np.flatnonzero((blur >= blur_px[0]) & (blur <= blur_px[1]))
            if not len(self.rows):
                raise DataLayoutError(f"{folder}: no sequence has a blur of {blur_px[0]:g} to {blur_px[1]:g} pixels")

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, i: int, rng: np.random.Generator, config: DataConfig) -> Arrays:
        return augment(self.arrays, int(self.rows[i]), rng, config)


def mean_blur_px(pack: dict[str, np.ndarray]) -> np.ndarray:
    """Mean blur length (N,) of the sequences of a pack, pixels: the fitted duty cycle times the mean of |V|."""
    speed = [np.linalg.norm(motion.astype(np.float32), axis=1).mean() for motion in pack["motion"]]
    return np.asarray(pack["duty_fitted"]) * np.array(speed)


class PairSource:
    """Sequences of a data set of blurred and sharp clips, with priors from the archives beside them.

    There is one sequence per frame, which begins there, or earlier where the clip ends too soon.
    """

    def __init__(self, clips: Sequence[DataClip], priors: bool = True, captions: Sequence[str] = ()):
        """List the frames of clips.

        Args:
            clips: from ``PairSet.clips``.
            priors: whether they are wanted; without, sequences carry zeros in their place.
            captions: one per clip; none for empty ones.

        Raises:
            DataLayoutError: a clip without frames, partner or wanted priors.
        """
        self.clips, self.priors, self.captions = clips, priors, captions or [""] * len(clips)
        for clip in clips:
            check_clip(clip, priors)
        self.frames = [list_images(clip.source) for clip in self.clips]
        self.sharp = [list_images(clip.sharp) for clip in self.clips if clip.sharp is not None]
        self.ends = np.cumsum([len(files) for files in self.frames])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def sample(self, i: int, rng: np.random.Generator, config: DataConfig) -> Arrays:
        which = int(np.searchsorted(self.ends, i, side="right"))
        files, partners = self.frames[which], self.sharp[which]
        count = min(config.frames, len(files))
        first = min(i - int(self.ends[which] - len(files)), len(files) - count)
        span = slice(first, first + count)
        blurred, sharp = ([eight_bit(read_image(f)) for f in side[span]] for side in (files, partners))
        height, width = blurred[0].shape[:2]
        size = min(config.crop_px, height // 16 * 16, width // 16 * 16)
        y, x = (int(rng.integers(0, (side - size) // 16 + 1)) * 16 for side in (height, width))
        window = (slice(y, y + size), slice(x, x + size))
        out: Arrays = {
            "blurred": np.stack([frame[window] for frame in blurred]),
            "sharp": np.stack([frame[window] for frame in sharp]),
            **_prior_arrays(self._priors_of(which, span, height, width), y, x, size),
        }
        out = turned(out, rng)
        rng.random()  # the draw of a removed option: later draws of a seed stay the same
        out["duty"] = _condition(np.nan, self._duty(which), rng, config)
        return {k: np.ascontiguousarray(v) for k, v in out.items()} | {"caption": self.captions[which]}

    def _priors_of(self, which: int, span: slice, height: int, width: int) -> Sequence[Prior]:
        if not self.priors:
            return [Prior.empty(height, width)] * (span.stop - span.start)
        with _archive(self.clips[which]) as archive:
            return list(archive[span])

    @lru_cache(maxsize=4096)  # noqa: B019  # one number per clip, kept as long as the source
    def _duty(self, which: int) -> float:
        """Duty cycle estimated on the middle frames of a clip, -1 for no estimate."""
        if not self.priors:
            return -1.0
        files = self.frames[which]
        first = max(0, (len(files) - _DUTY_FRAMES) // 2)
        span = slice(first, first + _DUTY_FRAMES)
        with _archive(self.clips[which]) as archive:
            priors = archive[span]
        estimated = estimate_duty([luma_of_rgb(eight_bit(read_image(f))) for f in files[span]], priors)
        return -1.0 if estimated is None else estimated


_DUTY_FRAMES = 12


def check_clip(clip: DataClip, priors: bool = True) -> None:
    """Raise DataLayoutError where a clip cannot be trained on: no partner, no images, or no ``priors``."""
    if clip.sharp is None:
        raise DataLayoutError(f"{clip.source}: has no sharp partner; `unsmear data check` lists what is missing")
    if not clip.source.is_dir() or not clip.sharp.is_dir():
        raise DataLayoutError(f"{clip.source}: is a video; training reads folders of images, so unpack it into frames")
    if priors and not clip.archive.exists():
        raise DataLayoutError(f"{clip.source}: has no priors beside it; run `unsmear data augment` first")
    if len(list_images(clip.source)) != len(list_images(clip.sharp)):
        raise DataLayoutError(
            f"{clip.sharp}: has another number of frames than {clip.source}; run `unsmear data check`"
        )


def _archive(clip: DataClip) -> Any:
    archive = open_priors(clip)
    assert archive is not None  # checked by check_clip
    return archive


def _prior_arrays(priors: Sequence[Prior], y: int, x: int, size: int) -> Arrays:
    cells = (slice(None), slice(y // 8, (y + size) // 8), slice(x // 8, (x + size) // 8))
    coarse = (size // RESIDUAL_CELL,) * 2
    residual = [p.residual01()[y : y + size, x : x + size] for p in priors]
    return {
        "motion": np.stack([p.motion()[cells] for p in priors]).astype(np.float16),
        "motion_back": np.stack([p.motion_back()[cells] for p in priors]).astype(np.float16),
        "residual": np.stack([cv2.resize(r, coarse, interpolation=cv2.INTER_AREA)[None] for r in residual]).astype(
            np.float16
        ),
        "reset": np.array([p.reset for p in priors]),
        "reset_back": np.array([p.reset_back for p in priors]),
    }


def augment(pack: dict[str, np.ndarray], i: int, rng: np.random.Generator, config: DataConfig) -> dict[str, Any]:
    """Sequence ``i`` of a pack, randomly cropped on the 16-pixel grid, flipped and transposed with its motion."""
    t, size = pack["blurred"].shape[1:3]
    crop, frames = min(config.crop_px, size), min(config.frames, t)
    first = int(rng.integers(0, t - frames + 1))
    y, x = (int(v) * 16 for v in rng.integers(0, (size - crop) // 16 + 1, 2))
    out: dict[str, Any] = {}
    for key in ("blurred", "sharp"):
        out[key] = pack[key][i, first : first + frames, y : y + crop, x : x + crop]
    for key, cell in (("motion", 8), ("motion_back", 8), ("residual", 4)):
        window = (slice(y // cell, (y + crop) // cell), slice(x // cell, (x + crop) // cell))
        out[key] = pack[key][(i, slice(first, first + frames), slice(None), *window)]
    for key in ("reset", "reset_back"):
        out[key] = pack[key][i, first : first + frames]
    out = turned(out, rng)
    rng.random()  # as in ``PairSource.sample``
    duty, fitted = float(pack["duty"][i]), float(pack["duty_fitted"][i])
    # NaN where the sequence is blurred, but not along its motion vectors
    true = duty if duty <= SHARP_DUTY else fitted if fitted > SHARP_CONDITION else np.nan
    out["duty"] = _condition(true, float(pack["duty_estimated"][i]), rng, config)
    return {k: np.ascontiguousarray(v) for k, v in out.items()}


def turned(out: Arrays, rng: np.random.Generator) -> Arrays:
    """Flip and transpose a sequence at random, with its motion."""
    spatial = {
        "blurred": (1, 2),
        "sharp": (1, 2),
        "motion": (2, 3),
        "motion_back": (2, 3),
        "residual": (2, 3),
    }
    for axis in (0, 1):  # vertical, then horizontal flip
        if rng.random() < 0.5:
            for key, axes in spatial.items():
                out[key] = np.flip(out[key], axes[axis])
            for key in ("motion", "motion_back"):
                sign = np.ones((1, 2, 1, 1), np.float16)
                sign[0, 1 - axis] = -1
                out[key] = out[key] * sign
    if rng.random() < 0.5:
        for key, axes in spatial.items():
            out[key] = np.swapaxes(out[key], *axes)
        for key in ("motion", "motion_back"):
            out[key] = out[key][:, ::-1]
    return out


def _condition(true: float, estimated: float, rng: np.random.Generator, config: DataConfig) -> np.float32:
    """Duty cycle that the network is conditioned on, -1 for none. ``true`` is NaN where it is unknown.

    Estimates on small crops are less accurate than those on whole frames, which are used in restoration; therefore the
    true duty cycle is mostly used. Sharp sequences are often estimated as slightly blurred, so they are conditioned on
    such estimates. Larger ones indicate blur in the source material and are replaced: the network must not learn to
    keep blur.
    """
    drawn = rng.random()
    if drawn < (config.sharp_unknown if true <= SHARP_DUTY else config.duty_unknown):
        return np.float32(-1)
    if true <= SHARP_DUTY:
        return np.float32(estimated if estimated <= SHARP_CONDITION else rng.uniform(0, SHARP_CONDITION))
    if drawn < config.duty_unknown + config.duty_estimated or np.isnan(true):
        return np.float32(estimated)
    return np.float32(np.clip(true + rng.normal() * config.duty_noise, 0, 1))
