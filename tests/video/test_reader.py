"""What comes out of a file frame by frame, and the one line that bad files give."""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from support.clips import make_clip, moving_frames
from unsmear.errors import DamagedVideo, UnsmearError, UnsupportedVideo
from unsmear.video import find_inputs, open_video, probe, write_png


def damage(path: Path, name: str, keep: float) -> Path:
    data = path.read_bytes()
    cut = path.with_name(name)
    cut.write_bytes(data[: int(len(data) * keep)])
    return cut


def test_frames_come_in_order_with_their_times(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=15, vfr=True)
    with open_video(source) as reader:
        frames = list(reader)
        again = list(reader)
    assert [frame.index for frame in frames] == list(range(15))
    assert all(a.time_s < b.time_s for a, b in itertools.pairwise(frames))
    assert all(f.time_s == pytest.approx(float(f.pts * reader.info.time_base)) for f in frames)
    assert {(f.rgb.shape, f.rgb.dtype.name, f.luma.shape, f.luma.dtype.name) for f in frames} == {
        ((64, 96, 3), "uint8", (64, 96), "uint8")
    }
    assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(frames, again, strict=True))
    assert [frame.index for frame in reader.frames(3, 6)] == [3, 4, 5]


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "shift"),
    [
        ("libx264", "yuv420p", 0),
        ("libx265", "yuv420p10le", 2),
        ("ffv1", "yuv422p12le", 4),
    ],
)
def test_luma_is_the_decoders_own_plane(codec: str, pix_fmt: str, shift: int, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", codec=codec, pix_fmt=pix_fmt, size=(98, 66), frames=3)
    with av.open(str(source)) as container:
        plane = next(container.decode(video=0)).planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(66, -1)
    own = rows.view(np.uint16)[:, :98] >> shift if shift else rows[:, :98]
    frame = next(iter(open_video(source)))
    assert np.array_equal(frame.luma, own)
    assert frame.rgb.dtype == (np.uint16 if shift else np.uint8)


def test_luma_of_rgb_sources_is_bt601(tmp_path: Path) -> None:
    red = np.zeros((64, 96, 3), np.uint8)
    red[..., 0] = 255
    source = make_clip(tmp_path / "a.mov", codec="qtrle", pix_fmt="rgb24", content=[red] * 2)
    frame = next(iter(open_video(source)))
    assert np.array_equal(frame.rgb, red)
    assert set(np.unique(frame.luma)) == {76}


@pytest.mark.parametrize(("codec", "pix_fmt"), [("png", "gray"), ("gif", "rgb8"), ("png", "rgba")])
def test_gray_and_palettes_become_rgb(codec: str, pix_fmt: str, tmp_path: Path) -> None:
    suffix = ".gif" if codec == "gif" else ".mov"
    source = make_clip(tmp_path / f"a{suffix}", codec=codec, pix_fmt=pix_fmt, frames=3)
    frames = list(open_video(source))
    assert [frame.rgb.shape for frame in frames] == [(64, 96, 3)] * 3
    assert frames[0].rgb.std() > 5


def test_probe_says_what_is_there(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "a.mp4",
        codec="libx265",
        pix_fmt="yuv420p10le",
        frames=10,
        rotation=90,
        sample_aspect_ratio=Fraction(4, 3),
        colour=(9, 16, 9, 1),
    )
    info = probe(source)
    assert (info.kind, info.width, info.height, info.codec) == ("video", 96, 64, "hevc")
    assert (info.pixel_format, info.bit_depth, info.frames) == ("yuv420p10le", 10, 10)
    assert (info.frame_rate, info.duration_s) == (25, pytest.approx(0.4))
    assert (info.rotation, info.sample_aspect_ratio) == (90, Fraction(4, 3))
    assert (info.color_primaries, info.color_trc, info.colorspace, info.color_range) == (9, 16, 9, 1)


@pytest.mark.parametrize(
    ("name", "codec", "options", "ending"),
    [
        ("a.h264", "libx264", {}, ".h264"),
        ("a.hevc", "libx265", {}, ".hevc"),
        ("a.m2v", "mpeg2video", {}, ".m2v"),
        ("a.dv", "dvvideo", {"size": (720, 480), "pix_fmt": "yuv411p"}, ".mov"),
    ],
)
def test_raw_streams_keep_the_rate_of_their_headers(name, codec, options, ending, tmp_path: Path) -> None:
    """FFmpeg supposes averages of 25 and 60000 frames/s."""
    rate = Fraction(30000, 1001)
    info = probe(make_clip(tmp_path / name, codec=codec, rate=rate, frames=6, **options))
    assert (info.frame_rate, info.suffix) == (rate, ending)


def test_names_that_ffmpeg_would_read_as_something_else(tmp_path: Path) -> None:
    plain = make_clip(tmp_path / "plain.mp4", frames=3)
    for name in ("http:x%03d.mp4", "-dash.mp4", "with space 'quote'.mp4"):
        odd = plain.rename(tmp_path / name)
        assert len(list(open_video(odd))) == 3
        plain = odd


def bad_inputs(tmp_path: Path) -> dict[str, tuple[Path, type[UnsmearError], str]]:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    (tmp_path / "lines.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("nothing")
    whole = make_clip(tmp_path / "whole.mp4", frames=20, audio="aac")
    fast = make_clip(tmp_path / "fast.mp4", frames=40, container_options={"movflags": "faststart"})
    with av.open(str(tmp_path / "audio.mp4"), "w") as container, av.open(str(whole)) as original:
        stream = container.add_stream_from_template(original.streams.audio[0], opaque=True)
        for packet in original.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    zeroed = bytearray(fast.read_bytes())
    middle = len(zeroed) // 2
    zeroed[middle : middle + 3000] = bytes(3000)
    (tmp_path / "zeroed.mp4").write_bytes(zeroed)
    small = make_clip(tmp_path / "small.ts", frames=6)
    large = make_clip(tmp_path / "large.ts", frames=6, size=(128, 96))
    (tmp_path / "sizes.ts").write_bytes(small.read_bytes() + large.read_bytes())
    mkv = make_clip(tmp_path / "whole.mkv", frames=40)
    return {
        "missing": (tmp_path / "missing.mp4", UnsupportedVideo, "no such file"),
        "empty": (tmp_path / "empty.mp4", DamagedVideo, "empty"),
        "text": (tmp_path / "text.mp4", DamagedVideo, "not a video"),
        "subtitles": (tmp_path / "lines.srt", UnsupportedVideo, "text"),
        "folder": (tmp_path / "folder", UnsupportedVideo, "no images"),
        "audio": (tmp_path / "audio.mp4", UnsupportedVideo, "no video stream"),
        "no index": (damage(whole, "moov.mp4", 0.5), DamagedVideo, "cut short"),
        "cut in the middle": (damage(fast, "cut.mp4", 0.7), DamagedVideo, r"after frame \d+ "),
        "cut Matroska": (damage(mkv, "cut.mkv", 0.6), DamagedVideo, r"after frame \d+ "),
        "zeroed": (tmp_path / "zeroed.mp4", DamagedVideo, r"after frame \d+ "),
        "two sizes": (tmp_path / "sizes.ts", UnsupportedVideo, "frame 6 is 128x96"),
    }


def test_bad_inputs_give_one_clear_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cases = bad_inputs(tmp_path)
    capfd.readouterr()
    for name, (path, kind, words) in cases.items():
        with pytest.raises(kind, match=words) as error:
            list(open_video(path))
        message = str(error.value)
        assert message.startswith(f"{path}: "), name
        assert "\n" not in message, name
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_cut_file_still_gives_the_frames_before_the_cut(tmp_path: Path) -> None:
    fast = make_clip(tmp_path / "fast.mp4", frames=40, container_options={"movflags": "faststart"})
    expected = [frame.rgb for frame in open_video(fast)]
    got = []
    with pytest.raises(DamagedVideo) as error:
        for frame in open_video(damage(fast, "cut.mp4", 0.8)):
            got.append(frame.rgb)
    assert f"({len(got)} frames read)" in str(error.value)
    assert 5 < len(got) < 40
    assert all(np.array_equal(a, b) for a, b in zip(got[:-4], expected, strict=False))


def test_find_inputs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos, images = tmp_path / "videos", tmp_path / "images"
    videos.mkdir()
    images.mkdir()
    clip = make_clip(videos / "clip10.mp4", frames=2)
    (videos / "clip9.mp4").write_bytes(clip.read_bytes())
    (videos / ".hidden.mp4").write_bytes(b"")
    write_png(images / "0.png", moving_frames(frames=1)[0])
    assert find_inputs(clip) == [clip]
    assert find_inputs(videos) == [videos / "clip9.mp4", clip]
    assert find_inputs(images) == [images]
    (images / "clip.mp4").write_bytes(clip.read_bytes())
    assert find_inputs(images) == [images / "clip.mp4"]
    assert "1 image is skipped" in caplog.text
    (tmp_path / "none").mkdir()
    for bad in (tmp_path / "none", tmp_path / "missing"):
        with pytest.raises(UnsupportedVideo):
            find_inputs(bad)
