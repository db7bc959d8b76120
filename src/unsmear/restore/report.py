"""The report of a finished job: speed, memory, what became of the picture."""

from dataclasses import asdict, dataclass, field
from typing import Any

from unsmear.version import __version__

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
    blur_per_second: list[dict[str, Any]] = field(default_factory=list)
    """``second`` of the video's own clock, mean ``blur_before``, ``blur_after``, ``motion_px`` and ``duty`` of its
    frames; None where there was no motion or no exposure was found."""
    window_frames: int = 0
    tile_px: int | None = None
    resumed_frames: int = 0
    """Frames taken over from an earlier, interrupted run."""
    note: str = ""
    version: str = __version__
    """Of unsmear."""
    weights_sha256: str = ""
    """Of the weights; of models that generate, of these together with how they sample."""
    options: dict[str, Any] = field(default_factory=dict)
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
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def reset_peak_memory() -> None:
    """Let the peak of this process start afresh where the system can (Linux, CUDA), so that runs do not mix."""
    from contextlib import suppress
    from pathlib import Path

    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
