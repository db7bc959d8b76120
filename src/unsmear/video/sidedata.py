"""Side data of streams and frames, such as HDR10 values and captions, carried from a source to its output.

PyAV can read the side data of frames but not set it, and copies that of streams only together with the stream. Stream
side data is therefore carried as boxes of an MP4 sample entry (ISO/IEC 14496-12): FFmpeg writes those of the source to
a header in memory, they are inserted into a header for the output's codec, and FFmpeg reads that. Frame side data is
carried by a small frame scaled from the original.
"""

import io
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, NamedTuple

import av
import av.error
import av.filter
from av.sidedata.sidedata import Type

from unsmear.video.ffmpeg import open_in_memory

CAPTIONS = "closed captions"
PROFILE = "ICC profile"
_DOLBY_VISION = "Dolby Vision"
_BOXES = {
    b"mdcv": "HDR mastering display",
    b"clli": "HDR content light level",
    b"st3d": "stereo 3D layout",
    b"sv3d": "360° projection",
    b"clap": "cropping",
    b"dvcC": _DOLBY_VISION,
    b"dvvC": _DOLBY_VISION,
    b"dvwC": _DOLBY_VISION,
}
_IN_FRAMES = {
    "MASTERING_DISPLAY_METADATA": "HDR mastering display",
    "CONTENT_LIGHT_LEVEL": "HDR content light level",
    "STEREO3D": "stereo 3D layout",
    "SPHERICAL": "360° projection",
    "DOVI_RPU_BUFFER": _DOLBY_VISION,
    "DOVI_METADATA": _DOLBY_VISION,
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
    "AMBIENT_VIEWING_ENVIRONMENT": "ambient viewing environment",
    "A53_CC": CAPTIONS,
    "S12M_TIMECODE": "time codes of frames",
    "AFD": "active format description",
}
_CAPTIONED = frozenset(("h264", "hevc", "vvc", "av1", "mpeg1video", "mpeg2video", "vc1"))
_TAKEN_BY_ENCODERS = frozenset(("A53_CC", "STEREO3D"))
# Boxes on the path to the sample entry of the only video stream, and bytes from the start of each to its children.
_PATH = ((b"moov", 8), (b"trak", 8), (b"mdia", 8), (b"minf", 8), (b"stbl", 8), (b"stsd", 16), (b"", 86))
_DESCRIBING = ("mp4", "mov")
_TEMPLATE_PACKETS = 8
_CARRIER_SIDE = 16
_ICC = Type.ICC_PROFILE.value
_UNKNOWN_TYPES = range(len(Type), len(Type) + 16)

SideData = Mapping[str, bytes]
"""Kind in words → its box, empty where there is none."""


def side_data_of(stream: Any, frame: Any) -> SideData:
    """Side data of a stream, from its container and its first frame."""
    kinds = (data.type.name for data in known_side_data(frame))
    found = {_IN_FRAMES[kind]: b"" for kind in kinds if kind in _IN_FRAMES}
    if any(name in stream.container.format.name.split(",") for name in ("mov", "matroska")):
        found |= {_BOXES[box[4:8]]: box for box in _boxes_of(stream) if box[4:8] in _BOXES}
    found |= _hdr_boxes(frame)
    return found | ({PROFILE: b""} if _has_colour_profile(frame) else {})


def left_out(kind: str, box: bytes = b"") -> str:
    """Note for a kind of side data that is left out."""
    needed = kind == _DOLBY_VISION and len(box) > 12 and not box[12] >> 4  # there is no base layer for other displays
    return f"left out: {kind}" + (", without which colours are wrong: convert the video first" * needed)


