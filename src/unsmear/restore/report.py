"""What a job tells about itself."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Report:
    """One finished input. Field names are those of ``--report``."""

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
    """Mean no-reference blur estimate of sampled input frames, 0 crisp … 1 smooth."""
    blur_after: float
    motion_median_px: float
    """Median over pixels and sampled frames of the motion from frame to frame."""
    motion_coverage: float
    """Mean share of the picture whose motion the codec found."""
    scene_cuts: int
    prior_origin: str
    duty: float | None = None
    """Estimated exposure as a fraction of the frame step, mean over chunks where one was found."""
    window_frames: int = 0
    tile_px: int | None = None
    resumed_frames: int = 0
    """Frames taken over from an earlier, interrupted run."""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


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
