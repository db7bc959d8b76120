"""Parser of the H.264 headers that determine the references of motion vectors (ITU-T H.264, clause 7.3).

Sequence and picture parameter sets and slice headers, up to the fields that concern references; other fields are
skipped. :mod:`unsmear.priors.native` evaluates the result.
"""

from collections.abc import Iterator
from dataclasses import dataclass

SLICE, SLICE_IDR, SPS, PPS = 1, 5, 7, 8
"""NAL unit types."""

HARMLESS = frozenset({6, 9, 10, 11, 12})
"""NAL unit types without pictures: supplemental information, delimiters, ends of sequence and stream, filler."""

# Profiles whose SPS states the chroma format and bit depth (7.3.2.1.1).
_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
_HEADER_BYTES = 64  # more than the part of a slice header that is read


class HeaderError(ValueError):
    """A header that ends early or has a value that the standard does not allow."""


@dataclass(frozen=True)
class SequenceParameters:
    """Fields of an SPS that concern references and the picture."""

    bit_depth: int
    separate_colour_planes: bool
    log2_max_frame_num: int
    order_count_type: int
    reference_frames: int
    gaps_allowed: bool
    frames_only: bool
    cropped_to_macroblocks: bool
    """Whether cropping removes only the padding to macroblocks at the right and bottom edges."""


@dataclass(frozen=True)
class PictureParameters:
    """Fields of a PPS that concern prediction."""

    identifier: int
    slice_groups: int
    weighted_prediction: bool
    redundant_pictures: bool


@dataclass(frozen=True)
class SliceHeader:
    """First fields of a slice header. ``kind`` is P, B, I, SP or SI."""

    first_macroblock: int
    kind: str
    picture_parameters: int
    frame_number: int
    reordered: bool
    long_term_or_adaptive: bool


class _Bits:
    """Reader of big-endian bit fields and Exp-Golomb codes (clause 9.1)."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def fixed(self, count: int) -> int:
        """u(count)."""
        if count > self._left:
            raise HeaderError("it ends early")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def flag(self) -> bool:
        """u(1)."""
        return self.fixed(1) == 1

    def unsigned(self) -> int:
        """ue(v)."""
        zeros = 0
        while not self.flag():
            zeros += 1
            if zeros > 32:
                raise HeaderError("it holds a code of more than 32 bits")
        return (1 << zeros) - 1 + self.fixed(zeros)

    def signed(self) -> int:
        """se(v)."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def payload(nal: bytes) -> bytes:
    """Bytes after the header of a NAL unit, without emulation prevention (clause 7.4.1)."""
    return nal[1:].replace(b"\0\0\3", b"\0\0")


def parse_sps(nal: bytes) -> SequenceParameters:
    """Parse a sequence parameter set (7.3.2.1.1). Raises HeaderError."""
    bits = _Bits(payload(nal))
    profile = bits.fixed(8)
    bits.fixed(16)
    bits.unsigned()
    chroma, depth, separate = 1, 8, False
    if profile in _HIGH_PROFILES:
        chroma = bits.unsigned()
        if chroma > 3:
            raise HeaderError(f"it has the chroma format {chroma}")
        separate = chroma == 3 and bits.flag()
        depth = 8 + bits.unsigned()
        bits.unsigned()
        bits.flag()
        if bits.flag():
            _skip_scaling_lists(bits, 8 if chroma != 3 else 12)
    log2_max_frame_num = 4 + bits.unsigned()
    order_type = bits.unsigned()
    if order_type == 0:
        bits.unsigned()
    elif order_type == 1:
        bits.flag()
        bits.signed()
        bits.signed()
        for _ in range(_at_most(bits.unsigned(), 255)):
            bits.signed()
    references = bits.unsigned()
    gaps = bits.flag()
    bits.unsigned()
    bits.unsigned()
    frames_only = bits.flag()
    if not frames_only:
        bits.flag()
    bits.flag()
    left = right = top = bottom = 0
    if bits.flag():
        left, right, top, bottom = (bits.unsigned() for _ in range(4))
    unit_x, unit_y = (2 if chroma in (1, 2) else 1), (2 if chroma == 1 else 1)
    return SequenceParameters(
        bit_depth=depth,
        separate_colour_planes=separate,
        log2_max_frame_num=_at_most(log2_max_frame_num, 16),
        order_count_type=_at_most(order_type, 2),
        reference_frames=references,
        gaps_allowed=gaps,
        frames_only=frames_only,
        cropped_to_macroblocks=left == top == 0 and right * unit_x < 16 and bottom * unit_y < 16,
    )


