"""Encoder settings of the output: as close to the source as an encoder and the container allow."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import av
import av.error
from av.codec.codec import find_best_pix_fmt_of_list

from unsmear.errors import UsageError
from unsmear.video.ffmpeg import silence_encoder_libraries
from unsmear.video.probe import DEFAULT_RATE, VideoInfo

_LAMBDA = 118  # FFmpeg's FF_QP2LAMBDA: what a qscale of 1 is as global_quality


def _quantiser(value: int) -> dict[str, str]:
    return {"flags": "+qscale", "global_quality": str(value * _LAMBDA)}


_LOSSLESS: dict[str, str] = {}
# Its AVX-512 look-ahead gives now and then another bitstream for the same frames; with this, never.
_X264 = {"preset": "veryfast", "crf": "16", "x264-params": "cpu-independent=1"}
_X265 = {"preset": "superfast", "crf": "19", "x265-params": "log-level=none"}

# Codec of the source → encoder and options for visually transparent quality at a bearable speed.
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", _X264),
    "hevc": ("libx265", _X265),
    "av1": ("libsvtav1", {"preset": "8", "crf": "25"}),
    "vp9": (
        "libvpx-vp9",
        {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"},
    ),
    "vp8": ("libvpx", {"crf": "8", "b": "20M", "deadline": "realtime", "cpu-used": "5"}),
    "mpeg4": ("mpeg4", _quantiser(2)),
    "msmpeg4v3": ("msmpeg4", _quantiser(2)),
    "msmpeg4v2": ("msmpeg4v2", _quantiser(2)),
    "wmv1": ("wmv1", _quantiser(2)),
    "wmv2": ("wmv2", _quantiser(2)),
    "flv1": ("flv", _quantiser(2)),
    "h263": ("h263", _quantiser(2)),
    "mpeg1video": ("mpeg1video", _quantiser(2)),
    "mpeg2video": ("mpeg2video", _quantiser(2)),
    "mjpeg": ("mjpeg", _quantiser(2) | {"strict": "unofficial"}),
    "prores": ("prores_ks", {}),
    "dnxhd": ("dnxhd", {}),
    "jpeg2000": ("jpeg2000", _quantiser(1)),
    "cfhd": ("cfhd", {}),
    "ffv1": ("ffv1", {"level": "3"}),
    "huffyuv": ("huffyuv", _LOSSLESS),
    "ffvhuff": ("ffvhuff", _LOSSLESS),
    "utvideo": ("utvideo", _LOSSLESS),
    "magicyuv": ("magicyuv", _LOSSLESS),
    "png": ("png", _LOSSLESS),
    "apng": ("apng", _LOSSLESS),
    "qtrle": ("qtrle", _LOSSLESS),
    "rawvideo": ("rawvideo", _LOSSLESS),
    "gif": ("gif", _LOSSLESS),
}
# What stands in, in this order, where the source's codec has no encoder or the container refuses it.
_STAND_INS = ("hevc", "h264", "vp9", "av1", "mpeg4", "mjpeg", "mpeg2video", "flv1", "wmv2", "ffv1", "gif")
# Program streams do not say what they hold, so players know MPEG-1 and MPEG-2 only.
_PROGRAM_STREAMS = {"mpeg", "vob", "dvd", "svcd", "vcd"}
# Containers that must not decode before time 0, so that reordering frames would delay the video.
_NO_EARLY_DECODING = {".avi", ".ts", ".mts", ".m2ts", ".flv", ".wmv", ".asf", ".mpg", ".mpeg", ".vob"}
_ALIASES = {"x264": "h264", "x265": "hevc", "h265": "hevc", "libx264rgb": "h264"}
_CRF_ENCODERS = {"libx264", "libx265", "libsvtav1", "libvpx-vp9", "libvpx"}
_MAX_CRF = {"libx264": 51, "libx265": 51, "libsvtav1": 63, "libvpx-vp9": 63, "libvpx": 63}
_PACKED = {"nv12": "yuv420p", "nv21": "yuv420p", "nv16": "yuv422p", "nv24": "yuv444p", "pal8": "rgb24"}
_PACKED |= {
    "p010le": "yuv420p10le",
    "p012le": "yuv420p12le",
    "p016le": "yuv420p16le",
    "p210le": "yuv422p10le",
}
_PACKED |= {"yuyv422": "yuv422p", "uyvy422": "yuv422p", "yvyu422": "yuv422p"}


@dataclass(frozen=True)
class Encoding:
    """An encoder's FFmpeg name, its pixel format and options, and one line to tell where it departs."""

    codec: str
    pixel_format: str
    options: dict[str, str] = field(default_factory=dict)
    note: str | None = None


