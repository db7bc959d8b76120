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
from unsmear.video.alpha import has_alpha, needs_matroska
from unsmear.video.colour import default_siting, siting_of_output
from unsmear.video.containers import find_container, holds_video
from unsmear.video.ffmpeg import silence_encoder_libraries
from unsmear.video.fields import MARKS_ALL, encoder_flags, is_interlaced, is_stated, order_in_words, x265_parameters
from unsmear.video.probe import DEFAULT_RATE, VideoInfo
from unsmear.video.sidedata import hdr_parameters

_LAMBDA = 118  # FFmpeg's FF_QP2LAMBDA: what a qscale of 1 is as global_quality


def _quantiser(value: int) -> dict[str, str]:
    return {"flags": "+qscale", "global_quality": str(value * _LAMBDA)}


_LOSSLESS: dict[str, str] = {}
# Its AVX-512 look-ahead gives now and then another bitstream for the same frames; with this, never.
_X264 = {"preset": "veryfast", "crf": "16", "x264-params": "cpu-independent=1"}
_X265 = {"preset": "superfast", "crf": "19", "a53cc": "1", "x265-params": "log-level=none"}

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
    "dvvideo": ("dvvideo", {}),
    **{name: (name, _LOSSLESS) for name in ("v210", "v410", "v308", "v408", "r210", "r10k", "y41p", "ayuv")},
}
_X264_LOSSLESS = {"preset": "veryfast", "qp": "0", "x264-params": "cpu-independent=1"}
_X265_LOSSLESS = {"preset": "superfast", "a53cc": "1", "x265-params": "log-level=none:lossless=1"}
# The same for sources without loss, where the encoder is to be told.
_LOSSLESS_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", _X264_LOSSLESS),
    "hevc": ("libx265", _X265_LOSSLESS),
}
# What stands in, in this order, where the source's codec has no encoder or the container refuses it.
_LOSSLESS_STAND_INS = ("ffv1", "utvideo", "png")  # before them, where the source lost nothing
_STAND_INS = ("hevc", "h264", "vp9", "av1", "mpeg4", "mjpeg", "mpeg2video", "flv1", "wmv2", "ffv1", "vp8", "rawvideo")
# Encoders for what Matroska knows by the tag of other containers only, which PyAV does not let it take.
_BY_TAG_IN_MATROSKA = frozenset(
    ("huffyuv", "ffvhuff", "utvideo", "magicyuv", "png", "cfhd", "dnxhd", "dvvideo", "v210", "flv", "wmv1", "wmv2")
) | {"msmpeg4v2"}
_ALIASES = {"x264": "h264", "x265": "hevc", "h265": "hevc", "libx264rgb": "h264"}
_CRF_ENCODERS = {"libx264", "libx265", "libsvtav1", "libvpx-vp9", "libvpx"}
_MAX_CRF = {"libx264": 51, "libx265": 51, "libsvtav1": 63, "libvpx-vp9": 63, "libvpx": 63}
_TAKE_CAPTIONS = frozenset(("libx264", "libx264rgb", "libx265", "mpeg2video"))
_PACKED = {"nv12": "yuv420p", "nv21": "yuv420p", "nv16": "yuv422p", "nv24": "yuv444p"}
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

    @property
    def has_alpha(self) -> bool:
        """Whether the output has alpha."""
        return has_alpha(av.VideoFormat(self.pixel_format))

    @property
    def takes_captions(self) -> bool:
        """Whether the encoder writes the closed captions that come with frames."""
        return self.codec in _TAKE_CAPTIONS


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
    if container_suffix:
        container_suffix = find_container(container_suffix).suffixes[0]
    if crf is not None:
        info = replace(info, lossless=False)
    images = info.kind != "video" and info.bit_depth <= 8 and not info.alpha and pix_fmt is None
    wanted = pix_fmt or _plain_format(info)
    if pix_fmt is not None and not _is_pixel_format(pix_fmt):
        raise UsageError(f"`pix_fmt` {pix_fmt}: no such pixel format; yuv420p and yuv420p10le are common ones")
    if codec is not None:
        encoder, defaults = _named(codec)
        candidates: list[tuple[str, dict[str, str]]] = [(encoder, defaults)]
        if container_suffix and not container_accepts(container_suffix, encoder):
            raise UsageError(f"`codec` {codec}: {container_suffix} files cannot hold it; use .mkv or another codec")
    else:
        source, form = (replace(info, codec="h264"), "yuv420p") if images else (info, wanted)
        candidates = list(_candidates(source, form, container_suffix))
    tries = [
        (encoder, form, defaults, goal)
        for encoder, defaults in candidates
        for goal in ("yuv420p" if images and _is_lossy_420(encoder) else wanted,)
        for form in _formats(encoder, goal, strict=pix_fmt is not None)
        if container_suffix in (None, ".mkv", ".webm") or not needs_matroska(encoder, form)
    ]
    tries.sort(key=lambda one: _falls_to_8_bits(one[1], one[3]))  # another encoder first
    for encoder, form, defaults, goal in tries:
        options = _with_details(encoder, form, dict(defaults), info, container_suffix)
        if not _opens(encoder, form, options, info, container_suffix):
            continue
        _note_departures(notes, info, encoder, form, goal, container_suffix, chosen=codec is not None)
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
    """True if files whose names end in ``suffix`` hold what ``encoder`` writes, and it can be read back."""
    container = find_container(suffix)
    return holds_video(container, encoder)


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


