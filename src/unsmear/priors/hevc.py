"""Re-encoding with HEVC for motion vectors: luma -> x265, P-frames only, one reference, and its analysis file.

FFmpeg's HEVC decoder exports no vectors. They are read from the analysis file that x265 writes
(:mod:`unsmear.priors.x265_analysis`); reconstructed frames come from the decoder.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from unsmear.errors import UnsupportedVideo
from unsmear.priors.grid import Mask, MotionGrid
from unsmear.priors.reencode import TIME_BASE, check_pass, padded
from unsmear.priors.settings import Profile
from unsmear.priors.x265_analysis import TREE_PX, read_analysis

_PROFILES: dict[str, tuple[str, str]] = {
    "fast": ("veryfast", "me=hex:subme=3"),
    "best": ("fast", "me=umh:merange=57:subme=4:early-skip=0"),
}
# As in the H.264 pass: constant quantiser, no tools that trade vectors for bits, no loop filter, one thread.
# constrained-intra keeps intra blocks from using predicted neighbours, which makes them rare.
_COMMON = (
    f"ctu={TREE_PX}:min-cu-size=8:max-tu-size={TREE_PX}:rect=0:amp=0"
    ":bframes=0:ref=1:keyint=-1:scenecut=0:weightp=0:constrained-intra=1"
    ":cutree=0:aq-mode=0:psy-rd=0:psy-rdoq=0:rc-lookahead=0:no-deblock=1:sao=0:info=0:pools=none:frame-threads=1"
    ":log-level=none:analysis-save-reuse-level=10"
)
_FAR = "me=umh:merange=64"

Luma = npt.NDArray[np.uint8]


def encode_hevc(
    lumas: Sequence[Luma], profile: Profile, qp: int, *, far: bool = False
) -> list[tuple[Luma, MotionGrid, Mask]]:
    """Encode consecutive frames in one pass.

    Args:
        lumas: one or more frames, ``(H, W)`` uint8 each.
        profile: ``"fast"``, or ``"best"`` (a wider search).
        qp: quantiser, 1 (fine) to 51 (coarse).
        far: search 64 pixels around the expected place, whatever the profile.

    Returns:
        For each frame the reconstruction, ``(padded height, padded width)`` uint8, the motion grid and its validity;
        see :func:`~unsmear.priors.grid.grid_from_vectors`.

    Raises:
        OptionError: an unknown profile, or a quantiser out of range.
        UnsupportedVideo: no encoder, an unknown layout of its analysis file, or frames that it does not support.
    """
    height, width = lumas[0].shape
    check_pass(profile, qp, height, width)
    frames = [padded(luma, height, width, i) for i, luma in enumerate(lumas)]
    with tempfile.TemporaryDirectory(prefix="unsmear-") as folder:
        file = Path(folder) / "analysis"
        try:
            pictures = _decoded(_encoded(frames, profile, qp, far, file))
            found = read_analysis(file.read_bytes(), *frames[0].shape)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise UnsupportedVideo(f"no HEVC encoder (libx265) for frames of {width}x{height}: {error}") from error
    if not len(pictures) == len(found) == len(frames):
        raise UnsupportedVideo(f"the HEVC pass gave {len(found)} frames for {len(frames)}; choose `codec` h264")
    return [(picture, *motion) for picture, motion in zip(pictures, found, strict=True)]


def _encoded(frames: Sequence[Luma], profile: Profile, qp: int, far: bool, file: Path) -> list[Any]:
    """Packets. The analysis file is complete after the encoder is freed, on return."""
    preset, extra = _PROFILES[profile]
    encoder = av.CodecContext.create("libx265", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.height, encoder.width = frames[0].shape
    encoder.pix_fmt = "gray"
    encoder.time_base, encoder.framerate = TIME_BASE, 1 / TIME_BASE
    options = [f"qp={qp}", extra, *([_FAR] if far else []), _COMMON, f"analysis-save={_escaped(str(file))}"]
    encoder.options = {"preset": preset, "tune": "zerolatency", "x265-params": ":".join(options)}
    encoder.open()
    packets = []
    for i, luma in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(luma, format="gray")
        frame.pts, frame.time_base = i, TIME_BASE
        packets += encoder.encode(frame)
    return [*packets, *encoder.encode(None)]


def _decoded(packets: Sequence[Any]) -> list[Luma]:
    decoder = av.CodecContext.create("hevc", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_type = "SLICE"
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return [np.ascontiguousarray(frame.to_ndarray(format="gray")) for frame in frames]


def _escaped(path: str) -> str:
    """A path as a value in FFmpeg's option lists."""
    return "".join(f"\\{c}" if c in "\\:='" else c for c in path)
