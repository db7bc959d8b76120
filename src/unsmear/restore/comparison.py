"""Before and after in one picture."""

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from unsmear.video import Frame, eight_bit

if TYPE_CHECKING:
    from unsmear.restore.output import Sink

LABELLED_PX = 160
"""Frames smaller than this, on either side, have no labels, which would cover much of them."""


def side_by_side(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 or uint16, twice → (H, 2 W, 3) uint8, with a label in the upper left corner of each half."""
    both = np.concatenate([eight_bit(before), eight_bit(after)], 1)
    height, width = before.shape[:2]
    if min(height, width) < LABELLED_PX:
        return both
    scale = max(min(height, width) / 720, 0.5)
    for left, label in ((0, "before"), (width, "after")):
        (wide, high), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        ground = both[: 2 * high, left : left + wide + 2 * high]
        ground //= 4  # white is legible on it whatever the picture
        cv2.putText(
            both, label, (left + high, high * 3 // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, (255,) * 3, 1, cv2.LINE_AA
        )
    return both


class ComparedImage:
    """The sink of an image, and beside it another one for before | after."""

    def __init__(self, inner: "Sink", beside: "Sink"):
        self.sinks = inner, beside

    def begin_segment(self, number: int) -> None:
        for sink in self.sinks:
            sink.begin_segment(number)

    def write(self, frame: Frame, restored: np.ndarray) -> None:
        inner, beside = self.sinks
        inner.write(frame, restored)
        beside.write(replace(frame, alpha=None), side_by_side(frame.rgb, restored))

    def end_segment(self) -> None:
        for sink in self.sinks:
            sink.end_segment()

    def abort(self) -> None:
        for sink in self.sinks:
            sink.abort()

    def finish(self, segments: int) -> list[str]:
        inner, beside = self.sinks
        beside.finish(segments)
        return inner.finish(segments)
