"""Options of a restoration, and its progress."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

from unsmear.errors import UsageError
from unsmear.options import Limits, OptionError, Share, check
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

    strength: Share = 1.0
    """0 keeps the input's frames as they are before they are encoded, 1 restores fully."""
    tile: str | int = "auto"
    """``auto``, ``off`` or the side of square tiles in pixels: smaller ones need less memory."""
    window: Annotated[int, Limits(MIN_WINDOW_FRAMES, unit="frames")] = DEFAULT_CHUNK_FRAMES
    """Frames worked on at once, 8 or more: fewer need less memory, and change the picture a little. N of the absolute
    chunks."""
    start_s: Annotated[float | None, Limits(0, unit="seconds")] = None
    """Restore from this time on, seconds after the first frame."""
    end_s: float | None = None
    """Restore the frames before this time, seconds after the first frame."""
    fps: Annotated[float | None, Limits(0, 1000, above=True, unit="frames a second")] = None
    """Frame rate of a folder of frames, 25 by default. 23.976, 29.97 and 59.94 stand for 24000/1001 and so on."""
    priors: str | None = None
    """Archive of the input's priors, used in place of a re-encode."""
    codec: str | None = None
    """Video encoder, by default as the source."""
    crf: int | None = None
    """Quality of the encode, lower is better."""
    pix_fmt: str | None = None
    """Pixel format, by default as the source."""
    deinterlace: Literal["auto", "refuse", "keep", "top", "bottom"] = "auto"
    """Of interlaced video ``auto`` makes progressive frames, ``keep`` takes frames as they are, ``refuse`` stops;
    ``top`` and ``bottom`` make progressive ones of any video, with that field first."""
    frames: bool = False
    """PNG frames, right into the output folder, instead of a video; named by their number in the input, from 000000."""
    deep_frames: bool = False
    """PNG frames of 16 bits a channel, whatever the source has: what a model says before it is rounded to 8."""
    compare: bool = False
    """Also write OUT.compare.mp4: before | after. Of an image, an image."""
    overwrite: bool = False
    """Replace what is there."""
    resume: bool = True
    """Go on where an interrupted run of the same job stopped."""

    def __post_init__(self) -> None:
        check(self)
        if self.deep_frames and not self.frames:
            raise UsageError("`deep_frames` goes with `frames` alone: videos keep the depth of their source")
        tile = str(self.tile)
        if tile not in ("auto", "off") and not (tile.isdecimal() and int(tile) >= MIN_TILE_PX):
            raise OptionError("tile", self.tile, f"auto, off or {MIN_TILE_PX} or more (pixels)")
        start = 0.0 if self.start_s is None else self.start_s
        if start == float("inf"):
            raise OptionError("start_s", start, "a time in the video (seconds)")
        if self.end_s is not None and not start < self.end_s:
            raise OptionError("end_s", self.end_s, f"a time after `start_s`, {start:g} (seconds)")

    @property
    def frame_rate(self) -> Fraction | None:
        """``fps`` exactly."""
        if self.fps is None:
            return None
        for whole in (24, 30, 48, 60, 120):
            if abs(self.fps - whole * 1000 / 1001) < 0.005:
                return Fraction(whole * 1000, 1001)
        return Fraction(self.fps).limit_denominator(1000)

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
