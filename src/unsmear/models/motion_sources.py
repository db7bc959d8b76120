"""Motion sources by name; those that need torch and torchvision are imported when they are wanted."""

from pathlib import Path

from unsmear.priors.flow import MotionSource, make_source


def find_source(name: str, weights: Path | None = None, device: str = "cpu") -> MotionSource:
    """``mv``, ``dis``, ``none``, ``raft-N`` or ``raft-N-warm``.

    Args:
        name: of the source.
        weights: of RAFT, torchvision's ``raft_large`` or princeton-vl's ``raft-things``, ``.pth`` or safetensors; None:
            torchvision fetches its own.
        device: where RAFT runs.

    Raises:
        UsageError: an unknown name, or no torchvision.
        WeightsError: RAFT's weights are missing, damaged or do not fit, or cannot be fetched.
    """
    if name.startswith("raft"):
        from unsmear.models.raft import make_raft

        return make_raft(name, weights, device)
    return make_source(name)
