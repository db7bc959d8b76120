"""Coding prior of one frame: motion to the previous and next frame, and prediction residual."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from unsmear.priors.grid import Mask, MotionGrid, grid_shape

RESIDUAL_SCALE = 32.0
"""Residual in luma levels that is mapped to 1; a constant, since a per-frame maximum would flicker (ours)."""

FoundBy = Literal["codec", "coarse", "borrowed", "none", "flow"]
"""Source of a frame's motion. ``codec``: motion vectors; ``coarse``: a wide search at reduced size, in at least one
cell; ``borrowed``: a neighbouring frame; ``none``: no motion was found, it is zero; ``flow``: optical flow."""

_QUARTER_PEL = np.float32(0.25)
_CELL = 8

_Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Prior:
    """Motion and residual of frame t from a bitstream (CPGD-Net, section III-A and Fig. 3).

    The grid has one cell per 8x8 pixels of the frame padded to macroblocks:
    ``gh = ceil(H / 16) * 2``, ``gw = ceil(W / 16) * 2``.

    Attributes:
        motion_q: ``(gh, gw, 2)`` int16, (dx, dy) in quarter pixels: the content at ``p`` in frame t was
            at ``p + motion`` in frame t-1. Holes (intra blocks) have the nearest valid vector. Zeros
            if ``reset``.
        motion_back_q: the same to the next frame (ours): the content at ``p`` in frame t is at
            ``p + motion_back`` in frame t+1. Zeros if ``reset_back``.
        valid: ``(gh, gw)`` bool, False where ``motion_q`` was filled in. All False if ``reset``, or if the motion
            is that of a neighbouring frame.
        valid_back: the same for ``motion_back_q``.
        residual: ``(H, W)`` uint8, magnitude in luma levels of the reconstruction minus its
            prediction by ``motion_q``. Zeros if ``reset``.
        reset: True where frame t has no usable predecessor: the first frame of the video, or after a cut.
        reset_back: True where frame t has no usable successor: the last frame of the video, or before a cut.
        origin: ``"reencode"``; ``"native"`` for vectors of the input's own stream; ``"published"``
            for the arrays of CPGD-Net's authors.
        motion_source: source of ``motion_q`` (ours), see ``FoundBy``; ``"none"`` if ``reset``.
        motion_back_source: the same for ``motion_back_q``; ``"none"`` if ``reset_back``.
    """

    motion_q: MotionGrid
    motion_back_q: MotionGrid
    valid: Mask
    valid_back: Mask
    residual: npt.NDArray[np.uint8]
    reset: bool
    reset_back: bool
    origin: str
    motion_source: FoundBy = "codec"
    motion_back_source: FoundBy = "codec"

    @classmethod
    def empty(cls, height: int, width: int, origin: str = "reencode") -> "Prior":
        """Prior of a single frame: both resets are True, all fields are zero."""
        gh, gw = grid_shape(height, width)
        return cls(
            motion_q=np.zeros((gh, gw, 2), np.int16),
            motion_back_q=np.zeros((gh, gw, 2), np.int16),
            valid=np.zeros((gh, gw), np.bool_),
            valid_back=np.zeros((gh, gw), np.bool_),
            residual=np.zeros((height, width), np.uint8),
            reset=True,
            reset_back=True,
            origin=origin,
            motion_source="none",
            motion_back_source="none",
        )

    def __repr__(self) -> str:
        if self.reset and self.reset_back:
            about = "neither past nor future"
        else:
            motion, valid = (self.motion_back(), self.valid_back) if self.reset else (self.motion(), self.valid)
            length = float(np.median(np.linalg.norm(motion, axis=0)))
            about = f"motion {length:.1f} px, {100 * valid.mean():.0f} % found"
            about += ", no past" if self.reset else ", no future" if self.reset_back else ""
        return f"Prior({self.width}x{self.height}, {about}, {self.origin})"

    @property
    def height(self) -> int:
        """Height of the frame, pixels."""
        return int(self.residual.shape[0])

    @property
    def width(self) -> int:
        """Width of the frame, pixels."""
        return int(self.residual.shape[1])

    @property
    def coverage(self) -> float:
        """Share of cells, in [0, 1], with a motion vector of the codec (1 - share of intra blocks)."""
        return float(self.valid.mean())

    def motion(self, median: int = 3) -> _Float32:
        """Motion to frame t-1 on the grid.

        Args:
            median: size of the median filter over cells, 3 or 5; 0 for none. 3 lowers the end-point
                error by about a fifth (ours).

        Returns:
            ``(2, gh, gw)`` float32, (dx, dy) in pixels.
        """
        return _to_pixels(self.motion_q, median)

    def motion_back(self, median: int = 3) -> _Float32:
        """Motion to frame t+1 on the grid; otherwise as :meth:`motion`."""
        return _to_pixels(self.motion_back_q, median)

    def dense_motion(self, median: int = 3, *, nearest: bool = False) -> _Float32:
        """Motion to frame t-1 for every pixel.

        Args:
            median: as in :meth:`motion`.
            nearest: repeat each cell's vector instead of interpolating between cell centres.

        Returns:
            ``(2, H, W)`` float32, (dx, dy) in pixels.
        """
        return _upsample(self.motion(median), self.height, self.width, nearest)

    def dense_motion_back(self, median: int = 3, *, nearest: bool = False) -> _Float32:
        """Motion to frame t+1 for every pixel; otherwise as :meth:`dense_motion`."""
        return _upsample(self.motion_back(median), self.height, self.width, nearest)

    def residual01(self, scale: float = RESIDUAL_SCALE) -> _Float32:
        """Residual as ``(H, W)`` float32 in [0, 1]; ``scale`` luma levels and more map to 1."""
        scaled: _Float32 = np.minimum(self.residual * np.float32(1.0 / scale), np.float32(1.0))
        return scaled


def _to_pixels(motion_q: MotionGrid, median: int) -> _Float32:
    planes = np.ascontiguousarray(motion_q.transpose(2, 0, 1))
    if median:
        planes = np.stack([cv2.medianBlur(plane, median) for plane in planes])
    return planes.astype(np.float32) * _QUARTER_PEL


def _upsample(motion: _Float32, height: int, width: int, nearest: bool) -> _Float32:
    # Cell i is centred on pixel 8 i + 3.5, as in the sample alignment of cv2.resize.
    size = (motion.shape[2] * _CELL, motion.shape[1] * _CELL)
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return np.stack([cv2.resize(plane, size, interpolation=how)[:height, :width] for plane in motion])
