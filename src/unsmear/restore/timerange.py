"""Which part of a video is restored."""

from dataclasses import dataclass

from unsmear.restore.options import Options
from unsmear.video import VideoInfo, VideoReader
from unsmear.video.probe import DEFAULT_RATE
from unsmear.video.seek import first_frame_at

SLACK_FRAMES = 16
"""Packets without a frame make a frame's number, counted by packets, too high by a few."""


@dataclass(frozen=True)
class TimeRange:
    """Half-open [start, end) in seconds on the source's clock; None where open."""

    start_s: float | None = None
    end_s: float | None = None

    @classmethod
    def of(cls, reader: VideoReader, options: Options) -> "TimeRange":
        """The user's times count from the first frame; sources may begin their clock anywhere."""
        if options.start_s is None and options.end_s is None:
            return cls()
        origin = next((frame.time_s for frame in reader.frames(last=1)), 0.0)
        return cls(*(None if t is None else t + origin for t in (options.start_s, options.end_s)))

    def holds(self, time_s: float) -> bool:
        return (self.start_s is None or time_s >= self.start_s) and (self.end_s is None or time_s < self.end_s)

    def first_chunk(self, info: VideoInfo, chunk_frames: int) -> int:
        """A chunk at or shortly before that of the first frame in the range."""
        if not self.start_s:
            return 0
        index = first_frame_at(info, self.start_s)
        if info.interlaced:
            index //= 2  # a packet may hold a single field
        return max(0, index - SLACK_FRAMES) // chunk_frames

    @staticmethod
    def total(info: VideoInfo, options: Options) -> int | None:
        """How many frames will be restored, as far as the file says."""
        rate = float(info.frame_rate or DEFAULT_RATE)
        count = info.frames
        if count is None and info.duration_s and info.frame_rate:
            count = round(info.duration_s * rate)
        if count is None or (options.start_s is None and options.end_s is None):
            return count
        end_s = count / rate if options.end_s is None else min(options.end_s, count / rate)
        return max(0, round((end_s - (options.start_s or 0.0)) * rate))
