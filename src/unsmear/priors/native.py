"""Motion vectors straight from the input's own bitstream, where they provably mean what we need.

FFmpeg's decoder exports vectors without saying which frame they point to. They point from frame t to frame
t-1 for certain only in an H.264 stream that has nothing else to point to: progressive frames in coding
order, P and I slices, one reference frame which every picture replaces, no weighted prediction, no
long-term references, one set of sequence parameters. All of that stands in the headers, and
:func:`examine` reads the headers of every packet. In any other stream the vectors are of no use: taken as
if they pointed to t-1 they predict worse than no motion at all.

The residual of a native frame is ``|frame[t] - prediction from frame[t-1]|``, both as decoded. That is the
magnitude of the coded residual if the stream was coded without deblocking. Most are not; there it also
holds what the filter changed, along block edges, and is larger.
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
    """Why the stream, from the packet at hand on, is not provably P-only with one reference."""


@dataclass(frozen=True)
class Examination:
    """How far the vectors of a file can be used, and why no further.

    Attributes:
        frames: the first ``frames`` frames have vectors that point to the frame before them, or none.
        whole: that is all of them.
        reason: one clause for people.
    """

    frames: int
    whole: bool
    reason: str


def examine(path: Path, raw: RawFormat | None = None) -> Examination:
    """Read the headers of a file's packets until one of them rules native vectors out.

    Nothing is decoded. A file that cannot be read has no native frames; the reason then says so, and it is
    for the reader of the frames to complain. ``raw``: what a ``.yuv`` file holds, instead of its name.
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
        judge = _Judge(bytes(context.extradata or b""))
        for packet in container.demux(stream):
            if packet.size:
                judge.packet(packet)
                frames += 1
    except (_Violation, HeaderError) as violation:
        words = f"a header cannot be read: {violation}" if isinstance(violation, HeaderError) else str(violation)
        return Examination(frames, False, f"from frame {frames} on {words}" if frames else words)
    return Examination(frames, True, PROVEN) if frames else Examination(0, False, "it holds no packets")


class _Judge:
    """Takes the packets of a stream one by one and raises _Violation at the first that breaks a rule."""

    def __init__(self, extradata: bytes) -> None:
        self._length_size, nals = split_configuration(extradata)
        self._sps_bytes: bytes | None = None
        self._sps: SequenceParameters | None = None
        self._pps: dict[int, PictureParameters] = {}
        self._frame_number: int | None = None
        for nal in nals:
            self._parameters(nal)

    def packet(self, packet: Any) -> None:
        if packet.is_corrupt or packet.is_discard:
            raise _Violation("packets are damaged or cut away by the container")
        if packet.has_sidedata("new_extradata"):
            raise _Violation("the decoder is set up anew in mid-stream")
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
                raise _Violation(f"there are units of type {kind}, which belong to no plain single-layer stream")
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
            raise _Violation("references are reordered, kept for long, or dropped out of turn")
        if before is not None:
            if header.first_macroblock == 0 or header.frame_number != before.frame_number:
                raise _Violation("there is a packet with more than one picture")
            return header
        refresh = nal[0] & 31 == SLICE_IDR
        if header.first_macroblock:
            raise _Violation("a picture lacks its beginning")
        if self._frame_number is None and not refresh:
            raise _Violation("the stream begins in the middle of a group of pictures")
        expected = 0 if refresh or self._frame_number is None else self._frame_number + 1
        if header.frame_number != expected % (1 << self._sps.log2_max_frame_num):
            raise _Violation("pictures are missing")
        return header


def _check_sequence(sps: SequenceParameters) -> None:
    rules = (
        (sps.bit_depth == 8, f"samples have {sps.bit_depth} bits"),
        (not sps.separate_colour_planes, "colour planes are coded apart"),
        (sps.frames_only, "it is interlaced"),
        (sps.reference_frames == 1, f"it has {sps.reference_frames} reference frames"),
        (sps.order_count_type == 2, "it may show frames in another order than it codes them"),
        (not sps.gaps_allowed, "it may leave out frames"),
        (sps.cropped_to_macroblocks, "a part of the coded picture is not shown"),
    )
    for holds, words in rules:
        if not holds:
            raise _Violation(words)


def native_steps(path: Path, first: int = 0) -> Iterator[Step | None]:
    """Decode a file that :func:`examine` accepts and pair each frame with the one before it.

    Yields:
        For frame ``first`` and on, a step whose images are ``(gh * 8, gw * 8)`` uint8: the whole coded
        luma, beyond the part that is shown. None where a frame has no vectors at all, as intra frames.

    Raises:
        DamagedVideo: a packet that does not give exactly one frame.
    """
    with open_input(path) as container:
        stream = main_video_stream(container, path)
        context = stream.codec_context
        context.options = {"apply_cropping": "0"}
        context.flags2 |= Flags2.export_mvs  # as an option it would be ignored in silence
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
