"""Pictures of many formats: what is read of them, what is written, and which of them are refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from support.clips import make_clip, moving_frames
from support.heif import make_heic
from support.hostile import PICTURES
from unsmear.errors import DamagedVideo, OutputError, UnsupportedVideo, UsageError
from unsmear.video import open_video, probe, read_image
from unsmear.video.contents import LIMIT_VARIABLE
from unsmear.video.pictures import encode_picture, is_written, read_picture

SIZE = (64, 48)
LOSSY = {"jpg", "jfif", "webp", "avif", "hdr"}
DEPTHS = {"png": (8, 16), "tif": (8, 16), "ppm": (8, 16), "pgm": (8, 16), "pam": (8, 16), "dpx": (8, 10, 12, 16)}


def picture(seed: int = 0) -> np.ndarray:
    return moving_frames(SIZE, 1, seed=seed)[0]


def levels(bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Values of all sizes that a sample of so many bits can have, in 8 or 16 bits."""
    values = np.random.default_rng(3).integers(0, 1 << bits, shape)
    if bits == 8:
        return values.astype(np.uint8)
    return (values << (16 - bits) | values >> (2 * bits - 16)).astype(np.uint16)


@pytest.fixture
def save(tmp_path):
    """Write bytes under a name → its path."""

    def put(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return put


def pillow(mode: str, form: str, **options: object) -> bytes:
    image = Image.fromarray(picture())
    if mode == "RGBA":
        image.putalpha(128)
    else:
        image = image.convert(mode)
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


# --- what is written is read again ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [*PICTURES, "jfif", "pgm"])
@pytest.mark.parametrize("gray", [False, True])
def test_a_picture_comes_back_at_its_depth(ending, gray, save):
    for bits in DEPTHS.get(ending, (8,)):
        pixels = levels(bits, SIZE[::-1] if gray else (*SIZE[::-1], 3)) if ending not in LOSSY else picture()
        if ending in LOSSY and gray:
            pixels = pixels[..., 0]
        if ending == "pgm" and not gray:
            with pytest.raises(OutputError, match="gray"):
                encode_picture(pixels, ".pgm")
            continue
        path = save(f"a.{ending}", encode_picture(pixels, f".{ending}", bits))
        found = read_picture(path)
        expected = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)
        if ending in LOSSY:
            scale = 257 if found.rgb.dtype == np.uint16 else 1
            assert np.abs(found.rgb / scale - expected).mean() < 6
        elif found.rgb.dtype == pixels.dtype:
            assert np.array_equal(found.rgb, expected)
        else:  # light, which has more digits
            assert np.array_equal(found.rgb, expected.astype(np.uint16) * 257)
        assert found.notes == ()
        info = probe(path)
        assert (info.kind, info.frames, info.width, info.height, info.suffix) == ("image", 1, *SIZE, f".{ending}")
        assert info.bit_depth == found.bits


def test_depth_that_a_format_has_not_is_refused():
    deep = levels(16, (*SIZE[::-1], 3))
    for ending in ("jpg", "bmp", "tga", "qoi", "webp"):
        assert is_written(f".{ending}")
        assert not is_written(f".{ending}", 16)
        with pytest.raises(OutputError, match=r"use \.png"):
            encode_picture(deep, f".{ending}")
    assert not is_written(".heic")


# --- the content decides ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.mp4", "a", "a.xyz", "a.tga"])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "PPM"])
def test_names_do_not_decide(name, form, save):
    options = {"quality": 97} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    path = save(name, pillow("RGB", form, **options))
    assert probe(path).kind == "image"
    assert np.abs(read_image(path).astype(int) - picture()).mean() < 6


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a", "a.lrv", "a.insv", "a.360", "a.divx", "a.txt", "v1.2"])
@pytest.mark.parametrize(("container", "ending"), [("mp4", ".mp4"), ("mkv", ".mkv"), ("avi", ".avi"), ("mov", ".mov")])
def test_a_video_is_one_under_any_name(name, container, ending, tmp_path):
    path = make_clip(tmp_path / f"plain.{container}", codec="mpeg4", frames=3).rename(tmp_path / name)
    info = probe(path)
    assert (info.kind, info.suffix) == ("video", ending)
    assert len(list(open_video(path))) == 3