@contextmanager
def marked(coded: Any, side_data: SideData) -> Iterator[Any]:
    """A stream with the parameters of ``coded`` and with ``side_data``, as far as there are boxes for it.

    Packets of ``coded`` are consumed. The codec's extradata is in MP4's form. Yields ``coded`` itself where no side
    data can be added.
    """
    boxes = b"".join(box for kind, box in side_data.items() if kind != _DOLBY_VISION)
    headers = (_header(coded, name, _TEMPLATE_PACKETS) for name in _DESCRIBING) if boxes else iter(())
    header = next(filter(None, headers), None)
    if header is None:
        yield coded
        return
    with open_in_memory(_with_boxes(header, boxes)) as template:
        yield template.streams.video[0]


def hdr_parameters(encoder: str, side_data: SideData) -> str:
    """x264, x265 or SVT-AV1 parameters that write HDR10 values to the bitstream; empty for other encoders."""
    display, light = (side_data.get(_BOXES[box], b"") for box in (b"mdcv", b"clli"))
    names = {
        "libx264": ("mastering-display", "cll"),
        "libx265": ("master-display", "max-cll"),
        "libsvtav1": ("mastering-display", "content-light"),
    }.get(encoder)
    parameters = []
    if names and display:
        *chroma, brightest, darkest = struct.unpack(">8H2I", display[8:])
        in_units = [
            *(f"{value / 50000:.5f}" if encoder == "libsvtav1" else str(value) for value in chroma),
            *(f"{value / 10000:.4f}" if encoder == "libsvtav1" else str(value) for value in (brightest, darkest)),
        ]
        pairs = (f"({x},{y})" for x, y in zip(in_units[::2], in_units[1::2], strict=True))
        parameters.append(f"{names[0]}=" + "".join(map("".join, zip(("G", "B", "R", "WP", "L"), pairs, strict=True))))
    if names and light:
        parameters.append(f"{names[1]}=" + ",".join(map(str, struct.unpack(">2H", light[8:]))))
    return ":".join(parameters)


class Carried(NamedTuple):
    """A small frame with the side data and flags of a decoded one, and whether it has closed captions."""

    frame: Any
    captions: bool


def carried(frame: Any, codec: str, *, fields: bool) -> Carried | None:
    """Captions, 3D layout and, with ``fields``, field flags of ``frame``; None where it has none of them.

    ``codec`` is the stream's.
    """
    kinds = _kinds(frame) & _TAKEN_BY_ENCODERS if codec in _CAPTIONED else set()
    if kinds or (fields and frame.interlaced_frame):
        return Carried(frame.reformat(_CARRIER_SIDE, _CARRIER_SIDE, "gray"), "A53_CC" in kinds)
    return None


def dressed(picture: Any, carried: Carried) -> Any:
    """A frame with the pixels of ``picture`` and the side data and flags of ``carried``; encoders choose its type."""
    frame = carried.frame.reformat(picture.width, picture.height, picture.format.name)
    for plane, pixels in zip(frame.planes, picture.planes, strict=True):
        plane.update(bytes(pixels))
    frame.pict_type = 0
    return frame


def known_side_data(frame: Any) -> Any:
    """``frame.side_data`` without what PyAV cannot handle: kinds that it has no name for, which raise ValueError, and
    colour profiles with a name, which it frees a second time.
    """
    return _filtered(frame, [f"mode=delete:type={number}" for number in (_ICC, *_UNKNOWN_TYPES)]).side_data


def profile_of(frame: Any) -> bytes:
    """ICC profile of a frame from a container that does not name profiles, unlike PNG; empty where there is none."""
    other = [f"mode=delete:type={number}" for number in _UNKNOWN_TYPES]
    selected = _filtered(frame, [f"mode=select:type={_ICC}", *other])
    return b"" if selected is None else bytes(selected.side_data["ICC_PROFILE"])


def _has_colour_profile(frame: Any) -> bool:
    return _filtered(frame, [f"mode=select:type={_ICC}"]) is not None


def _filtered(frame: Any, side_data_filters: list[str]) -> Any:
    graph = av.filter.Graph()
    nodes = [graph.add_buffer(template=frame, time_base=Fraction(1, 25))]
    nodes += [graph.add("sidedata", arguments) for arguments in side_data_filters]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    graph.push(frame)
    try:
        return graph.pull()
    except av.error.BlockingIOError:
        return None


