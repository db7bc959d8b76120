"""Containers: what each of them holds, and what becomes of the rest. ``docs/formats.md`` is made of this table.

Every codec that is named here was written into its container by the bundled encoders, read back and compared
(``tests/video/test_containers.py``). FFmpeg's muxers take more, some of which nothing can read.
"""

from dataclasses import dataclass
from typing import Literal

import av
import av.error

from unsmear.errors import UsageError

Times = Literal["exact", "ticks", "slots", "packs", "order"]
"""How a container places frames: in the source's own unit, in one of its own, in slots of constant length of which
some may stay empty, in packs that have a time, or one after the other at a constant rate."""


@dataclass(frozen=True)
class Container:
    """A container: FFmpeg's name of its muxer, the endings of its files, and what it holds.

    Attributes:
        muxer: FFmpeg's name of what writes it.
        suffixes: endings of file names.
        video: FFmpeg's names of the codecs of pictures that can be read back.
        sound: those of sound that is copied as it is.
        encoders: for other sound, in order of preference: lossless ones serve lossless sound.
        times: of frames.
        from_zero: its clock begins with the first frame.
        ends: it says how long the last frame stays.
        reorders: a frame may be decoded before time 0, so that B-frames delay nothing.
        in_band: its packets say all that a decoder needs: there is no header for that.
        one_stream: its frames depend on all before them: they are encoded in one go, when all are there.
    """

    muxer: str
    suffixes: tuple[str, ...]
    video: tuple[str, ...]
    sound: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ()
    times: Times = "exact"
    from_zero: bool = False
    ends: bool = False
    reorders: bool = True
    in_band: bool = False
    one_stream: bool = False


_PCM = ("pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_u8", "pcm_f32le")
_PCM_BE = ("pcm_s16be", "pcm_s24be", "pcm_s32be")
_MICROSOFT = ("msmpeg4v3", "msmpeg4v2", "wmv1", "wmv2")
_UNCOMPRESSED = ("v410", "v308", "v408", "r210", "r10k", "y41p")
_LOSSLESS_VFW = ("ffv1", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "png")
_DEEP_PCM = ("pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le")
_MP4_SOUND = ("aac", "mp3", "mp2", "ac3", "eac3", "dts", "alac", "flac", "opus", "vorbis", *_DEEP_PCM, *_PCM_BE)
_TELEPHONE = ("adpcm_ms", "pcm_mulaw", "pcm_alaw")
_PHONE = ("h264", "mpeg4", "h263")

