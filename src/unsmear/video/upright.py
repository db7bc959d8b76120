"""Frames as a player shows them: turned and mirrored as the display matrix of their stream says."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from unsmear.video.probe import VideoInfo

Turn = tuple[bool, bool, bool]
"""Whether rows become columns, and whether the result is then mirrored top to bottom and left to right."""


def upright(image: np.ndarray, info: "VideoInfo") -> np.ndarray:
    """A decoded picture, or anything else with a row for each of its rows, as a player shows it.

    Args:
        image: ``(H, W)`` or ``(H, W, …)``.
        info: of the video it comes from.

    Returns:
        The same values, contiguous; ``image`` itself where it stands upright already.
    """
    return turned(image, _turn_of(info))


def upright_size(info: "VideoInfo") -> tuple[int, int]:
    """(width, height) in pixels of upright frames."""
    return (info.height, info.width) if _turn_of(info)[0] else (info.width, info.height)


def upright_info(info: "VideoInfo") -> "VideoInfo":
    """``info`` of a video of upright frames."""
    width, height = upright_size(info)
    aspect = info.sample_aspect_ratio
    if aspect and _turn_of(info)[0]:
        aspect = 1 / aspect
    return replace(info, width=width, height=height, rotation=0, display_matrix=None, sample_aspect_ratio=aspect)


def turned(image: np.ndarray, turn: Turn) -> np.ndarray:
    """``(H, W)`` or ``(H, W, …)``, turned and mirrored; contiguous, ``image`` itself where nothing is to be done."""
    transposed, down, across = turn
    result = image.swapaxes(0, 1) if transposed else image
    result = result[:: -1 if down else 1, :: -1 if across else 1]
    return np.ascontiguousarray(result) if transposed or down or across else image


def turn_of_matrix(matrix: Sequence[int]) -> Turn:
    """What a display matrix of nine integers does.

    The matrix takes a column x and a row y to the column ``a x + c y`` and the row ``b x + d y``. Of one that turns by
    something else, the nearest of the eight that only turn and mirror is taken.
    """
    a, b, _, c, d = matrix[:5]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


def _turn_of(info: "VideoInfo") -> Turn:
    if info.display_matrix is not None:
        return turn_of_matrix(info.display_matrix)
    turns = round(info.rotation / 90) % 4  # counter-clockwise
    return turns % 2 == 1, turns in (1, 2), turns in (2, 3)
