"""Decoded planes to RGB and back, in the stream's own matrix and range.

Both directions go through swscale with the same flags, so a frame that is decoded and encoded unchanged
keeps its colours. What the stream leaves unspecified takes swscale's convention both ways: BT.601, limited
range.
"""

from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

# AVColorSpace → the matrices that swscale knows (its numbers differ for SMPTE 170M only).
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
UNSPECIFIED = 2
FULL_RANGE = 2
_FLAGS = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


class ToRgb:
    """Turns decoded frames into RGB and luma; one object a stream (it keeps swscale's tables)."""

    def __init__(self, *, deep: bool) -> None:
        self._format = "rgb48le" if deep else "rgb24"
        self._rgb = VideoReformatter()
        self._planar = VideoReformatter()

    def __call__(self, frame: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(rgb, luma)``: ``(H, W, 3)`` uint8 or uint16, and ``(H, W)`` uint8."""
        matrix = int(frame.colorspace)
        if not frame.format.is_rgb and matrix not in _MATRICES:
            frame.colorspace = UNSPECIFIED
        elif matrix == 10:
            frame.colorspace = 9
        converted = self._rgb.reformat(frame, format=self._format, interpolation=_FLAGS)
        rgb = np.array(converted.to_ndarray(), order="C")
        return rgb, self._luma(frame, rgb)

    def _luma(self, frame: Any, rgb: np.ndarray) -> np.ndarray:
        form = frame.format
        if form.is_rgb or form.has_palette or form.is_bayer or len(form.components) < 3:
            return luma_of_rgb(rgb)
        name, bits = form.name, form.components[0].bits
        if bits == 8 and form.is_planar:
            return _first_plane(frame, np.uint8).copy()
        if bits == 8:
            return _first_plane(self._planar.reformat(frame, format="yuv422p"), np.uint8).copy()
        if name.startswith("yuv") and name.endswith("le") and form.is_planar:
            return (_first_plane(frame, np.uint16) >> (bits - 8)).astype(np.uint8)
        wide = self._planar.reformat(frame, format="yuv444p16le", interpolation=_FLAGS)
        return (_first_plane(wide, np.uint16) >> 8).astype(np.uint8)


class FromRgb:
    """Turns RGB arrays into frames for an encoder."""

    def __init__(self, pixel_format: str, colorspace: int, color_range: int) -> None:
        self._format = pixel_format
        self._matrix = _MATRICES.get(colorspace)
        self._range = color_range if color_range in (1, 2) else None
        self._reformatter = VideoReformatter()

    def __call__(self, rgb: np.ndarray) -> Any:
        """``(H, W, 3)`` uint8 or uint16 → an ``av.VideoFrame`` in the encoder's pixel format."""
        source = av.VideoFrame.from_ndarray(
            np.ascontiguousarray(rgb), format="rgb48le" if rgb.dtype == np.uint16 else "rgb24"
        )
        return self._reformatter.reformat(
            source,
            format=self._format,
            dst_colorspace=self._matrix,
            dst_color_range=self._range,
            interpolation=_FLAGS,
        )


def luma_of_rgb(rgb: np.ndarray) -> np.ndarray:
    """BT.601 luma, full range: ``(H, W, 3)`` uint8 or uint16 → ``(H, W)`` uint8."""
    if rgb.dtype == np.uint16:
        rgb = (rgb >> 8).astype(np.uint8)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))


def _first_plane(frame: Any, dtype: type) -> np.ndarray:
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, abs(plane.line_size))
    if plane.line_size < 0:  # bottom-up: the buffer starts at the lowest address
        rows = rows[::-1]
    return rows[:, : frame.width * np.dtype(dtype).itemsize].view(dtype)