def _candidates(info: VideoInfo, wanted: str, suffix: str | None) -> Iterator[tuple[str, dict[str, str]]]:
    lossless = _LOSSLESS_STAND_INS if info.lossless else ()
    for name in dict.fromkeys((info.codec, *lossless, *_STAND_INS)):
        found = (_LOSSLESS_ENCODERS.get(name) if info.lossless and name == info.codec else None) or _ENCODERS.get(name)
        if found is None:
            continue
        encoder, options = found
        if encoder == "png" and name != info.codec and not av.VideoFormat(wanted).is_rgb:
            continue  # many times larger than any other
        if encoder == "libx264" and name == info.codec and av.VideoFormat(wanted).is_rgb:
            encoder = "libx264rgb"
        if suffix is None or container_accepts(suffix, encoder):
            yield encoder, options


def _plain_format(info: VideoInfo) -> str:
    """The planar format that holds what the source does: no semi-planar or full-range twin."""
    name = info.pixel_format.replace("yuvj", "yuv")
    if name == "pal8":
        return "rgba" if info.alpha else "rgb24"
    name = _PACKED.get(name, name).replace("be", "le") if name.endswith("be") else _PACKED.get(name, name)
    form = av.VideoFormat(name)
    if form.is_rgb and not name.startswith("gbr"):
        return ("rgba" if info.alpha else "rgb24") if info.bit_depth <= 8 else ("rgba64le" if info.alpha else "rgb48le")
    return "gray" if name in ("monow", "monob") else name


def _without_alpha(name: str) -> str:
    """The format that holds the same but for alpha."""
    plain = {"rgba": "rgb24", "rgba64le": "rgb48le", "ya8": "gray", "ya16le": "gray16le"}
    return plain.get(name) or name.replace("yuva", "yuv", 1).replace("gbrap", "gbrp", 1)


