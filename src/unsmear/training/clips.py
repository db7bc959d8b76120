"""Training crops of sharp videos, and validation clips, for the video diffusion model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from unsmear.blur.pack import material, read_clip
from unsmear.datasets.pairs import PairSet, read_pieces
from unsmear.errors import DataLayoutError
from unsmear.video.probe import VIDEO_SUFFIXES

SHRINK = (0.5, 1.0)
"""Range of the factor by which a video is shrunk before a clip is cropped."""


class SharpClips:
    """Sharp videos in memory, and random crops of them.

    Args:
        folders: folders of videos.
        size: side of crops, pixels.
        frames: frames of a crop: every frame of the video, every second or every third.
        longest_px: longest side to which videos are shrunk, pixels.

    Raises:
        DataLayoutError: no videos, or all are too short or too small.
    """

    def __init__(self, folders: Sequence[str], size: int, frames: int, longest_px: int):
        self.size, self.frames = size, frames
        every = [
            np.stack(list(read_clip(path, longest_px)))
            for name in folders
            for path in material(Path(name), VIDEO_SUFFIXES)
        ]
        self.clips = [clip for clip in every if len(clip) >= frames and min(clip.shape[1:3]) >= size]
        if not self.clips:
            raise DataLayoutError(f"{', '.join(folders)}: no video has {frames} frames of {size} pixels")
        self.shares = np.sqrt([len(clip) for clip in self.clips])

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Random crop (F, S, S, 3) uint8, rotated, flipped and reversed at random."""
        clip = self.clips[int(rng.choice(len(self.clips), p=self.shares / self.shares.sum()))]
        every = int(rng.integers(1, min(3, (len(clip) - 1) // max(self.frames - 1, 1)) + 1))
        first = int(rng.integers(len(clip) - (self.frames - 1) * every))
        span = clip[first : first + (self.frames - 1) * every + 1 : every]
        side = min(round(self.size / rng.uniform(*SHRINK)), *clip.shape[1:3])
        y, x = (int(rng.integers(length - side + 1)) for length in clip.shape[1:3])
        cut = span[:, y : y + side, x : x + side]
        if side != self.size:
            cut = np.stack([cv2.resize(f, (self.size, self.size), interpolation=cv2.INTER_AREA) for f in cut])
        cut = np.rot90(cut, int(rng.integers(4)), axes=(1, 2))
        cut = cut[:, :, ::-1] if rng.random() < 0.5 else cut
        return cut[::-1] if rng.random() < 0.5 else cut

    def batch(self, rng: np.random.Generator, count: int) -> Tensor:
        """Batch of random crops (count, F, 3, S, S) uint8."""
        drawn = np.stack([self.draw(rng) for _ in range(count)])
        return torch.from_numpy(np.ascontiguousarray(drawn.transpose(0, 1, 4, 2, 3)))


class ClipPair(NamedTuple):
    """``sharp`` and ``blurred`` (1, F, 3, h, w) uint8."""

    sharp: Tensor
    blurred: Tensor


def validation_clips(given: str | PairSet | None, size: int, frames: int) -> list[ClipPair]:
    """Middle frames of every pair of clips of a data set, cropped to the size used in training.

    Args:
        given: the data set; None for no validation.
        size: maximum side, pixels; sides are cropped to multiples of 64.
        frames: maximum number of frames per clip.

    Raises:
        DataLayoutError: as ``read_pieces``; frames smaller than 64 pixels.
    """

    def middle(total: int) -> Iterator[slice]:
        first = max(0, (total - frames) // 2)
        yield slice(first, first + frames)

    pieces = () if given is None else read_pieces(PairSet.of(given).held_out(), middle)
    return [ClipPair(_cut(piece.name, piece.sharp, size), _cut(piece.name, piece.blurred, size)) for piece in pieces]


def _cut(name: str, frames: np.ndarray, size: int) -> Tensor:
    height, width = (min(side, size) // 64 * 64 for side in frames.shape[1:3])
    if not height or not width:
        raise DataLayoutError(f"{name} is smaller than 64 pixels: validation needs larger frames")
    y, x = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
    cut = frames[:, y : y + height, x : x + width]
    return torch.from_numpy(np.ascontiguousarray(cut.transpose(0, 3, 1, 2)))[None]