CONTAINERS: tuple[Container, ...] = (
    Container(
        "mp4",
        (".mp4", ".m4v"),
        ("h264", "hevc", "av1", "vp9", "mpeg4", "mpeg1video", "mpeg2video", "mjpeg", "jpeg2000", "ffv1", "png"),
        _MP4_SOUND,
        ("alac", "aac"),
        ends=True,
    ),
    Container(
        "mov",
        (".mov", ".qt"),
        (
            *("h264", "hevc", "mpeg4", "msmpeg4v3", "h263", "mpeg1video", "mpeg2video", "mjpeg", "prores", "dnxhd"),
            *("jpeg2000", "cfhd", "magicyuv", "png", "qtrle", "dvvideo", "v210", *_UNCOMPRESSED),
        ),
        ("aac", "mp3", "mp2", "ac3", "eac3", "dts", "alac", "amr_nb", "pcm_mulaw", "pcm_alaw", *_PCM, *_PCM_BE),
        ("pcm_s16le", "aac"),
        ends=True,
    ),
    Container("3gp", (".3gp",), _PHONE, ("aac", "amr_nb", "amr_wb"), ("aac",), ends=True),
    Container("3g2", (".3g2",), _PHONE, ("aac", "amr_nb", "amr_wb"), ("aac",), ends=True),
    Container("f4v", (".f4v",), ("h264",), ("aac", "mp3"), ("aac",), ends=True, reorders=False),
    Container(
        "matroska",
        (".mkv", ".mk3d"),
        (
            *("h264", "hevc", "av1", "vp9", "vp8", "mpeg4", "msmpeg4v3", "mpeg1video", "mpeg2video", "mjpeg"),
            *("prores", "jpeg2000", "cfhd", "dnxhd", "v210", "flv1", "wmv1", "wmv2", "msmpeg4v2"),
            *(*_LOSSLESS_VFW, "rawvideo"),
        ),
        ("aac", "mp3", "mp2", "ac3", "eac3", "dts", "truehd", "alac", "flac", "opus", "vorbis", *_PCM, *_PCM_BE),
        ("flac", "libopus"),
        times="ticks",
        ends=True,
    ),
    Container("webm", (".webm",), ("vp9", "vp8", "av1"), ("opus", "vorbis"), ("libopus",), times="ticks", ends=True),
    Container(
        "avi",
        (".avi", ".divx"),
        (
            *("h264", "av1", "vp9", "vp8", "mpeg4", *_MICROSOFT, "flv1", "h263", "mpeg1video", "mpeg2video"),
            *("mjpeg", "jpeg2000", "cfhd", *_LOSSLESS_VFW, "dvvideo", "v210", *_UNCOMPRESSED, "rawvideo"),
        ),
        (*("mp3", "mp2", "ac3", "aac", "flac", "wmav1", "wmav2"), "adpcm_ima_wav", *_TELEPHONE, *_PCM),
        ("pcm_s16le", "ac3"),
        times="slots",
        from_zero=True,
        reorders=False,
    ),
    Container(
        "mpegts",
        (".ts", ".mts", ".m2ts", ".m2t"),
        ("h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video"),
        ("aac", "mp3", "mp2", "ac3", "eac3", "dts", "opus", "truehd"),
        ("aac",),
        times="ticks",
        reorders=False,
    ),
    Container(
        "mpeg",
        (".mpg", ".mpeg"),
        ("mpeg1video", "mpeg2video"),
        ("mp2", "mp3", "ac3", "dts"),
        ("mp2",),
        times="packs",
        reorders=False,
    ),
    Container(
        "vob",
        (".vob",),
        ("mpeg1video", "mpeg2video"),
        ("mp2", "mp3", "ac3", "dts"),
        ("mp2",),
        times="packs",
        reorders=False,
    ),
    Container(
        "flv",
        (".flv",),
        ("h264", "hevc", "av1", "vp9", "flv1"),
        ("aac", "mp3"),
        ("aac",),
        times="ticks",
        reorders=False,
    ),
    Container(
        "asf",
        (".wmv", ".asf"),
        (
            *("h264", "av1", "vp9", "vp8", "mpeg4", *_MICROSOFT, "flv1", "h263", "mjpeg", "jpeg2000", "cfhd"),
            *(*_LOSSLESS_VFW, "rawvideo"),
        ),
        (*("wmav1", "wmav2", "mp3", "mp2", "ac3", "aac", "eac3", "dts"), "adpcm_ima_wav", *_TELEPHONE, *_PCM),
        ("wmav2",),
        times="ticks",
        reorders=False,
    ),
    Container(
        "ogg",
        (".ogv", ".ogg"),
        ("vp8",),
        ("vorbis", "opus", "flac"),
        ("flac", "libopus"),
        times="slots",
        from_zero=True,
    ),
    Container(
        "mxf",
        (".mxf",),
        ("mpeg2video", "prores", "dnxhd", "dvvideo", "jpeg2000", "ffv1"),
        ("pcm_s16le", "pcm_s24le"),
        ("pcm_s16le",),
        times="order",
        from_zero=True,
    ),
    Container("gif", (".gif",), ("gif",), times="ticks", from_zero=True, ends=True, one_stream=True),
    Container("apng", (".apng", ".png"), ("apng",), times="ticks", from_zero=True, ends=True, one_stream=True),
    Container("webp", (".webp",), ("webp",), times="ticks", from_zero=True, ends=True, one_stream=True),
    Container(
        "nut",
        (".nut",),
        (
            *("h264", "hevc", "av1", "vp9", "vp8", "mpeg4", *_MICROSOFT, "flv1", "h263", "mpeg1video", "mpeg2video"),
            *("mjpeg", "jpeg2000", "cfhd", *_LOSSLESS_VFW, *_UNCOMPRESSED, "rawvideo"),
        ),
        (*("aac", "mp3", "mp2", "ac3", "eac3", "dts", "flac", "opus", "vorbis"), *_TELEPHONE, *_PCM, *_PCM_BE),
        ("flac", "aac"),
    ),
    Container("yuv4mpegpipe", (".y4m",), ("rawvideo",), times="order", from_zero=True),
    Container("rawvideo", (".yuv",), ("rawvideo",), times="order", from_zero=True),
    Container("ivf", (".ivf",), ("vp8", "vp9", "av1")),
    Container("obu", (".obu",), ("av1",), times="order", from_zero=True),
    Container("h264", (".h264", ".264", ".avc"), ("h264",), times="order", from_zero=True, in_band=True),
    Container("hevc", (".hevc", ".h265", ".265"), ("hevc",), times="order", from_zero=True, in_band=True),
    Container("mpeg1video", (".m1v",), ("mpeg1video",), times="order", from_zero=True),
    Container("mpeg2video", (".m2v",), ("mpeg2video",), times="order", from_zero=True),
    Container("mjpeg", (".mjpg", ".mjpeg"), ("mjpeg",), times="order", from_zero=True),
)

_KNOWN_VIDEO = frozenset(codec for container in CONTAINERS for codec in container.video)
_KNOWN_SOUND = frozenset(codec for container in CONTAINERS for codec in container.sound)


def find_container(suffix: str) -> Container:
    """The container of files whose names end in ``suffix``, such as ".mp4", in capitals or not.

    Raises:
        UsageError: none is known by it.
    """
    for container in CONTAINERS:
        if suffix.lower() in container.suffixes:
            return container
    raise UsageError(f"no video can be written as {suffix or 'that'}; name an output that ends in .mp4 or .mkv")


def holds_video(container: Container, encoder: str) -> bool:
    """Whether what an encoder writes can be read back from the container; of unknown ones its muxer is asked."""
    try:
        codec = av.Codec(encoder, "w").canonical_name
    except ValueError:  # not among those bundled
        return False
    if codec in _KNOWN_VIDEO:
        return codec in container.video
    try:
        with av.open(f"x{container.suffixes[0]}", "w", format=container.muxer) as scratch:  # nothing is created
            scratch.add_stream(encoder, rate=25)
    except (ValueError, av.error.FFmpegError):
        return False
    return True


def holds_sound(container: Container, codec: str) -> bool | None:
    """Whether the container holds sound of a codec; None where only trying can say."""
    return codec in container.sound if codec in _KNOWN_SOUND or not container.sound else None
