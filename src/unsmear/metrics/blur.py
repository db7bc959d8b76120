"""How blurred a frame is, from the frame alone."""

import cv2
import numpy as np

_WINDOW = 9


def blur_estimate(luma: np.ndarray) -> float:
    """No-reference perceptual blur in [0, 1]: 0 crisp, 1 smooth (Crété et al., 2007).

    A crisp frame loses much of its variation between neighbouring pixels when it is blurred once more, a
    blurred one little. The worse of the two axes counts, so that blur along one direction shows. The frame
    is halved first (ours): noise and the edges of codec blocks would pass for crispness.

    Args:
        luma: (H, W) uint8.
    """
    image: np.ndarray = luma.astype(np.float32)
    if min(image.shape) >= 2 * _WINDOW:
        image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    worst = 0.0
    for axis in (0, 1):
        kernel = (1, _WINDOW) if axis == 0 else (_WINDOW, 1)
        again = cv2.blur(image, kernel, borderType=cv2.BORDER_REFLECT)
        before = np.abs(np.diff(image, axis=axis))
        lost = np.maximum(before - np.abs(np.diff(again, axis=axis)), 0)
        total = float(before.sum())
        if total > 0:
            worst = max(worst, (total - float(lost.sum())) / total)
    return worst