def _kinds(frame: Any) -> set[str]:
    try:
        return {data.type.name for data in frame.side_data}
    except ValueError:  # a kind without a name
        return {data.type.name for data in known_side_data(frame)}


def _hdr_boxes(frame: Any) -> dict[str, bytes]:
    """HDR10 values of a decoded frame (``AVMasteringDisplayMetadata``, ``AVContentLightMetadata``) as boxes."""
    found: dict[str, bytes] = {}
    for data in known_side_data(frame):
        if data.type.name == "MASTERING_DISPLAY_METADATA":
            *ratios, has_primaries, has_luminance = struct.unpack_from("=22i", bytes(data))
            if has_primaries and has_luminance and all(ratios[1::2]):
                values = [Fraction(n, d) for n, d in zip(ratios[::2], ratios[1::2], strict=True)]
                red, green, blue, white = values[0:2], values[2:4], values[4:6], values[6:8]
                chroma = [round(value * 50000) for value in (*green, *blue, *red, *white)]
                light = [round(value * 10000) for value in (values[9], values[8])]
                found |= _packed(b"mdcv", ">8H2I", *chroma, *light)
        elif data.type.name == "CONTENT_LIGHT_LEVEL":
            found |= _packed(b"clli", ">2H", *struct.unpack_from("=2I", bytes(data)))
    return found


def _packed(name: bytes, form: str, *values: int) -> dict[str, bytes]:
    """A box under its kind; none where values are out of its range."""
    try:
        return {_BOXES[name]: _box(name, struct.pack(form, *values))}
    except struct.error:
        return {}


def _boxes_of(stream: Any) -> Iterator[bytes]:
    """Boxes in the sample entry that FFmpeg writes for a stream; none where neither MP4 nor MOV supports its codec."""
    for format_name in _DESCRIBING:
        header = _header(stream, format_name)
        if header is not None:
            *_, entry, inside = _to_entry(header)
            end = entry + _size(header, entry)
            while inside + 8 <= end:
                size = _size(header, inside)
                yield header[inside : inside + size]
                inside += max(size, 8)
            return


def _header(stream: Any, format_name: str, packets: int = 0) -> bytes | None:
    """A file in memory with a stream's header and first packets; None where the container does not support it."""
    file = io.BytesIO()
    options = {"movflags": "empty_moov+default_base_moof", "strict": "unofficial"}
    try:
        with av.open(file, "w", format=format_name, options=options) as scratch:
            copy = scratch.add_stream_from_template(stream, opaque=True)
            scratch.start_encoding()
            for packet in stream.container.demux(stream) if packets else ():
                if packet.size and packets:
                    packet.stream = copy
                    scratch.mux(packet)
                    packets -= 1
                if not packets:
                    break
    except (ValueError, av.error.FFmpegError):
        return None
    return file.getvalue()


def _with_boxes(header: bytes, boxes: bytes) -> bytes:
    """``header`` with ``boxes`` at the end of its sample entry."""
    data = bytearray(header)
    *outer, _ = _to_entry(header)
    end = outer[-1] + _size(header, outer[-1])
    data[end:end] = boxes
    for begin in outer:
        struct.pack_into(">I", data, begin, _size(header, begin) + len(boxes))
    return bytes(data)


def _to_entry(header: bytes) -> list[int]:
    """Offsets of the boxes around the sample entry, of the entry, and of the first box in it."""
    begins, at = [], 0
    for name, before_children in _PATH:
        while name and header[at + 4 : at + 8] != name:
            at += max(_size(header, at), 8)
        begins.append(at)
        at += before_children
    return [*begins, at]


def _size(data: bytes, at: int) -> int:
    return int(struct.unpack_from(">I", data, at)[0])


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content
