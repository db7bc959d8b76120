"""Pictures of results: error maps, crops of the most blurred part, and panels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from unsmear.video import eight_bit

Rgb = npt.NDArray[np.uint8]
Image = npt.NDArray[Any]

FULL_ERROR = 32.0
"""Error in levels of 255 from which error maps are brightest; a constant, so that maps can be compared."""

_LABEL_PX = 20
_GAP_PX = 4


@dataclass(frozen=True, eq=False)
class Picture:
    """One frame of one clip: input, output of a method, and ground truth."""

    clip: str
    frame: int
    method: str
    before: Rgb | None
    """Input (H, W, 3) uint8 RGB; None where there is none."""
    after: Rgb
    """Output, of the same shape."""
    truth: Rgb | None
    """Ground truth, of the same shape; None where there is none."""

    @property
    def error(self) -> Rgb | None:
        """Error map of ``after``; None without truth."""
        return None if self.truth is None else error_map(self.after, self.truth)


class Box(NamedTuple):
    """Rectangle in a picture, pixels."""

    x: int
    y: int
    width: int
    height: int

    def cut(self, image: Image) -> Image:
        """Crop an image ``(H, W, ...)``."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width]


def error_map(restored: Image, truth: Image, full_error: float = FULL_ERROR) -> Rgb:
    """Colour map of the absolute error (as in VDM, Fig. 4, which does not state its scale and colours).

    The error is the mean over R, G and B; black is no error, bright yellow ``full_error`` and more.

    Args:
        restored: ``(H, W, 3)`` uint8 or uint16.
        truth: of the same shape and type.
        full_error: in levels of 255 (uint16 is scaled to these).

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ValueError: shapes or types differ.
    """
    error = _levels(restored, truth).mean(2)
    scaled = np.rint(np.minimum(error / full_error, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8)


def error_scale() -> list[str]:
    """Colours of error maps from no error to ``FULL_ERROR``, in nine steps, as ``#rrggbb``."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)[None]
    rgb = cv2.cvtColor(cv2.applyColorMap(steps, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)[0]
    return ["#" + bytes(colour.tolist()).hex() for colour in rgb]


def most_blurred_crop(before: Image, truth: Image, size: tuple[int, int] = (320, 240)) -> Box:
    """Box of ``size`` with the largest mean squared difference between input and truth.

    Args:
        before: ``(H, W, 3)`` uint8 or uint16.
        truth: of the same shape and type; without a truth, the output, for the box with the largest change.
        size: (width, height), limited to the size of the picture.

    Raises:
        ValueError: shapes or types differ.
    """
    error = np.square(_levels(before, truth)).mean(2, dtype=np.float64)
    width, height = min(size[0], error.shape[1]), min(size[1], error.shape[0])
    total = cv2.integral(error)
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return Box(int(x), int(y), width, height)


def side_by_side(images: Sequence[Image], labels: Sequence[str], details: Sequence[str] = ()) -> Rgb:
    """Place panels of one size in a row, with a label above and optionally a detail below each.

    Args:
        images: ``(H, W, 3)`` uint8 or uint16 (shown in 8 bits).
        labels: one per image; characters that are not ASCII are drawn as ``?``.
        details: one per image, or none.

    Returns:
        ``(H', W', 3)`` uint8 RGB on white.

    Raises:
        ValueError: sizes or counts differ, or there are no images.
    """
    shapes = {image.shape for image in images}
    if len(shapes) != 1 or len(labels) != len(images) or len(details) not in (0, len(images)):
        raise ValueError(f"expected panels of one size with a label each, got {shapes}, {labels}, {details}")
    height, width = images[0].shape[:2]
    foot = _LABEL_PX if details else 0
    count = len(images)
    sheet = np.full((_LABEL_PX + height + foot, count * width + (count - 1) * _GAP_PX, 3), 255, np.uint8)
    for i, image in enumerate(images):
        x = i * (width + _GAP_PX)
        sheet[_LABEL_PX : _LABEL_PX + height, x : x + width] = eight_bit(image)
        _write(sheet[:_LABEL_PX, x : x + width], labels[i])
        if details:
            _write(sheet[_LABEL_PX + height :, x : x + width], details[i])
    return sheet


def _levels(one: Image, other: Image) -> npt.NDArray[np.float32]:
    """Absolute difference in levels of 255."""
    if one.shape != other.shape or one.dtype != other.dtype or one.dtype not in (np.uint8, np.uint16) or one.ndim != 3:
        raise ValueError(
            f"expected two (H, W, 3) of uint8 or uint16, got {one.shape} {one.dtype}, {other.shape} {other.dtype}"
        )
    full = np.iinfo(one.dtype).max / 255
    return np.asarray(np.abs(one.astype(np.float32) - other.astype(np.float32)) / full, np.float32)


def _write(band: Rgb, text: str) -> None:
    """Draw text in a white band, smaller where it would not fit."""
    text = text.encode("ascii", "replace").decode()
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    wide = cv2.getTextSize(text, font, scale, 1)[0][0]
    scale *= min(1.0, max(band.shape[1] - 6, 1) / max(wide, 1))
    drawn = np.ascontiguousarray(band)
    cv2.putText(drawn, text, (3, _LABEL_PX - 6), font, scale, (20, 20, 20), 1, cv2.LINE_AA)
    band[:] = drawn
