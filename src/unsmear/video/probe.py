"""Probing: properties of a video, an image or a folder of frames, and the inputs in a folder."""

import logging
import os
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

from unsmear.errors import DamagedVideo, UnsupportedVideo, UsageError
from unsmear.video.colour import FULL_RANGE, UNSPECIFIED
from unsmear.video.ffmpeg import main_video_stream, open_input, reason
from unsmear.video.images import is_gray, is_image, list_images, natural_key, read_image
from unsmear.video.raw import RAW_SUFFIX, RawFormat, frame_bytes, raw_format, walk_y4m

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "m2v", "vob", "ts", "mts", "m2ts"),
        *("flv", "f4v", "wmv", "asf", "3gp", "3g2", "ogv", "mxf", "gif", "apng", "nut", "y4m", "yuv", "ivf", "obu"),
        *("h264", "264", "h265", "265", "hevc", "h266", "266", "vvc", "dv", "mjpg", "mjpeg"),
    )
)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of two letters at least: one is a drive
DEFAULT_RATE = Fraction(25)  # for folders of frames, which do not say


@dataclass(frozen=True)
class VideoInfo:
    """What a video, an image or a folder of frames declares and what its first frame shows.

    ``width`` and ``height`` are as decoded, before rotation. ``frame_rate`` is the average in frames/s;
    ``frames`` the number that the container states, None when it does not (``kind`` "frames" and "image"
    always know). ``rotation`` is in degrees counter-clockwise, as the player will turn the picture;
    ``display_matrix`` holds the nine integers behind it, which may mirror it, too (see ``upright``).
    ``color_*`` and ``colorspace`` are H.273's numbers, as FFmpeg uses them, 2 where unspecified
    (``color_range``: 0 unspecified, 1 limited, 2 full). ``chroma_siting`` is where the codec's subsampled
    chroma lies by its standard. ``raw`` is what a ``.yuv`` file was opened as.
    """

    path: Path
    kind: Literal["video", "frames", "image"]
    width: int
    height: int
    pixel_format: str
    bit_depth: int
    codec: str
    time_base: Fraction | None = None
    frame_rate: Fraction | None = None
    frames: int | None = None
    duration_s: float | None = None
    rotation: int = 0
    display_matrix: tuple[int, ...] | None = None
    sample_aspect_ratio: Fraction | None = None
    color_range: int = 0
    color_primaries: int = UNSPECIFIED
    color_trc: int = UNSPECIFIED
    colorspace: int = UNSPECIFIED
    interlaced: bool = False
    chroma_siting: Literal["left", "center"] = "left"
    container: str = ""
    raw: RawFormat | None = None


def probe(path: Path | str, raw: RawFormat | None = None) -> VideoInfo:
    """Describe a video file, an image, or a folder of images (one clip).

    ``raw`` says what a ``.yuv`` file holds, instead of its name; for all else it means nothing. Raises
    UnsupportedVideo for what cannot be restored and DamagedVideo for what cannot be decoded, each with one line
    that names the path.
    """
    path = Path(path)
    if path.is_dir():
        images = list_images(path)
        if not images:
            raise UnsupportedVideo(f"{path}: the folder holds no images; give a video or a folder of frames")
        return _probe_image(images[0], path, "frames", len(images))
    if is_image(path):
        return _probe_image(path, path, "image", 1)
    with open_input(path, raw) as container:
        stream = main_video_stream(container, path)
        info = _probe_stream(path, container, stream)
    if path.suffix.lower() == RAW_SUFFIX:
        form = raw_format(path, raw)
        frames = path.stat().st_size // form.frame_bytes
        return replace(info, raw=form, frames=frames, colorspace=form.colorspace, frame_rate=form.frame_rate)
    if info.container == "yuv4mpegpipe":
        contents = walk_y4m(path, frame_bytes(info.pixel_format, info.width, info.height))
        return replace(info, frames=contents.frames, chroma_siting=contents.siting)
    return info


def named_input(given: str | Path) -> Path:
    """The path of an input, which need not exist.

    Raises:
        UsageError: it is empty, standard input or an address.
    """
    text = str(given)
    if not text.strip():
        raise UsageError("an input has no name; give a video, an image or a folder")
    if _ADDRESS.match(text) and not os.path.lexists(text):
        raise UsageError(f"{text}: addresses are not read; download the video and give the file")
    if given == "-":
        raise UsageError("-: standard input is not read; write it to a file and give that, or ./- for a file named -")
    return Path(given)


