"""Seeking: the number of the frame that is shown at a time, without decoding."""

import bisect

from unsmear.video.ffmpeg import main_video_stream, open_input
from unsmear.video.probe import DEFAULT_RATE, VideoInfo


def first_frame_at(info: VideoInfo, time_s: float) -> int:
    """Index of the first frame shown at or after ``time_s`` seconds on the source's clock.

    Counts packets in presentation order; where some packets hold no frame the index may be a little high.
    """
    if info.kind != "video":
        return max(0, -int(-time_s * (info.frame_rate or DEFAULT_RATE) // 1))
    with open_input(info.path, info.raw) as container:
        stream = main_video_stream(container, info.path)
        base = stream.time_base
        pts = sorted(p.pts for p in container.demux(stream) if p.pts is not None and base is not None)
    return bisect.bisect_left(pts, time_s, key=lambda value: float(value * base))