def test_several_pictures_are_a_clip(tmp_path, save):
    frames = moving_frames(SIZE, 5)
    first, *rest = map(Image.fromarray, frames)
    times = [40, 80, 120, 40, 500]
    for name, form, options in (
        ("a.webp", "WEBP", {"lossless": True, "duration": times}),
        ("a.png", "PNG", {"duration": times}),
        ("b.jpg", "PNG", {"duration": times}),
        ("a.tif", "TIFF", {}),
    ):
        data = io.BytesIO()
        first.save(data, form, save_all=True, append_images=rest, **options)
        path = save(name, data.getvalue())
        with open_video(path) as reader:
            got = list(reader)
        assert all(np.array_equal(a.rgb, b) for a, b in zip(got, frames, strict=True))
        clock = [sum(times[:i]) / 1000 for i in range(5)] if form != "TIFF" else [i / 25 for i in range(5)]
        assert [frame.time_s for frame in got] == pytest.approx(clock)
        if form != "TIFF":
            assert float(got[-1].duration * reader.info.time_base) == pytest.approx(0.5)
        with pytest.raises(UnsupportedVideo, match="several pictures"):
            read_image(path)


@pytest.mark.parametrize("form", ["ppm", "pgm", "pam"])
def test_netpbm_files_of_several_pictures_are_a_clip(form, save):
    frames = moving_frames(SIZE, 3)
    pixels = [frame[..., 0] if form == "pgm" else frame for frame in frames]
    path = save(f"a.{form}", b"".join(encode_picture(each, f".{form}") for each in pixels))
    got = list(open_video(path))
    assert [frame.time_s for frame in got] == pytest.approx([0, 0.04, 0.08])
    for frame, expected in zip(got, pixels, strict=True):
        assert np.array_equal(frame.rgb, expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, 2))


def test_jpegs_in_a_row_are_a_clip_and_a_preview_behind_a_picture_is_none(save):
    jpegs = [encode_picture(frame, ".jpg") for frame in moving_frames(SIZE, 3)]
    assert len(list(open_video(save("a.jpg", b"".join(jpegs))))) == 3
    marked = jpegs[0][:2] + b"\xff\xe2\0\x08MPF\0\0\0" + jpegs[0][2:]
    info = probe(save("b.jpg", marked + jpegs[1]))
    assert (info.kind, info.frames) == ("image", 1)
    assert f"{len(jpegs[1])} bytes after the end of the picture" in info.notes[0]


def test_pages_of_other_sizes_are_said_and_previews_are_not_pages(save):
    large, small = Image.fromarray(picture()), Image.new("RGB", (32, 24))
    data = io.BytesIO()
    large.save(data, "TIFF", save_all=True, append_images=[large, small])
    info = probe(save("a.tif", data.getvalue()))
    assert (info.kind, info.frames) == ("frames", 2)
    assert "1 page of another size left out" in info.notes
    data = io.BytesIO()
    small.encoderinfo = {"tiffinfo": {254: 1}}
    large.save(data, "TIFF", save_all=True, append_images=[small])
    info = probe(save("b.tif", data.getvalue()))
    assert (info.kind, info.frames, info.notes) == ("image", 1, ())


