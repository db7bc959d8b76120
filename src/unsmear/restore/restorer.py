"""The contract that joins models to videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from unsmear.priors import Prior

State = dict[str, Tensor]
"""What a recurrent model hands from one chunk to the next, by name, on the CPU."""


@dataclass(frozen=True)
class Clip:
    """Consecutive frames with their priors.

    The first ``output_frames`` are to be restored, the rest is there to be looked at.
    """

    frames: np.ndarray
    """(T, H, W, 3) uint8, or uint16 over the full 16-bit range."""
    priors: Sequence[Prior]
    """One a frame."""
    duty: float | None = None
    """Exposure as a fraction of the frame step in [0, 1]; None where unknown."""
    output_frames: int | None = None
    """None means all."""
    first: int = 0
    """Number of the first frame in its video: what is drawn at random belongs to it."""

    @property
    def wanted(self) -> int:
        return len(self.frames) if self.output_frames is None else self.output_frames


class OutOfMemory(Exception):
    """The device could not hold a clip at this tile size; the job tries smaller tiles."""


class Restorer(Protocol):
    """A model ready to restore clips. Windows, tiles in time, files and resume are the job's business."""

    name: str
    frames_after: int
    """L: how many frames it wants to see after those that it restores."""
    device: str
    dtype: str
    fingerprint: str
    """SHA-256 of the weights: another one is another model."""

    def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        """Restore the first ``clip.wanted`` frames.

        Args:
            clip: the frames.
            state: what the previous chunk handed on, None at the start.
            tile_px: side of the square tiles that the frame is cut into; None for the whole frame.

        Returns:
            Frames (wanted, H, W, 3) of the clip's dtype, and the state for the next chunk.

        Raises:
            OutOfMemory: the tiles are too large for the device.
        """

    def default_tile_px(self, height: int, width: int, frames: int) -> int | None:
        """Tile side that keeps memory bounded for clips of this size; None where no tiles are needed."""
