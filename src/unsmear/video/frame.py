"""Decoded frames, as every other part of unsmear sees them, and their values in 8 bits."""

from dataclasses import dataclass

import numpy as np

from unsmear.video.phototags import NO_TAGS, PictureTags
from unsmear.video.sidedata import Carried


def eight_bit(image: np.ndarray) -> np.ndarray:
    """uint8 as it is; uint16, over its full range 0..65535 as in ``Frame.rgb``, rounded to 256 levels."""
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8) if image.dtype == np.uint16 else image


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
        alpha: ``(H, W)`` of the type of ``rgb``, 0 for transparent; None without an alpha channel.
        carried: closed captions and field flags for the encoder of the output (see ``sidedata.carried``).
        tags: colour profile and camera data of a photograph.
    """

    index: int
    pts: int | None
    time_s: float
    rgb: np.ndarray
    luma: np.ndarray
    duration: int | None = None
    alpha: np.ndarray | None = None
    carried: Carried | None = None
    tags: PictureTags = NO_TAGS