def test_an_animated_picture_among_frames_is_refused(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    first, *rest = map(Image.fromarray, moving_frames(SIZE, 3))
    first.save(folder / "0.png")
    first.save(folder / "1.png", save_all=True, append_images=rest)
    with pytest.raises(UnsupportedVideo, match=r"1\.png: holds several pictures where one was expected"):
        list(open_video(folder))


# --- HEIC and AVIF ----------------------------------------------------------------------------------------------


def test_heic_of_one_piece_is_read_upright_and_at_its_depth(tmp_path):
    expected = moving_frames((96, 64), 1)[0]
    found = read_picture(make_heic(tmp_path / "a.heic", [expected], turn=1))
    assert np.abs(found.rgb.astype(int) - np.rot90(expected)).mean() < 10
    deep = make_heic(tmp_path / "b.heic", [expected], pix_fmt="yuv420p10le")
    info = probe(deep)
    assert (info.kind, info.bit_depth, info.suffix) == ("image", 10, ".png")
    assert np.abs(read_image(deep) / 257 - expected).mean() < 10


def test_heic_of_tiles_is_refused_in_one_line(tmp_path):
    path = make_heic(tmp_path / "a.heic", moving_frames((64, 64), 4), columns=2)
    with pytest.raises(UnsupportedVideo, match=r"a\.heic: its picture is put together from tiles; convert it to PNG"):
        probe(path)


def test_an_animated_avif_is_a_clip(tmp_path):
    first, *rest = map(Image.fromarray, moving_frames(SIZE, 4))
    first.save(tmp_path / "a.avif", save_all=True, append_images=rest, duration=60)
    with open_video(tmp_path / "a.avif") as reader:
        assert [frame.time_s for frame in reader] == pytest.approx([0, 0.06, 0.12, 0.18])
    assert (reader.info.kind, reader.info.suffix) == ("video", ".mp4")


# --- turned, transparent, bright --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(form, orientation, save):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    for mode in ("RGB", "RGBA") if form != "JPEG" else ("RGB",):
        options = {"lossless": True} if form == "WEBP" else {"quality": 97} if form == "JPEG" else {}
        data = pillow(mode, form, exif=exif, **options)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        found = read_image(save(f"a.{form.lower()}", data))
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("name", "form"), [("a.png", "PNG"), ("a.webp", "WEBP"), ("a.tif", "TIFF"), ("a.tga", "TGA")])
def test_alpha_leaves_colours_alone(name, form, save):
    path = save(name, pillow("RGBA", form, **({"lossless": True, "exact": True} if form == "WEBP" else {})))
    found = read_picture(path)
    assert found.shows_through and found.notes == ()
    assert np.array_equal(found.rgb, picture())
    image = Image.fromarray(picture())
    image.putalpha(255)
    data = io.BytesIO()
    image.save(data, form)
    assert not read_picture(save(name, data.getvalue())).shows_through


@pytest.mark.parametrize("ending", ["exr", "pfm"])
def test_light_is_encoded_and_what_is_beyond_white_is_said(ending, save):
    import av

    light = np.zeros((*SIZE[::-1], 3), np.float32)
    light[:, :, 0], light[:, :, 1] = np.linspace(0, 1, SIZE[0]), 0.2158605  # level 128 of 255 in sRGB
    for brightest, notes in ((1.0, 0), (7.5, 1)):
        light[0, 0, 0] = brightest
        encoder = av.CodecContext.create(ending, "w")
        encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = *SIZE, "gbrpf32le", 1
        frame = av.VideoFrame.from_ndarray(light, format="gbrpf32le")
        path = save(f"a.{ending}", b"".join(bytes(p) for p in encoder.encode(frame) + encoder.encode(None)))
        found = read_picture(path)
        assert len(found.notes) == notes
        assert all("brighter than white" in note for note in found.notes)
        assert found.rgb[0, 0].tolist() == [65535, pytest.approx(128 * 257, abs=2), 0]
        assert found.rgb[5, 32, 0] == pytest.approx(65535 * (1.055 * (32 / 63) ** (1 / 2.4) - 0.055), abs=1)


