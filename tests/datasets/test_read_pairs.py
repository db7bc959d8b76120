"""Pairs streamed from data sets, their priors, and one clear line for every way in which a clip can be wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from support.clips import make_clip, make_yuv, moving_frames
from unsmear.datasets.augment import augment
from unsmear.datasets.layouts import DataClip, find_clips
from unsmear.datasets.pairs import open_pairs, open_priors
from unsmear.errors import DataLayoutError
from unsmear.video import RawFormat, write_png

SIZE = (48, 32)


def fill(folder: Path, frames: list[np.ndarray], first: int = 0, suffix: str = ".png") -> None:
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames, first):
        cv2.imwrite(str(folder / f"{i:06d}{suffix}"), frame[..., ::-1])


@pytest.fixture
def pair(tmp_path) -> Path:
    """A data set of one clip, ``clip/{blur,sharp}``, with names from 47 on."""
    fill(tmp_path / "set/clip/blur", moving_frames(SIZE, 4, seed=1), 47)
    fill(tmp_path / "set/clip/sharp", moving_frames(SIZE, 4, seed=2), 47)
    return tmp_path / "set"


def only(dataset: Path, raw: RawFormat | None = None) -> DataClip:
    [clip] = find_clips(dataset, raw=raw)
    return clip


def test_pairs_of_folders_carry_their_names(pair):
    with open_pairs(only(pair)) as reader:
        assert (reader.frames, reader.width, reader.height, reader.deep) == (4, *SIZE, False)
        for _ in range(2):
            pairs = list(reader)
            assert [name for name, _, _ in pairs] == ["000047", "000048", "000049", "000050"]
    for (_, blurred, sharp), b, s in zip(
        pairs, moving_frames(SIZE, 4, seed=1), moving_frames(SIZE, 4, seed=2), strict=True
    ):
        assert np.array_equal(blurred, b) and np.array_equal(sharp, s)


def test_deep_images_stay_deep(tmp_path):
    deep = [frame.astype(np.uint16) * 257 for frame in moving_frames(SIZE, 2)]
    for kind in ("input", "GT"):
        (tmp_path / "IMG_0030" / kind).mkdir(parents=True)
        for i, frame in enumerate(deep):
            write_png(tmp_path / "IMG_0030" / kind / f"{i:05d}.png", frame)
    with open_pairs(only(tmp_path)) as reader:
        assert reader.deep
        assert all(
            np.array_equal(p.blurred, d) and p.sharp.dtype == np.uint16 for p, d in zip(reader, deep, strict=True)
        )


@pytest.mark.parametrize("name", ["one_48x32_30_10bit.yuv", "one.yuv", "one.y4m", "one.mkv"])
def test_pairs_of_videos_are_numbered(tmp_path, name):
    for kind in ("blur", "sharp"):
        (tmp_path / kind).mkdir()
        frames = moving_frames(SIZE, 3)
        if name.endswith(".yuv"):
            make_yuv(tmp_path / kind / name, frames, pix_fmt="yuv420p10le")
        else:
            make_clip(tmp_path / kind / name, codec="wrapped_avframe" if "y4m" in name else "ffv1", content=frames)
    with open_pairs(only(tmp_path, RawFormat(*SIZE, 10) if name == "one.yuv" else None)) as reader:
        pairs = list(reader)
        assert [pair.name for pair in pairs] == ["000000", "000001", "000002"]
        assert reader.deep == (".yuv" in name)
        assert all(np.array_equal(pair.blurred, pair.sharp) for pair in pairs)


def test_rotated_videos_stand_upright(tmp_path):
    for kind, rotation in (("blur", 90), ("sharp", 90)):
        (tmp_path / kind).mkdir()
        make_clip(tmp_path / kind / "one.mp4", size=(48, 32), frames=2, rotation=rotation)
    with open_pairs(only(tmp_path)) as reader:
        assert (reader.width, reader.height) == (32, 48)
        assert next(iter(reader)).sharp.shape == (48, 32, 3)


def wrong_partner_name(top: Path) -> str:
    (top / "clip/sharp").rename(top / "clip/clear")
    shutil.rmtree(top / "clip/clear")
    return "has no sharp partner; expected"


def one_missing(top: Path) -> str:
    (top / "clip/sharp/000049.png").unlink()
    return f"has 3 frames where {top}/clip/blur has 4; 000049 is missing in {top}/clip/sharp"


def other_names(top: Path) -> str:
    for file in sorted((top / "clip/sharp").iterdir()):
        file.rename(file.with_name(f"s{file.name}"))
    return "its images are named s000047 and on"


def other_size(top: Path) -> str:
    shutil.rmtree(top / "clip/sharp")
    fill(top / "clip/sharp", moving_frames((24, 16), 4), 47)
    return "is 24x16 where the blurred frames in"


def other_size_later(top: Path) -> str:
    write_png(top / "clip/sharp/000049.png", np.zeros((8, 8, 3), np.uint8))
    return "000049.png: is 8x8 where"


def other_depth(top: Path) -> str:
    for file in (top / "clip/sharp").iterdir():
        write_png(file, np.zeros((32, 48, 3), np.uint16))
    return "has 16 bits where the blurred frames in"


def other_depth_later(top: Path) -> str:
    write_png(top / "clip/blur/000050.png", np.zeros((32, 48, 3), np.uint16))
    return "000050.png: has 16 bits where"


def damaged(top: Path) -> str:
    (top / "clip/blur/000048.png").write_bytes(b"\x89PNG broken")
    return "000048.png: the image is cut short"


def twice(top: Path) -> str:
    for kind in ("blur", "sharp"):
        cv2.imwrite(str(top / "clip" / kind / "000047.jpg"), np.zeros((32, 48, 3), np.uint8))
    return "holds two images named 000047"


def cut_yuv(top: Path) -> str:
    shutil.rmtree(top / "clip")
    for kind in ("blur", "sharp"):
        (top / kind).mkdir()
        make_yuv(top / kind / "a_48x32_30_8bit.yuv", moving_frames(SIZE, 3), cut_bytes=100 if kind == "sharp" else 0)
    return "holds 2 frames of 48x32 8-bit 4:2:0 and 2204 bytes"


def deep_yuv(top: Path) -> str:
    shutil.rmtree(top / "clip")
    for kind, form in (("blur", "yuv420p"), ("sharp", "yuv420p10le")):
        (top / kind).mkdir()
        make_yuv(top / kind / "a_48x32_30_8bit.yuv", moving_frames(SIZE, 3), pix_fmt=form)
    return "its samples are two bytes wide"


def short_yuv(top: Path) -> str:
    shutil.rmtree(top / "clip")
    for kind, frames in (("blur", 3), ("sharp", 2)):
        (top / kind).mkdir()
        make_yuv(top / kind / "a_48x32_30_8bit.yuv", moving_frames(SIZE, frames))
    return "has 2 frames where"


def cut_y4m(top: Path) -> str:
    shutil.rmtree(top / "clip")
    for kind in ("blur", "sharp"):
        (top / kind).mkdir()
        path = make_clip(top / kind / "a.y4m", codec="wrapped_avframe", size=SIZE, frames=3)
        path.write_bytes(path.read_bytes()[:-1])
    return "damaged after frame 1 (2 frames read)"


def short_video(top: Path) -> str:
    shutil.rmtree(top / "clip")
    for kind, frames in (("blur", 4), ("sharp", 3)):
        (top / kind).mkdir()
        make_clip(top / kind / "a.mkv", size=SIZE, frames=frames)
    return "sharp/a.mkv: ends after 3 frames where"


WRONG = [
    *(wrong_partner_name, one_missing, other_names, other_size, other_size_later, other_depth, other_depth_later),
    *(damaged, twice, cut_yuv, deep_yuv, short_yuv, cut_y4m, short_video),
]


def read_all(clip: DataClip) -> None:
    with open_pairs(clip) as reader:
        list(reader)


@pytest.mark.parametrize("break_it", WRONG)
def test_errors_are_one_line_that_names_the_file(pair, break_it):
    words = break_it(pair)
    with pytest.raises(DataLayoutError) as error:
        read_all(only(pair))
    message = str(error.value)
    assert words in message and message.startswith(str(pair)) and "\n" not in message


def test_clips_without_partners_and_lists_that_disagree(pair, tmp_path):
    clip = only(pair)
    with pytest.raises(DataLayoutError, match="the list states 5"):
        open_pairs(replace(clip, listed_frames=5))
    fill(tmp_path / "plain" / "one", moving_frames(SIZE, 2))
    with pytest.raises(DataLayoutError, match="its folders do not say"):
        open_pairs(only(tmp_path / "plain"))


def test_priors_are_loaded_and_never_made(pair):
    clip = only(pair)
    assert open_priors(clip) is None and not clip.archive.exists()
    augment(pair)
    with open_priors(clip) as priors, open_pairs(clip) as pairs:
        assert len(priors) == pairs.frames == 4
        assert priors[1].motion().shape[0] == 2
    (pair / "clip/blur/000050.png").unlink()
    with pytest.raises(DataLayoutError, match="priors of 4 frames where the clip has 3; make it again"):
        open_priors(clip)
    for i in range(47, 50):
        write_png(pair / f"clip/blur/{i:06d}.png", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(DataLayoutError, match="48x32 where the clip is 16x16"):
        open_priors(clip)
    clip.archive.write_bytes(b"nothing")
    with pytest.raises(DataLayoutError, match="cannot be opened as an archive"):
        open_priors(clip)


def test_raw_yuv_can_be_augmented(tmp_path):
    make_yuv(tmp_path / "a.yuv", moving_frames(SIZE, 3))
    form = RawFormat(*SIZE)
    assert augment(tmp_path).failures and not augment(tmp_path, raw=form).failures
    with open_priors(only(tmp_path, form)) as priors:
        assert len(priors) == 3


READ = """
import re, sys
from pathlib import Path
from unsmear.datasets.layouts import find_clips
from unsmear.datasets.pairs import open_pairs
[clip] = find_clips(Path(sys.argv[1]))
with open_pairs(clip) as reader:
    assert sum(1 for _ in reader) == int(sys.argv[2])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_depend_on_the_length(tmp_path):
    size, peaks_kb = (480, 320), []
    path, _ = make_yuv(tmp_path / "a_480x320_30_8bit.yuv", moving_frames(size, 4))
    data = path.read_bytes()
    for length in (20, 160):
        for kind in ("blur", "sharp"):
            (tmp_path / str(length) / kind).mkdir(parents=True)
            (tmp_path / str(length) / kind / path.name).write_bytes(data * (length // 4))
        command = [sys.executable, "-c", READ, str(tmp_path / str(length)), str(length)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        peaks_kb.append(int(done.stdout))
    assert peaks_kb[1] - peaks_kb[0] < 10 * 480 * 320 * 6 / 1024, peaks_kb  # ten pairs, of the 140 more
