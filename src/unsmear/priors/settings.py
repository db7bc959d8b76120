"""Settings of priors: stated once, and handed on whole."""

from dataclasses import dataclass
from typing import Annotated, Literal

from unsmear.options import Limits, OptionError, check

Mode = Literal["auto", "native", "reencode"]
"""Which vectors to use: the file's own if they qualify, those or nothing, or always re-encoded ones."""
Profile = Literal["fast", "best"]
CODECS = ("h264", "hevc")
"""Codecs that the re-encode can use."""

DEFAULT_CHUNK_FRAMES = 24
"""Frames a chunk. Backward motion is known one chunk late; each chunk codes four frames more than it has."""


@dataclass(frozen=True)
class PriorSettings:
    """Settings of the priors. All of them are part of the result and are kept in the archive.

    Raises:
        OptionError: a field that cannot be right.
    """

    mode: Mode = "auto"
    """The file's own vectors if they qualify, those or nothing (native), or always re-encoded ones."""
    profile: Profile = "fast"
    """Search of the re-encode."""
    qp: Annotated[int, Limits(1, 51)] = 24
    """Quantiser of the re-encode, 1 to 51."""
    chunk_frames: Annotated[int, Limits(1)] = DEFAULT_CHUNK_FRAMES
    """Frames a chunk; part of the result."""
    motion: str = "mv"
    """Source of the motion to the frame before: mv, dis, none; with torchvision raft-4, raft-20, raft-4-warm."""
    motion_back: str = "mv"
    """Source of the motion to the frame after; the same."""
    codec: str = "h264"
    """Codec of the re-encode: h264 (libx264) or hevc (libx265)."""

    def __post_init__(self) -> None:
        check(self)
        if self.codec not in CODECS:
            missing = "; VVC's vectors can be had from no codec library, but published ones can be read"
            raise OptionError("codec", self.codec, " or ".join(CODECS) + (missing if self.codec == "vvc" else ""))


DEFAULTS = PriorSettings()
