"""Random crops of sharp images, for the training of denoisers and autoencoders."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from unsmear.blur.pack import material, read_clip, read_photo, some_leaves
from unsmear.datasets.pairs import PairSet, read_pieces
from unsmear.errors import UsageError
from unsmear.options import Limits, check
from unsmear.video.images import IMAGE_SUFFIXES
from unsmear.video.probe import VIDEO_SUFFIXES

T = TypeVar("T")


@dataclass(frozen=True)
class ImageConfig:
    """Sources of images, and ranges of their crops."""

    photos: list[str] = field(default_factory=list)
    """Folders of photographs."""
    clips: list[str] = field(default_factory=list)
    """Folders of videos; every ``clip_stride``-th frame is used."""
    clip_stride: Annotated[int, Limits(1)] = 10
    leaves: Annotated[int, Limits(0)] = 0
    """Number of dead-leaves images to add, in colours of the photographs."""
    longest_px: Annotated[int, Limits(16)] = 1600
    """Longest side to which images are shrunk in memory."""
    crop_px: Annotated[int, Limits(16)] = 128
    """Side of square crops, pixels."""
    shrink: Annotated[tuple[float, float], Limits(0, 1, above=True, ordered=True)] = (0.25, 1.0)
    """Range of the factor by which an image is shrunk before it is cropped, log-uniform."""
    validation: str | PairSet | None = None
    """Data set of blurred and sharp clips, as ``data.validation``; its sharp frames are used."""
    validation_frames: Annotated[int, Limits(1)] = 2
    """Validation frames per clip."""

    def __post_init__(self) -> None:
        check(self)


class ImageCrops:
    """Images in memory, and random crops of them that depend on a seed only.

    Raises:
        UsageError: the configuration names no photographs and no clips.
        DataLayoutError: a folder is empty, or a file cannot be read.
    """

    def __init__(self, config: ImageConfig):
        if not config.photos and not config.clips:
            raise UsageError("data.photos and data.clips are empty: name a folder of photographs or of videos")
        self.config = config
        self.pictures = [
            read_photo(p, config.longest_px) for name in config.photos for p in material(Path(name), IMAGE_SUFFIXES)
        ]
        self.pictures += some_leaves(config.leaves, self.pictures, 0)
        for name in config.clips:
            for path in material(Path(name), VIDEO_SUFFIXES):
                self.pictures += list(read_clip(path, config.longest_px))[:: config.clip_stride]
        self.shares = np.sqrt([p.shape[0] * p.shape[1] for p in self.pictures])

    def crop(self, rng: np.random.Generator) -> np.ndarray:
        """Random crop (crop_px, crop_px, 3) uint8 RGB of a shrunk image, flipped and rotated at random."""
        size = self.config.crop_px
        picture = self.pictures[int(rng.choice(len(self.pictures), p=self.shares / self.shares.sum()))]
        low, high = np.log(self.config.shrink)
        smallest = size / min(picture.shape[:2])
        scale = min(max(float(np.exp(rng.uniform(low, high))), smallest), 1.0)
        side = min(round(size / scale), *picture.shape[:2])
        y, x = (int(rng.integers(0, length - side + 1)) for length in picture.shape[:2])
        piece = picture[y : y + side, x : x + side]
        if side != size:
            piece = cv2.resize(piece, (size, size), interpolation=cv2.INTER_AREA)
        piece = np.rot90(piece, int(rng.integers(4)))
        return np.ascontiguousarray(piece[:, ::-1] if rng.random() < 0.5 else piece)

    def batch(self, rng: np.random.Generator, count: int) -> Tensor:
        """Batch of random crops (count, 3, S, S) uint8."""
        return torch.from_numpy(np.stack([self.crop(rng) for _ in range(count)])).permute(0, 3, 1, 2)

    @cached_property
    def validation(self) -> list[Tensor]:
        """Whole sharp frames (1, 3, H, W) uint8, evenly spread over the validation clips, sides multiples of 32."""
        if self.config.validation is None:
            return []
        count = self.config.validation_frames

        def spread_over(total: int) -> Iterator[slice]:
            for k in range(count):
                place = int(total * (k + 0.5) / count)
                yield slice(place, place + 1)

        out = []
        for piece in read_pieces(PairSet.of(self.config.validation).held_out(), spread_over):
            h, w = (side // 32 * 32 for side in piece.sharp.shape[1:3])
            out.append(torch.from_numpy(piece.sharp[:, :h, :w]).permute(0, 3, 1, 2))
        return out

    def shown(self) -> list[Tensor]:
        """Middle (1, 3, h, w) uint8 of a few of those frames, for the pictures of a validation."""
        return [middle(frame) for frame in spread(self.validation)]


SHOWN, SHOWN_PX = 3, 256
"""Number of pictures per validation, and the maximum side of their panels, pixels."""


def spread(items: Sequence[T]) -> list[T]:
    """At most ``SHOWN`` of the items, evenly spread from the first to the last."""
    picks = np.linspace(0, len(items) - 1, min(SHOWN, len(items))).round().astype(int)
    return [items[i] for i in picks]


def middle(frame: Tensor, multiple: int = 32, cell: int = 1) -> Tensor:
    """Middle part of a frame (1, C, H, W), with sides of at most ``SHOWN_PX`` that are multiples of ``multiple``.

    ``cell``: frame pixels per cell where ``frame`` is a field on a coarser grid; both limits are in frame pixels.
    """
    sides = [min(SHOWN_PX, length * cell) // multiple * multiple // cell for length in frame.shape[-2:]]
    y, x = ((length - side) // 2 for length, side in zip(frame.shape[-2:], sides, strict=True))
    return frame[..., y : y + sides[0], x : x + sides[1]]


def strip(*frames: Tensor) -> np.ndarray:
    """Place n frames (1, 3, H, W), about [0, 1], side by side: (H, n · W, 3) uint8."""
    levels = torch.cat([frame[0].float().cpu() for frame in frames], 2).clamp(0, 1) * 255
    return levels.round().byte().permute(1, 2, 0).numpy()
