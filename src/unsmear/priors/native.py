"""Motion vectors of the input's own bitstream, where they are known to point to the previous frame.

FFmpeg's decoder exports vectors without the frame that they refer to. That is certainly frame t-1 only in an H.264
stream without any other reference: progressive frames in coding order, P and I slices, one reference frame which
every picture replaces, no weighted prediction, no long-term references, one set of sequence parameters. All of these
are stated in headers, and :func:`examine` reads the headers of every packet. In other streams the vectors are not
used: interpreted as motion to t-1 they predict worse than no motion.

The residual of a native frame is ``|frame[t] - prediction from frame[t-1]|``, both as decoded: the magnitude of the
coded residual for streams without deblocking. In others, which are most, it also contains the changes of the deblocking
filter at block edges, and is larger.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags2

from unsmear.errors import DamagedVideo, UnsupportedVideo
from unsmear.priors.grid import grid_from_vectors
from unsmear.priors.h264_syntax import (
    HARMLESS,
    PPS,
    SLICE,
    SLICE_IDR,
    SPS,
    HeaderError,
    PictureParameters,
    SequenceParameters,
    SliceHeader,
    parse_pps,
    parse_slice,
    parse_sps,
    split_configuration,
    split_nals,
)
from unsmear.priors.steps import Step
from unsmear.video import RawFormat
from unsmear.video.ffmpeg import main_video_stream, open_input

PROVEN = "H.264 with P-frames only and one reference"


class _Violation(Exception):
    """Reason why the stream, from the current packet on, is not certainly P-only with one reference."""


@dataclass(frozen=True)
class Examination:
    """Number of frames of a file with usable motion vectors.

    Attributes:
        frames: the first ``frames`` frames have vectors to the previous frame, or none.
        whole: whether these are all frames.
        reason: reason in one clause.
    """

    frames: int
    whole: bool
    reason: str


def examine(path: Path, raw: RawFormat | None = None) -> Examination:
    """Read the headers of a file's packets up to the first that excludes native vectors.

    Nothing is decoded. A file that cannot be read has no native frames and no error is raised here, only by the reader
    of its frames. ``raw``: format of a ``.yuv`` file; None: what its name states.
    """
    try:
        with open_input(path, raw) as container:
            return _examine(container, main_video_stream(container, path))
    except (DamagedVideo, UnsupportedVideo) as error:
        return Examination(0, False, str(error))
    except (av.FFmpegError, OSError) as error:
        return Examination(0, False, f"it cannot be read to its end ({error.strerror})")


def _examine(container: Any, stream: Any) -> Examination:
    context = stream.codec_context
    if context is None or context.codec.canonical_name != "h264":
        name = "an unknown coding" if context is None else context.codec.canonical_name
        return Examination(0, False, f"the decoder of {name} exports no motion vectors with a known reference")
    frames = 0
    try:
        rules = _Rules(bytes(context.extradata or b""))
        for packet in container.demux(stream):
            if packet.size:
                rules.check(packet)
                frames += 1
    except (_Violation, HeaderError) as violation:
        reason = f"a header cannot be read: {violation}" if isinstance(violation, HeaderError) else str(violation)
        return Examination(frames, False, f"from frame {frames} on {reason}" if frames else reason)
    return Examination(frames, True, PROVEN) if frames else Examination(0, False, "it holds no packets")


class _Rules:
    """Rules of streams with usable vectors, checked packet by packet. Raises _Violation or HeaderError."""

    def __init__(self, extradata: bytes) -> None:
        self._length_size, nals = split_configuration(extradata)
        self._sps_bytes: bytes | None = None
        self._sps: SequenceParameters | None = None
        self._pps: dict[int, PictureParameters] = {}
        self._frame_number: int | None = None
        for nal in nals:
            self._parameters(nal)

    def check(self, packet: Any) -> None:
        """Check the next packet."""
        if packet.is_corrupt or packet.is_discard:
            raise _Violation("packets are damaged or discarded by the container")
        if packet.has_sidedata("new_extradata"):
            raise _Violation("the decoder configuration changes in mid-stream")
        header: SliceHeader | None = None
        for nal in split_nals(bytes(packet), self._length_size):
            kind = nal[0] & 31
            if nal[0] & 0x80:
                raise HeaderError("a unit begins with a forbidden bit")
            if kind in (SLICE, SLICE_IDR):
                header = self._slice(nal, header)
            elif kind in (SPS, PPS):
                self._parameters(nal)
            elif kind not in HARMLESS:
                raise _Violation(f"there are units of type {kind}, which a plain single-layer stream does not have")
        if header is None:
            raise _Violation("there is a packet without a picture")
        self._frame_number = header.frame_number

    def _parameters(self, nal: bytes) -> None:
        if nal[0] & 31 == SPS:
            if self._sps_bytes not in (None, nal):
                raise _Violation("the sequence parameters change")
            if self._sps is None:
                self._sps_bytes, self._sps = nal, parse_sps(nal)
                _check_sequence(self._sps)
        elif nal[0] & 31 == PPS:
            pps = parse_pps(nal)
            if pps.slice_groups > 1 or pps.redundant_pictures:
                raise _Violation("pictures are coded in slice groups or redundantly")
            if pps.weighted_prediction:
                raise _Violation("prediction is weighted")
            self._pps[pps.identifier] = pps

    def _slice(self, nal: bytes, before: SliceHeader | None) -> SliceHeader:
        """Check a slice against the rules and against the slices ``before`` it in the packet."""
        if self._sps is None:
            raise _Violation("pictures come before their parameters")
        if not nal[0] & 0x60:
            raise _Violation("there are pictures that no other refers to")
        header = parse_slice(nal, self._sps)
        if header.picture_parameters not in self._pps:
            raise _Violation("pictures come before their parameters")
        if header.kind not in ("P", "I"):
            raise _Violation(f"there are {header.kind}-frames")
        if header.reordered or header.long_term_or_adaptive:
            raise _Violation("references are reordered, long-term, or removed out of order")
        if before is not None:
            if header.first_macroblock == 0 or header.frame_number != before.frame_number:
                raise _Violation("there is a packet with more than one picture")
            return header
        refresh = nal[0] & 31 == SLICE_IDR
        if header.first_macroblock:
            raise _Violation("the first slice of a picture is missing")
        if self._frame_number is None and not refresh:
            raise _Violation("the stream starts in the middle of a group of pictures")
        expected = 0 if refresh or self._frame_number is None else self._frame_number + 1
        if header.frame_number != expected % (1 << self._sps.log2_max_frame_num):
            raise _Violation("pictures are missing")
        return header


def _check_sequence(sps: SequenceParameters) -> None:
    rules = (
        (sps.bit_depth == 8, f"samples have {sps.bit_depth} bits"),
        (not sps.separate_colour_planes, "colour planes are coded separately"),
        (sps.frames_only, "it is interlaced"),
        (sps.reference_frames == 1, f"it has {sps.reference_frames} reference frames"),
        (sps.order_count_type == 2, "it may show frames in another order than they are coded"),
        (not sps.gaps_allowed, "it may omit frames"),
        (sps.cropped_to_macroblocks, "the coded picture is cropped"),
    )
    for satisfied, reason in rules:
        if not satisfied:
            raise _Violation(reason)


def native_steps(path: Path, first: int = 0) -> Iterator[Step | None]:
    """Decode a file that :func:`examine` accepts, and pair each frame with the previous one.

    Yields:
        From frame ``first`` on, a step whose images are ``(gh * 8, gw * 8)`` uint8, the whole coded luma before
        cropping; None for a frame without vectors, such as an intra frame.

    Raises:
        DamagedVideo: the file cannot be decoded.
    """
    with open_input(path) as container:
        stream = main_video_stream(container, path)
        context = stream.codec_context
        context.options = {"apply_cropping": "0"}
        context.flags2 |= Flags2.export_mvs  # as an option it would be ignored silently
        stream.thread_type = "SLICE"
        reference: npt.NDArray[np.uint8] | None = None
        count = 0
        try:
            for packet in container.demux(stream):
                for frame in packet.decode():
                    reconstruction = _whole_luma(frame)
                    if count >= first:
                        yield _step(reconstruction, reference, frame)
                    reference = reconstruction
                    count += 1
        except av.FFmpegError as error:
            raise DamagedVideo(
                f"{path}: cannot be decoded from frame {count} on ({error.strerror}); `mode` auto re-encodes"
            ) from error


def _step(reconstruction: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8] | None, frame: Any) -> Step | None:
    vectors = frame.side_data.get("MOTION_VECTORS")
    if reference is None or vectors is None:
        return None
    return Step(reconstruction, reference, *grid_from_vectors(vectors.to_ndarray(), *reconstruction.shape))


def _whole_luma(frame: Any) -> npt.NDArray[np.uint8]:
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width].copy()
