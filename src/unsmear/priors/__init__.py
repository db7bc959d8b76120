"""Coding priors: what a bitstream already knows about a video, as motion and residual.

:func:`stream` gives one :class:`Prior` for each frame of a video, from the file's own vectors where they can be used,
or by re-encoding in memory; :func:`chunk_priors` gives the latter of some frames. Both take :class:`PriorSettings`.
:class:`PriorArchive` and :class:`PublishedArrays` are sequences of priors on disk, which
:class:`ArchiveWriter` writes. :class:`ReencodePass`, the grid and the motion compensation are the parts that
all of them are made of.
"""

from unsmear.priors.archive import ArchiveWriter, PriorArchive
from unsmear.priors.chunks import chunk_priors, chunk_start
from unsmear.priors.prior import RESIDUAL_SCALE, Prior
from unsmear.priors.published import PublishedArrays
from unsmear.priors.reencode import ReencodePass
from unsmear.priors.settings import DEFAULT_CHUNK_FRAMES, Mode, PriorSettings, Profile
from unsmear.priors.streams import PriorStream, stream

__all__ = [
    "DEFAULT_CHUNK_FRAMES",
    "RESIDUAL_SCALE",
    "ArchiveWriter",
    "Mode",
    "Prior",
    "PriorArchive",
    "PriorSettings",
    "PriorStream",
    "Profile",
    "PublishedArrays",
    "ReencodePass",
    "chunk_priors",
    "chunk_start",
    "stream",
]
