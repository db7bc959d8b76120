"""Clips to train a video diffusion model on: sequences of blurred and sharp frames, or of sharp frames alone."""

from collections.abc import Generator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from unsmear.data.pack import CLIP_SUFFIXES, material, read_clip
from unsmear.errors import DataLayoutError, UsageError
from unsmear.training.batches import PackBatches, stacked
from unsmear.training.online import OnlineSequences
from unsmear.training.sequences import DataConfig
from unsmear.video.images import list_images, read_image

SHRINK = (0.5, 1.0)
"""A video is shrunk by a factor between these before a clip is cut out of it."""


class ClipPair(NamedTuple):
    """``sharp`` and ``blurred`` (B, F, 3, S, S) uint8."""

    sharp: Tensor
    blurred: Tensor


class PairBatches:
    """Blurred and sharp clips from packs, data sets or shards.

    Raises:
        UsageError, DataLayoutError: as ``open_sources``; or shards beside the others.
    """

    def __init__(self, config: DataConfig, seed: int, count: int):
        if config.shards and (config.packs or config.pairs):
            raise UsageError("data.shards stand alone: take data.packs and data.pairs out, or the shards")
        self.count = count
        self.online = OnlineSequences.open(config, seed) if config.shards else None
        self.packs = None if self.online else PackBatches(config, seed, count)

    def batches(self, steps: range) -> Generator[ClipPair, None, None]:
        """One for each step; its draws come from the seed and the step's number alone."""
        if self.packs is not None:
            for step in steps:
                batch = self.packs.at(step)
                yield ClipPair(batch.sharp, batch.blurred)
        elif self.online is not None:
            with closing(self.online.batches(steps, self.count)) as drawn:
                for batch in map(stacked, drawn):
                    yield ClipPair(batch.sharp, batch.blurred)


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
            for path in material(Path(name), CLIP_SUFFIXES)
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


class ValidationClips:
    """The middle of every CLIP/{blur,sharp}, cut to the size that is trained on.

    Args:
        folder: made by ``unsmear data blur``; None for no validation.
        size: longest side, pixels; sides become multiples of 64.
        frames: at most so many of each.
    """

    def __init__(self, folder: str | None, size: int, frames: int):
        self.folder, self.size, self.frames = folder, size, frames

    @cached_property
    def clips(self) -> list[ClipPair]:
        """A batch of one each. Raises DataLayoutError: there are none, or frames are unpaired or too small."""
        if self.folder is None:
            return []
        places = [place for place in sorted(Path(self.folder).iterdir()) if (place / "blur").is_dir()]
        if not places:
            raise DataLayoutError(f"{self.folder} holds no CLIP/blur and CLIP/sharp: make it with `unsmear data blur`")
        return [self._clip(place) for place in places]

    def _clip(self, place: Path) -> ClipPair:
        blurred, sharp = (list_images(place / kind) for kind in ("blur", "sharp"))
        if len(blurred) != len(sharp):
            raise DataLayoutError(f"{place} has {len(blurred)} blurred and {len(sharp)} sharp frames")
        first = max(0, (len(sharp) - self.frames) // 2)
        span = slice(first, first + self.frames)
        return ClipPair(self._cut(sharp[span]), self._cut(blurred[span]))

    def _cut(self, files: Sequence[Path]) -> Tensor:
        frames = np.stack([read_image(file) for file in files])
        height, width = (min(side, self.size) // 64 * 64 for side in frames.shape[1:3])
        if not height or not width:
            raise DataLayoutError(f"{files[0]} is smaller than 64 pixels: validation wants larger frames")
        y, x = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
        cut = frames[:, y : y + height, x : x + width]
        return torch.from_numpy(np.ascontiguousarray(cut.transpose(0, 3, 1, 2)))[None]