# --- what is damaged or too much --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", PICTURES)
def test_half_a_picture_is_refused(ending, save):
    data = encode_picture(picture(), f".{ending}")
    with pytest.raises(DamagedVideo, match=rf"a\.{ending}: "):
        read_image(save(f"a.{ending}", data[: len(data) // 2]))


def test_what_follows_a_whole_picture_is_left_out_and_said(save):
    for ending in ("jpg", "png"):
        data = encode_picture(picture(), f".{ending}")
        for trailer, notes in ((bytes(70_000), 0), (b"\0\0\0\x18ftypmp42" + bytes(9000) + b"mdat", 1)):
            found = read_picture(save(f"a.{ending}", data + trailer))
            assert np.array_equal(found.rgb, read_image(save(f"b.{ending}", data)))
            assert len(found.notes) == notes


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_decoders_keep_silent(save, capfd):
    png, jpeg = encode_picture(picture(), ".png"), encode_picture(picture(), ".jpg")
    odd = png[:33] + chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"no profile" * 20)) + png[33:]
    assert np.array_equal(read_image(save("profile.png", odd)), picture())
    scan = jpeg.index(b"\xff\xda")
    read_image(save("more.jpg", jpeg[:scan] + bytes(19) + jpeg[scan:]))
    for number in range(60):
        for data, ending in ((png, "png"), (jpeg, "jpg"), (encode_picture(picture(), ".tif"), "tif")):
            hurt = bytearray(data)
            for place in np.random.default_rng(number).integers(8, len(hurt), 5):
                hurt[place] ^= 1 << number % 8
            try:
                read_image(save(f"a.{ending}", bytes(hurt)))
            except (DamagedVideo, UnsupportedVideo) as error:
                assert "\n" not in str(error)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("ending", [*PICTURES, "gif", "mp4", "y4m"])
def test_pictures_beyond_the_limit_are_refused_before_they_are_decoded(ending, tmp_path, monkeypatch):
    path = tmp_path / f"a.{ending}"
    if ending in PICTURES:
        path.write_bytes(encode_picture(picture(), f".{ending}"))
    else:
        codec, pixels = {"gif": ("gif", "rgb8"), "mp4": ("libx264", "yuv420p"), "y4m": ("rawvideo", "yuv420p")}[ending]
        make_clip(path, codec=codec, pix_fmt=pixels, size=SIZE, frames=2)
    monkeypatch.setenv(LIMIT_VARIABLE, "3071")
    words = rf"a\.{ending}: claims a picture of 64x48, where 3071 pixels are allowed; .* {LIMIT_VARIABLE} to 3072"
    with pytest.raises(UnsupportedVideo, match=words):
        open_video(path)
    monkeypatch.setenv(LIMIT_VARIABLE, "3072")
    assert open_video(path).info.width == 64
    for nonsense in ("many", "-1", "0", "1e9", "\u00b2", str(2**31)):
        monkeypatch.setenv(LIMIT_VARIABLE, nonsense)
        with pytest.raises(UsageError, match=f"{LIMIT_VARIABLE} .*: expected pixels of the largest picture"):
            open_video(path)


def claims(kind: str) -> bytes:
    """A small file that says it is enormous."""
    if kind == "gif":
        head = b"GIF89a" + struct.pack("<HH", 16000, 16000) + b"\x80\0\0\0\0\0\xff\xff\xff"
        return head + b"\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0\x3b"
    if kind == "png":
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    if kind == "ppm":
        return b"P6\n40000 40000\n255\n" + bytes(100)
    data = bytearray(encode_picture(picture(), f".{kind}"))
    if kind == "jpg":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", 65000, 65000)
    elif kind == "bmp":
        data[18:26] = struct.pack("<ii", 50000, 50000)
    elif kind == "tif":
        for tag in (256, 257):
            at = data.index(struct.pack("<HHI", tag, 3, 1))
            data[at + 8 : at + 12] = struct.pack("<I", 60000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["gif", "png", "jpg", "bmp", "tif", "ppm"])
def test_small_files_cannot_claim_all_memory(kind, save):
    import resource

    path = save(f"a.{kind}", claims(kind))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnsupportedVideo, match=r"claims a picture of \d+x\d+"):
        open_video(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_raw_data_of_cameras_is_refused(save):
    data = bytearray(encode_picture(picture(), ".tif"))
    at = data.index(struct.pack("<HHI", 262, 3, 1))
    data[at + 8 : at + 10] = struct.pack("<H", 32803)
    with pytest.raises(UnsupportedVideo, match="raw data of a camera's sensor; develop it"):
        read_image(save("a.dng", bytes(data)))


def test_samples_that_no_picture_can_hold_are_refused(save, tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((48, 64, 3), np.float32))
    with pytest.raises(UnsupportedVideo, match="samples are float32; convert the image to 8 or 16 bit"):
        read_image(tmp_path / "a.tif")
