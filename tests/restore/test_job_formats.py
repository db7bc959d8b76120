"""A whole video through a small model: every frame at its time, everything else as it was."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import unsmear
from support.clips import frame_times, make_clip, moving_frames, packets_of
from support.restorers import Negative
from unsmear.restore.job import blend
from unsmear.video import open_video, probe, write_png

VIDEOS = {
    "h264-bframes-aac": ("a.mp4", {"options": {"bf": "2"}, "audio": "aac", "rate": 24}),
    "variable-rate": ("a.mkv", {"vfr": True, "audio": "aac"}),
    "hevc": ("a.mp4", {"codec": "libx265"}),
    "vp9-opus": ("a.webm", {"codec": "libvpx-vp9", "audio": "libopus"}),
    "hevc-10-bit": ("a.mkv", {"codec": "libx265", "pix_fmt": "yuv420p10le"}),
    "rotated": ("a.mp4", {"rotation": 90}),
    "odd-sized": ("a.mkv", {"size": (101, 67), "pix_fmt": "yuv444p"}),
    "mjpeg": ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "late-start": ("a.mkv", {"start": 500, "time_base": Fraction(1, 1000)}),
}
KEPT = ("kind", "width", "height", "codec", "pixel_format", "bit_depth", "rotation", "display_matrix", "container")


def frames_of(path: Path) -> list[np.ndarray]:
    with open_video(path) as reader:
        return [frame.rgb for frame in reader]


def write_folder(folder: Path, pictures: list[np.ndarray]) -> Path:
    folder.mkdir()
    for i, picture in enumerate(pictures):
        write_png(folder / f"shot{i}.png", picture)
    return folder


@pytest.mark.parametrize(("name", "options"), VIDEOS.values(), ids=VIDEOS)
def test_video_keeps_frames_times_and_sound(name, options, tmp_path, tiny):
    source = make_clip(tmp_path / name, frames=19, **options)
    report = unsmear.deblur(source, model=tiny, window=8)
    output = source.with_name(f"a.deblurred{source.suffix}")
    assert report.output == str(output)
    assert report.frames == 19
    assert frame_times(output) == frame_times(source)
    before, after = probe(source), probe(output)
    assert {k: getattr(after, k) for k in KEPT} == {k: getattr(before, k) for k in KEPT}
    if options.get("audio"):
        assert packets_of(output, "audio") == packets_of(source, "audio")
    differences = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames_of(source), frames_of(output), strict=True)]
    deep = 257 if before.bit_depth > 8 else 1
    assert all(0.5 * deep < d < 60 * deep for d in differences), "each frame is restored, and is that frame"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, output.name])


def test_folder_of_frames(tmp_path, tiny):
    source = write_folder(tmp_path / "shots", moving_frames((96, 64), 11))
    report = unsmear.deblur(source, model=tiny, window=8)
    output = tmp_path / "shots.deblurred"
    assert report.output == str(output)
    assert sorted(p.name for p in output.iterdir()) == [f"{i:06d}.png" for i in range(11)]


def test_folder_of_frames_as_a_video(tmp_path, tiny):
    source = write_folder(tmp_path / "shots", moving_frames((96, 64), 37))
    unsmear.deblur(source, tmp_path / "made.mp4", model=tiny, window=8, compare=True)
    expected = [Fraction(i, 25) for i in range(37)]
    assert frame_times(tmp_path / "made.mp4") == expected
    assert frame_times(tmp_path / "made.compare.mp4") == expected


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_one_image(suffix, tmp_path, tiny):
    picture = moving_frames((97, 65), 1)[0]
    source = tmp_path / f"photo{suffix}"
    cv2.imwrite(str(source), picture[..., ::-1])
    report = unsmear.deblur(source, model=tiny)
    output = tmp_path / f"photo.deblurred{suffix}"
    assert report.output == str(output)
    given, restored = frames_of(source)[0], frames_of(output)[0]
    assert restored.shape == picture.shape
    # There is no motion to go by: nothing is changed but by a lossy format.
    assert np.abs(restored.astype(int) - given).mean() <= (0 if suffix == ".png" else 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([source.name, output.name])


def test_sixteen_bit_image_keeps_its_depth(tmp_path, tiny):
    picture = moving_frames((96, 64), 1)[0].astype(np.uint16) * 257
    write_png(tmp_path / "deep.png", picture)
    unsmear.deblur(tmp_path / "deep.png", model=tiny, strength=0)
    assert np.array_equal(frames_of(tmp_path / "deep.deblurred.png")[0], picture)


@pytest.mark.parametrize("depth", [8, 10])
def test_strength_blends_from_the_very_input(depth, tmp_path, tiny):
    options = {"codec": "libx265", "pix_fmt": "yuv420p10le"} if depth == 10 else {}
    source = make_clip(tmp_path / "a.mkv", frames=10, **options)
    outputs = {}
    for strength in (0.0, 0.5, 1.0):
        unsmear.deblur(source, tmp_path / f"{strength}/", model=tiny, window=8, strength=strength, frames=True)
        outputs[strength] = np.stack(frames_of(tmp_path / f"{strength}")).astype(int)
    decoded = np.stack(frames_of(source))
    assert decoded.dtype == (np.uint16 if depth == 10 else np.uint8)
    assert np.array_equal(outputs[0.0], decoded)
    assert np.array_equal(outputs[0.5], blend(decoded, outputs[1.0].astype(decoded.dtype), 0.5))
    low, high = np.minimum(outputs[0.0], outputs[1.0]), np.maximum(outputs[0.0], outputs[1.0])
    assert ((low <= outputs[0.5]) & (outputs[0.5] <= high)).all()
    assert (outputs[0.5] != outputs[0.0]).mean() > 0.5


def test_comparison_shows_before_and_after(tmp_path):
    source = make_clip(tmp_path / "a.mkv", frames=19, vfr=True, audio="aac")
    unsmear.deblur(source, tmp_path / "out.mkv", model=Negative(), window=8, compare=True, crf=1)
    compared = tmp_path / "out.compare.mp4"
    assert probe(compared).width == 2 * probe(source).width
    assert frame_times(compared) == frame_times(source)
    for frame, before in zip(frames_of(compared), frames_of(source), strict=True):
        left, right = np.split(frame, 2, axis=1)
        assert np.abs(left.astype(int) - before).mean() < 6  # it is an encode of noisy colours
        assert np.abs(right.astype(int) - (255 - before)).mean() < 6
        assert np.abs(right.astype(int) - before).mean() > 25


def test_progress_counts_to_the_total(tmp_path, tiny):
    seen = []
    source = make_clip(tmp_path / "a.mp4", frames=19)
    unsmear.deblur(source, model=tiny, window=8, progress=seen.append)
    assert [(p.done, p.total) for p in seen] == [(8, 19), (16, 19), (19, 19)]
    assert all(p.frames_per_second > 0 for p in seen)


RANGES = {
    "middle": (0.4, 0.8, range(10, 20)),
    "between-frames": (0.41, 0.79, range(11, 20)),
    "at-a-chunk": (0.32, None, range(8, 30)),
    "from-the-start": (None, 0.5, range(13)),
    "last": (1.15, 9.0, range(29, 30)),
}


@pytest.mark.parametrize(("start", "end", "wanted"), RANGES.values(), ids=RANGES)
def test_part_of_a_video(start, end, wanted, tmp_path, tiny):
    source = make_clip(tmp_path / "a.mp4", frames=30, rate=25, audio="aac")
    report = unsmear.deblur(source, model=tiny, window=8, strength=0, start_s=start, end_s=end, crf=1)
    output = tmp_path / "a.deblurred.mp4"
    assert report.frames == len(wanted)
    times = frame_times(output)
    assert times == [Fraction(i - wanted[0], 25) for i in wanted]
    originals = frames_of(source)
    for index, frame in zip(wanted, frames_of(output), strict=True):
        differences = [np.abs(frame.astype(int) - other).mean() for other in originals]
        assert int(np.argmin(differences)) == index
    with av.open(str(output)) as container:
        sound = [float(p.pts * p.time_base) for p in container.demux(audio=0) if p.size]
    assert -0.05 < min(sound) < 0.05
    assert max(sound) < len(wanted) / 25


def test_times_count_from_the_first_frame(tmp_path, tiny):
    source = make_clip(tmp_path / "a.mkv", frames=20, start=90_000, time_base=Fraction(1, 1000))
    report = unsmear.deblur(source, tmp_path / "out", model=tiny, window=8, start_s=0.4, end_s=0.6, frames=True)
    assert report.frames == 5
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{i:06d}.png" for i in range(10, 15)]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_a_folder_of_frames_becomes_what_every_player_shows(kind, suffix, tmp_path):
    source = tmp_path / "shots"
    source.mkdir()
    for i, picture in enumerate(moving_frames((96, 64), 9)):
        cv2.imwrite(str(source / f"{i}{kind}"), picture[..., ::-1])
    report = unsmear.deblur(source, tmp_path / f"out{suffix}", model=Negative(), window=8)
    info = probe(tmp_path / f"out{suffix}")
    assert (info.codec, info.pixel_format) == ("h264", "yuv420p")
    assert "libx264 yuv420p at 25 frames/s; for others see `codec`, `pix_fmt`, `fps`" in report.note
    for frame, before in zip(frames_of(tmp_path / f"out{suffix}"), frames_of(source), strict=True):
        assert np.abs(frame.astype(int) - (255 - before)).mean() < 6
    chosen = {"codec": "ffv1", "fps": 12} if suffix == ".mkv" else {"codec": "hevc", "pix_fmt": "yuv444p", "fps": 12}
    report = unsmear.deblur(source, tmp_path / f"chosen{suffix}", model=Negative(), window=8, **chosen)
    info = probe(tmp_path / f"chosen{suffix}")
    assert (info.codec, info.pixel_format) == (chosen["codec"], chosen.get("pix_fmt", info.pixel_format))
    assert ("for others see" in report.note) == ("pix_fmt" not in chosen)
    if suffix == ".mkv":  # lossless on request stays lossless
        made = np.stack(frames_of(tmp_path / "chosen.mkv"))
        assert np.array_equal(made, 255 - np.stack(frames_of(source)))


RATES = {24: "24", 23.976: "24000/1001", 59.94: "60000/1001", 1: "1", 12.5: "25/2"}


@pytest.mark.parametrize(("fps", "rate"), RATES.items())
def test_the_rate_of_a_folder_of_frames(fps, rate, tmp_path):
    source, rate = write_folder(tmp_path / "shots", moving_frames((96, 64), 9)), Fraction(rate)
    unsmear.deblur(source, tmp_path / "out.mp4", model=Negative(), window=8, fps=fps, compare=True)
    for name in ("out.mp4", "out.compare.mp4"):
        assert frame_times(tmp_path / name) == [i / rate for i in range(9)]
        assert probe(tmp_path / name).duration_s == pytest.approx(9 / float(rate), abs=1e-3)
    part = unsmear.deblur(source, tmp_path / "p", model=Negative(), window=8, fps=fps, frames=True, start_s=3.5 / fps)
    assert part.frames == 5 and part.blur_per_second[0]["second"] == int(4 / float(rate))


@pytest.mark.parametrize("name", ["a.mp4", "a.png"])
def test_a_rate_is_for_folders_alone(name, tmp_path):
    make_clip(tmp_path / "a.mp4", frames=3)
    write_png(tmp_path / "a.png", moving_frames(frames=1)[0])
    with pytest.raises(unsmear.UsageError, match="`fps` 24 is for folders of frames"):
        unsmear.deblur(tmp_path / name, model=Negative(), fps=24)
    for wrong in (0, -1, float("nan"), 2000):
        with pytest.raises(unsmear.UsageError, match="`fps`"):
            unsmear.Options(fps=wrong)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("folder", [False, True], ids=["image", "frames"])
def test_gray_stays_gray(folder, depth, tmp_path):
    gray = moving_frames((96, 64), 3)
    gray = [picture[..., 0].astype(np.uint16) * 257 if depth == 16 else picture[..., 0] for picture in gray]
    (tmp_path / "in").mkdir()
    for i, picture in enumerate(gray):
        cv2.imwrite(str(tmp_path / "in" / f"{i:06d}.png"), picture)
    source = tmp_path / "in" if folder else tmp_path / "in" / "000000.png"
    output = tmp_path / "out" if folder else tmp_path / "out.png"
    unsmear.deblur(source, output, model=Negative(), strength=0 if folder else 1)
    for i, picture in enumerate(gray if folder else gray[:1]):
        made = cv2.imread(str(output / f"{i:06d}.png" if folder else output), cv2.IMREAD_UNCHANGED)
        assert made.shape == picture.shape and made.dtype == picture.dtype
        assert np.array_equal(made, picture if folder else 255 - picture)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("size", [(97, 65), (320, 200)], ids=["small", "labelled"])
def test_the_comparison_of_an_image_is_an_image(size, suffix, tmp_path):
    picture = moving_frames(size, 1)[0]
    cv2.imwrite(str(tmp_path / f"a{suffix}"), picture[..., ::-1])
    unsmear.deblur(tmp_path / f"a{suffix}", model=Negative(), compare=True)
    names = ["a.deblurred.compare" + suffix, "a.deblurred" + suffix, "a" + suffix]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    both = frames_of(tmp_path / names[0])[0].astype(int)
    assert both.shape == (size[1], 2 * size[0], 3)
    given, made = (frames_of(tmp_path / name)[0] for name in (names[2], names[1]))
    away = slice(size[1] // 3, None)  # from the labels, which are in the upper corners
    for half, expected in zip(np.split(both, 2, axis=1), (given, made), strict=True):
        assert np.abs(half - expected)[away].mean() < 4
        differs = np.abs(half - expected)[:24, :60].mean() > 20
        assert differs == (size[1] >= 160), "labels are where there is room for them"


def test_a_pixel_format_that_changes_is_named(tmp_path):
    kinds = {"yuv420p": None, "yuv420p10le": (9, 16, 9, 1)}
    clips = [make_clip(tmp_path / f"{k}.h264", pix_fmt=k, colour=colour, frames=5) for k, colour in kinds.items()]
    source = tmp_path / "a.h264"
    source.write_bytes(b"".join(clip.read_bytes() for clip in clips))
    note = unsmear.deblur(source, model=Negative()).note
    for what in ("pixel format", "colour transfer", "set of colour primaries"):
        assert f"the {what} of the input changes near frame" in note
