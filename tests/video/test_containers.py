"""What the table of containers promises: written in two segments by the bundled encoders, read back, compared."""

import importlib.util
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from support.clips import make_clip, moving_frames, packets_of
from support.joining import rewrite, tone_of
from unsmear.errors import OutputError, UsageError
from unsmear.video import SegmentWriter, choose_encoding, join_segments, open_video, probe
from unsmear.video.animated import ANIMATIONS, lossless_encoding, write_animation
from unsmear.video.containers import CONTAINERS, Container, find_container
from unsmear.video.encoding import container_accepts

ROOT = Path(__file__).parents[2]
FRAMES = 10
SIZES = {"dvvideo": (720, 576), "dnxhd": (352, 288)}
# One codec of each container that must come first, by how its pictures are packed; the others take minutes.
QUICK = {
    *(("mp4", "hevc"), ("mov", "prores"), ("3gp", "h263"), ("f4v", "h264"), ("matroska", "utvideo"), ("webm", "vp9")),
    *(("avi", "h264"), ("avi", "rawvideo"), ("avi", "utvideo"), ("mpegts", "h264"), ("mpeg", "mpeg2video")),
    *(("vob", "mpeg2video"), ("flv", "flv1"), ("asf", "wmv2"), ("ogg", "vp8"), ("mxf", "mpeg2video"), ("nut", "ffv1")),
    *(("yuv4mpegpipe", "rawvideo"), ("rawvideo", "rawvideo"), ("ivf", "vp9"), ("obu", "av1"), ("h264", "h264")),
    *(("hevc", "hevc"), ("mpeg1video", "mpeg1video"), ("mpeg2video", "mpeg2video"), ("mjpeg", "mjpeg")),
    *(("gif", "gif"), ("apng", "apng"), ("webp", "webp"), ("matroska", "rawvideo"), ("nut", "rawvideo")),
}
ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "av1": "libsvtav1",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
    "msmpeg4v3": "msmpeg4",
    "flv1": "flv",
    "prores": "prores_ks",
    "mp3": "libmp3lame",
    "opus": "libopus",
}
# Sound that no bundled encoder makes, or only one that needs another clip than a tone of 48 kHz.
NOT_MADE = {"dts", "truehd", "amr_nb", "amr_wb", "vorbis", "wmav1", "wmav2"}
QUICK_SOUND = {
    *(("mp4", "alac"), ("mov", "pcm_s24le"), ("matroska", "flac"), ("webm", "opus"), ("avi", "ac3"), ("avi", "aac")),
    *(("avi", "adpcm_ms"), ("mpegts", "eac3"), ("mpeg", "mp2"), ("flv", "mp3"), ("asf", "ac3"), ("ogg", "opus")),
    *(("mxf", "pcm_s16le"), ("nut", "aac"), ("3gp", "aac")),
}


def cases(kind: str, quick: set[tuple[str, str]], but: set[str] = frozenset()) -> list[object]:
    """Every container with every codec of its ``video`` or ``sound``; all but the ``quick`` ones are slow."""
    return [
        pytest.param(container, codec, id=f"{container.muxer}-{codec}", marks=() if pair in quick else pytest.mark.slow)
        for container in CONTAINERS
        for codec in getattr(container, kind)
        if codec not in but
        for pair in [(container.muxer, codec)]
    ]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[tuple[int, int], Path]:
    """The same moving picture in several sizes, without loss."""
    folder = tmp_path_factory.mktemp("sources")
    sizes = {(176, 144), *SIZES.values()}
    return {size: make_clip(folder / f"{size[0]}.mkv", codec="ffv1", size=size, frames=FRAMES) for size in sizes}


def name_of(folder: Path, container: Container, size: tuple[int, int]) -> Path:
    """An output's name; that of raw video has to say what it holds."""
    raw = f"_{size[0]}x{size[1]}_25fps_8bit_420" if container.muxer == "rawvideo" else ""
    return folder / f"out{raw}{container.suffixes[0]}"


