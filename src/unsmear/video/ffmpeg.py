"""Opening files through PyAV, with FFmpeg's errors turned into ours and its chatter kept off stderr."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import av.error
import av.logging

from unsmear.errors import DamagedVideo, UnsupportedVideo
from unsmear.video.raw import RAW_SUFFIX, RawFormat, raw_format

# Demuxers that accept almost any bytes; a file that only they understand is not a video.
_NOT_VIDEO_FORMATS = frozenset({"tty", "srt", "webvtt", "ass", "lrc", "hls", "concat", "ffmetadata"})

av.logging.set_level(None)


def file_url(path: Path) -> str:
    """The name under which FFmpeg opens exactly this file, whatever characters it holds."""
    return f"file:{path}"


def silence_encoder_libraries() -> None:
    """SVT-AV1 writes to stderr on its own unless told otherwise before it starts."""
    os.environ.setdefault("SVT_LOG", "-1")


def open_input(path: Path, raw: RawFormat | None = None) -> Any:
    """Open ``path`` for reading and return PyAV's input container.

    ``raw`` says what a ``.yuv`` file holds, instead of its name. Raises UnsupportedVideo for what is missing or
    is no video, DamagedVideo for what cannot be parsed.
    """
    if not path.exists():
        raise UnsupportedVideo(f"{path}: no such file; give a video, an image or a folder of either")
    if not path.is_file():
        raise UnsupportedVideo(f"{path}: not a regular file; give a video, an image or a folder of either")
    if path.stat().st_size == 0:
        raise DamagedVideo(f"{path}: the file is empty (0 bytes); copy or download it again")
    demuxer, options = None, {}
    if path.suffix.lower() == RAW_SUFFIX:
        demuxer, options = "rawvideo", _demuxer_options(raw_format(path, raw))
    try:
        container = av.open(file_url(path), "r", format=demuxer, options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        if error.errno == errno.EACCES:
            raise UnsupportedVideo(f"{path}: permission denied; make the file readable") from error
        raise DamagedVideo(
            f"{path}: cannot be read as a video ({reason(error)}); "
            "the file is cut short, damaged, or not a video at all"
        ) from error
    names = set(container.format.name.split(","))
    if names & _NOT_VIDEO_FORMATS:
        container.close()
        raise UnsupportedVideo(f"{path}: holds text ({container.format.name}), not a video")
    return container


def _demuxer_options(form: RawFormat) -> dict[str, str]:
    return {
        "video_size": f"{form.width}x{form.height}",
        "pixel_format": form.pixel_format,
        "framerate": str(form.frame_rate),
    }


def main_video_stream(container: Any, path: Path) -> Any:
    """The stream to restore: the first video stream that is not a cover picture.

    Raises UnsupportedVideo when there is none or when no decoder for it exists.
    """
    streams = container.streams.video
    for stream in streams:
        if not int(stream.disposition) & int(av.stream.Disposition.attached_pic):
            if stream.codec_context is None:
                raise UnsupportedVideo(f"{path}: no decoder for its video stream; convert it to H.264 first")
            return stream
    held = sorted({stream.type for stream in container.streams})
    what = "only a cover picture" if streams else f"no video stream (only {_listed(held)})"
    raise UnsupportedVideo(f"{path}: holds {what}; a file with moving pictures is needed")


def reason(error: BaseException) -> str:
    """FFmpeg's own words for an error, without its file name and number."""
    text = getattr(error, "strerror", None) or str(error)
    return str(text).strip().rstrip(".") or type(error).__name__


def _listed(words: Sequence[str]) -> str:
    return " and ".join(words) if words else "nothing"


@contextmanager
def kept_scheduling() -> Iterator[None]:
    """Take back what an encoder does to the scheduling of the thread that opens it.

    SVT-AV1 makes it a real-time one where it may, as root: whatever that thread starts later would inherit this, and
    keep everything else from a busy machine.
    """
    if not hasattr(os, "sched_getscheduler"):  # Linux alone has it, and the trouble
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            with suppress(OSError):
                os.sched_setscheduler(0, policy, parameters)
