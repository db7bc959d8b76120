"""Coding priors: what a bitstream already knows about a video, as motion and residual.

NumPy in and out. :class:`VideoPriors` gives one :class:`Prior` for each frame of a file, from the file's own
vectors where they can be used; :func:`chunk_priors` and :func:`stream_priors` give those of a re-encode of any
frames. :class:`PriorArchive` and :class:`PublishedArrays` are sequences of priors on disk, which
:class:`ArchiveWriter` writes. :class:`ReencodePass`, the grid and the motion compensation are the parts that
all of them are made of.
"""

from unsmear.priors.archive import ArchiveWriter, PriorArchive
from unsmear.priors.chunks import DEFAULT_CHUNK_FRAMES, chunk_priors, chunk_start, stream_priors
from unsmear.priors.prior import RESIDUAL_SCALE, Prior
from unsmear.priors.published import PublishedArrays
from unsmear.priors.reencode import Profile, ReencodePass
from unsmear.priors.streams import Mode, VideoPriors

__all__ = [
    "DEFAULT_CHUNK_FRAMES",
    "RESIDUAL_SCALE",
    "ArchiveWriter",
    "Mode",
    "Prior",
    "PriorArchive",
    "Profile",
    "PublishedArrays",
    "ReencodePass",
    "VideoPriors",
    "chunk_priors",
    "chunk_start",
    "stream_priors",
]
