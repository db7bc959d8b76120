"""Images and folders of frames."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from support.clips import moving_frames
from unsmear.errors import DamagedVideo, UnsupportedVideo
from unsmear.video import (
    FrameFolderWriter,
    SegmentWriter,
    choose_encoding,
    join_segments,
    open_video,
    probe,
    read_image,
    write_png,
)
from unsmear.video.images import is_written_here


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_folder_of_png_is_kept_bit_for_bit(dtype: type, tmp_path: Path) -> None:
    frames = [frame.astype(dtype) * (257 if dtype is np.uint16 else 1) for frame in moving_frames(frames=12)]
    for number, frame in enumerate(frames):
        write_png(tmp_path / f"frame{number}.png", frame)  # frame10 comes after frame9
    with open_video(tmp_path) as reader:
        read = list(reader)
    assert (reader.info.kind, reader.info.frames, reader.info.bit_depth) == (
        "frames",
        12,
        8 * dtype().itemsize,
    )
    assert [(frame.index, frame.pts) for frame in read] == [(i, None) for i in range(12)]
    assert all(np.array_equal(a.rgb, b) and a.rgb.dtype == dtype for a, b in zip(read, frames, strict=True))
    writer = FrameFolderWriter(tmp_path / "out")
    for frame in read:
        assert not writer.has(frame.index)
        writer.write(frame.index, frame.rgb)
    assert sorted(path.name for path in writer.folder.iterdir()) == [f"{i:06d}.png" for i in range(12)]
    assert np.array_equal(read_image(writer.path(11)), frames[11])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp"])
@pytest.mark.parametrize("shape", [(40, 51, 3), (40, 51)])
def test_single_images(suffix: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / f"one{suffix}"
    picture = moving_frames((51, 40), 1)[0]
    cv2.imwrite(str(path), picture[..., ::-1] if len(shape) == 3 else picture[..., 0])
    info = probe(path)
    assert (info.kind, info.width, info.height, info.frames) == ("image", 51, 40, 1)
    (frame,) = open_video(path)
    expected = picture if len(shape) == 3 else np.repeat(picture[..., :1], 3, axis=2)
    assert np.abs(frame.rgb.astype(int) - expected).mean() < (0.01 if suffix in (".png", ".tif", ".bmp") else 20)


def test_frames_of_a_folder_can_become_a_video(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    for number, frame in enumerate(moving_frames(frames=7, smooth_px=8)):
        write_png(folder / f"{number}.png", frame)
    with open_video(folder) as reader:
        encoding = choose_encoding(reader.info, container_suffix=".mp4", codec="h264", pix_fmt="yuv420p")
        with SegmentWriter(tmp_path / "0", reader.info, encoding, 96, 64) as writer:
            for frame in reader:
                writer.write(frame.rgb, frame.pts)
        join_segments(folder, [tmp_path / "0"], tmp_path / "clip.mp4")
    with open_video(tmp_path / "clip.mp4") as video:
        assert [frame.time_s for frame in video] == [pytest.approx(i / 25) for i in range(7)]
        assert video.info.colorspace == 1


def test_unequal_frames_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    picture = moving_frames(frames=1)[0]
    write_png(tmp_path / "0.png", picture)
    write_png(tmp_path / "1.png", picture[:-2])
    with pytest.raises(UnsupportedVideo, match=r"1\.png: is 96x62 where the first frame is 96x64"):
        list(open_video(tmp_path))
    write_png(tmp_path / "1.png", picture.astype(np.uint16))
    with pytest.raises(UnsupportedVideo, match="16 bits where the first frame has 8"):
        list(open_video(tmp_path))
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedVideo, match=r"1\.png: .*cut short"):
        list(open_video(tmp_path))
    (tmp_path / "1.png").write_text("no image")
    with pytest.raises(DamagedVideo, match=r"1\.png: cannot be decoded"):
        list(open_video(tmp_path))
    assert capfd.readouterr().err == ""


def test_png_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        write_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.float32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(40, 51), (40, 51, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_marked_files_hold_the_same_picture(dtype: type, shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    for marked in (False, True):
        path = tmp_path / f"{marked}.png"
        write_png(path, pixels, marked=marked)
        assert is_written_here(path) == marked
        found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(found if len(shape) == 2 else found[..., ::-1], pixels) and found.dtype == dtype
    with av.open(str(tmp_path / "True.png")) as container:  # another decoder checks the chunk and its checksum
        frame = next(container.decode(video=0))
    assert frame.width == 51


def test_files_of_others_are_not_taken_for_marked_ones(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((9, 9, 3), np.uint8), marked=True)
    data = (tmp_path / "a.png").read_bytes()
    foreign = {
        "cut": data[:40],
        "empty": b"",
        "text": b"Software\0unsmear",
        "other": data.replace(b"unsmear", b"another"),
        "jpeg": b"\xff\xd8" + data,
    }
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
        assert not is_written_here(tmp_path / name), name
    assert not is_written_here(tmp_path / "missing")
    assert not is_written_here(tmp_path)
