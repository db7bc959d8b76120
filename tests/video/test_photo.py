"""Photographs: alpha, colour profile and camera data, and pictures that are turned by their tags."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

import unsmear
from support.clips import make_clip, moving_frames
from support.restorers import Negative
from unsmear.video import open_video, probe, read_image
from unsmear.video.pictures import read_picture

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PICTURE = moving_frames(frames=1)[0]
ALPHA = (np.arange(96, dtype=np.uint8) * 2 + 1)[None].repeat(64, 0)  # WebP forgets colours that nobody can see
RGBA = np.dstack([PICTURE, ALPHA])
ORIENTATION, MAKER, EXPOSURE, CAMERA = 0x0112, 0x010F, 0x829A, 0x8769


def exif(orientation: int = 1) -> Image.Exif:
    found = Image.Exif()
    found[MAKER], found[ORIENTATION] = "Maker", orientation
    found.get_ifd(CAMERA)[EXPOSURE] = 0.25
    loaded = Image.Exif()
    loaded.load(found.tobytes())
    loaded.get_ifd(CAMERA)  # what has not been looked at is not written to TIFF
    return loaded


def saved(path: Path, pixels: np.ndarray, **options) -> Path:
    exactly = {".webp": {"lossless": True}, ".jpg": {"quality": 98}}.get(path.suffix, {})
    Image.fromarray(pixels).save(path, **exactly, **options)
    return path


def restored(source: Path, name: str | None = None, **options) -> tuple[Path, str]:
    target = None if name is None else source.with_name(name)
    report = unsmear.deblur(source, target, model=Negative(), strength=0, **options)
    return Path(report.output), report.note


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
def test_alpha_stays_and_colours_with_it(suffix, tmp_path):
    source = saved(tmp_path / f"a{suffix}", RGBA)
    picture = read_picture(source)
    assert np.array_equal(picture.rgb, PICTURE) and np.array_equal(picture.alpha, ALPHA)
    assert np.array_equal(read_image(source), PICTURE), "colours are not multiplied by alpha"
    output, note = restored(source)
    assert np.array_equal(np.asarray(Image.open(output)), RGBA)
    assert note.startswith("the alpha channel is kept as it is")
    assert probe(source).alpha


@pytest.mark.parametrize(("mode", "suffix"), [("LA", ".png"), ("LA", ".tiff"), ("P", ".png"), ("RGBA", ".tga")])
def test_alpha_of_other_kinds_of_pictures(mode, suffix, tmp_path):
    given = Image.fromarray(RGBA)
    given = given.quantize(8) if mode == "P" else given.convert(mode)
    given.save(tmp_path / f"a{suffix}")
    expected = np.asarray(given.convert("RGBA"))
    output, note = restored(tmp_path / f"a{suffix}")
    assert np.array_equal(np.asarray(Image.open(output).convert("RGBA")), expected)
    assert "alpha channel is kept" in note


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_alpha_of_16_bits(suffix, tmp_path):
    deep = RGBA.astype(np.uint16) * 257 + 3
    cv2.imwrite(str(tmp_path / f"a{suffix}"), cv2.cvtColor(deep, cv2.COLOR_RGBA2BGRA))
    output, _ = restored(tmp_path / f"a{suffix}")
    assert np.array_equal(read_picture(output).alpha, deep[..., 3])
    written = cv2.cvtColor(cv2.imread(str(output), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)
    assert np.array_equal(written, deep)


def test_colours_that_were_multiplied_by_alpha(tmp_path):
    """As Photoshop writes them."""
    alpha = np.maximum(ALPHA, 100)
    multiplied = np.rint(PICTURE * (alpha[..., None] / 255)).astype(np.uint8)
    source = saved(tmp_path / "a.tiff", np.dstack([multiplied, alpha]))
    unassociated = struct.pack("<HHII", 338, 3, 1, 2)
    assert source.read_bytes().count(unassociated) == 1
    source.write_bytes(source.read_bytes().replace(unassociated, struct.pack("<HHII", 338, 3, 1, 1)))
    output, _ = restored(source)
    written = np.asarray(Image.open(output))
    assert np.array_equal(written[..., 3], alpha)
    assert np.abs(written[..., :3].astype(int) - PICTURE).max() <= 2, "of at most 156 levels"


def test_pictures_that_hide_nothing_are_not_talked_about(tmp_path):
    source = saved(tmp_path / "a.png", np.dstack([PICTURE, np.full_like(ALPHA, 255)]))
    assert not probe(source).alpha
    output, note = restored(source)
    assert np.asarray(Image.open(output)).shape == RGBA.shape and "alpha" not in note
    assert "alpha" not in restored(source, "b.jpg")[1]


@pytest.mark.parametrize("name", ["b.jpg", "b.bmp", "b.ppm"])
def test_alpha_is_dropped_with_a_note(name, tmp_path):
    _, note = restored(saved(tmp_path / "a.png", RGBA), name)
    assert f"the alpha channel is dropped: {Path(name).suffix} has none" in note


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
@pytest.mark.parametrize("to", [".png", ".jpg", ".webp", ".tiff"])
def test_profile_and_camera_data_stay(suffix, to, tmp_path):
    source = saved(tmp_path / f"a{suffix}", PICTURE, icc_profile=PROFILE, exif=exif())
    output, note = restored(source, f"b{to}")
    written = Image.open(output)
    assert written.info["icc_profile"] == PROFILE
    found = written.getexif()
    assert found[MAKER] == "Maker" and float(found.get_ifd(CAMERA)[EXPOSURE]) == 0.25
    assert "left out" not in note
    if to in (".png", ".tiff"):
        assert np.array_equal(np.asarray(written), read_image(source))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_turned_pictures_become_upright_ones(suffix, orientation, tmp_path):
    source = saved(tmp_path / f"a{suffix}", RGBA if suffix != ".jpg" else PICTURE, exif=exif(orientation))
    output, _ = restored(source)
    shown = Image.open(output)
    assert shown.getexif().get(ORIENTATION, 1) == 1
    pixels = {1: RGBA, 2: RGBA[:, ::-1], 3: RGBA[::-1, ::-1], 4: RGBA[::-1]}.get(orientation)
    if pixels is None:
        across = RGBA.swapaxes(0, 1)
        pixels = {5: across, 6: across[:, ::-1], 7: across[::-1, ::-1], 8: across[::-1]}[orientation]
    written = np.asarray(shown)
    assert np.abs(written[..., :3].astype(int) - pixels[..., :3]).mean() < (8 if suffix == ".jpg" else 0.001)
    if suffix != ".jpg":
        assert np.array_equal(written[..., 3], pixels[..., 3])


def test_what_a_format_cannot_hold_is_named(tmp_path):
    source = saved(tmp_path / "a.png", PICTURE, icc_profile=PROFILE, exif=exif())
    _, note = restored(source, "b.bmp")
    assert "left out: ICC profile" in note and "left out: camera data (Exif)" in note
    deep = cv2.cvtColor(PICTURE.astype(np.uint16) * 257, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencodeWithMetadata(
        ".png", deep, [cv2.IMAGE_METADATA_ICCP], [np.frombuffer(PROFILE, np.uint8)[None]]
    )
    (tmp_path / "deep.png").write_bytes(data.tobytes())
    output, note = restored(tmp_path / "deep.png")
    assert Image.open(output).info["icc_profile"] == PROFILE and "left out" not in note
    assert "left out: ICC profile" in restored(tmp_path / "deep.png", "deep.tiff")[1]


def test_profile_of_another_kind_of_picture_goes(tmp_path):
    gray = PROFILE[:16] + b"GRAY" + PROFILE[20:]
    source = saved(tmp_path / "a.jpg", PICTURE[..., 0], icc_profile=gray)
    output, note = restored(source)
    assert "icc_profile" not in Image.open(output).info and "left out: ICC profile" in note


def test_xmp_goes_with_a_note(tmp_path):
    source = saved(tmp_path / "a.jpg", PICTURE, xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    assert "left out: XMP metadata" in restored(source)[1]


def test_thumbnails_of_the_picture_as_it_was_go(tmp_path):
    maker = struct.pack(">HHI4s", MAKER, 2, 2, b"M")
    thumbnail = struct.pack(">HHII", 0x0201, 4, 1, 44)
    directories = struct.pack(">H12sI", 1, maker, 26) + struct.pack(">H12sI", 1, thumbnail, 0)
    source = saved(tmp_path / "a.jpg", PICTURE, exif=b"Exif\0\0MM\0*" + struct.pack(">I", 8) + directories)
    output, _ = restored(source)
    before, after = (Image.open(path).info["exif"].removeprefix(b"Exif\0\0") for path in (source, output))
    assert before[22:26] == struct.pack(">I", 26) and after[22:26] == bytes(4), "where the second directory is"
    assert before[:22] == after[:22] and before[26:] == after[26:]


def test_damaged_camera_data_is_no_matter(tmp_path):
    for i, wrong in enumerate((b"", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\0\0\0\x08\0\x01")):
        source = saved(tmp_path / f"{i}.jpg", PICTURE, exif=b"Exif\0\0" + wrong)
        output, _ = restored(source)
        assert read_image(output).shape == PICTURE.shape


def test_frames_of_a_folder_keep_alpha_and_tags(tmp_path):
    for i, picture in enumerate(moving_frames(frames=9)):
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        saved(folder / f"{i}.png", np.dstack([picture, ALPHA]), icc_profile=PROFILE, exif=exif())
    output, note = restored(folder, window=8)
    for i, frame in enumerate(open_video(folder)):
        written = Image.open(output / f"{i:06d}.png")
        assert np.array_equal(np.asarray(written), np.dstack([frame.rgb, ALPHA]))
        assert written.info["icc_profile"] == PROFILE and written.getexif()[MAKER] == "Maker"
    assert "left out" not in note
    video, note = restored(folder, "v.mkv", codec="ffv1", window=8)
    assert "left out: ICC profile" in note and "alpha channel is kept" in note
    assert np.array_equal(next(iter(open_video(video))).alpha, ALPHA)
    saved(folder / "0.png", np.dstack([PICTURE, np.full_like(ALPHA, 255)]))
    assert "the alpha channel is dropped" in restored(folder, "w.mp4", window=8)[1], "of frames after the first"


def test_animations_keep_alpha(tmp_path):
    pictures = [Image.fromarray(np.dstack([frame, ALPHA])) for frame in moving_frames(frames=9)]
    for suffix in (".webp", ".png"):
        source = tmp_path / f"a{suffix}"
        lossless = {"lossless": True} if suffix == ".webp" else {}
        pictures[0].save(source, save_all=True, append_images=pictures[1:], duration=40, **lossless)
        output, note = restored(source, window=8)
        shown = Image.open(output)
        for i, picture in enumerate(pictures):
            shown.seek(i)
            assert np.array_equal(np.asarray(shown.convert("RGBA")), np.asarray(picture))
        assert "alpha channel is kept" in note


def test_video_frames_with_a_named_profile(tmp_path):
    """PNG in a video: PyAV frees the profile's name a second time."""
    done, data = cv2.imencodeWithMetadata(
        ".png",
        PICTURE,
        [cv2.IMAGE_METADATA_EXIF, cv2.IMAGE_METADATA_ICCP],
        [np.frombuffer(block, np.uint8)[None] for block in (exif().tobytes()[6:], PROFILE)],
    )
    plain = make_clip(tmp_path / "p.mov", codec="png", pix_fmt="rgb24", frames=3)
    with av.open(str(plain)) as source, av.open(str(tmp_path / "a.mov"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                other = av.Packet(data.tobytes())
                other.pts, other.dts, other.time_base, other.stream = packet.pts, packet.dts, packet.time_base, stream
                other.is_keyframe = True
                target.mux(other)
    assert set(probe(tmp_path / "a.mov").side_data) == {"ICC profile"}
    _, note = restored(tmp_path / "a.mov", window=8)
    assert "left out: ICC profile" in note
    assert re.search("left out", restored(tmp_path / "a.mov", "f", frames=True, window=8)[1])