@pytest.mark.parametrize(("container", "codec"), cases("video", QUICK))
def test_pictures_come_back(container: Container, codec: str, sources, tmp_path: Path) -> None:
    size = SIZES.get(codec, (176, 144))
    source, output = sources[size], name_of(tmp_path, container, size)
    encoder = ENCODERS.get(codec, codec)
    with open_video(source) as reader:
        info, frames = reader.info, list(reader)
    suffix = container.suffixes[0]
    encoding = (
        lossless_encoding(info, suffix)
        if container.one_stream
        else choose_encoding(info, codec=encoder, container_suffix=suffix)
    )
    segments = [tmp_path / "0", tmp_path / "1"]
    for segment, part in zip(segments, (frames[:5], frames[5:]), strict=True):
        with SegmentWriter(segment, info, encoding, info.width, info.height) as writer:
            for frame in part:
                writer.write(frame.rgb, frame.pts, 3 * frame.duration if frame is frames[-1] else frame.duration)
    if container.one_stream:
        notes = write_animation(info, segments, output)
    else:
        notes = join_segments(source, segments, output).notes
    assert notes == []
    with open_video(output) as reader:
        found, written = list(reader), reader.info
    assert (written.width, written.height, len(found)) == (*size, FRAMES)
    if container.times != "order":  # of streams without times, readers invent some
        assert [round(b.time_s - a.time_s, 2) for a, b in pairwise(found)] == [0.04] * (FRAMES - 1)
    if container.ends:
        assert lasts_s(output) == pytest.approx((FRAMES + 2) / 25, abs=0.002)
    for frame, original in zip(found, frames, strict=True):
        rgb = frame.rgb >> 8 if frame.rgb.dtype == np.uint16 else frame.rgb
        assert np.abs(rgb.astype(int) - original.rgb).mean() < 14, "it is that frame, as far as the codec keeps it"


def lasts_s(path: Path) -> float:
    """When the last frame of a file goes, seconds after its first one came."""
    with open_video(path) as reader:
        times = [(frame.time_s, frame.duration or 0) for frame in reader]
        base = float(reader.info.time_base or 0)
    by_frames = times[-1][0] + times[-1][1] * base - times[0][0]
    if path.suffix in (".png", ".apng", ".webp", ".gif"):
        return by_frames
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stated = stream.duration * stream.time_base if stream.duration else Fraction(container.duration, 1_000_000)
    return max(by_frames, float(stated))


def with_sound(folder: Path, codec: str, **options: object) -> Path:
    """A clip with a tone in ``codec``, in a container that holds it."""
    encoder = ENCODERS.get(codec, codec)
    for suffix in (".mkv", ".mov", ".avi", ".wmv"):
        try:
            return make_clip(folder / f"s{suffix}", codec="mpeg4", audio=encoder, frames=15, **options)  # type: ignore[arg-type]
        except (ValueError, av.error.FFmpegError):
            continue
    raise AssertionError(f"no container takes {codec}")


@pytest.mark.parametrize(("container", "codec"), cases("sound", QUICK_SOUND, NOT_MADE))
def test_sound_is_copied_byte_for_byte(container: Container, codec: str, tmp_path: Path) -> None:
    source = with_sound(tmp_path, codec)
    output, report = rewrite(source, container.suffixes[0])
    assert [note for note in report.notes if "audio" in note or "express" in note] == []
    before, after = packets_of(source, "audio"), packets_of(output, "audio")
    if codec.startswith(("pcm", "adpcm", "wma")):  # cut into packets anew
        one, other = (b"".join(data for _, data in packets) for packets in (before, after))
        assert one == other if container.muxer != "mxf" else one.startswith(other.rstrip(b"\0"))
    else:
        assert len(before) - len(after) in (0, 1)  # AVI has no time for what comes before the picture
        before = before[len(before) - len(after) :]
        # A transport stream has a header before each packet of AAC.
        assert all(new.endswith(old) for (_, old), (_, new) in zip(before, after, strict=True))
    lasts = [packets[-1][0] - packets[0][0] for packets in (before, after)]
    assert abs(lasts[0] - lasts[1]) < Fraction(1, 12)


