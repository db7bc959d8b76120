"""Rehearsal: the first seconds of an output, written and read back before the work begins.

What a container holds is seen with all streams together: some take a stream only beside others, some fail in the end.
"""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import av.error
import numpy as np

from unsmear.errors import OutputError, UsageError
from unsmear.video.check import Finding
from unsmear.video.containers import Container, find_container
from unsmear.video.copies import Choice, choices, notes_of
from unsmear.video.encoding import Encoding
from unsmear.video.ffmpeg import main_video_stream, open_input, reason
from unsmear.video.muxing import MUXER_TAGS, Muxing
from unsmear.video.probe import VideoInfo
from unsmear.video.raw import RawFormat
from unsmear.video.segments import SegmentWriter

_SOUND_PACKETS = 8
_STREAM_TAGS = ("language", "title", "timecode")


@dataclass(frozen=True)
class Plan:
    """What becomes of the source's other streams, and what is to be said of them and of all else that is lost."""

    choices: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()


def plan_join(info: VideoInfo, encoding: Encoding, output: Path) -> Plan:
    """Find out what of a source an output can hold, by writing its beginning to a temporary folder.

    Args:
        info: of the source, with the size of the frames to come.
        encoding: of the frames.
        output: the file to be.

    Raises:
        UsageError: the container cannot hold the picture.
        OutputError: the temporary folder cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="unsmear-") as folder:
        segment = Path(folder) / "segment"
        with SegmentWriter(segment, info, encoding, info.width, info.height) as writer:
            writer.write(np.zeros((info.height, info.width, 3), np.uint8), _start(info))
        try:
            return rehearsed(info, [segment], output, Path(folder))
        except OutputError as error:
            raise UsageError(f"{error}; name an output ending in .mkv") from None


def rehearsed(info: VideoInfo | None, segments: Sequence[Path], output: Path, folder: Path) -> Plan:
    """The plan for an output whose picture begins with ``segments``.

    Raises:
        OutputError: the container cannot hold the picture.
    """
    container = find_container(output.suffix)
    if info is None or info.kind != "video":
        chosen: list[Choice] = []
    else:
        with open_input(info.path, info.raw) as source:
            chosen = choices(source, main_video_stream(source, info.path).index, container)
    scratch = folder / f"rehearsal{container.suffixes[0]}"

    def tried(what: Sequence[Choice]) -> tuple[list[Finding], list[str]]:
        return _tried(info, segments, scratch, container, what)

    while True:
        failed, notes = tried(chosen)
        if not failed:
            return Plan(tuple(chosen), (*notes_of(chosen, container, output.suffix), *notes))
        taken = [number for number, choice in enumerate(chosen) if choice.way is not None]
        culprits = {taken[finding.stream] for finding in failed if finding.stream is not None}
        if not culprits:  # who it was is not said
            alone, _ = tried(_only(chosen, None))
            if alone or not taken:
                line = (alone or failed)[0].line
                raise OutputError(f"{output}: {container.suffixes[0]} files cannot hold this picture: {line}")
            culprits = {number for number in taken if tried(_only(chosen, number))[0]} or {taken[-1]}
        chosen = [choice.without_first() if i in culprits else choice for i, choice in enumerate(chosen)]


def _only(chosen: Sequence[Choice], number: int | None) -> list[Choice]:
    return [choice if i == number else replace(choice, ways=()) for i, choice in enumerate(chosen)]


def _tried(
    info: VideoInfo | None,
    segments: Sequence[Path],
    path: Path,
    container: Container,
    chosen: Sequence[Choice],
) -> tuple[list[Finding], list[str]]:
    """Write the beginning of an output; return what does not come back, and notes on what else is lost."""
    try:
        with Muxing(info, segments, path, container, chosen) as muxing:
            muxing.begin_alone()
            muxing.run()
            failed = muxing.check()
            if failed or muxing.info is None:
                return failed, []
            return _silent(muxing), _losses(muxing)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return [Finding(None, reason(error))], []


def _silent(muxing: Muxing) -> list[Finding]:
    """Copied sound that can be decoded in the source, but not in the output."""
    found = []
    taken = [choice for choice in muxing.chosen if choice.way is not None]
    with open_input(muxing.path, muxing.raw) as output:
        sounds = iter(output.streams.audio)
        for number, choice in enumerate(taken):
            stream = muxing.source.streams[choice.index]
            if stream.type != "audio":
                continue
            copy = next(sounds, None)
            if copy is not None and not _sounds(muxing.path, muxing.raw, copy.index):
                assert muxing.info is not None
                if _sounds(muxing.info.path, muxing.info.raw, stream.index):
                    found.append(Finding(number, f"{choice.what} cannot be decoded"))
    return found


def _sounds(path: Path, raw: RawFormat | None, index: int) -> bool:
    """Whether one of the first packets of a stream can be decoded; True where there are none."""
    with open_input(path, raw) as container:
        packets = 0
        for packet in container.demux(container.streams[index]):
            if packets == _SOUND_PACKETS:
                return False
            packets += packet.size > 0
            with suppress(av.error.FFmpegError):
                if packet.decode():
                    return True
    return not packets


def _losses(muxing: Muxing) -> list[str]:
    """What of a source is not in the beginning of its output, beside streams."""
    source, info = muxing.source, muxing.info
    assert info is not None
    suffix, lost = muxing.container.suffixes[0], []
    with open_input(muxing.path, muxing.raw) as output:
        if source.chapters() and not output.chapters():
            lost.append("chapters")
        picture = main_video_stream(output, muxing.path)
        aspect = info.sample_aspect_ratio
        if aspect not in (None, 1, picture.sample_aspect_ratio):
            lost.append(f"the pixels' aspect ratio of {aspect}")
        frame = next(output.decode(picture))
        if info.rotation != frame.rotation:
            lost.append(f"the rotation by {info.rotation}°")
        there = {value for held in (output, *output.streams) for value in held.metadata.values()}
        missing = [
            key for key, value in source.metadata.items() if key.lower() not in MUXER_TAGS and value not in there
        ]
        streams = [main_video_stream(source, info.path)]
        streams += [source.streams[choice.index] for choice in muxing.chosen if choice.way is not None]
        missing += [
            key for stream in streams for key in _STREAM_TAGS if stream.metadata.get(key, "und") not in ("und", *there)
        ]
        if missing:
            lost.append(f"the tags {', '.join(dict.fromkeys(missing))}")
    return [f"{suffix} files cannot hold {what}, left out" for what in lost]


def _start(info: VideoInfo) -> int:
    """When the source's picture begins, as far as its container says."""
    if info.kind != "video":
        return 0
    with open_input(info.path, info.raw) as source:
        return int(main_video_stream(source, info.path).start_time or 0)
