"""Temporal consistency of a restored video. Ours, similar to Lai et al. (2018).

A frame is compared with the previous one warped along the optical flow of the sharp ground truth, where forward and
backward flow agree: differences there are not motion of the scene.
"""

from dataclasses import dataclass

import cv2
import numpy as np

_CONSISTENT_PX = 1.0
_CONSISTENT_SHARE = 0.05
"""Tolerance of the forward-backward check: pixels, and in addition a share of the length of the flow."""


@dataclass(frozen=True)
class Alignment:
    """Mapping from a frame to the previous one."""

    map_x: np.ndarray
    map_y: np.ndarray
    """(H, W) float32: position in the previous frame of the content at each pixel."""
    visible: np.ndarray
    """(H, W) bool, True for content that is visible in both frames."""

    def warp(self, previous: np.ndarray) -> np.ndarray:
        """Warp ``previous`` (H, W, 3) float32 to the current frame."""
        return cv2.remap(previous, self.map_x, self.map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def difference(self, now: np.ndarray, previous: np.ndarray) -> float:
        """Mean absolute difference over visible pixels, in the unit of the frames; NaN where none is visible."""
        if not self.visible.any():
            return float("nan")
        return float(np.abs(now - self.warp(previous))[self.visible].mean())


def align(now: np.ndarray, previous: np.ndarray) -> Alignment:
    """Align two frames by dense inverse search flow (Kroeger et al., 2016; OpenCV's medium preset).

    Args:
        now, previous: (H, W, 3) RGB in levels 0 … 255.
    """
    a, b = (cv2.cvtColor(np.clip(np.rint(i), 0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY) for i in (now, previous))
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there = search.calc(a, b, np.empty(0))
    back = search.calc(b, a, np.empty(0))
    height, width = a.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    map_x, map_y = x + there[..., 0], y + there[..., 1]
    returned = cv2.remap(back, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    miss = np.linalg.norm(there + returned, axis=2)
    length = np.linalg.norm(there, axis=2)
    inside = (map_x >= 0) & (map_x <= width - 1) & (map_y >= 0) & (map_y <= height - 1)
    return Alignment(map_x, map_y, inside & (miss <= _CONSISTENT_PX + _CONSISTENT_SHARE * length))
