"""Joining: segments and the source's other streams into the finished file, packet by packet, nothing decoded."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from unsmear.errors import OutputError
from unsmear.files import WholeFile
from unsmear.video.alpha import TAG as ALPHA_TAG
from unsmear.video.ffmpeg import file_url, main_video_stream, open_input, reason
from unsmear.video.outgoing import add_coded_stream
from unsmear.video.probe import VideoInfo, probe
from unsmear.video.sidedata import left_out
from unsmear.video.timeline import Timeline, read_timeline, video_packets

# Tags that describe the source's own bytes and would be false of the output.
_STALE_TAGS = ("DURATION", "BPS", "NUMBER_OF_", "_STATISTICS", "ENCODER", "SOURCE_ID")
_MUXER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}


@dataclass(frozen=True)
class JoinReport:
    """What ``join_segments`` wrote: the file, its frames, the streams copied, and what could not be kept."""

    output: Path
    frames: int
    copied_streams: int
    notes: list[str] = field(default_factory=list)


def join_segments(
    source: Path | None,
    segments: list[Path],
    output: Path,
    *,
    info: VideoInfo | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
) -> JoinReport:
    """Join ``segments`` (in order, as ``SegmentWriter`` made them) and the other streams of ``source``.

    Video packets keep the source's exact times wherever the container can express them; audio, subtitles,
    data, attachments and cover pictures are copied as they are; tags, chapters, dispositions, rotation,
    sample aspect ratio and colour tags are kept. ``start_s`` and ``end_s`` (seconds on the source's clock)
    say that only that part was restored: the other streams and chapters are cut to it, and with ``start_s``
    all times move so that the first frame is at 0. ``info`` says what the frames in ``segments`` are where that is
    not as in ``source``. What the container cannot hold is named in the notes.

    The file is written beside ``output`` and renamed when complete. Raises OutputError when that fails.
    """
    output = Path(output)
    if not segments:
        raise ValueError("no segments to join")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with (
            WholeFile(output, same_suffix=True) as partial,
            _Joining(source, segments, output, partial, info, start_s, end_s) as joining,
        ):
            return joining.run()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise OutputError(f"{output}: cannot be written ({reason(error)})") from error


class _Joining:
    """One run of ``join_segments``: holds the open files and closes them whatever happens."""

    def __init__(
        self,
        source: Path | None,
        segments: list[Path],
        output: Path,
        partial: Path,
        info: VideoInfo | None,
        start_s: float | None,
        end_s: float | None,
    ) -> None:
        self.segments, self.output, self.partial = segments, output, partial
        self.info = None if source is None else info or probe(source)
        if self.info is not None and self.info.kind != "video":
            self.info = None
        self.source = open_input(self.info.path, self.info.raw) if self.info else None
        self.first_segment = open_input(segments[0])
        self.notes: list[str] = []
        self.format = _format_name(output)
        self.shift, self.start_s, self.end_s = Fraction(0), start_s, end_s

    def __enter__(self) -> "_Joining":
        return self

    def __exit__(self, *_: object) -> None:
        self.first_segment.close()
        if self.source is not None:
            self.source.close()

    def run(self) -> JoinReport:
        packets = read_timeline(self.segments)
        if self.start_s is not None:
            self.shift = min(packets.pts) * packets.time_base
        with av.open(file_url(self.partial), "w", container_options=self._muxer_options(packets)) as target:
            video = self._add_video(target, packets)
            others = self._add_others(target)
            self._copy_tags(target)
            target.start_encoding()
            timeline = packets.rescaled(video.time_base, self.shift)
            if timeline.moved:
                self.notes.append(
                    f"{self.output.suffix} files cannot express {timeline.moved} of the frame times exactly"
                )
            for packet in _merged(self._video_packets(video, timeline), self._other_packets(others)):
                target.mux(packet)
        if self.info is not None and self.info.side_data:
            kept = probe(self.partial).side_data
            self.notes += [left_out(kind, box) for kind, box in self.info.side_data.items() if kind not in kept]
        return JoinReport(self.output, len(packets.pts), len(others), self.notes)

    def _muxer_options(self, packets: Timeline) -> dict[str, str]:
        if self.format in ("mp4", "mov", "ipod", "3gp", "3g2", "f4v", "psp"):
            flags = "faststart"
            if self.source is not None and any("." in key for key in self.source.metadata):
                flags += "+use_metadata_tags"  # QuickTime's own keys, such as a phone's location
            options = {"movflags": flags}
            if self.info is not None and self.info.side_data:
                options["strict"] = "unofficial"  # as marks of 360° and 3D are
            if packets.time_base.denominator <= 1_000_000:  # a start that is not 0 is kept to the tick
                options["movie_timescale"] = str(max(1000, packets.time_base.denominator))
            return options
        return {"mpegts_copyts": "1"} if self.format == "mpegts" else {}

    def _add_video(self, target: Any, packets: Timeline) -> Any:
        coded = self.first_segment.streams.video[0]
        video = add_coded_stream(target, coded, self.info)
        context, info = video.codec_context, self.info
        video.time_base = packets.time_base
        if self.format in ("mp4", "mov") and coded.codec_context.codec.canonical_name == "hevc":
            context.codec_tag = "hvc1"  # the tag that Apple's players want
        rate = info.frame_rate if info else coded.average_rate
        if self.format == "avi":  # AVI counts frames
            video.time_base = 1 / (rate or Fraction(25))
        if rate:
            context.framerate = rate
        if info is None:
            return video
        if info.sample_aspect_ratio:
            context.sample_aspect_ratio = info.sample_aspect_ratio
        if not coded.format.is_rgb and not av.VideoFormat(info.pixel_format).is_rgb:
            context.colorspace = info.colorspace
            context.color_range = info.color_range
        context.color_primaries, context.color_trc = info.color_primaries, info.color_trc
        if info.display_matrix is not None:
            video.set_display_matrix(info.display_matrix)
        assert self.source is not None
        original = main_video_stream(self.source, info.path)
        video.metadata.update(_kept(original.metadata, (*_STALE_TAGS, "ROTATE", ALPHA_TAG)))
        video.disposition = int(original.disposition)
        return video

    def _add_others(self, target: Any) -> dict[int, Any]:
        """Add every stream but the restored one; map the source's stream index → the output's stream."""
        if self.source is None or self.info is None:
            return {}
        added: dict[int, Any] = {}
        main = main_video_stream(self.source, self.info.path).index
        chapters = bool(self.source.chapters())
        for stream in self.source.streams:
            if stream.index == main or (chapters and _is_chapter_track(stream)):
                continue
            if not _can_hold(self.format, stream):
                name = getattr(stream, "name", None) or "unknown"
                what = f"the {stream.type} stream {stream.index} ({name})"
                self.notes.append(f"{self.output.suffix} files cannot hold {what}, so it is left out")
                continue
            copy = target.add_stream_from_template(stream, opaque=True)
            copy.metadata.update(_kept(stream.metadata, _STALE_TAGS if self.shift or self.end_s else ("DURATION",)))
            copy.disposition = int(stream.disposition)
            added[stream.index] = copy
        return added

    def _copy_tags(self, target: Any) -> None:
        if self.source is None:
            return
        tags = {key: value for key, value in self.source.metadata.items() if key.lower() not in _MUXER_TAGS}
        target.metadata.update(tags)
        chapters = []
        for chapter in self.source.chapters():
            base = chapter["time_base"] or Fraction(1, 1000)
            start = Fraction(chapter["start"]) * base - self.shift
            end = Fraction(chapter["end"]) * base - self.shift
            if self.end_s is not None:
                end = min(end, Fraction(self.end_s) - self.shift)
            start = max(start, Fraction(0))
            if end > start:
                chapters.append(chapter | {"start": round(start / base), "end": round(end / base)})
        if chapters:
            target.set_chapters(chapters)

    def _video_packets(self, video: Any, timeline: Timeline) -> Iterator[Any]:
        i = 0
        for segment in self.segments:
            with open_input(segment) as container:
                for packet in video_packets(container):
                    packet.stream = video
                    packet.pts, packet.dts = int(timeline.pts[i]), timeline.dts(i)
                    packet.duration = timeline.duration(packet.pts)
                    packet.time_base = timeline.time_base
                    i += 1
                    yield packet

    def _other_packets(self, streams: dict[int, Any]) -> Iterator[Any]:
        if self.source is None or not streams:
            return
        wanted = [self.source.streams[index] for index in streams]
        demuxed = [stream for stream in wanted if stream.type != "attachment"]
        if not demuxed:
            return
        begun: set[int] = set()
        for packet in self.source.demux(demuxed):
            if packet.size == 0 and packet.dts is None:
                continue
            if packet.size == 2 and packet.stream.name == "mov_text" and bytes(packet) == b"\0\0":
                continue  # an empty line fills a gap; the muxer makes its own
            stream, picture = packet.stream, _is_picture(packet.stream)
            if not picture and not self._within(packet, stream):
                continue
            if stream.type == "video" and not picture and stream.index not in begun and not packet.is_keyframe:
                continue
            begun.add(stream.index)
            packet.stream = streams[stream.index]
            yield packet

    def _within(self, packet: Any, stream: Any) -> bool:
        """Whether a packet belongs to the part restored; moves its times to the output's clock."""
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None or (not self.shift and self.end_s is None):
            return True
        base = packet.time_base
        if self.end_s is not None and time * base >= Fraction(self.end_s):
            return False
        offset = round(self.shift / base)
        late = max(0, offset - time)  # how long before the start it began
        if late and (stream.type != "subtitle" or late >= (packet.duration or 0)):
            return False
        if late:
            packet.duration = packet.duration - late
        for name in ("pts", "dts"):
            value = getattr(packet, name)
            if value is not None:
                setattr(packet, name, value - offset + late)
        return True


def _merged(video: Iterator[Any], others: Iterator[Any]) -> Iterator[Any]:
    """Both in order of decoding time, so that the muxer interleaves them with short queues."""
    one, other = next(video, None), next(others, None)
    while one is not None or other is not None:
        if other is None or (one is not None and _seconds(one) <= _seconds(other)):
            yield one
            one = next(video, None)
        else:
            yield other
            other = next(others, None)


def _seconds(packet: Any) -> float:
    time = packet.dts if packet.dts is not None else packet.pts
    return float(time * packet.time_base) if time is not None and packet.time_base else float("-inf")


def _format_name(output: Path) -> str:
    try:
        with av.open(f"x{output.suffix}", "w") as container:  # nothing is created: no header is written
            return str(container.format.name)
    except (ValueError, av.error.FFmpegError) as error:
        raise OutputError(
            f"{output}: no container is known by {output.suffix or 'no suffix'}; use .mp4 or .mkv"
        ) from error


def _can_hold(format_name: str, stream: Any) -> bool:
    """Whether the muxer takes this stream, found by writing a header to memory."""
    if stream.type == "unknown" or (format_name == "flv" and _has_no_layout(stream)):
        return False
    begun = False
    try:
        with av.open(io.BytesIO(), "w", format=format_name) as scratch:
            copy = scratch.add_stream_from_template(stream, opaque=True)
            copy.disposition = int(stream.disposition)
            scratch.start_encoding()
            begun = True
    except (ValueError, OSError, av.error.FFmpegError):
        return begun  # some muxers refuse to end a file without packets, which does not matter here
    return True


def _has_no_layout(stream: Any) -> bool:
    """Whether nothing says where the channels of a sound belong: FFmpeg ends the process where FLV is to hold those."""
    layout = getattr(stream, "layout", None) if stream.type == "audio" else None
    return layout is not None and layout.name.endswith("channels")


def _is_picture(stream: Any) -> bool:
    return bool(int(stream.disposition) & int(av.stream.Disposition.attached_pic))


def _is_chapter_track(stream: Any) -> bool:
    return stream.type == "data" and getattr(stream, "name", None) == "bin_data"


def _kept(tags: dict[str, str], dropped: tuple[str, ...]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if not key.upper().startswith(dropped)}
