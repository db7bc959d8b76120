"""One decoded frame, as every other part of unsmear sees it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Frame:
    """A decoded frame with its place in time.

    Attributes:
        index: counted from the first frame of the file, from 0.
        pts: presentation time in units of the source stream's ``time_base``, strictly increasing;
            None for images and folders of frames.
        time_s: presentation time in seconds on the source's own clock.
        rgb: ``(H, W, 3)`` uint8, or uint16 using the full range 0..65535 when the source is deeper
            than 8 bit.
        luma: ``(H, W)`` uint8. The decoder's own Y plane for YUV sources (deeper planes shifted down to
            8 bit, never range-expanded); BT.601 luma of ``rgb`` for RGB and gray sources.
        duration: in ``time_base`` units, None when the source does not say.
    """

    index: int
    pts: int | None
    time_s: float
    rgb: np.ndarray
    luma: np.ndarray
    duration: int | None = None