def _formats(encoder: str, wanted: str, *, strict: bool) -> Iterator[str]:
    """Pixel formats to try: the wanted one, the encoder's nearest, 4:4:4 (any size has whole chroma)."""
    supported = [form.name for form in av.Codec(encoder, "w").video_formats or []]
    if has_alpha(av.VideoFormat(wanted)) and supported and wanted not in supported and not strict:
        with_alpha = [name for name in supported if has_alpha(av.VideoFormat(name)) and name != "pal8"]
        while with_alpha:  # encoders name more than they open with
            best, _ = find_best_pix_fmt_of_list(with_alpha, wanted)
            yield with_alpha.pop(with_alpha.index(best.name) if best else 0)
        wanted = _without_alpha(wanted)
    if encoder == "rawvideo" and wanted == "rgb24" and not strict:
        wanted = "bgr24"  # as AVI has it, and whatever else holds RGB
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
    parameters = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}.get(encoder)
    extra = [hdr_parameters(encoder, info.side_data), x265_parameters(encoder, info.codec, info.field_order)]
    if encoder == "prores_ks":
        options["profile"] = "4444" if "444" in form else "hq"
    elif encoder == "dnxhd":
        options["profile"] = "dnxhr_444" if "444" in form else "dnxhr_hqx" if depth > 8 else "dnxhr_hq"
    elif encoder in ("libx264", "libx264rgb", "libx265") and suffix and not find_container(suffix).reorders:
        options["bf"] = "0"
    elif encoder in ("mpeg1video", "mpeg2video") or (encoder == "mpeg4" and suffix in (".ts", ".m2ts", ".mts")):
        options["flags"] = options.get("flags", "") + "-global_header"  # these want headers in the stream
    if needs_matroska(encoder, form):
        options["auto-alt-ref"] = "0"  # its frames have no alpha
    if flags := encoder_flags(encoder, info.codec, info.field_order):
        options["flags"] = options.get("flags", "") + flags
    siting = siting_of_output(encoder, info.chroma_siting)
    if siting != default_siting(encoder):
        options["chroma_sample_location"] = siting
    if parameters and any(extra):
        options[parameters] = ":".join(filter(None, (options.get(parameters), *extra)))
    return options


def _opens(encoder: str, form: str, options: dict[str, str], info: VideoInfo, suffix: str | None) -> bool:
    """True if the encoder starts with these settings, and the container's header can be written for it."""
    silence_encoder_libraries()
    rate = encoder_rate(encoder, info)
    begun = False
    try:
        format_name = find_container(suffix).muxer if suffix else ""
        if suffix is None or (format_name == "matroska" and encoder in _BY_TAG_IN_MATROSKA):
            format_name = "nut" if container_accepts(".nut", encoder) else "mov"
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


def _note_departures(
    notes: list[str], info: VideoInfo, encoder: str, form: str, wanted: str, suffix: str | None, *, chosen: bool
) -> None:
    made = av.Codec(encoder, "w").canonical_name
    if not chosen and info.kind == "video" and made != info.codec:
        why = "does not fit this output" if info.codec in _ENCODERS else "has no encoder here"
        notes.append(f"{info.codec} {why}, so the output is {made} ({encoder})")
    if _sampling(form) != _sampling(wanted):
        notes.append(f"{encoder} cannot hold {wanted} at {info.width}x{info.height}, so the output is {form}")
    if (info.alpha or has_alpha(av.VideoFormat(wanted))) and not has_alpha(av.VideoFormat(form)):
        notes.append("the alpha channel is dropped")
    siting = siting_of_output(encoder, info.chroma_siting)
    if info.chroma_siting not in (siting, default_siting(info.codec)) and _sampling(form)[2:] != (16, 16):
        notes.append(f"{encoder} states no place of chroma, so it is moved from {info.chroma_siting} to {siting}")
    if is_interlaced(info.field_order) and not is_stated(encoder, info.codec, suffix):
        order = order_in_words(info.field_order)
        notes.append(f"{encoder} in {suffix} files does not state the {order}, so players will not know")
    elif encoder in MARKS_ALL and not is_interlaced(info.field_order):
        notes.append(f"{encoder} marks all frames as interlaced, these too")


def _falls_to_8_bits(form: str, wanted: str) -> bool:
    """Whether depth is lost, and nothing rarer is kept for it."""
    keeps_alpha = has_alpha(av.VideoFormat(form)) and has_alpha(av.VideoFormat(wanted))
    return _sampling(form)[1] <= 8 < _sampling(wanted)[1] and not keeps_alpha


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
