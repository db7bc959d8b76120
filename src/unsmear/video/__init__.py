"""Files to frames and back: reading, encoding in segments, and joining them with everything else."""

from unsmear.video.encoding import Encoding, choose_encoding
from unsmear.video.frame import Frame, eight_bit
from unsmear.video.images import FrameFolderWriter, read_image, write_png
from unsmear.video.join import JoinReport, join_segments
from unsmear.video.probe import VideoInfo, find_inputs, probe
from unsmear.video.raw import RawFormat, parse_raw_format
from unsmear.video.reader import VideoReader, open_video
from unsmear.video.segments import SegmentWriter, segment_time_base
from unsmear.video.upright import upright, upright_size

__all__ = [
    "Encoding",
    "Frame",
    "FrameFolderWriter",
    "JoinReport",
    "RawFormat",
    "SegmentWriter",
    "VideoInfo",
    "VideoReader",
    "choose_encoding",
    "eight_bit",
    "find_inputs",
    "join_segments",
    "open_video",
    "parse_raw_format",
    "probe",
    "read_image",
    "segment_time_base",
    "upright",
    "upright_size",
    "write_png",
]
