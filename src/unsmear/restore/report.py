"""The report of a job: measurements of every frame, summed up as it runs, and the memory that it took.

Measuring costs little beside restoring: two blur estimates and one look at the motion grid, less than 4 ms for a frame
of 1280×720 on one core, where restoring takes several hundred. What is kept grows by one row a second of video, not by
one a frame, and goes on in a resumed job.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unsmear.metrics.blur import Sharpness, sharpness
from unsmear.priors import Prior
from unsmear.restore.sharpness import DutyTracker, is_sharp
from unsmear.restore.windows import Window
from unsmear.version import __version__
from unsmear.video.colour import luma_of_rgb

SHARP_BLUR_PX = 1.0
"""Where the fastest tenth of the picture moves less than this a frame, it is too little to tell blur by."""

MIN_COVERAGE = 0.05
"""A frame has usable motion where the codec found at least this share of it, towards the past or the future."""

NOTHING, LITTLE, CLEAR = 0.005, 0.05, 0.1
"""Steps of what is said of sharpness, by how much steeper or flatter edges became, as a share. Below the first it is
unchanged and below the second hardly changed: encoding alone, which comes after, changed it by -4 to +1 per cent on
six clips. From the second on it is a little sharper or softer, from the third on clearly so. The clips on which the
difference is seen at a glance measured 10 to 41 per cent, those on which one has to look for it 6 to 9."""


@dataclass
class Report:
    """One finished input. Field names are those of the JSON report."""

    input: str
    output: str
    model: str
    frames: int
    width: int
    height: int
    seconds: float
    """Wall time of this run, from opening the input to the finished file."""
    frames_per_second: float
    """Frames restored in this run over ``seconds``."""
    peak_memory_mb: float
    device: str
    dtype: str
    blur_before: float
    """Mean no-reference blur estimate of the input frames, 0 crisp … 1 smooth."""
    blur_after: float
    motion_median_px: float
    """How far the picture moves from frame to frame: the median over it, mean over a second, median over seconds."""
    motion_coverage: float
    """Mean share of the picture whose motion the codec found."""
    scene_cuts: int
    prior_origin: str
    edges_steeper: float = 0.0
    """How much steeper edges are, as a share, before encoding; see ``unsmear.metrics.blur.sharpness``."""
    frames_without_motion: int = 0
    """Frames for which the codec found no motion that could be used, towards the past or the future."""
    duty: float | None = None
    """Estimated exposure as a fraction of the frame step, mean over frames where one was found."""
    blur_per_second: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """``second`` of the video's own clock, mean ``blur_before``, ``blur_after``, ``motion_px`` and ``duty`` of its
    frames; None where there was no motion or no exposure was found."""
    window_frames: int = 0
    tile_px: int | None = None
    resumed_frames: int = 0
    """Frames taken over from an earlier, interrupted run."""
    note: str = ""
    damage: str = ""
    """What of the input could not be read, one line; empty where nothing is missing."""
    version: str = __version__
    """Of unsmear."""
    weights_sha256: str = ""
    """Of the weights; of models that generate, of these together with how they sample."""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    """Fields of ``Options`` as they were used, and ``sampling`` of models that generate."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def sharpness(self) -> str:
        """What became of the picture, in words with the figures behind them."""
        figures = f"blur {self.blur_before:.3f} -> {self.blur_after:.3f}"
        size, up = abs(self.edges_steeper), self.edges_steeper > 0
        if size < NOTHING:
            return f"sharpness unchanged ({figures})"
        figures = f"edges {max(round(100 * size), 1)} % {'steeper' if up else 'flatter'}, {figures}"
        if size < LITTLE:
            return f"sharpness hardly changed ({figures})"
        return f"{'clearly' if size >= CLEAR else 'a little'} {'sharper' if up else 'softer'} ({figures})"


@dataclass
class Second:
    """Sums over the frames of one second of the video's own clock."""

    second: int
    frames: int = 0
    blur_before: float = 0.0
    blur_after: float = 0.0
    steepness_before: float = 0.0
    steepness_after: float = 0.0
    moving: int = 0
    """Frames with usable motion, and over those:"""
    motion_px: float = 0.0
    """Median over the picture, pixels from frame to frame."""
    timed: int = 0
    """Frames whose exposure was estimated, and over those:"""
    duty: float = 0.0

    def row(self) -> dict[str, Any]:
        """Means, as the JSON report gives them; None where nothing was found."""
        return {
            "second": self.second,
            "blur_before": round(self.blur_before / self.frames, 4),
            "blur_after": round(self.blur_after / self.frames, 4),
            "motion_px": round(self.motion_px / self.moving, 3) if self.moving else None,
            "duty": round(self.duty / self.timed, 3) if self.timed else None,
        }


@dataclass
class Figures:
    """Figures of all frames that were written so far."""

    seconds: list[Second] = field(default_factory=list)
    without_motion: int = 0
    """Frames for which no usable motion was found."""
    single: bool = False
    """The input is one picture, with nothing before or after it."""
    cuts: int = 0
    coverage: float = 0.0
    """Sum over frames of the share whose motion from the frame before the codec found."""
    fastest_px: float = 0.0
    """The most, over frames, that the fastest tenth of the picture moves from frame to frame."""
    sharp: int = 0
    """Frames without blur worth the name; see ``restore.shots.is_sharp``."""
    origin: str = ""

    @property
    def frames(self) -> int:
        return sum(second.frames for second in self.seconds)

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"seconds": [vars(second) for second in self.seconds]}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Figures":
        """What ``as_json`` gave. Raises TypeError or KeyError for anything else."""
        return cls(**(stored | {"seconds": [Second(**second) for second in stored["seconds"]]}))


