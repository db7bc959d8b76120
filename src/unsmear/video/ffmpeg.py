"""Opening files through PyAV, with FFmpeg's errors turned into ours and its chatter kept off stderr."""

import errno
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import av.error
import av.logging

from unsmear.errors import DamagedVideo, UnsupportedVideo
from unsmear.video.contents import check_size, contents, is_pam, max_pixels, unreadable
from unsmear.video.raw import RAW_SUFFIX, RawFormat, raw_format

# Demuxers that accept almost any bytes; a file accepted by these alone is not a video.
_NOT_VIDEO_FORMATS = frozenset({"tty", "srt", "webvtt", "ass", "lrc", "ffmetadata"})
_RAW_STREAMS = frozenset(
    f".{name}"
    for name in (
        *(
            "h264",
            "264",
            "avc",
            "h265",
            "265",
            "hevc",
            "h266",
            "266",
            "vvc",
            "mjpg",
            "mjpeg",
            "m1v",
            "m2v",
            "mpv",
            "m4v",
        ),
        *("dv", "obu", "ivf", "vc1", "cavs", "drc", "h261", "h263"),
    )
)
_BUFFER_BYTES = 1 << 18
_STILL_ITEMS = ("avi", "hei", "mif", "msf")  # beginnings of the brands of HEIF and AVIF

av.logging.set_level(None)


def file_url(path: Path) -> str:
    """The name under which FFmpeg writes exactly this file, whatever characters it holds."""
    return f"file:{path}"


def silence_encoder_libraries() -> None:
    """SVT-AV1 writes to stderr on its own unless told otherwise before it starts."""
    os.environ.setdefault("SVT_LOG", "-1")


class _Source:
    """File object for FFmpeg, which then opens no file by itself, whatever names a file contains.

    Attributes:
        name: file name passed to FFmpeg: ``input`` and the suffix of raw streams, whose contents are ambiguous.
        error: first error while reading, reported to FFmpeg as the end of the file; None where there was none.
    """

    def __init__(self, path: Path) -> None:
        suffix = path.suffix.lower()
        self.name = f"input{suffix if suffix in _RAW_STREAMS else ''}"
        self.error: OSError | None = None
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def read(self, size: int) -> bytes:
        try:
            return os.read(self._file, size)
        except OSError as error:
            self.error = self.error or error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return os.lseek(self._file, offset, whence)
        except OSError as error:  # damaged files contain any offset
            return -(error.errno or errno.EINVAL)

    def tell(self) -> int:
        return os.lseek(self._file, 0, os.SEEK_CUR)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


def open_input(path: Path, raw: RawFormat | None = None) -> Any:
    """Open ``path`` for reading and return PyAV's input container. No other file is opened, then or later.

    ``raw`` says what a ``.yuv`` file holds, instead of its name. Raises UnsupportedVideo for what is missing or
    is no video, DamagedVideo for what cannot be parsed.
    """
    refuse_other_than_files(path)
    demuxer, options = None, {"protocol_whitelist": "none", "max_pixels": str(max_pixels())}
    if path.suffix.lower() == RAW_SUFFIX:
        demuxer, options = "rawvideo", options | _demuxer_options(raw_format(path, raw))
    elif (held := contents(path)) is not None and held.holding == "playlist":
        raise UnsupportedVideo(
            f"{path}: is a {held.format}, which names other files; only what is named here is read: give the video"
        )
    elif is_pam(path):  # FFmpeg detects it by the suffix alone
        demuxer = "pam_pipe"
    try:
        source = _Source(path)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        container = av.open(
            source, "r", format=demuxer, options=options, metadata_errors="replace", buffer_size=_BUFFER_BYTES
        )
    except av.error.FFmpegError as error:
        raise DamagedVideo(
            f"{path}: cannot be read as a video ({reason(error)}); "
            "the file is cut short, damaged, or not a video at all"
        ) from error
    names = set(container.format.name.split(","))
    if names & _NOT_VIDEO_FORMATS:
        container.close()
        raise UnsupportedVideo(f"{path}: holds text ({container.format.name}), not a video")
    return container


def open_in_memory(file: bytes, demuxer: str = "mov") -> Any:
    """Open an MP4, or what else ``demuxer`` reads, that we have made ourselves."""
    return av.open(io.BytesIO(file), "r", format=demuxer)


def refuse_other_than_files(path: Path) -> None:
    """Raise UnsupportedVideo where ``path`` names no regular file; addresses are not read."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = 0
    except OSError as error:
        raise unreadable(path, error) from error
    if stat.S_ISREG(mode):
        return
    if mode:
        raise UnsupportedVideo(f"{path}: not a regular file; give a video, an image or a folder of either")
    address = re.match(r"([a-z][a-z0-9+.-]+):/+(.*)", str(path), re.IGNORECASE | re.DOTALL)
    if address is not None:
        raise UnsupportedVideo(f"{address[1]}://{address[2]}: addresses are not read; download the file and give that")
    if str(path) == "-":
        raise UnsupportedVideo("-: standard input is not read; write it to a file and give that")
    raise UnsupportedVideo(f"{path}: no such file; give a video, an image or a folder of either")


def _demuxer_options(form: RawFormat) -> dict[str, str]:
    return {
        "video_size": f"{form.width}x{form.height}",
        "pixel_format": form.pixel_format,
        "framerate": str(form.frame_rate),
    }


def main_video_stream(container: Any, path: Path) -> Any:
    """The stream to restore: of the video streams that are no cover pictures the first by default, else the first.

    Raises UnsupportedVideo when there is none, when no decoder for it exists, and when its pictures are larger than
    ``max_pixels`` or are put together from several streams.
    """
    streams = container.streams.video
    moving = [stream for stream in _moving(container, streams) if not _is(stream, av.stream.Disposition.attached_pic)]
    for stream in sorted(moving, key=lambda stream: not _is(stream, av.stream.Disposition.default)):
        context = stream.codec_context
        if context is None:
            raise UnsupportedVideo(f"{path}: no decoder for its video stream; convert it to H.264 first")
        if _is(stream, av.stream.Disposition.dependent):
            raise UnsupportedVideo(f"{path}: its picture is put together from tiles; convert it to PNG first")
        check_size(path, context.width, context.height)
        if not context.is_open:
            context.options = {"max_pixels": str(max_pixels())}
        return stream
    held = sorted({stream.type for stream in container.streams})
    what = "only a cover picture" if streams else f"no video stream (only {_listed(held)})"
    raise UnsupportedVideo(f"{path}: holds {what}; a file with moving pictures is needed")


def _is(stream: Any, disposition: Any) -> bool:
    return bool(int(stream.disposition) & int(disposition))


def _moving(container: Any, streams: Sequence[Any]) -> Sequence[Any]:
    """Streams of several pictures, where there are any, in formats whose sequences come with single pictures."""
    if not container.metadata.get("major_brand", "").startswith(_STILL_ITEMS):
        return streams
    return [stream for stream in streams if stream.frames > 1] or streams


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