def parse_pps(nal: bytes) -> PictureParameters:
    """Parse a picture parameter set (7.3.2.2), or its start if it has slice groups. Raises HeaderError."""
    bits = _Bits(payload(nal))
    identifier = _at_most(bits.unsigned(), 255)
    bits.unsigned()
    bits.fixed(2)
    groups = 1 + bits.unsigned()
    if groups > 1:
        return PictureParameters(identifier, groups, weighted_prediction=False, redundant_pictures=False)
    bits.unsigned()
    bits.unsigned()
    weighted = bits.flag()
    bits.fixed(2)
    for _ in range(3):
        bits.signed()
    bits.fixed(2)
    return PictureParameters(identifier, groups, weighted, redundant_pictures=bits.flag())


def parse_slice(nal: bytes, sps: SequenceParameters) -> SliceHeader:
    """Parse the start of a slice header (7.3.3).

    Requires ``sps.frames_only``, ``sps.order_count_type == 2``, and no redundant pictures or weighted prediction in any
    picture parameter set. Raises HeaderError.
    """
    bits = _Bits(payload(nal[:_HEADER_BYTES]))
    first = bits.unsigned()
    kind = ("P", "B", "I", "SP", "SI")[_at_most(bits.unsigned(), 9) % 5]
    identifier = _at_most(bits.unsigned(), 255)
    if sps.separate_colour_planes:
        bits.fixed(2)
    number = bits.fixed(sps.log2_max_frame_num)
    refresh = nal[0] & 31 == SLICE_IDR
    if refresh:
        bits.unsigned()
    reordered = marked = False
    if kind == "P":
        if bits.flag():
            bits.unsigned()
        reordered = bits.flag()
    if not reordered and nal[0] & 0x60:
        if refresh:
            bits.flag()
        marked = bits.flag()
    return SliceHeader(first, kind, identifier, number, reordered, marked)


def split_nals(data: bytes, length_size: int | None) -> Iterator[bytes]:
    """NAL units of a packet, each preceded by its length (``length_size`` bytes) or a start code (None).

    Raises HeaderError where a length exceeds the packet.
    """
    if length_size is None:
        for piece in data.split(b"\0\0\1")[1:]:
            nal = piece.rstrip(b"\0")
            if nal:
                yield nal
        return
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + length_size], "big")
        at += length_size
        if size == 0 or at + size > len(data):
            raise HeaderError("a unit in it extends beyond its end")
        yield data[at : at + size]
        at += size


def split_configuration(extradata: bytes) -> tuple[int | None, list[bytes]]:
    """Parse the decoder configuration of a container: (bytes of a length field, parameter sets).

    ``avcC`` records (ISO/IEC 14496-15) state the length; other data is a stream with start codes. Raises HeaderError.
    """
    if extradata[:1] != b"\1":
        return None, list(split_nals(extradata, None))
    if len(extradata) < 7:
        raise HeaderError("it ends early")
    length_size = (extradata[4] & 3) + 1
    nals, at = [], 5
    for mask in (31, 255):
        if at >= len(extradata):
            raise HeaderError("it ends early")
        count, at = extradata[at] & mask, at + 1
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2], "big")
            if size == 0 or at + 2 + size > len(extradata):
                raise HeaderError("it ends early")
            nals.append(extradata[at + 2 : at + 2 + size])
            at += 2 + size
    return length_size, nals


def _skip_scaling_lists(bits: _Bits, count: int) -> None:
    for number in range(count):
        if not bits.flag():
            continue
        last = following = 8
        for _ in range(16 if number < 6 else 64):
            if following:
                following = (last + bits.signed()) % 256
            last = following or last


def _at_most(value: int, limit: int) -> int:
    if value > limit:
        raise HeaderError(f"it holds {value} where the standard allows {limit} at most")
    return value
