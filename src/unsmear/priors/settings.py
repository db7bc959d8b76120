"""Settings of coding priors."""

from dataclasses import dataclass
from typing import Annotated, Literal

from unsmear.options import Limits, OptionError, check

Mode = Literal["auto", "native", "reencode"]
"""Motion vectors to use: the file's own if they qualify (``auto``), only those (``native``), or re-encoded ones."""
Profile = Literal["fast", "best"]
CODECS = ("h264", "hevc")
"""Codecs that the re-encode can use."""

DEFAULT_CHUNK_FRAMES = 24
"""Frames per chunk. Backward motion is available with a delay of one chunk; four frames per chunk are coded in
addition."""


@dataclass(frozen=True)
class PriorSettings:
    """Settings of coding priors. All of them affect the result and are stored in the archive.

    Raises:
        OptionError: a value that is not allowed.
    """

    mode: Mode = "auto"
    """Motion vectors: the file's own if they qualify (auto), only those (native), or re-encoded ones (reencode)."""
    profile: Profile = "fast"
    """Motion search of the re-encode: fast or best."""
    qp: Annotated[int, Limits(1, 51)] = 24
    """Quantiser of the re-encode, 1 (fine) to 51 (coarse)."""
    chunk_frames: Annotated[int, Limits(1)] = DEFAULT_CHUNK_FRAMES
    """Frames per chunk; affects the result."""
    motion: str = "mv"
    """Source of the motion to the previous frame: mv, dis, none; with torchvision raft-4, raft-20, raft-4-warm."""
    motion_back: str = "mv"
    """Source of the motion to the next frame: as for the previous one."""
    codec: str = "h264"
    """Codec of the re-encode: h264 (libx264) or hevc (libx265)."""

    def __post_init__(self) -> None:
        check(self)
        if self.codec not in CODECS:
            missing = "; VVC's vectors are available from no codec library, but published ones can be read"
            raise OptionError("codec", self.codec, " or ".join(CODECS) + (missing if self.codec == "vvc" else ""))


DEFAULTS = PriorSettings()