def choose_encoding(
    info: VideoInfo,
    codec: str | None = None,
    crf: int | None = None,
    pix_fmt: str | None = None,
    container_suffix: str | None = None,
) -> Encoding:
    """Choose the encoder, pixel format and quality for the restored video.

    ``codec`` names a codec (h264, hevc, av1, …) or an encoder (libx264, …); default: the source's, or where
    that has no encoder or does not fit ``container_suffix`` (such as ".mp4") the nearest that does, with a
    note. Images of 8 bits become what every player shows: H.264, and yuv420p where the encoder is
    lossy. ``crf`` overrides the quality where the encoder has one; ``pix_fmt`` the pixel format. Every choice
    is tried on the real encoder at the real size. Raises UsageError for options that cannot be met.
    """
    notes: list[str] = []
    images = info.kind != "video" and info.bit_depth <= 8
    wanted = pix_fmt or _plain_format(info, notes)
    if pix_fmt is not None and not _is_pixel_format(pix_fmt):
        raise UsageError(f"`pix_fmt` {pix_fmt}: no such pixel format; yuv420p and yuv420p10le are common ones")
    if codec is not None:
        encoder, defaults = _named(codec)
        candidates: list[tuple[str, dict[str, str]]] = [(encoder, defaults)]
        if container_suffix and not container_accepts(container_suffix, encoder):
            raise UsageError(f"`codec` {codec}: {container_suffix} files cannot hold it; use .mkv or another codec")
    else:
        candidates = list(_candidates("h264" if images else info.codec, container_suffix))
        if not candidates:
            raise UsageError(f"no video can be written as {container_suffix}; name an output that ends in .mp4 or .mkv")
    for encoder, defaults in candidates:
        if images and pix_fmt is None and _is_lossy_420(encoder):
            wanted = "yuv420p"
        for form in _formats(encoder, wanted, strict=pix_fmt is not None):
            options = _with_details(encoder, form, dict(defaults), info, container_suffix)
            if not _opens(encoder, form, options, info, container_suffix):
                continue
            _note_departures(notes, info, encoder, form, wanted, chosen=codec is not None)
            if crf is not None:
                _set_crf(encoder, options, crf, notes)
            return Encoding(encoder, form, options, "; ".join(notes) or None)
    size = f"{info.width}x{info.height}"
    if codec is not None and not _starts(*candidates[0], info):
        raise UsageError(f"`codec` {codec}: this encoder does not start here; it may need hardware, so choose another")
    if codec is not None or pix_fmt is not None:
        raise UsageError(
            f"`codec` {codec or info.codec} `pix_fmt` {pix_fmt or wanted}: cannot encode {size}; "
            "leave one of them out or choose others"
        )
    raise UsageError(f"{container_suffix} files cannot hold {size} {wanted}; name an output that ends in .mkv")


def _is_lossy_420(encoder: str) -> bool:
    found = av.Codec(encoder, "w")
    return found.lossy and "yuv420p" in [form.name for form in found.video_formats or ()]


