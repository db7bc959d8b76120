"""Coding priors: what a bitstream already knows about a video, as motion and residual.

NumPy in and out. :func:`chunk_priors` and :func:`stream_priors` give one :class:`Prior` a frame;
:class:`ReencodePass`, the grid and the motion compensation are the parts they are made of.
"""

from unsmear.priors.chunks import DEFAULT_CHUNK_FRAMES, chunk_priors, chunk_start, stream_priors
from unsmear.priors.prior import RESIDUAL_SCALE, Prior
from unsmear.priors.reencode import Profile, ReencodePass

__all__ = [
    "DEFAULT_CHUNK_FRAMES",
    "RESIDUAL_SCALE",
    "Prior",
    "Profile",
    "ReencodePass",
    "chunk_priors",
    "chunk_start",
    "stream_priors",
]
