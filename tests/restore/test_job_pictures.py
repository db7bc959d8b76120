"""Pictures, animations and names without a known ending through a whole job: what comes out holds what went in."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unsmear
from support.clips import make_clip, moving_frames
from support.hostile import PICTURES
from support.restorers import Identity
from unsmear.errors import Interrupted, UsageError
from unsmear.video import open_video, probe, read_image
from unsmear.video.pictures import encode_picture

SIZE = (64, 48)
LOSSY = {"jpg", "webp", "avif"}


def deblur(path: Path, output: Path | str | None = None, **more: object) -> unsmear.Report:
    return unsmear.deblur(path, output, model=Identity(), window=8, **more)


@pytest.mark.parametrize("ending", PICTURES)
def test_a_picture_becomes_one_of_its_format_and_depth(ending, tmp_path):
    depths = {"png": (8, 16), "tif": (8, 16), "ppm": (8, 16), "pam": (8, 16), "dpx": (8, 10, 12, 16)}.get(ending, (8,))
    for bits in depths:
        path = tmp_path / f"a{bits}.{ending}"
        pixels = moving_frames(SIZE, 1)[0]
        path.write_bytes(encode_picture(pixels if bits == 8 else pixels.astype(np.uint16) * 257, f".{ending}", bits))
        report = deblur(path)
        output = tmp_path / f"a{bits}.deblurred.{ending}"
        assert report.output == str(output)
        before, after = probe(path), probe(output)
        assert (after.bit_depth, after.codec, after.kind) == (before.bit_depth, before.codec, "image")
        difference = np.abs(read_image(output).astype(int) - read_image(path))
        assert difference.max() <= (40 if ending in LOSSY else 1000 if ending == "hdr" else 0)


@pytest.mark.parametrize(("name", "ending"), [("a.jp2", ".jp2"), ("a.xyz", ".png"), ("a", ".png"), ("a.mp4", ".png")])
def test_a_picture_that_cannot_be_written_becomes_png_and_says_so(name, ending, tmp_path):
    Image.fromarray(moving_frames(SIZE, 1)[0]).save(tmp_path / f"plain{ending}")
    path = (tmp_path / f"plain{ending}").rename(tmp_path / name)
    report = deblur(path)
    assert report.output == str(tmp_path / f"{name}.deblurred.png")
    assert "so the output is .png" in report.note
    assert np.array_equal(read_image(report.output), read_image(path))


@pytest.mark.parametrize("name", ["video", "a.lrv", "a.insv", "a.360", "a.divx", "v1.2", "a.png"])
def test_a_video_of_any_name_becomes_one_of_its_container(name, tmp_path):
    path = make_clip(tmp_path / "plain.mp4", frames=4, audio="aac").rename(tmp_path / name)
    report = deblur(path)
    assert report.output == str(tmp_path / f"{name}.deblurred.mp4")
    assert report.note.split(";")[0].endswith("so the output is .mp4")
    assert (probe(report.output).container, report.frames) == ("mov,mp4,m4a,3gp,3g2,mj2", 4)
    into = deblur(path, f"{tmp_path}/new/")
    assert into.output == str(tmp_path / "new" / f"{name}.deblurred.mp4")
    named = deblur(path, tmp_path / "named.mkv")
    assert "so the output is" not in named.note


TIMES = [40, 80, 120, 40, 500]


def animation(path: Path, frames: int = 5, **more: object) -> list[np.ndarray]:
    pictures = moving_frames(SIZE, frames)
    first, *rest = map(Image.fromarray, pictures)
    form = "WEBP" if path.suffix == ".webp" else "PNG"
    options = {"lossless": True} if form == "WEBP" else {}
    durations = [TIMES[i % 5] for i in range(frames)]
    first.save(path, form, save_all=True, append_images=rest, duration=durations, **(options | more))
    return pictures


def shown(path: Path | str) -> tuple[list[np.ndarray], list[int], int]:
    """Pictures of an animation, their durations in milliseconds, and how often it plays."""
    with Image.open(path) as image:
        pictures, durations = [], []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            pictures.append(np.asarray(image.convert("RGB")))
            durations.append(round(image.info["duration"]))
        return pictures, durations, image.info["loop"]


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.apng"])
@pytest.mark.parametrize("loop", [0, 3])
def test_an_animation_keeps_pictures_delays_and_loops(name, loop, tmp_path):
    expected = animation(tmp_path / name, loop=loop)
    report = deblur(tmp_path / name)
    assert (report.frames, Path(report.output).name) == (5, f"a.deblurred.{name[2:]}")
    got, durations, loops = shown(report.output)
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
    assert (durations, loops) == (TIMES, loop)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_a_long_animation_is_made_in_parts_and_resumed(name, tmp_path):
    expected = animation(tmp_path / name, frames=75)

    def stop(progress):
        if progress.done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        deblur(tmp_path / name, progress=stop)
    report = deblur(tmp_path / name)
    assert (report.frames, report.resumed_frames) == (75, 32)
    got, durations, _ = shown(report.output)
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
    assert durations == TIMES * 15


def test_an_animation_becomes_a_video_or_frames_where_that_is_asked_for(tmp_path):
    animation(tmp_path / "a.webp")
    deblur(tmp_path / "a.webp", tmp_path / "a.mkv")
    with open_video(tmp_path / "a.mkv") as reader:
        assert [frame.time_s for frame in reader] == pytest.approx([0, 0.04, 0.12, 0.24, 0.28])
    deblur(tmp_path / "a.webp", tmp_path / "frames", frames=True)
    assert len(list((tmp_path / "frames").iterdir())) == 5
    part = deblur(tmp_path / "a.webp", tmp_path / "part.webp", start_s=0.1, end_s=0.25)
    assert (part.frames, shown(part.output)[1]) == (2, [120, 40])
    for name in ("codec", "pix_fmt"):
        with pytest.raises(UsageError, match=f"`{name}`: .webp files leave no choice"):
            deblur(tmp_path / "a.webp", tmp_path / "b.webp", **{name: "h264"})


def test_an_animation_that_was_cut_gives_what_is_there(tmp_path):
    expected = animation(tmp_path / "a.webp")
    data = (tmp_path / "a.webp").read_bytes()
    (tmp_path / "a.webp").write_bytes(data[: len(data) * 7 // 10])
    report = deblur(tmp_path / "a.webp")
    got, durations, _ = shown(report.output)
    assert 2 <= len(got) < 5
    assert durations == TIMES[: len(got)]
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=False))
    assert f"({len(got)} frames read)" in report.damage


def test_pages_become_frames_at_their_depth(tmp_path):
    frames = [frame.astype(np.uint16) * 257 for frame in moving_frames(SIZE, 12)]
    from PIL.TiffImagePlugin import AppendingTiffWriter

    with AppendingTiffWriter(str(tmp_path / "a.tif"), True) as writer:
        for frame in frames:
            writer.write(encode_picture(frame, ".tif"))
            writer.newFrame()
    report = deblur(tmp_path / "a.tif")
    assert report.output == str(tmp_path / "a.deblurred")
    assert "its pages become PNG frames" in report.note
    found = sorted(Path(report.output).iterdir())
    assert [path.name for path in found] == [f"{i:06d}.png" for i in range(12)]
    assert all(np.array_equal(read_image(path), frame) for path, frame in zip(found, frames, strict=True))


def test_what_of_a_picture_is_kept_and_left_out_is_said(tmp_path):
    data = io.BytesIO()
    Image.new("RGBA", SIZE, (200, 120, 60, 128)).save(data, "PNG")
    (tmp_path / "a.png").write_bytes(data.getvalue() + b"a video" * 100)
    note = deblur(tmp_path / "a.png").note
    assert "the alpha channel is kept as it is" in note
    assert "700 bytes after the end of the picture" in note


@pytest.mark.parametrize("form", ["dpx", "exr"])
def test_a_folder_of_film_frames_is_a_clip(form, tmp_path):
    folder = tmp_path / "shot"
    folder.mkdir()
    frames = [frame.astype(np.uint16) * 257 for frame in moving_frames(SIZE, 10)]
    for number, frame in enumerate(frames):
        (folder / f"shot.{number:04d}.{form}").write_bytes(encode_picture(frame, f".{form}", 16))
    report = deblur(folder)
    assert report.frames == 10
    found = sorted(Path(report.output).iterdir())
    assert all(np.array_equal(read_image(path), frame) for path, frame in zip(found, frames, strict=True))
