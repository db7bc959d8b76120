"""What a user may choose for an input, and what a job tells while it runs."""

from collections.abc import Callable
from dataclasses import dataclass

from unsmear.errors import UsageError
from unsmear.priors import DEFAULT_CHUNK_FRAMES

MIN_TILE_PX = 160
"""Smaller tiles would be all overlap; memory fallback gives up below this."""

MIN_WINDOW_FRAMES = 8


@dataclass(frozen=True)
class Options:
    """What a user may choose for an input. Defaults are the command line's.

    Raises:
        UsageError: a value that cannot be right whatever the input holds.
    """

    strength: float = 1.0
    """0 keeps the input bit for bit, 1 restores fully."""
    tile: str | int = "auto"
    """``auto``, ``off`` or the side of square tiles in pixels."""
    window: int = DEFAULT_CHUNK_FRAMES
    """N: frames worked on at once."""
    start_s: float | None = None
    """Restore from this time on, seconds after the first frame."""
    end_s: float | None = None
    """Restore the frames before this time, seconds after the first frame."""
    codec: str | None = None
    crf: int | None = None
    pix_fmt: str | None = None
    frames: bool = False
    """PNG frames instead of a video."""
    deep_frames: bool = False
    """PNG frames of 16 bits a channel, whatever the source has: what a model says before it is rounded to 8."""
    compare: bool = False
    """Also write OUT.compare.mp4: before | after."""
    overwrite: bool = False
    resume: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise UsageError(f"strength {self.strength} is out of range; choose 0 (the input) … 1 (all of it)")
        if self.deep_frames and not self.frames:
            raise UsageError("deep_frames goes with frames alone: videos keep the depth of their source")
        if self.window < MIN_WINDOW_FRAMES:
            raise UsageError(f"window {self.window} is too short; choose {MIN_WINDOW_FRAMES} frames or more")
        tile = str(self.tile)
        if tile not in ("auto", "off") and not (tile.isdecimal() and int(tile) >= MIN_TILE_PX):
            raise UsageError(f"tile {tile!r} is not auto, off or a size of at least {MIN_TILE_PX} px")
        start = 0.0 if self.start_s is None else self.start_s
        end = float("inf") if self.end_s is None else self.end_s
        if not 0 <= start < float("inf"):
            raise UsageError(f"the start {start:g} s is not a time in the video; choose 0 or more")
        if not start < end:
            raise UsageError(f"the range {start:g}…{end:g} s is empty; choose an end after the start")

    @property
    def tile_px(self) -> int | None:
        """The side chosen by hand, None for ``auto`` and ``off``."""
        return None if self.tile in ("auto", "off") else int(self.tile)


@dataclass(frozen=True)
class Progress:
    """Handed to the progress callback after every chunk."""

    done: int
    """Frames finished, including those of an earlier run."""
    total: int | None
    """Frames in all, None where the file does not say."""
    frames_per_second: float
    """Of this run."""


ProgressCallback = Callable[[Progress], None]
