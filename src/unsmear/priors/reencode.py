"""Re-encoding in memory for the motion vectors of frames without usable ones.

luma -> x264, P-frames only, one reference -> H.264 decoder that exports its motion vectors. All
vectors of frame t then refer to frame t-1, for any coding of the input.
"""

from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags, Flags2

from unsmear.errors import UnsupportedVideo
from unsmear.options import OptionError
from unsmear.priors.settings import DEFAULTS, Profile

# Preset and changes to it. Options that save bits at the expense of vectors are off: no small intra
# blocks (p8x8), no scene cuts (they are detected separately), no second reference, no weighted prediction,
# a constant quantiser, no deblocking (it would be part of the residual).
_PROFILES: dict[str, tuple[str, str]] = {
    "fast": ("veryfast", "subme=5:psy=0"),
    "best": ("medium", "subme=6:me=umh:merange=32"),
}
_COMMON = (
    "partitions=p8x8:bframes=0:ref=1:keyint=infinite:scenecut=0:weightp=0:trellis=0:aq-mode=0:mbtree=0"
    ":rc-lookahead=0:no-deblock=1"
)
_FAR = "me=umh:merange=64"
TIME_BASE = Fraction(1, 25)
_MAX_SIDE = 16384


def check_pass(profile: str, qp: int, height: int, width: int) -> None:
    """Check the settings of a pass.

    Raises:
        OptionError: an unknown profile, or a quantiser out of range.
        UnsupportedVideo: a size that the encoder does not support.
    """
    if profile not in _PROFILES:
        raise OptionError("profile", profile, " or ".join(_PROFILES))
    if not 1 <= qp <= 51:
        raise OptionError("qp", qp, "1 to 51")
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
        raise UnsupportedVideo(f"frames of {width}x{height} have no coding priors; sides of 1 to {_MAX_SIDE} do")


def padded(luma: npt.NDArray[np.uint8], height: int, width: int, number: int) -> npt.NDArray[np.uint8]:
    """A frame of ``height`` by ``width``, padded to multiples of 16 by edge replication.

    Raises:
        UnsupportedVideo: frame ``number`` of a pass is of another size or type.
    """
    if luma.shape != (height, width) or luma.dtype != np.uint8:
        raise UnsupportedVideo(
            f"frame {number} of the pass is {luma.dtype} {luma.shape}; expected uint8 luma "
            f"{(height, width)}, the size of the frames before it"
        )
    return np.asarray(
        cv2.copyMakeBorder(luma, 0, -height % 16, 0, -width % 16, cv2.BORDER_REPLICATE),
        np.uint8,
    )


class ReencodePass:
    """Encoder pass over consecutive frames, which returns one frame for each input frame.

    The encoder has state: the start of a pass affects a fifth of the vectors dozens of frames later. Passes
    therefore start at fixed frame numbers (see :mod:`unsmear.priors.chunks`), and frames are given in order. The
    pass corresponds to the VVC re-encode of CPGD-Net, section III-A (codec and settings ours).
    """

    def __init__(
        self,
        width: int,
        height: int,
        *,
        profile: Profile = DEFAULTS.profile,
        qp: int = DEFAULTS.qp,
        threads: int = 1,
        far: bool = False,
    ) -> None:
        """Open the encoder and the decoder.

        Args:
            width: width of the frames, 1 to 16384 pixels.
            height: height of the frames, 1 to 16384 pixels.
            profile: ``"fast"``, or ``"best"`` (a wider search at about three quarters of the speed).
            qp: quantiser, 1 (fine) to 51 (coarse).
            threads: threads of the encoder. Vectors depend on their number (each codes its own slice), so
                it does not default to the number of cores.
            far: search up to 64 pixels from the predicted position, for either profile.

        Raises:
            UsageError: an unknown profile, or qp or threads out of range.
            UnsupportedVideo: a size that the encoder does not support.
        """
        check_pass(profile, qp, height, width)
        if threads < 1:
            raise OptionError("threads", threads, "1 or more")
        self.width, self.height = width, height
        self.padded_width, self.padded_height = -(-width // 16) * 16, -(-height // 16) * 16
        self._count = 0
        try:
            self._encoder = self._open_encoder(profile, qp, threads, far)
            self._decoder = self._open_decoder()
        except (av.FFmpegError, ValueError) as error:
            raise UnsupportedVideo(f"no H.264 encoder (libx264) for frames of {width}x{height}: {error}") from error

    def _open_encoder(self, profile: str, qp: int, threads: int, far: bool) -> av.VideoCodecContext:
        preset, extra = _PROFILES[profile]
        if far:
            extra = f"{extra}:{_FAR}"
        encoder = av.CodecContext.create("libx264", "w")
        assert isinstance(encoder, av.VideoCodecContext)
        encoder.width, encoder.height = self.padded_width, self.padded_height
        encoder.pix_fmt = "gray"
        encoder.time_base, encoder.framerate = TIME_BASE, 1 / TIME_BASE
        encoder.options = {
            "preset": preset,
            "tune": "zerolatency",
            "x264-params": f"qp={qp}:threads={threads}:{extra}:{_COMMON}",
        }
        encoder.open()
        return encoder

    @staticmethod
    def _open_decoder() -> av.VideoCodecContext:
        decoder = av.CodecContext.create("h264", "r")
        assert isinstance(decoder, av.VideoCodecContext)
        decoder.flags2 |= Flags2.export_mvs  # as an option it would be ignored in silence
        decoder.flags |= Flags.low_delay
        decoder.thread_type = "SLICE"
        decoder.open()
        return decoder

    def __call__(self, luma: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any] | None]:
        """Encode and decode the next frame.

        Args:
            luma: ``(height, width)`` uint8, the Y plane of the decoder (gray computed from RGB differs from it by
                up to 19 levels). It is padded to multiples of 16 by replicating the edge.

        Returns:
            The reconstruction, ``(padded height, padded width)`` uint8, and the exported motion vectors
            as a structured array (None in a frame without any, such as the first).

        Raises:
            UnsupportedVideo: a frame whose size or type differs from those of the pass.
            MemoryError: memory does not suffice.
        """
        frame = av.VideoFrame.from_ndarray(padded(luma, self.height, self.width, self._count), format="gray")
        frame.pts, frame.time_base = self._count, TIME_BASE
        self._count += 1
        try:
            decoded = [out for packet in self._encoder.encode(frame) for out in self._decoder.decode(packet)]
        except av.error.FFmpegError as error:  # of a picture that it takes, only memory can be the reason
            raise MemoryError(f"re-encoding a frame of {self.width}x{self.height}") from error
        if len(decoded) != 1:
            raise RuntimeError(f"the re-encode pass returned {len(decoded)} frames for one; expected exactly one")
        side_data = decoded[0].side_data.get("MOTION_VECTORS")
        plane: Any = decoded[0].planes[0]  # offers the buffer protocol
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        reconstruction = rows[: self.padded_height, : self.padded_width].copy()
        return reconstruction, None if side_data is None else side_data.to_ndarray()
