"""Visualisation of priors: motion as colours and arrows, residual and validity (CPGD-Net, Fig. 3).

Hue is the direction in which content moves from frame t-1 to t, saturation is its speed.
"""

import cv2
import numpy as np
import numpy.typing as npt

from unsmear.priors.prior import Prior

Rgb = npt.NDArray[np.uint8]

FULL_COLOUR_PX = 16.0
"""Speed from which colours are fully saturated, pixels per frame."""

_ARROWS_DOWN = 9  # rows of arrows in a picture, but never closer than 4 cells
_INTRA = np.array([224, 108, 32], np.uint8)
_GAP = 4


def motion_picture(motion: npt.NDArray[np.float32], full_px: float = FULL_COLOUR_PX) -> Rgb:
    """Convert motion to colours.

    Args:
        motion: ``(2, h, w)`` float32 as in :meth:`Prior.motion`, pixels to frame t-1. Colours show the
            opposite direction, from t-1 to t.
        full_px: speed of full saturation, pixels per frame.

    Returns:
        ``(h, w, 3)`` uint8 RGB; no motion is white.
    """
    x, y = -motion[0], -motion[1]
    hue = (np.degrees(np.arctan2(y, x)) % 360 / 2).astype(np.uint8)
    hsv = np.full((*x.shape, 3), 255, np.uint8)
    hsv[..., 0] = np.minimum(hue, 179)
    hsv[..., 1] = (np.minimum(np.hypot(x, y) / full_px, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def colour_wheel(side: int, full_px: float = FULL_COLOUR_PX) -> tuple[Rgb, npt.NDArray[np.bool_]]:
    """Colour key of :func:`motion_picture`: ``(side, side, 3)`` uint8, and a mask of the circle."""
    half = (side - 1) / 2
    y, x = (np.mgrid[:side, :side].astype(np.float32) - half) / half * full_px
    return motion_picture(-np.stack([x, y]), full_px), np.hypot(x, y) <= full_px


def motion_panel(prior: Prior) -> Rgb:
    """Panel ``(H, W, 3)`` uint8: motion colours, arrows of the motion's length, and the colour key in a corner."""
    height, width = prior.height, prior.width
    picture = motion_picture(prior.dense_motion())
    motion = prior.motion()
    step = max(4, round(height / 8 / _ARROWS_DOWN))
    thickness = max(1, height // 300)
    for row in range(step // 2, height // 8, step):
        for column in range(step // 2, width // 8, step):
            dx, dy = -motion[:, row, column]
            if np.hypot(dx, dy) >= 0.5:
                head = np.array([column * 8 + 4, row * 8 + 4])
                tail = np.rint(head - [dx, dy]).astype(int)
                cv2.arrowedLine(
                    picture, tail.tolist(), head.tolist(), (40, 40, 40), thickness, cv2.LINE_AA, tipLength=0.3
                )
    side = min(height, width) // 5
    if side >= 16:
        wheel, inside = colour_wheel(side)
        corner = picture[4 : 4 + side, width - side - 4 : width - 4]
        corner[inside] = wheel[inside]
        cv2.circle(picture, (width - side // 2 - 4, 4 + side // 2), side // 2, (40, 40, 40), thickness, cv2.LINE_AA)
    return picture


def residual_panel(prior: Prior) -> Rgb:
    """Panel ``(H, W, 3)`` uint8: the residual as in network inputs, black for none, white for 32 levels and more."""
    gray = (prior.residual01() * 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def validity_panel(prior: Prior, luma: npt.NDArray[np.uint8]) -> Rgb:
    """Panel ``(H, W, 3)`` uint8: the frame in gray, orange where the motion was filled in (intra blocks)."""
    height, width = luma.shape
    valid = np.repeat(np.repeat(prior.valid, 8, axis=0), 8, axis=1)[:height, :width]
    gray = np.repeat((luma // 2 + 64)[..., None], 3, axis=2)
    tinted = gray // 4 + (_INTRA - _INTRA // 4)
    return np.where(valid[..., None], gray, tinted).astype(np.uint8)


def sheet(rgb: Rgb, luma: npt.NDArray[np.uint8], prior: Prior, caption: str = "") -> Rgb:
    """Panels of frame, motion, residual and validity in two rows of two, with titles.

    Args:
        rgb: ``(H, W, 3)`` uint8.
        luma: ``(H, W)`` uint8.
        prior: of that frame.
        caption: appended to the title of the first panel.

    Returns:
        ``(2 H + a margin, 2 W + a margin, 3)`` uint8 with even sides.
    """
    height, width = luma.shape
    speed = "reset" if prior.reset else f"median {np.median(np.hypot(*prior.motion())):.1f} px"
    panels = [
        (f"frame {caption}".strip(), rgb),
        (f"motion since t-1, {speed}; full colour {FULL_COLOUR_PX:g} px", motion_panel(prior)),
        (f"residual, mean {prior.residual.mean():.1f} levels", residual_panel(prior)),
        (f"coverage {100 * prior.coverage:.0f} % (orange: filled in)", validity_panel(prior, luma)),
    ]
    caption_px = max(22, height // 18)
    down, across = height + caption_px, width + _GAP
    out = np.full((2 * down, 2 * width + _GAP, 3), 24, np.uint8)
    for number, (name, panel) in enumerate(panels):
        top, left = number // 2 * down, number % 2 * across
        cell = out[top : top + down, left : left + width]
        cell[caption_px:] = panel
        size = min(caption_px / 45, width / (20 * len(name)))
        if size > 0.2:
            label = np.ascontiguousarray(cell[:caption_px])
            place = (caption_px // 4, caption_px * 2 // 3)
            cv2.putText(label, name, place, cv2.FONT_HERSHEY_SIMPLEX, size, (230, 230, 230), 1, cv2.LINE_AA)
            cell[:caption_px] = label
    return out