def find_inputs(path: Path | str) -> list[Path]:
    """What ``path`` stands for, as a list of paths that ``probe`` and ``open_video`` take.

    A file stands for itself; a folder of images is one clip (the folder itself); a folder of videos is the
    list of them in natural order. Of a folder that holds both, as those of cameras do, the videos are taken, and a
    warning is logged that says how many images are not. Raises UnsupportedVideo when the path is missing or cannot be
    read, or when a folder holds neither, and UsageError as ``named_input``.
    """
    path = named_input(path)
    try:
        if not path.is_dir():
            path.stat()
            return [path]
        images, videos = list_images(path), list_videos(path)
    except FileNotFoundError:
        raise UnsupportedVideo(f"{path}: no such file or folder") from None
    except OSError as error:
        raise UnsupportedVideo(f"{path}: cannot be read ({error.strerror}); give another input") from None
    if not images and not videos:
        raise UnsupportedVideo(f"{path}: the folder holds neither images nor videos; give one that does")
    if images and videos:
        count = "1 image is" if len(images) == 1 else f"{len(images)} images are"
        log.warning("%s/: %s skipped; name images one by one, or give a folder without videos", path, count)
    return videos or [path]


def list_videos(folder: Path) -> list[Path]:
    """The videos directly in ``folder``, by their endings, in natural order; hidden files are left out."""
    found = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted((e for e in found if e.suffix.lower() in VIDEO_SUFFIXES and e.is_file()), key=natural_key)


def _probe_image(image: Path, path: Path, kind: Literal["frames", "image"], count: int) -> VideoInfo:
    rgb = read_image(image)
    deep = rgb.dtype == np.uint16
    gray = is_gray(image)
    return VideoInfo(
        path=path,
        kind=kind,
        width=rgb.shape[1],
        height=rgb.shape[0],
        pixel_format=("gray16le" if deep else "gray") if gray else ("rgb48le" if deep else "rgb24"),
        bit_depth=16 if deep else 8,
        codec=image.suffix.lower().lstrip("."),
        frames=count,
        colorspace=0,
    )


def _probe_stream(path: Path, container: Any, stream: Any) -> VideoInfo:
    frame = _first_frame(path, container, stream)
    context = stream.codec_context
    pixel_format = frame.format.name
    rate = stream.average_rate or stream.guessed_rate
    duration = None
    if stream.duration and stream.time_base:
        duration = float(stream.duration * stream.time_base)
    elif container.duration:
        duration = container.duration / av.time_base
    aspect = stream.sample_aspect_ratio
    color_range = int(frame.color_range) or int(context.color_range)
    return VideoInfo(
        path=path,
        kind="video",
        width=frame.width,
        height=frame.height,
        pixel_format=pixel_format,
        bit_depth=_bit_depth(frame.format),
        codec=context.codec.canonical_name,
        time_base=stream.time_base,
        frame_rate=rate if rate else None,
        frames=stream.frames or None,
        duration_s=duration,
        rotation=int(frame.rotation),
        display_matrix=_display_matrix(frame),
        sample_aspect_ratio=aspect if aspect else None,
        color_range=FULL_RANGE if pixel_format.startswith("yuvj") else color_range,
        color_primaries=_tag(frame.color_primaries, context.color_primaries),
        color_trc=_tag(frame.color_trc, context.color_trc),
        colorspace=_tag(frame.colorspace, context.colorspace),
        chroma_siting="center" if context.codec.canonical_name in ("mjpeg", "mpeg1video") else "left",
        interlaced=bool(frame.interlaced_frame),
        container=container.format.name,
    )


def _first_frame(path: Path, container: Any, stream: Any) -> Any:
    failure: BaseException | None = None
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:  # streams cut from a broadcast begin mid-picture
                failure = error
                continue
            if frames:
                return frames[0]
    except av.error.FFmpegError as error:
        failure = error
    why = f" ({reason(failure)})" if failure else ""
    raise DamagedVideo(f"{path}: not one frame of its {stream.codec_context.name} video can be decoded{why}")


def _bit_depth(form: Any) -> int:
    if form.has_palette:
        return 8
    return max((int(part.bits) for part in form.components if not part.is_alpha), default=8)


def _display_matrix(frame: Any) -> tuple[int, ...] | None:
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    return tuple(int(value) for value in np.frombuffer(bytes(data), np.int32)[:9])


def _tag(of_frame: int, of_stream: int) -> int:
    return int(of_frame) if int(of_frame) != UNSPECIFIED else int(of_stream)
