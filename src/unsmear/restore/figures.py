"""What is measured while a job runs: a few figures a chunk, so that a resumed job can report on the whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unsmear.metrics.blur import blur_estimate
from unsmear.restore.shots import SHARP_DUTY
from unsmear.restore.windows import Window
from unsmear.video.colour import luma_of_rgb

SHARP_BLUR_PX = 1.0
"""Where the fastest tenth of the picture moves less than this a frame, it is too little to tell blur by."""


@dataclass
class ChunkFigures:
    """Figures of one chunk. Blur and motion are those of its middle frame."""

    frames: int
    """Written to the output."""
    blur_before: float
    blur_after: float
    motion_median_px: float
    motion_fast_px: float
    """90th percentile of the motion."""
    coverage: float
    cuts: int
    duty: float | None
    origin: str


def measure(window: Window, restored: np.ndarray, written: int, duty: float | None) -> ChunkFigures:
    """Figures of a window whose frames were ``restored`` and of which ``written`` went to the output."""
    middle = len(window.frames) // 2
    frame, prior = window.frames[middle]
    length = np.linalg.norm(prior.motion(), axis=0)
    return ChunkFigures(
        frames=written,
        blur_before=blur_estimate(luma_of_rgb(frame.rgb)),
        blur_after=blur_estimate(luma_of_rgb(restored[middle])),
        motion_median_px=float(np.median(length)),
        motion_fast_px=float(np.percentile(length, 90)),
        coverage=float(np.mean([p.coverage for _, p in window.frames])),
        cuts=sum(p.reset for f, p in window.frames if f.index > 0),
        duty=duty,
        origin=prior.origin,
    )


def summarise(rows: Sequence[ChunkFigures]) -> dict[str, Any]:
    """Figures of a whole job, by the names of ``Report``'s fields."""
    duties = [row.duty for row in rows if row.duty is not None]
    return {
        "frames": sum(row.frames for row in rows),
        "blur_before": round(float(np.mean([row.blur_before for row in rows])), 4),
        "blur_after": round(float(np.mean([row.blur_after for row in rows])), 4),
        "motion_median_px": round(float(np.median([row.motion_median_px for row in rows])), 3),
        "motion_coverage": round(float(np.mean([row.coverage for row in rows])), 4),
        "scene_cuts": sum(row.cuts for row in rows),
        "prior_origin": rows[0].origin,
        "duty": round(float(np.mean(duties)), 3) if duties else None,
    }


def sharp_note(rows: Sequence[ChunkFigures]) -> list[str]:
    """A line where there was next to no motion blur to remove."""
    sharp = [row for row in rows if row.duty is not None and row.duty < SHARP_DUTY]
    if len(sharp) > len(rows) / 2:
        return ["already sharp: little motion blur was found, so little was changed"]
    if all(row.motion_fast_px < SHARP_BLUR_PX for row in rows):
        return ["hardly anything moves, so there is little motion blur to remove and little was changed"]
    return []
