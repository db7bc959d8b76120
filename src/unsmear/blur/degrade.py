"""Degradation of high-quality video, for the additional data of CPGD-Net's stage 2 (§IV).

The chain is the one that CodeFormer (Zhou et al., NeurIPS 2022) describes for its training data,

    degraded = ((sharp ⊗ k_σ) ↓_r + n_δ) as JPEG of quality q, ↑_r

implemented from that description, with the ranges of the release of CPGD-Net. σ, r, δ and q are drawn once per clip,
so that it does not flicker; the noise differs in every frame. What the papers do not state is ours: half of the kernels
are isotropic, frames are shrunk by area averaging and enlarged by cubic interpolation, and the noise is independent in
each channel.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np

from unsmear.blur.pairset import Pair, PairSet, Prepared, clip_generator, make_set, upright_frames
from unsmear.options import Limits, OptionError, Share, check
from unsmear.video import RawFormat, VideoReader
from unsmear.video.light import quantise


@dataclass(frozen=True)
class DegradeRanges:
    """Ranges (low, high) of uniform draws for a clip; the defaults are those of CPGD-Net's release.

    Raises UsageError for values out of range.
    """

    kernel_px: Annotated[int, Limits(1, 255)] = 41
    """Side of the blur kernel, odd."""
    sigma_px: Annotated[tuple[float, float], Limits(0.01, 100, ordered=True)] = (0.1, 12.0)
    """Standard deviations of the Gaussian kernel, along and across its axis."""
    isotropic_share: Share = 0.5
    """Share of clips with an isotropic kernel (ours)."""
    scale: Annotated[tuple[float, float], Limits(1, 16, ordered=True)] = (1.0, 2.0)
    """Factor by which frames are shrunk and enlarged again."""
    noise_levels: Annotated[tuple[float, float], Limits(0, 255, ordered=True)] = (0.0, 15.0)
    """Standard deviation of Gaussian noise in 8-bit levels."""
    jpeg_quality: Annotated[tuple[int, int], Limits(1, 100, ordered=True)] = (40, 60)
    """Quality of the JPEG compression, 1 to 100."""

    def __post_init__(self) -> None:
        check(self)
        if self.kernel_px % 2 == 0:
            raise OptionError("kernel_px", self.kernel_px, "an odd number of pixels, 1 to 255")

    def recorded(self) -> dict[str, Any]:
        """Ranges as recorded in the manifest entry of every clip."""
        return {
            "kernel_px": self.kernel_px,
            "sigma_range": list(self.sigma_px),
            "isotropic_share": self.isotropic_share,
            "scale_range": list(self.scale),
            "noise_range": list(self.noise_levels),
            "jpeg_range": list(self.jpeg_quality),
        }


@dataclass(frozen=True)
class Degradation:
    """Drawn degradation of one clip; ``angle_rad`` is the direction of the kernel's first axis."""

    kernel_px: int
    sigma_px: tuple[float, float]
    angle_rad: float
    scale: float
    noise_level: float
    jpeg_quality: int

    @classmethod
    def draw(cls, rng: np.random.Generator, ranges: DegradeRanges | None = None) -> "Degradation":
        """Draw a degradation; the number of draws from ``rng`` does not depend on the result."""
        ranges = ranges or DegradeRanges()
        along, across = (float(sigma) for sigma in rng.uniform(*ranges.sigma_px, size=2))
        angle, isotropic = float(rng.uniform(0, np.pi)), rng.random() < ranges.isotropic_share
        return cls(
            kernel_px=ranges.kernel_px,
            sigma_px=(along, along if isotropic else across),
            angle_rad=angle,
            scale=float(rng.uniform(*ranges.scale)),
            noise_level=float(rng.uniform(*ranges.noise_levels)),
            jpeg_quality=int(rng.integers(ranges.jpeg_quality[0], ranges.jpeg_quality[1] + 1)),
        )

    def kernel(self) -> np.ndarray:
        """Blur kernel, float32 (kernel_px, kernel_px) with sum 1."""
        reach = self.kernel_px // 2
        y, x = np.indices((self.kernel_px, self.kernel_px), np.float64) - reach
        cos, sin = np.cos(self.angle_rad), np.sin(self.angle_rad)
        along, across = (x * cos + y * sin) / self.sigma_px[0], (y * cos - x * sin) / self.sigma_px[1]
        weights = np.asarray(np.exp(-(along**2 + across**2) / 2), np.float32)
        return weights / weights.sum()

    def frames(self, sharp: Iterable[np.ndarray], rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Degrade frames uint8 RGB (H, W, 3) one at a time, with noise from ``rng``."""
        kernel = self.kernel()
        for frame in sharp:
            yield self.apply(frame, kernel, rng)

    def apply(self, frame: np.ndarray, kernel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Degrade one frame uint8 RGB (H, W, 3) with the ``kernel`` of this degradation."""
        height, width = frame.shape[:2]
        image = cv2.filter2D(frame.astype(np.float32), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        small = (max(1, round(width / self.scale)), max(1, round(height / self.scale)))
        if small != (width, height):
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        if self.noise_level > 0:
            image = image + np.asarray(rng.normal(0, self.noise_level, image.shape), np.float32)
        compressed = _jpeg(quantise(image), self.jpeg_quality)
        if small == (width, height):
            return compressed
        return np.asarray(cv2.resize(compressed, (width, height), interpolation=cv2.INTER_CUBIC))


def degrade(
    frames: Iterable[np.ndarray], rng: np.random.Generator, ranges: DegradeRanges | None = None
) -> list[np.ndarray]:
    """Draw one degradation and apply it to the frames of a clip.

    Args:
        frames: sharp, uint8 RGB (H, W, 3).
        rng: the only source of randomness.
        ranges: ranges of the draws; None for the defaults.

    Returns:
        As many frames of the same shape and type.
    """
    return list(Degradation.draw(rng, ranges).frames(frames, rng))


@dataclass(frozen=True)
class DegradeSettings:
    """Settings of all degraded pairs of a set; a :class:`~unsmear.blur.pairset.Recipe`.

    Raises UsageError for values out of range.
    """

    ranges: DegradeRanges = DegradeRanges()
    seed: Annotated[int, Limits(0)] = 0
    """Seed; a clip depends on the seed and its name only."""
    max_frames: Annotated[int, Limits(1)] | None = None
    """Maximum number of frames read from a clip; None reads all."""
    raw: RawFormat | None = None
    """Format of ``.yuv`` files, instead of what their names state."""

    command = "unsmear data degrade"
    optional = ("yuv",)

    def __post_init__(self) -> None:
        check(self)

    def recorded(self) -> dict[str, Any]:
        """Settings as recorded in the manifest entry of every clip."""
        extra = {"yuv": f"{self.raw} {self.raw.frame_rate}"} if self.raw is not None else {}
        return {"seed": self.seed, **self.ranges.recorded(), "max_frames": self.max_frames, **extra}

    def prepare(self, name: str, reader: VideoReader) -> Prepared:
        """Draw the degradation of the clip ``name`` and prepare its pairs."""
        rng = clip_generator(self.seed, name)
        drawn = Degradation.draw(rng, self.ranges)
        facts = {
            "method": "degrade",
            "sigma_px": [round(sigma, 4) for sigma in drawn.sigma_px],
            "angle_rad": round(drawn.angle_rad, 4),
            "scale": round(drawn.scale, 4),
            "noise_level": round(drawn.noise_level, 4),
            "jpeg_quality": drawn.jpeg_quality,
        }
        return Prepared(self._pairs(drawn, rng, reader), facts)

    def _pairs(self, drawn: Degradation, rng: np.random.Generator, reader: VideoReader) -> Iterator[Pair]:
        kernel = drawn.kernel()
        for frame in upright_frames(reader, self.max_frames):
            yield drawn.apply(frame, kernel, rng), frame

    def too_short(self, source: Path) -> str:
        """Message for a clip without any pair."""
        return f"{source}: holds not one frame; give a video or a folder of frames"


def make_degraded(
    inputs: Iterable[Path],
    folder: Path,
    settings: DegradeSettings | None = None,
    *,
    workers: int = 1,
    overwrite: bool = False,
    on_clip: Callable[[dict[str, Any]], None] | None = None,
) -> PairSet:
    """Make a set of degraded and sharp pairs: :func:`unsmear.blur.pairset.make_set` with ``settings``."""
    recipe = settings or DegradeSettings()
    return make_set(inputs, folder, recipe, workers=workers, overwrite=overwrite, on_clip=on_clip)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """JPEG encode and decode of a uint8 RGB image."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    bgr = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