@pytest.mark.parametrize(
    ("codec", "suffix", "becomes", "loses"),
    [
        ("aac", ".webm", "opus", True),
        ("aac", ".mxf", "pcm_s16le", True),
        ("libopus", ".avi", "ac3", True),
        ("flac", ".flv", "aac", True),
        ("libopus", ".wmv", "wmav2", True),
        ("pcm_s16le", ".mpg", "mp2", True),
        ("pcm_s16be", ".avi", "pcm_s16le", False),
        ("flac", ".mov", "pcm_s16le", False),
        ("pcm_mulaw", ".mkv", "opus", True),
    ],
)
def test_sound_that_does_not_fit_is_encoded_anew(codec: str, suffix: str, becomes: str, loses: bool, tmp_path) -> None:
    source = with_sound(tmp_path, codec)
    output, report = rewrite(source, suffix)
    (note,) = [note for note in report.notes if "audio" in note]
    assert "encoded anew" in note
    with av.open(str(output)) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == becomes
    before, after = tone_of(source), tone_of(output)
    assert after[2] == pytest.approx(before[2], rel=0.05)
    assert after[0] == pytest.approx(before[0], abs=0.06)
    assert after[1] == pytest.approx(before[1], abs=0.06)
    if not loses:
        sound = [decoded(path) for path in (source, output)]
        assert np.array_equal(*(samples[: min(map(len, sound))] for samples in sound))


def decoded(path: Path) -> np.ndarray:
    """16-bit samples of the first channel."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="s16", layout="mono")
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


@pytest.mark.parametrize(("suffix", "audio"), [(".avi", "pcm_s16le"), (".avi", "libmp3lame"), (".mxf", "pcm_s16le")])
def test_sound_that_begins_later_stays_with_its_picture(suffix: str, audio: str, tmp_path: Path) -> None:
    source = delayed(with_sound(tmp_path, audio), tmp_path / "late.mkv", 0.24)
    output, report = rewrite(source, suffix)
    assert any("encoded anew" in note for note in report.notes)
    before, after = tone_of(source), tone_of(output)
    assert before[0] == pytest.approx(0.24, abs=0.03)
    assert after[0] == pytest.approx(before[0], abs=0.03)
    assert probe(output).frames in (None, 15)
    with open_video(output) as reader:
        assert sum(1 for _ in reader) == 15


def delayed(source: Path, path: Path, seconds: float) -> Path:
    """A copy whose sound begins later, and ends with the picture."""
    with av.open(str(source)) as original, av.open(str(path), "w") as target:
        copies = {s.index: target.add_stream_from_template(s, opaque=True) for s in original.streams}
        for packet in original.demux():
            if not packet.size:
                continue
            if packet.stream.type == "audio":
                if float((packet.pts + packet.duration) * packet.time_base) + seconds > 0.6:
                    continue
                packet.pts = packet.dts = packet.pts + round(seconds / packet.time_base)
            packet.stream = copies[packet.stream.index]
            target.mux(packet)
    return path


def test_endings_name_one_container_each() -> None:
    endings = [suffix for container in CONTAINERS for suffix in container.suffixes]
    assert len(endings) == len(set(endings))
    assert find_container(".MP4").muxer == "mp4"
    with pytest.raises(UsageError, match=r"ends in \.mp4 or \.mkv"):
        find_container(".xyz")
    assert {find_container(suffix).muxer for suffix in ANIMATIONS} == {c.muxer for c in CONTAINERS if c.one_stream}


def test_what_muxers_take_and_nothing_can_read_is_refused() -> None:
    assert not container_accepts(".ts", "libvpx-vp9")
    assert not container_accepts(".mov", "rawvideo")
    assert container_accepts(".ts", "libx264")


def test_a_picture_that_does_not_fit_is_known_before_the_work(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", pix_fmt="bgr0")
    with pytest.raises((OutputError, UsageError), match=r"raw video|cannot hold"):
        rewrite(source, ".yuv")


def test_the_page_has_the_table() -> None:
    spec = importlib.util.spec_from_file_location("formats", ROOT / "tools" / "formats.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = (ROOT / "docs" / "formats.md").read_text()
    assert tool.BEGIN + tool.table() + tool.END in page, "run python tools/formats.py --write"


def test_moving_frames_differ() -> None:
    """The comparison of pictures could not fail otherwise."""
    first, second = moving_frames((176, 144), 2)
    assert np.abs(first.astype(int) - second).mean() > 14
