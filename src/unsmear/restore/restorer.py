"""Clips, and the base class of all models that restore them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from unsmear.errors import UsageError
from unsmear.priors import Prior, chunk_priors
from unsmear.priors.duty import estimate_duty
from unsmear.video.colour import luma_of_rgb
from unsmear.video.frame import Frame

State = dict[str, Tensor]
"""What a recurrent model hands from one chunk to the next, by name, on the CPU."""


@dataclass(frozen=True)
class Clip:
    """Consecutive frames with their priors; ``Clip.of`` makes one of frames alone.

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

    @classmethod
    def of(
        cls,
        frames: np.ndarray | Sequence[np.ndarray] | Sequence[Frame],
        duty: float | None = None,
        *,
        output_frames: int | None = None,
        first: int = 0,
    ) -> "Clip":
        """A clip of frames alone: priors from a re-encode in memory, and the exposure that their blur shows.

        Args:
            frames: in order: an array (T, H, W, 3) or pictures (H, W, 3), RGB, uint8, or uint16 over the full 16-bit
                range; or what a video reader gives, whose own luma is then encoded.
            duty: exposure as a fraction of the frame step in [0, 1]; None estimates it, one number for all frames.
            output_frames: how many of them to restore, None for all.
            first: number of the first frame in its video.

        Raises:
            UsageError: no frames, or frames of another shape or type; a ``duty`` out of range.
        """
        if duty is not None and not 0 <= duty <= 1:
            raise UsageError(f"`duty` {duty:g}: expected 0 to 1 (of the frame step), or None to estimate it")
        items = list(frames)
        pictures = [frame.rgb if isinstance(frame, Frame) else np.asarray(frame) for frame in items]
        kinds = list(dict.fromkeys((picture.shape, picture.dtype) for picture in pictures))
        if len(kinds) != 1 or len(kinds[0][0]) != 3 or kinds[0][0][2] != 3 or kinds[0][1] not in (np.uint8, np.uint16):
            found = " and ".join(f"{shape} {dtype}" for shape, dtype in kinds[:2]) or "none"
            raise UsageError(f"frames {found}: expected pictures (H, W, 3) of one size, all uint8 or all uint16")
        lumas = [
            frame.luma if isinstance(frame, Frame) else luma_of_rgb(picture)
            for frame, picture in zip(items, pictures, strict=True)
        ]
        priors = chunk_priors(lumas, before=None, after=None)
        duty = estimate_duty(lumas, priors) if duty is None else duty
        return cls(frames if isinstance(frames, np.ndarray) else np.stack(pictures), priors, duty, output_frames, first)

    def __repr__(self) -> str:
        count, height, width = self.frames.shape[:3]
        duty = "unknown" if self.duty is None else f"{self.duty:.2f}"
        return f"Clip({count} frames of {width}x{height}, {self.frames.dtype}, duty {duty})"

    @property
    def wanted(self) -> int:
        """How many frames are to be restored."""
        return len(self.frames) if self.output_frames is None else self.output_frames


class OutOfMemory(Exception):
    """The device could not hold a clip at this tile size; the job tries smaller tiles."""


class Restorer(ABC):
    """A model ready to restore clips: ``restorer(clip)`` → frames.

    Windows, tiles in time, files and resume are the job's business. A model of one's own needs ``restore`` and a
    ``name``; the rest has defaults.
    """

    name: str
    """What reports call it."""
    frames_after: int = 0
    """L: how many frames it wants to see after those that it restores."""
    device: str = "cpu"
    dtype: str = "float32"
    engine: str = "torch"
    """What computes, with its version where a job does not note that down anyway."""
    fingerprint: str = ""
    """SHA-256 of the weights: another one is another model."""
    sampling: Any = None
    """Dataclass of how it samples, of models that generate."""

    def on(self, device: torch.device, dtype: torch.dtype) -> None:
        """Note down where it computes, and in which number format."""
        self.device, self.dtype = str(device), str(dtype).removeprefix("torch.")

    @abstractmethod
    def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        """Restore the first ``clip.wanted`` frames.

        Args:
            clip: the frames.
            state: what the previous chunk handed on, None at the start.
            tile_px: side of the square tiles that the frame is cut into; None for the whole frame.

        Returns:
            Frames (wanted, H, W, 3) of the clip's dtype, and the state for the next chunk.

        Raises:
            OutOfMemory: the tiles are too large for the device; see ``memory_errors``.
        """

    def default_tile_px(self, height: int, width: int, frames: int) -> int | None:
        """Tile side that keeps memory bounded for clips of this size; None where no tiles are needed."""
        del height, width, frames
        return None

    def __call__(self, clip: Clip) -> np.ndarray:
        """Restore a clip by itself, whole frames at once → (wanted, H, W, 3) of its dtype."""
        return self.restore(clip, None, None)[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.device}, {self.dtype})"


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns what torch and Python raise when memory is short into ``OutOfMemory``."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(str(error)) from None
    except cv2.error as error:
        if error.code != cv2.Error.StsNoMem:
            raise
        raise OutOfMemory(str(error)) from None
    except RuntimeError as error:  # the CPU allocator has no class of its own
        if "allocate memory" in str(error):
            raise OutOfMemory(str(error)) from None
        raise