def container_accepts(suffix: str, encoder: str) -> bool:
    """True if the muxer for file names ending in ``suffix`` takes what ``encoder`` writes."""
    try:
        with av.open(f"x{suffix}", "w") as container:  # nothing is created: no header is written
            if container.format.name in _PROGRAM_STREAMS and encoder not in ("mpeg1video", "mpeg2video"):
                return False
            container.add_stream(encoder, rate=25)
    except (ValueError, av.error.FFmpegError):
        return False
    return True


def _named(codec: str) -> tuple[str, dict[str, str]]:
    name = _ALIASES.get(codec.lower(), codec.lower())
    if name in _ENCODERS:
        return _ENCODERS[name]
    for encoder, options in _ENCODERS.values():
        if encoder == name:
            return encoder, options
    try:
        found = av.Codec(name, "w")
    except ValueError:
        found = None
    if found is None or found.type != "video":
        raise UsageError(f"`codec` {codec}: no such video encoder; h264, hevc, av1, vp9, prores, ffv1 are some")
    return name, {}


def _candidates(source: str, suffix: str | None) -> Iterator[tuple[str, dict[str, str]]]:
    for name in dict.fromkeys((source, *_STAND_INS)):
        if name not in _ENCODERS:
            continue
        encoder, options = _ENCODERS[name]
        if suffix is None or container_accepts(suffix, encoder):
            yield encoder, options


def _plain_format(info: VideoInfo, notes: list[str]) -> str:
    """The planar format that holds what the source does: no alpha, no semi-planar or full-range twin."""
    name = info.pixel_format.replace("yuvj", "yuv")
    name = _PACKED.get(name, name).replace("be", "le") if name.endswith("be") else _PACKED.get(name, name)
    if name.startswith("yuva"):
        notes.append("the alpha channel is dropped")
        return name.replace("yuva", "yuv", 1)
    form = av.VideoFormat(name)
    if any(part.is_alpha for part in form.components) and info.codec != "gif":
        notes.append("the alpha channel is dropped")
    if form.is_rgb and not name.startswith("gbrp"):
        return "rgb24" if info.bit_depth <= 8 else "rgb48le"
    return "gray" if name in ("ya8", "monow", "monob") else "gray16le" if name == "ya16le" else name


def _formats(encoder: str, wanted: str, *, strict: bool) -> Iterator[str]:
    """Pixel formats to try: the wanted one, the encoder's nearest, 4:4:4 (any size has whole chroma)."""
    supported = [form.name for form in av.Codec(encoder, "w").video_formats or []]
    if not supported or wanted in supported:
        yield wanted
    elif wanted.startswith("yuv") and (full := wanted.replace("yuv", "yuvj", 1)) in supported:
        yield full
    if strict:
        return
    if supported and wanted not in supported:
        best, _ = find_best_pix_fmt_of_list(supported, wanted)
        if best is not None:
            yield best.name
    for subsampled in ("420", "422"):
        wider = wanted.replace(subsampled, "444", 1)
        if wider != wanted and wider in supported:
            yield wider


def _with_details(
    encoder: str, form: str, options: dict[str, str], info: VideoInfo, suffix: str | None
) -> dict[str, str]:
    depth = av.VideoFormat(form).components[0].bits
    if encoder == "prores_ks":
        options["profile"] = "4444" if "444" in form else "hq"
    elif encoder == "dnxhd":
        options["profile"] = "dnxhr_444" if "444" in form else "dnxhr_hqx" if depth > 8 else "dnxhr_hq"
    elif encoder in ("libx264", "libx265") and suffix in _NO_EARLY_DECODING:
        options["bf"] = "0"
    elif encoder in ("mpeg1video", "mpeg2video") or (encoder == "mpeg4" and suffix in (".ts", ".m2ts", ".mts")):
        options["flags"] = options.get("flags", "") + "-global_header"  # these want headers in the stream
    if encoder == "libx264" and info.interlaced:
        options["flags"] = "+ildct+ilme"
    return options


