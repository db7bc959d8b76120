"""Streams beside the restored one: which of them a container takes, and their packets on the output's clock."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import av
import av.error

from unsmear.video.clock import Restart
from unsmear.video.containers import Container, holds_sound
from unsmear.video.ffmpeg import main_video_stream, open_in_memory, open_input
from unsmear.video.probe import VideoInfo
from unsmear.video.sound import SoundEncoder, named_layout, suited
from unsmear.video.tracks import Clocks, Part, Track, is_chapter_track, is_picture, is_timecode_track

COPIED = "copied"
_TEMPLATE_PACKETS = 8
_MAY_SHARE_TIMES = 0x20000  # FFmpeg's AVFMT_TS_NONSTRICT
# Sound whose blocks AVI would count by their bytes, if the source is one that states those.
_UNEVEN_IN_AVI = frozenset({"aac", "ac3", "mp2", "mp3", "flac"})
_MXF_RATE = 48000
_BEGIN_PACKETS = 1000


@dataclass(frozen=True)
class Choice:
    """What becomes of one stream of the source: ``ways`` are tried from left to right, none is left: left out.

    Attributes:
        index: in the source.
        what: the stream in words.
        ways: "copied", or an encoder's name.
        moving: whether it is a video, which will not be restored.
    """

    index: int
    what: str
    ways: tuple[str, ...]
    moving: bool = False

    @property
    def way(self) -> str | None:
        return self.ways[0] if self.ways else None

    def without_first(self) -> "Choice":
        return replace(self, ways=self.ways[1:])


def choices(source: Any, main: int, container: Container) -> list[Choice]:
    """For every stream but the restored one (of index ``main``) and those that a muxer makes itself: what to try."""
    found = []
    for stream in source.streams:
        if stream.index == main or is_chapter_track(stream) or is_timecode_track(stream):
            continue
        what = f"the {stream.type} stream {stream.index} ({getattr(stream, 'name', None) or 'unknown'})"
        moving = stream.type == "video" and not is_picture(stream)
        found.append(Choice(stream.index, what, _ways(stream, container), moving))
    return found


def _ways(stream: Any, container: Container) -> tuple[str, ...]:
    if stream.type == "unknown" or not container.sound:
        return ()
    if stream.type != "audio" or stream.codec_context is None:
        return (COPIED,)
    held = holds_sound(container, stream.codec_context.codec.canonical_name)
    if container.muxer == "mxf" and stream.codec_context.sample_rate != _MXF_RATE:
        held = False
    if container.muxer == "flv" and named_layout(stream.codec_context.layout).endswith("channels"):
        return ()  # FFmpeg ends the process where it is to write which channels those are
    return (*([] if held is False else [COPIED]), *suited(container.encoders, stream))


def notes_of(chosen: Sequence[Choice], container: Container, suffix: str) -> list[str]:
    """What is not copied, or not restored, a line for each stream."""
    notes = []
    for choice in chosen:
        if choice.way is None:
            notes.append(f"{suffix} files cannot hold {choice.what}, so it is left out")
        elif choice.way != COPIED:
            notes.append(f"{suffix} files cannot hold {choice.what} as it is, so it is encoded anew ({choice.way})")
        elif choice.moving:
            notes.append(f"{choice.what} is copied as it is, not restored")
    return notes


class OtherStreams:
    """The other streams of a source on their way into an output.

    Attributes:
        added: the source's stream index → the output's stream.
        notes: what was repaired, after all packets.
    """

    def __init__(self, source: Any, info: VideoInfo, container: Container, part: Part, restarts: Sequence[Restart]):
        self._source, self._info, self._container, self._part = source, info, container, part
        self._restarts = restarts
        self._tracks: dict[int, Track] = {}
        self.added: dict[int, Any] = {}
        self.notes: list[str] = []

    def add(self, target: Any, chosen: Sequence[Choice], dropped_tags: tuple[str, ...]) -> None:
        """Add the chosen streams to the container ``target``. ``dropped_tags`` begin with one of these, in capitals."""
        shares = bool(target.format.flags & _MAY_SHARE_TIMES)
        for choice in chosen:
            if choice.way is None:
                continue
            stream = self._source.streams[choice.index]
            encoder = None
            if choice.way == COPIED:
                copy = self._copy(target, stream)
            else:
                rate = _MXF_RATE if self._container.muxer == "mxf" else None
                # Where sound has no times it begins with the picture.
                padded = self._container.times in ("slots", "order")
                encoder = SoundEncoder(target, stream, choice.way, rate=rate, padded=padded)
                copy = encoder.stream
            copy.metadata.update(kept_tags(stream.metadata, dropped_tags))
            copy.disposition = int(stream.disposition)
            self.added[stream.index] = copy
            self._tracks[stream.index] = Track(stream, copy, encoder, self._part, choice.what, shares=shares)

    def _copy(self, target: Any, stream: Any) -> Any:
        copy = self._added(target, stream)
        if stream.type == "audio" and stream.codec_context is not None:
            layout = named_layout(stream.codec_context.layout)
            if layout != stream.codec_context.layout.name:  # MP4 and FLV have to say which channels those are
                copy.codec_context.layout = layout
        return copy

    def _added(self, target: Any, stream: Any) -> Any:
        codec = stream.codec_context and stream.codec_context.codec.canonical_name
        if self._container.muxer != "avi" or stream.type != "audio" or codec not in _UNEVEN_IN_AVI:
            return target.add_stream_from_template(stream, opaque=True)
        # Matroska states no bytes a block, which AVI's muxer would take for a constant number of samples.
        file = io.BytesIO()
        with open_input(self._info.path, self._info.raw) as source, av.open(file, "w", format="matroska") as scratch:
            begin = scratch.add_stream_from_template(source.streams[stream.index], opaque=True)
            for number, packet in enumerate(source.demux(source.streams[stream.index])):
                if number == _TEMPLATE_PACKETS or not packet.size:
                    break
                packet.stream = begin
                scratch.mux(packet)
        with open_in_memory(file.getvalue(), "matroska") as template:
            return target.add_stream_from_template(template.streams[0], opaque=True)

    def packets(self, *, begin: bool = False) -> Iterator[Any]:
        """Packets to be written, in the order of the source; with ``begin`` of the first moments of each stream."""
        wanted = [self._source.streams[index] for index in self._tracks]
        demuxed = [stream for stream in wanted if stream.type != "attachment"]
        if not demuxed:
            return
        clocks = Clocks(self._restarts)
        main = main_video_stream(self._source, self._info.path).index if self._restarts else None
        if main is not None:
            demuxed.append(self._source.streams[main])
        waiting = {stream.index for stream in demuxed if stream.type == "audio"} if begin else set()
        try:
            for number, packet in enumerate(self._source.demux(demuxed)):
                if begin and (number > _BEGIN_PACKETS or not waiting):
                    break
                if packet.stream.index == main:
                    clocks.follow(packet)
                elif packet.size:
                    track = self._tracks[packet.stream.index]
                    if begin and track.has_begun(packet):
                        waiting.discard(packet.stream.index)
                    else:
                        yield from track.take(packet, clocks)
        except (av.error.FFmpegError, OSError) as error:
            self.notes.append(f"the other streams end where the source cannot be read on ({error.strerror})")
        for track in self._tracks.values():
            yield from track.rest()
            self.notes += track.notes()


def kept_tags(tags: dict[str, str], dropped: tuple[str, ...]) -> dict[str, str]:
    kept = {key: value for key, value in tags.items() if not key.upper().startswith(dropped)}
    if "name" in kept:  # FFmpeg reads the title of a track in MP4 and MOV by another name than it writes
        kept.setdefault("title", kept.pop("name"))
    return kept
