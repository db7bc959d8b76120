"""Motion sources by name, those that need torch and torchvision included, which are imported when asked for."""

from unsmear.priors.flow import MotionSource, make_source


def find_source(name: str) -> MotionSource:
    """``mv``, ``dis``, ``none``, ``raft-N`` or ``raft-N-warm``.

    Raises:
        UsageError: an unknown name, or no torchvision.
        WeightsError: RAFT's weights are not there and cannot be fetched.
    """
    if name.startswith("raft"):
        from unsmear.models.raft import make_raft

        return make_raft(name)
    return make_source(name)
