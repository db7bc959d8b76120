"""Writing one output: the restored picture from its segments, and the source's other streams, tags and chapters."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import av.error
from av.bitstream import BitStreamFilterContext

from unsmear.video.alpha import TAG as ALPHA_TAG
from unsmear.video.check import Finding, Written, differences
from unsmear.video.clock import Restart
from unsmear.video.containers import Container
from unsmear.video.copies import Choice, OtherStreams, kept_tags
from unsmear.video.ffmpeg import file_url, main_video_stream, open_input
from unsmear.video.outgoing import add_coded_stream
from unsmear.video.probe import DEFAULT_RATE, VideoInfo, probe
from unsmear.video.raw import RawFormat
from unsmear.video.service import service_tags
from unsmear.video.sidedata import left_out
from unsmear.video.timecode import TAG as TIMECODE
from unsmear.video.timecode import later
from unsmear.video.timeline import Timeline, read_timeline, video_packets
from unsmear.video.tracks import Part

MUXER_TAGS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "software"})
_NO_NAME = "Service01"  # what FFmpeg's muxer writes for want of one
# Tags that describe the source's own bytes and would be false of the output.
_STALE_TAGS = ("DURATION", "BPS", "NUMBER_OF_", "_STATISTICS", "ENCODER", "SOURCE_ID")
_QUICKTIME = frozenset({"mp4", "mov", "3gp", "3g2", "f4v"})
# Codecs whose tag says how samples lie, by containers that keep it.
_OF_LAYOUTS = ("rawvideo", "utvideo", "magicyuv")
_TAGGED = {
    "avi": _OF_LAYOUTS,
    "asf": _OF_LAYOUTS,
    "nut": _OF_LAYOUTS,
    "matroska": (*_OF_LAYOUTS, "prores"),
    "mov": ("prores",),
}


class Muxing:
    """One output on its way. Use it as a context manager: it holds the source and the first segment open.

    Args:
        info: of the source; None where there is none, or it is no video.
        segments: of the picture, as ``SegmentWriter`` made them.
        path: what is written; nothing is renamed here.
        container: as which.
        chosen: of the source's other streams.

    Attributes:
        notes: what could not be kept, a line each.
    """

    def __init__(
        self,
        info: VideoInfo | None,
        segments: Sequence[Path],
        path: Path,
        container: Container,
        chosen: Sequence[Choice] = (),
    ) -> None:
        self.info = info if info is not None and info.kind == "video" else None
        self.segments, self.path, self.container = list(segments), path, container
        self.chosen = chosen
        self.notes: list[str] = []
        self.written: list[Written] = []
        self.source: Any = None
        self._part = Part()
        self._restarts: Sequence[Restart] = ()
        self._begin = False
        self._cut_out = False

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            if self.info is not None:
                self.source = opened.enter_context(open_input(self.info.path, self.info.raw))
            self.coded = opened.enter_context(open_input(self.segments[0])).streams.video[0]
            self._opened = opened.pop_all()
        self.packets = read_timeline(self.segments)
        self.cut(None, None, ())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def cut(self, start_s: float | None, end_s: float | None, restarts: Sequence[Restart]) -> None:
        """Keep what belongs to the part that was restored; see ``join_segments``."""
        begin = self.packets.ordered[0] * self.packets.time_base
        from_zero = start_s is not None or self.container.from_zero
        end = None if end_s is None else Fraction(end_s)
        picture_s = len(self.packets.pts) / self._rate if self.container.muxer == "mxf" else None
        self._part = Part(begin if from_zero else Fraction(0), from_zero, end, self.container.from_zero, picture_s)
        self._cut_out, self._restarts = start_s is not None or end_s is not None, restarts

    def begin_alone(self) -> None:
        """Take the other streams' first packets alone."""
        self._begin = True

    def run(self) -> int:
        """Write the file; return its number of frames."""
        packets, container = self.packets, self.container
        options = self._options()
        with av.open(file_url(self.path), "w", format=container.muxer, container_options=options) as target:
            video = self._add_video(target)
            others: OtherStreams | None = None
            if self.info is not None:
                others = OtherStreams(self.source, self.info, container, self._part, self._restarts)
                others.add(target, self.chosen, _STALE_TAGS if self._cut_out else ("DURATION",))
            if not self._cut_out and self._part.shift_s:
                earlier = f"all times are earlier by {float(self._part.shift_s):g} s"
                self.notes.append(f"{self._suffix} files begin at 0 s: {earlier}")
            self._copy_tags(target, video)
            target.start_encoding()
            self.timeline = self._placed(video)
            added = list(others.added.values()) if others else []
            whats = [choice.what for choice in self.chosen if choice.way is not None]
            self.written = [_blank(stream, what) for stream, what in zip(added, whats, strict=True)]
            counts = {stream.index: written for stream, written in zip(added, self.written, strict=True)}
            beside = others.packets(begin=self._begin) if others else iter(())
            for packet in _merged(self._video_packets(video), beside):
                if packet.stream is not video:
                    counts[packet.stream.index].add(packet)
                target.mux(packet)
        if others is not None:
            self.notes += others.notes
        return len(packets.pts)

    def check(self) -> list[Finding]:
        """Read the file back and compare it with what was written; note side data that is not there."""
        found = differences(self.path, self.container, self.timeline, self.written, self.segments, self.raw)
        if not found and self.info is not None and self.info.side_data:
            kept = probe(self.path).side_data
            self.notes += [left_out(kind, box) for kind, box in self.info.side_data.items() if kind not in kept]
        return found

    @property
    def raw(self) -> RawFormat | None:
        """What the file holds, where it does not say so itself."""
        if self.container.muxer != "rawvideo":
            return None
        form = self.coded.format
        depth = max(part.bits for part in form.components)
        chroma = next((name for name in ("420", "422", "444") if name in form.name), "420")
        return RawFormat(self.coded.width, self.coded.height, depth, self._rate, chroma)  # type: ignore[arg-type]

    @property
    def _suffix(self) -> str:
        return self.container.suffixes[0]

    def _options(self) -> dict[str, str]:
        muxer, packets = self.container.muxer, self.packets
        if muxer == "mpegts":
            return {"mpegts_copyts": "1"}
        if muxer not in _QUICKTIME:
            return {}
        flags = "faststart"
        if self.source is not None and any("." in key for key in self.source.metadata):
            flags += "+use_metadata_tags"  # QuickTime's own keys, such as a phone's location
        options = {"movflags": flags}
        if self.info is not None and self.info.side_data:
            options["strict"] = "unofficial"  # as marks of 360° and 3D are
        if packets.time_base.denominator <= 1_000_000:  # a start that is not 0 is kept to the tick
            options["movie_timescale"] = str(max(1000, packets.time_base.denominator))
        return options

    @property
    def _rate(self) -> Fraction:
        return (self.info.frame_rate if self.info else self.coded.average_rate) or DEFAULT_RATE

    def _add_video(self, target: Any) -> Any:
        coded, info, container = self.coded, self.info, self.container
        video = add_coded_stream(target, coded, info)
        context, codec = video.codec_context, coded.codec_context.codec.canonical_name
        if container.muxer in ("mp4", "mov") and codec == "hevc":
            context.codec_tag = "hvc1"  # the tag that Apple's players want
        elif container.muxer == "avi" and codec == "rawvideo" and coded.format.name == "bgr24":
            context.bits_per_coded_sample = 24  # without a tag, as AVI has uncompressed RGB
        elif codec in _TAGGED.get(container.muxer, ()):
            context.codec_tag = coded.codec_context.codec_tag
        video.time_base = 1 / self._rate if container.times in ("slots", "order") else self.packets.time_base
        context.framerate = self._rate
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
        original = main_video_stream(self.source, info.path)
        video.metadata.update(kept_tags(original.metadata, (*_STALE_TAGS, "ROTATE", ALPHA_TAG)))
        video.disposition = int(original.disposition)
        return video

    def _placed(self, video: Any) -> Timeline:
        """Times of the frames in the output's unit."""
        packets, container = self.packets, self.container
        if container.times == "order":
            timeline = packets.rescaled(1 / self._rate, self._part.shift_s, gapless=True)
            if timeline.moved:
                self.notes.append(
                    f"{self._suffix} files hold no times: {timeline.moved} of {len(packets.pts)} frames are moved to "
                    f"follow each other at {float(self._rate):g} frames/s"
                )
            return timeline
        timeline = packets.rescaled(video.time_base, self._part.shift_s)
        steps = {b - a for a, b in pairwise(timeline.ordered)}
        if container.times == "packs" and steps and max(steps) - min(steps) > 1:
            self.notes.append(
                f"{self._suffix} files do not hold the time of every frame, so a variable rate is not exact"
            )
        if timeline.moved:
            self.notes.append(f"{self._suffix} files cannot express {timeline.moved} of the frame times exactly")
        return timeline

    def _copy_tags(self, target: Any, video: Any) -> None:
        if self.source is None or self.info is None:
            return
        part = self._part
        tags = {key: value for key, value in self.source.metadata.items() if key.lower() not in MUXER_TAGS}
        if "mpegts" in (self.container.muxer, self.info.container):
            names = service_tags(self.info.path)
            if self.container.muxer == self.info.container:
                tags |= names
            elif (name := names.get("service_name", _NO_NAME)) != _NO_NAME:
                self.notes.append(f"{self._suffix} files hold no name of a service, so {name} is left out")
        if self._cut_out and part.shift_s:
            for held in (tags, video.metadata):
                self._move_timecode(held, self.info)
        target.metadata.update(tags)
        chapters = []
        for chapter in self.source.chapters():
            base = chapter["time_base"] or Fraction(1, 1000)
            start = Fraction(chapter["start"]) * base - part.shift_s
            end = Fraction(chapter["end"]) * base - part.shift_s
            if part.end_s is not None:
                end = min(end, part.end_s - part.shift_s)
            start = max(start, Fraction(0))
            if end > start:
                chapters.append(chapter | {"start": round(start / base), "end": round(end / base)})
        if chapters:
            with suppress(ValueError):  # where there is no room for them, which the note says
                target.set_chapters(chapters)

    def _move_timecode(self, tags: Any, info: VideoInfo) -> None:
        """Make a time code that of the first frame kept."""
        if TIMECODE not in tags:
            return
        stream = main_video_stream(self.source, info.path)
        start_s = (stream.start_time or 0) * stream.time_base
        moved = later(tags[TIMECODE], round((self._part.shift_s - start_s) * self._rate), self._rate)
        if moved is None:
            rate = f"{float(self._rate):g} frames/s"
            self.notes.append(f"the time code {tags.pop(TIMECODE)} is left out, as it is none at {rate}")
        else:
            tags[TIMECODE] = moved

    def _video_packets(self, video: Any) -> Iterator[Any]:
        timeline = self.timeline
        in_band = BitStreamFilterContext("dump_extra=freq=keyframe", self.coded) if self.container.in_band else None
        i = 0
        for segment in self.segments:
            with open_input(segment) as container:
                for packet in video_packets(container):
                    ready = in_band.filter(packet)[0] if in_band else packet
                    ready.stream = video
                    ready.pts, ready.dts = int(timeline.pts[i]), timeline.dts(i)
                    ready.duration = timeline.duration(ready.pts)
                    if i == len(timeline.pts) - 1 and self.container.muxer in _QUICKTIME:
                        # It adds up what packets last in the order of decoding, in which another may be the last one.
                        whole = timeline.end - timeline.ordered[0]
                        ready.duration = max(ready.duration, whole - (ready.dts - timeline.dts(0)))
                    ready.time_base = timeline.time_base
                    i += 1
                    yield ready


def _blank(stream: Any, what: str) -> Written:
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else ""
    return Written(what, stream.type, codec, stream.time_base)


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
