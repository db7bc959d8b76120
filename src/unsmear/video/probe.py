"""Probing: properties of a video, an image or a folder of frames, and the inputs in a folder."""

import logging
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

from unsmear.errors import DamagedVideo, UnsupportedVideo, UsageError
from unsmear.video.alpha import decoder_of, shows_through
from unsmear.video.colour import FULL_RANGE, UNSPECIFIED, Siting, chroma_siting_of
from unsmear.video.containers import CONTAINERS
from unsmear.video.contents import Contents, contents, is_folder, unreadable
from unsmear.video.ffmpeg import main_video_stream, open_input, reason, refuse_other_than_files
from unsmear.video.fields import field_order_of, is_interlaced
from unsmear.video.images import list_images, natural_key
from unsmear.video.lossless import is_lossless
from unsmear.video.pictures import Picture, picture_suffix, read_picture
from unsmear.video.raw import RAW_SUFFIX, RawFormat, frame_bytes, raw_format, walk_y4m
from unsmear.video.sequence import WEBP_TIME_BASE, pictures_in, webp_times
from unsmear.video.sidedata import SideData, known_side_data, side_data_of

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "m2v", "vob", "ts", "mts", "m2ts"),
        *("flv", "f4v", "wmv", "asf", "3gp", "3g2", "ogv", "mxf", "gif", "apng", "nut", "y4m", "yuv", "ivf", "obu"),
        *("h264", "264", "h265", "265", "hevc", "h266", "266", "vvc", "dv", "mjpg", "mjpeg"),
    )
)
KEPT_SUFFIXES = VIDEO_SUFFIXES & {suffix for container in CONTAINERS for suffix in container.suffixes}
"""Endings that outputs take over from inputs: what can be written, too."""
_CAMERA_SUFFIXES = frozenset({".insv", ".360", ".divx", ".mod", ".tod", ".m2p", ".qt", ".m1v", ".rm", ".rmvb"})
_NO_TIMES = 0x80  # FFmpeg's AVFMT_NOTIMESTAMPS
DEFAULT_RATE = Fraction(25)  # for folders of frames, which do not say
# FFmpeg's name of a container → suffix, for files whose own suffix names no container.
_ENDINGS = {
    "mov": ".mp4",
    "matroska": ".mkv",
    "avi": ".avi",
    "mpegts": ".ts",
    "mpeg": ".mpg",
    "mpegvideo": ".m2v",
    "flv": ".flv",
    "asf": ".wmv",
    "mxf": ".mxf",
    "ogg": ".ogv",
    "nut": ".nut",
    "gif": ".gif",
    "apng": ".apng",
    "yuv4mpegpipe": ".y4m",
    "ivf": ".ivf",
    "obu": ".obu",
    "h264": ".h264",
    "hevc": ".hevc",
    "dv": ".mov",
}
_ANY_CONTAINER = ".mkv"


