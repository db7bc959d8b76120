"""Motion sources by name; torch and torchvision are imported only for sources that need them."""

from pathlib import Path

from unsmear.priors.flow import MotionSource, make_source


def find_source(name: str, weights: Path | None = None, device: str = "cpu") -> MotionSource:
    """Return the motion source ``mv``, ``dis``, ``none``, ``raft-N`` or ``raft-N-warm``.

    Args:
        name: name of the source; N is the number of RAFT's iterations.
        weights: torchvision's ``raft_large`` or princeton-vl's ``raft-things``, as ``.pth`` or safetensors; None:
            torchvision downloads its own.
        device: where RAFT runs.

    Raises:
        UsageError: an unknown name, or no torchvision.
        WeightsError: RAFT's weights are missing, damaged or do not fit, or cannot be fetched.
    """
    if name.startswith("raft"):
        from unsmear.models.raft import make_raft

        return make_raft(name, weights, device)
    return make_source(name)
