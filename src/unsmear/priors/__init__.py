"""Coding priors: motion vectors and residuals of a video's bitstream.

:func:`stream` pairs each frame of a video with its :class:`Prior`, from the motion vectors of the file where they can
be used, or by re-encoding in memory; :func:`chunk_priors` re-encodes a sequence of frames. Both take
:class:`PriorSettings`. :class:`PriorArchive` (written by :class:`ArchiveWriter`) and :class:`PublishedArrays` are
sequences of priors on disk. :class:`ReencodePass` is one encoder pass.
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