@dataclass(frozen=True)
class VideoInfo:
    """What a video, an image or a folder of frames declares and what its first frame shows.

    ``kind`` is "frames" for a folder and for one file of several pictures without any other stream: an animated WebP,
    a TIFF of several pages. ``width`` and ``height`` are as decoded, before rotation. ``frame_rate`` is the average
    in frames/s; ``frames`` the number that the container states, None when it does not (``kind`` "frames" and "image"
    always know). ``rotation`` is in degrees counter-clockwise, as the player will turn the picture;
    ``display_matrix`` holds the nine integers behind it, which may mirror it, too (see ``upright``).
    ``color_*`` and ``colorspace`` are H.273's numbers, as FFmpeg uses them, 2 where unspecified
    (``color_range``: 0 unspecified, 1 limited, 2 full). ``chroma_siting`` is the position of subsampled chroma, as
    stated by the stream or else by the standard of its codec. ``interlaced`` refers to the coded video,
    ``field_order`` (FFmpeg's number, see ``fields``) to the frames: 1, progressive, from a reader that deinterlaces.
    ``alpha`` is true where pixels are or may be transparent, ``lossless`` where coding lost nothing. ``side_data``
    holds further data of the stream and its first frame, by kind. ``raw`` is what a ``.yuv`` file was opened as.
    ``suffix`` is the file name suffix for outputs of the same format, empty for frames: the file's own where it names
    that format. ``notes`` list content of the file that is not in its frames, a phrase each.
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
    field_order: int = 0
    chroma_siting: Siting = "left"
    alpha: bool = False
    lossless: bool = False
    side_data: SideData = field(default_factory=dict)
    container: str = ""
    raw: RawFormat | None = None
    suffix: str = ""
    notes: tuple[str, ...] = ()


def probe(path: Path | str, raw: RawFormat | None = None) -> VideoInfo:
    """Describe a video file, an image, or a folder of images (one clip).

    ``raw`` says what a ``.yuv`` file holds, instead of its name; for all else it means nothing. Raises
    UnsupportedVideo for what cannot be restored and DamagedVideo for what cannot be decoded, each with one line
    that names the path.
    """
    path = Path(path)
    if is_folder(path):
        return _probe_folder(path)
    refuse_other_than_files(path)
    is_raw = path.suffix.lower() == RAW_SUFFIX
    held = None if is_raw else contents(path)
    if held is not None and held.holding == "picture":
        return _of_picture(path, "image", read_picture(path, held), held)
    if held is not None and held.holding == "pictures":
        return _probe_sequence(path, held)
    with open_input(path, raw) as container:
        stream = main_video_stream(container, path)
        if container.format.name.endswith("_pipe") and _holds_one(container, stream):
            return _of_picture(path, "image", read_picture(path), None)
    with open_input(path, raw) as container:
        stream = main_video_stream(container, path)
        info = _probe_stream(path, container, stream)
    if is_raw:
        form = raw_format(path, raw)
        frames = path.stat().st_size // form.frame_bytes
        return replace(info, raw=form, frames=frames, colorspace=form.colorspace, frame_rate=form.frame_rate)
    if info.container == "yuv4mpegpipe":
        contents_of_file = walk_y4m(path, frame_bytes(info.pixel_format, info.width, info.height))
        return replace(info, frames=contents_of_file.frames, chroma_siting=contents_of_file.siting)
    return info


def named_input(given: str | Path) -> Path:
    """The path of an input, which need not exist. Raises UsageError where the name is empty: not the current folder."""
    if not str(given).strip():
        raise UsageError("an input has no name; give a video, an image or a folder")
    return Path(given)


def find_inputs(path: Path | str) -> list[Path]:
    """What ``path`` stands for, as a list of paths that ``probe`` and ``open_video`` take.

    A file stands for itself; a folder of images is one clip (the folder itself); a folder of videos is the
    list of them in natural order. Of a folder that holds both, as those of cameras do, the videos are taken, and a
    warning is logged that says how many images are not. Raises UnsupportedVideo when the path is missing or cannot be
    read, or when a folder holds neither, and UsageError as ``named_input``.
    """
    path = named_input(path)
    if not is_folder(path):
        refuse_other_than_files(path)
        return [path]
    try:
        images, videos = list_images(path), list_videos(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if not images and not videos:
        raise UnsupportedVideo(f"{path}: the folder holds neither images nor videos; give one that does")
    if images and videos:
        count = "1 image is" if len(images) == 1 else f"{len(images)} images are"
        log.warning("%s/: %s skipped; name images one by one, or give a folder without videos", path, count)
    return videos or [path]


def list_videos(folder: Path) -> list[Path]:
    """The videos directly in ``folder``, by their endings, in natural order; hidden files are left out."""
    found = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    videos = (entry for entry in found if entry.suffix.lower() in VIDEO_SUFFIXES | _CAMERA_SUFFIXES)
    return sorted((entry for entry in videos if entry.is_file()), key=natural_key)


def _probe_folder(path: Path) -> VideoInfo:
    """A folder of frames, as the first of them that can be read."""
    images = list_images(path)
    if not images:
        raise UnsupportedVideo(f"{path}: the folder holds no images; give a video or a folder of frames")
    failure: DamagedVideo | None = None
    for image in images:
        try:
            picture = read_picture(image)
        except DamagedVideo as error:
            failure = failure or error
            continue
        return replace(_of_picture(image, "frames", picture, contents(image)), path=path, frames=len(images), suffix="")
    assert failure is not None
    raise failure


def _of_picture(
    path: Path, kind: Literal["frames", "image"], picture: Picture, held: Contents | None, count: int = 1
) -> VideoInfo:
    form = path.suffix.lower().lstrip(".") if held is None else held.format
    return VideoInfo(
        path=path,
        kind=kind,
        width=picture.rgb.shape[1],
        height=picture.rgb.shape[0],
        pixel_format=_pixel_format(picture),
        bit_depth=picture.bits,
        codec=form,
        frames=count,
        colorspace=0,
        suffix=picture_suffix(path, form, picture),
        notes=picture.notes,
        alpha=picture.shows_through,
        side_data=picture.tags.side_data,
    )


def _pixel_format(picture: Picture) -> str:
    """The video format that holds what a picture does."""
    deep = picture.rgb.dtype == np.uint16
    if picture.gray:
        return "gray16le" if deep else "gray"
    if picture.shows_through:
        return "rgba64le" if deep else "rgba"
    return "rgb48le" if deep else "rgb24"


def _probe_sequence(path: Path, held: Contents) -> VideoInfo:
    """Several pictures in one file."""
    _, read, begin, _ = next(pictures_in(path))
    info = _of_picture(path, "frames", read(), held, held.count)
    if begin is None:
        plural = "pages" if held.left_out > 1 else "page"
        left_out = (f"{held.left_out} {plural} of another size left out",) if held.left_out else ()
        return replace(info, suffix="", notes=info.notes + left_out)
    total_s = float(sum(duration for _, duration in webp_times(path)) * WEBP_TIME_BASE)
    rate = Fraction(held.count / total_s).limit_denominator(1000) if total_s else DEFAULT_RATE
    return replace(
        info, suffix=".webp", time_base=WEBP_TIME_BASE, frame_rate=rate, duration_s=total_s, container="webp"
    )


def _holds_one(container: Any, stream: Any) -> bool:
    """Whether there is a single packet, in files that FFmpeg takes for a row of pictures."""
    packets = (packet for packet in container.demux(stream) if packet.size)
    return next(packets, None) is None or next(packets, None) is None


def _probe_stream(path: Path, container: Any, stream: Any) -> VideoInfo:
    frame = _first_frame(path, container, stream)
    context = stream.codec_context
    codec = context.codec.canonical_name
    field_order = field_order_of(frame, context)
    pixel_format = frame.format.name
    rate = _frame_rate(container, stream)
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
        codec=codec,
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
        chroma_siting=chroma_siting_of(stream),
        interlaced=is_interlaced(field_order),
        field_order=field_order,
        alpha=shows_through(frame, codec),
        lossless=is_lossless(stream, frame),
        side_data=side_data_of(stream, frame),
        container=container.format.name,
        suffix=_ending(path, container),
    )


def _frame_rate(container: Any, stream: Any) -> Fraction | None:
    """The average, but what headers say where FFmpeg supposes one: 25 frames/s without times, 60000 in raw DV."""
    average: Fraction | None = stream.average_rate
    stated: Fraction | None = stream.guessed_rate
    if container.format.flags & _NO_TIMES or (average and stated and average > 1000 > stated):
        return stated or average
    return average or stated


def _ending(path: Path, container: Any) -> str:
    """The ending for files like this one: its own where that names a container of videos."""
    own, name = path.suffix.lower(), container.format.name.split(",")[0]
    if own in KEPT_SUFFIXES or (own == ".png" and name == "apng"):
        return own
    if name == "mov" and container.metadata.get("major_brand", "").startswith("qt"):
        return ".mov"
    return _ENDINGS.get(name, _ANY_CONTAINER)


def _first_frame(path: Path, container: Any, stream: Any) -> Any:
    failure: BaseException | None = None
    decoder = decoder_of(stream)
    try:
        for packet in container.demux(stream):
            try:
                frames = decoder.decode(packet)
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
    data = known_side_data(frame).get("DISPLAYMATRIX")
    if data is None:
        return None
    return tuple(int(value) for value in np.frombuffer(bytes(data), np.int32)[:9])


def _tag(of_frame: int, of_stream: int) -> int:
    return int(of_frame) if int(of_frame) != UNSPECIFIED else int(of_stream)