def _opens(encoder: str, form: str, options: dict[str, str], info: VideoInfo, suffix: str | None) -> bool:
    """True if the encoder starts with these settings, and the container's header can be written for it."""
    silence_encoder_libraries()
    rate = encoder_rate(encoder, info)
    begun = False
    try:
        with av.open(f"x{suffix or '.nut'}", "w") as named:  # nothing is created: no header is written
            format_name = named.format.name
        if suffix is None and not container_accepts(".nut", encoder):
            format_name = "mov"
        with av.open(io.BytesIO(), "w", format=format_name) as scratch:
            stream: Any = scratch.add_stream(encoder, rate=rate, options=dict(options))
            stream.width, stream.height, stream.pix_fmt = info.width, info.height, form
            stream.codec_context.time_base = 1 / rate
            stream.codec_context.color_range = info.color_range
            scratch.start_encoding()
            begun = True
    except (av.error.FFmpegError, ValueError, OSError):
        return begun  # some muxers refuse to end a file without packets, which does not matter here
    return True


def _starts(encoder: str, options: dict[str, str], info: VideoInfo) -> bool:
    """True if the encoder starts at all: at a common size, with a format of its own."""
    common = replace(info, width=640, height=368, frame_rate=Fraction(25), color_range=0)
    forms = [form.name for form in av.Codec(encoder, "w").video_formats or []] or ["yuv420p"]
    return any(_opens(encoder, form, options, common, None) for form in forms)


def encoder_rate(encoder: str, info: VideoInfo) -> Fraction:
    """The frame rate told to the encoder (frames are counted, so it only steers its rate control)."""
    rate = min(max(info.frame_rate or DEFAULT_RATE, Fraction(1)), Fraction(1000)).limit_denominator(10000)
    if rate.numerator > 65535:
        rate = Fraction(round(rate))
    allowed = av.Codec(encoder, "w").frame_rates
    if allowed:
        rate = min(
            (Fraction(choice.numerator, choice.denominator) for choice in allowed),
            key=lambda choice: abs(choice - rate),
        )
    return rate


def _set_crf(encoder: str, options: dict[str, str], crf: int, notes: list[str]) -> None:
    if encoder not in _CRF_ENCODERS:
        notes.append(f"{encoder} has no constant rate factor, so `crf` {crf} is not used")
        return
    if not 0 <= crf <= _MAX_CRF[encoder]:
        raise UsageError(f"`crf` {crf}: {encoder} takes 0 (best) to {_MAX_CRF[encoder]}")
    options["crf"] = str(crf)
    if encoder == "libx265" and crf == 0:
        options["x265-params"] += ":lossless=1"


def _note_departures(notes: list[str], info: VideoInfo, encoder: str, form: str, wanted: str, *, chosen: bool) -> None:
    made = av.Codec(encoder, "w").canonical_name
    if not chosen and info.kind == "video" and made != info.codec:
        why = "does not fit this output" if info.codec in _ENCODERS else "has no encoder here"
        notes.append(f"{info.codec} {why}, so the output is {made} ({encoder})")
    if _sampling(form) != _sampling(wanted):
        notes.append(f"{encoder} cannot hold {wanted} at {info.width}x{info.height}, so the output is {form}")


def _sampling(name: str) -> tuple[bool, int, int, int]:
    """Capacity of a pixel format: whether RGB, bits a sample, and the chroma's share of a 16x16 block."""
    form = av.VideoFormat(name, 16, 16)
    bits = max(int(part.bits) for part in form.components)
    if form.is_rgb or len(form.components) < 3:
        return form.is_rgb, bits, 16 * form.is_rgb, 16 * form.is_rgb
    return False, bits, form.chroma_width(), form.chroma_height()


def _is_pixel_format(name: str) -> bool:
    try:
        av.VideoFormat(name)
    except ValueError:
        return False
    return True
