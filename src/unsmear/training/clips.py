"""Crops of sharp videos, and pairs of clips for validation, for the video diffusion model."""

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
"""A video is shrunk by a factor between these before a clip is cut out of it."""


class SharpClips:
    """Sharp videos in memory, and crops of consecutive frames of theirs.

    Args:
        folders: of videos.
        size: pixels of a crop's side.
        frames: of a crop; what moves slowly is shown at twice or three times its speed at times.
        longest_px: videos are shrunk to this.

    Raises:
        DataLayoutError: no videos, or all are too short.
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
        """(F, S, S, 3) uint8."""
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
        """(count, F, 3, S, S) uint8."""
        drawn = np.stack([self.draw(rng) for _ in range(count)])
        return torch.from_numpy(np.ascontiguousarray(drawn.transpose(0, 1, 4, 2, 3)))


class ClipPair(NamedTuple):
    """``sharp`` and ``blurred`` (1, F, 3, h, w) uint8."""

    sharp: Tensor
    blurred: Tensor


def validation_clips(given: str | PairSet | None, size: int, frames: int) -> list[ClipPair]:
    """The middle of every pair of clips of a data set, cut to the size that is trained on.

    Args:
        given: the data set; None for no validation.
        size: longest side, pixels; sides become multiples of 64.
        frames: at most so many of each.

    Raises:
        DataLayoutError: as ``read_pieces``; frames that are too small.
    """

    def middle(total: int) -> Iterator[slice]:
        first = max(0, (total - frames) // 2)
        yield slice(first, first + frames)

    pieces = () if given is None else read_pieces(PairSet.of(given).held_out(), middle)
    return [ClipPair(_cut(piece.name, piece.sharp, size), _cut(piece.name, piece.blurred, size)) for piece in pieces]


def _cut(name: str, frames: np.ndarray, size: int) -> Tensor:
    height, width = (min(side, size) // 64 * 64 for side in frames.shape[1:3])
    if not height or not width:
        raise DataLayoutError(f"{name} is smaller than 64 pixels: validation wants larger frames")
    y, x = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
    cut = frames[:, y : y + height, x : x + width]
    return torch.from_numpy(np.ascontiguousarray(cut.transpose(0, 3, 1, 2)))[None]