def motion_lengths(prior: Prior) -> np.ndarray | None:
    """How far the picture moves in one frame step, pixels, (gh, gw): the mean of both directions that are usable.

    None where neither is: no past and no future, or next to nothing found.
    """
    ways = []
    if not prior.reset and prior.valid.mean() >= MIN_COVERAGE:
        ways.append(-prior.motion())
    if not prior.reset_back and prior.valid_back.mean() >= MIN_COVERAGE:
        ways.append(prior.motion_back())
    return np.linalg.norm(np.mean(ways, axis=0), axis=0) if ways else None


def measure(figures: Figures, window: Window, restored: np.ndarray, written: Sequence[int], shot: DutyTracker) -> None:
    """Add the frames ``written`` of a window, whose frames were ``restored``, to ``figures``; ``shot`` is what is known
    of its last shot."""
    duty, sharp = shot.mean, is_sharp(shot.mean, shot.blur_px)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as threads:  # OpenCV lets go of the interpreter
        pairs = list(
            threads.map(_sharpnesses, [window.frames[i][0].rgb for i in written], [restored[i] for i in written])
        )
    figures.single = window.number == 0 and len(window.frames) + len(window.after) == 1
    for i, (before, after) in zip(written, pairs, strict=True):
        frame, prior = window.frames[i]
        at = int(frame.time_s // 1)
        if not figures.seconds or figures.seconds[-1].second != at:
            figures.seconds.append(Second(at))
        second = figures.seconds[-1]
        if prior.reset and (second.frames or len(figures.seconds) > 1):
            figures.cuts += 1
        second.frames += 1
        second.blur_before += before.blur
        second.blur_after += after.blur
        second.steepness_before += before.steepness
        second.steepness_after += after.steepness
        lengths = motion_lengths(prior)
        if lengths is None:
            figures.without_motion += 1
        else:
            second.moving += 1
            second.motion_px += float(np.median(lengths))
            figures.fastest_px = max(figures.fastest_px, float(np.percentile(lengths, 90)))
        if duty is not None:
            second.timed += 1
            second.duty += duty
            figures.sharp += sharp
        figures.coverage += prior.coverage
        figures.origin = figures.origin or prior.origin


def _sharpnesses(before: np.ndarray, after: np.ndarray) -> tuple[Sharpness, Sharpness]:
    return sharpness(luma_of_rgb(before)), sharpness(luma_of_rgb(after))


def summarise(figures: Figures) -> dict[str, Any]:
    """Figures of a whole job, by the names of ``Report``'s fields."""
    seconds, frames = figures.seconds, figures.frames

    def total(name: str) -> float:
        return float(sum(getattr(second, name) for second in seconds))

    before, timed = total("steepness_before"), total("timed")
    return {
        "frames": frames,
        "blur_before": round(total("blur_before") / frames, 4),
        "blur_after": round(total("blur_after") / frames, 4),
        "edges_steeper": round(total("steepness_after") / before - 1, 4) if before > 0 else 0.0,
        "motion_median_px": round(_median_motion(seconds), 3),
        "motion_coverage": round(figures.coverage / frames, 4),
        "frames_without_motion": figures.without_motion,
        "scene_cuts": figures.cuts,
        "prior_origin": figures.origin,
        "duty": round(total("duty") / timed, 3) if timed else None,
        "blur_per_second": [second.row() for second in seconds],
    }


def _median_motion(seconds: Sequence[Second]) -> float:
    """Median over the seconds, each counted by its frames with motion, of their mean motion; 0 where there is none."""
    rows = sorted((second.motion_px / second.moving, second.moving) for second in seconds if second.moving)
    reached = np.cumsum([moving for _, moving in rows])
    return rows[int(np.searchsorted(reached, reached[-1] / 2))][0] if rows else 0.0


def notes(figures: Figures) -> list[str]:
    """What there is to say about a job's input, each a phrase of its own."""
    if figures.single:
        return ["single picture: there is no motion to go by; give the video"]
    said = []
    if figures.sharp > figures.frames / 2:
        said.append("already sharp: little motion blur was found, so little was changed")
    elif not figures.without_motion and figures.fastest_px < SHARP_BLUR_PX:
        said.append("hardly anything moves, so there is little motion blur to remove")
    if figures.cuts:
        said.append("1 cut" if figures.cuts == 1 else f"{figures.cuts} cuts")
    if figures.without_motion:
        said.append(f"{_percent(figures.without_motion, figures.frames)} of the frames without usable motion")
    return said


def _percent(part: int, whole: int) -> str:
    """0 % is said only of nothing, 100 % only of all."""
    if 0 < part < 0.01 * whole:
        return "less than 1 %"
    return f"{min(round(100 * part / whole), 100 if part == whole else 99)} %"


def peak_memory_mb(device: str) -> float:
    """Highest memory so far, MiB: of the GPU that ``device`` names, else resident memory of this process.

    0 where the system does not tell.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def reset_peak_memory() -> None:
    """Let the peak of this process start afresh where the system can (Linux, CUDA), so that runs do not mix."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
