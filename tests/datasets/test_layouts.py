"""Every layout in which deblurring sets come: found, split, listed, counted, and compared with what was published."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.clips import make_clip, make_yuv, moving_frames
from support.command import unsmear
from unsmear.datasets.check import ClipCheck, check, describe
from unsmear.datasets.layouts import ListedClip, find_clips, read_clip_list
from unsmear.datasets.published import DVD_TEST, GOPRO_TEST, PUBLISHED, gopro_window
from unsmear.errors import DataLayoutError

A, B = "GOPR0372_07_00", "GOPR0384_11_00"  # of GoPro's training and test clips
# Layout → its folders, and for every clip its name, sequence, split, role and whether it has a partner.
CASES: dict[str, tuple[list[str], list[tuple[str, str, str | None, str, bool]]]] = {
    "GOPRO_Large": (
        [f"{s}/{n}/{k}" for s, n in (("train", A), ("test", B)) for k in ("blur", "blur_gamma", "sharp")],
        [
            (f"test/{B}/blur", B, "test", "blur", True),
            (f"test/{B}/blur_gamma", B, "test", "blur_gamma", True),
            (f"train/{A}/blur", A, "train", "blur", True),
            (f"train/{A}/blur_gamma", A, "train", "blur_gamma", True),
        ],
    ),
    "GOPRO_Large_all (raw frames)": (
        [f"train/{A}", f"test/{B}"],
        [(f"test/{B}", B, "test", "", False), (f"train/{A}", A, "train", "", False)],
    ),
    "sorted by kind": (
        [f"train/blur/{A}", f"train/gt/{A}", f"test/blur/{B}", f"test/GT/{B}"],
        [(f"test/blur/{B}", B, "test", "blur", True), (f"train/blur/{A}", A, "train", "blur", True)],
    ),
    "sorted by kind (GoPro11)": (
        [f"test_GT_blurred/{B}", f"test_GT/{B}", f"train_GT_blurred/{A}", f"train_GT/{A}"],
        [
            (f"test_GT_blurred/{B}", B, "test", "test_GT_blurred", True),
            (f"train_GT_blurred/{A}", A, "train", "train_GT_blurred", True),
        ],
    ),
    "DVD": (
        [f"quantitative_datasets/{n}/{k}" for n in ("IMG_0001", "IMG_0030") for k in ("input", "GT")],
        [
            ("quantitative_datasets/IMG_0001/input", "IMG_0001", "train", "input", True),
            ("quantitative_datasets/IMG_0030/input", "IMG_0030", "test", "input", True),
        ],
    ),
    "PVDNet": (
        ["test_DVD/IMG_0030/GT", "test_DVD/IMG_0030/input", f"train_nah/{A}/sharp", f"train_nah/{A}/blur_gamma"],
        [
            ("test_DVD/IMG_0030/input", "IMG_0030", "test", "input", True),
            (f"train_nah/{A}/blur_gamma", A, "train", "blur_gamma", True),
        ],
    ),
    "BSD": (
        [
            f"BSD_{e}/{s}/000/{k}"
            for e in ("1ms8ms", "2ms16ms", "3ms24ms")
            for s in ("train", "valid", "test")
            for k in ("Blur/RGB", "Blur/RAW", "Sharp/RGB", "Sharp/RAW")
        ],
        [
            (f"BSD_{e}/{s}/000/Blur/RGB", "000", s, "Blur", True)
            for e in ("1ms8ms", "2ms16ms", "3ms24ms")
            for s in ("test", "train", "valid")
        ],
    ),
    "folders of frames": (
        ["one", "two/deep"],
        [("one", "one", None, "", False), ("two/deep", "deep", None, "", False)],
    ),
}


def fill(
    folder: Path, frames: int = 2, *, first: int = 0, size: tuple[int, int] = (24, 16), suffix: str = ".png"
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + frames):
        cv2.imwrite(str(folder / f"{i:06d}{suffix}"), np.full((size[1], size[0], 3), 10 * i % 256, np.uint8))


@pytest.mark.parametrize("layout", CASES)
def test_layouts_are_found_split_and_named(tmp_path, layout):
    folders, expected = CASES[layout]
    top = tmp_path / "set"
    for folder in folders:
        fill(top / folder, suffix=".jpg" if "input" in folder or "GT" in folder else ".png")
    clips = find_clips(top)
    got = [(clip.name, clip.sequence, clip.split, clip.role, clip.sharp is not None) for clip in clips]
    assert got == expected
    assert {clip.layout for clip in clips} == {layout}
    for split in {clip.split for clip in clips if clip.split}:
        assert find_clips(top, split=split) == [clip for clip in clips if clip.split == split]
    found = check(top)
    assert all(clip.frames == 2 and not clip.problems for clip in found)
    assert describe(found)[0] == f"layout: {layout}"


def test_the_split_may_be_the_folder_that_is_given(tmp_path):
    fill(tmp_path / "test" / B / "blur")
    fill(tmp_path / "test" / B / "sharp")
    [clip] = find_clips(tmp_path / "test")
    assert (clip.sequence, clip.split) == (B, "test")


def test_parts_that_are_not_there_are_named(tmp_path):
    fill(tmp_path / "set" / A / "blur")
    fill(tmp_path / "set" / A / "blur_gamma")
    fill(tmp_path / "set" / A / "sharp")
    assert [clip.role for clip in find_clips(tmp_path / "set", role="blur_gamma")] == ["blur_gamma"]
    with pytest.raises(DataLayoutError, match="'input'; there are blur, blur_gamma"):
        find_clips(tmp_path / "set", role="input")
    with pytest.raises(DataLayoutError, match="name no split"):
        find_clips(tmp_path / "set", split="test")
    with pytest.raises(DataLayoutError, match="expected train, valid or test"):
        find_clips(tmp_path / "set", split="exam")
    (tmp_path / "mdb").mkdir()
    (tmp_path / "mdb" / "data.mdb").write_bytes(b"")
    with pytest.raises(DataLayoutError, match="LMDB"):
        find_clips(tmp_path / "mdb")


def test_a_list_selects_clips_in_its_order(tmp_path):
    for name in (A, B, "GOPR0385_11_01"):
        fill(tmp_path / "set" / "blur" / name, 3)
        fill(tmp_path / "set" / "GT" / name, 3)
    listing = tmp_path / "GoPro_test.txt"
    listing.write_text(f"# clips\n\n{B} 3 (720,1280,3)\nblur/{A} 3\n")
    clips = find_clips(tmp_path / "set", clip_list=listing)
    assert [(clip.sequence, clip.listed_frames) for clip in clips] == [(B, 3), (A, 3)]
    listing.write_text(f"{B} 4\n")
    [found] = check(tmp_path / "set", clip_list=listing)
    assert "has 3 frames where the list states 4" in found.problems[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{B} 3\nGOPR9999_11_00 5\n", "line 2 names GOPR9999_11_00, which"),
        (f"{B} many\n", "line 1 has 'many' after GOPR0384_11_00"),
        (f"{B} 0\n", "expected its number of frames"),
        (f"{B} 3\n{B} 3\n", "line 2 names GOPR0384_11_00 again, after line 1"),
        ("# nothing\n", "names no clip"),
        (None, "cannot be read as a list"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
    ],
)
def test_lists_that_do_not_fit_are_explained(tmp_path, text, words):
    fill(tmp_path / "set" / "blur" / B, 3)
    listing = tmp_path / "list.txt"
    if isinstance(text, bytes):
        listing.write_bytes(text)
    elif text is not None:
        listing.write_text(text)
    with pytest.raises(DataLayoutError) as error:
        find_clips(tmp_path / "set", clip_list=listing)
    assert words in str(error.value) and str(listing) in str(error.value) and "\n" not in str(error.value)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    st.lists(
        st.tuples(st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True), st.none() | st.integers(1, 10**6)),
        min_size=1,
        max_size=6,
        unique_by=lambda entry: entry[0],
    )
)
def test_lists_survive_writing_and_reading(tmp_path, entries):
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"{name}{'' if count is None else f' {count}'}\n" for name, count in entries))
    assert read_clip_list(listing) == [ListedClip(name, count, i) for i, (name, count) in enumerate(entries, 1)]


def test_published_numbers_add_up():
    assert sum(GOPRO_TEST.values()) == 1111
    assert len(GOPRO_TEST) == 11 and len(set(DVD_TEST)) == 10
    assert {(known.family, known.split): (known.clips, known.frames) for known in PUBLISHED} == {
        ("GoPro", "train"): (22, 2103),
        ("GoPro", "test"): (11, 1111),
        ("DVD", "train"): (61, 5708),
        ("DVD", "test"): (10, 1000),
    }
    assert (gopro_window(A), gopro_window(B), gopro_window("IMG_0030")) == (7, 11, None)


def found_clip(sequence: str, frames: int, layout: str = "GOPRO_Large", role: str = "blur") -> ClipCheck:
    return ClipCheck(f"test/{sequence}/{role}", frames, 1280, 720, True, False, (), sequence, "test", role, layout)


def test_a_set_like_a_published_one_is_compared_with_it():
    whole = [found_clip(name, frames) for name, frames in GOPRO_TEST.items()]
    assert describe(whole) == ["layout: GOPRO_Large", "test blur: 11 clips, 1111 frames"]
    gamma = [found_clip(name, frames, role="blur_gamma") for name, frames in GOPRO_TEST.items()]
    assert describe([*whole, *gamma])[1:] == [
        "test blur: 11 clips, 1111 frames",
        "test blur_gamma: 11 clips, 1111 frames",
    ]
    lines = describe(whole[1:])
    assert lines[-1].startswith("test blur: differs from the published GoPro test, 11 clips and 1111 frames")
    assert "GOPR0384_11_00 missing" in lines[-1]
    short = [found_clip(name, frames - (name == "GOPR0410_11_00")) for name, frames in GOPRO_TEST.items()]
    assert "GOPR0410_11_00 has 133 frames instead of 134" in describe(short)[-1]
    dvd = [found_clip(name, 100, "DVD", "input") for name in DVD_TEST]
    assert len(describe(dvd)) == 2
    assert "differs from the published DVD test" in describe(dvd[:-1])[-1]
    assert len(describe([found_clip("a", 3, "folders of frames", "")])) == 2


def test_missing_partners_are_named_with_what_was_expected(tmp_path):
    for name in (A, B):
        fill(tmp_path / "train" / name / "blur")
        fill(tmp_path / "train" / name / "sharp")
    assert not any(clip.problems for clip in check(tmp_path))
    for file in (tmp_path / "train" / A / "sharp").iterdir():
        file.unlink()
    fill(tmp_path / "train" / "lone" / "sharp")
    problems = {clip.sequence: clip.problems for clip in check(tmp_path)}
    assert problems[B] == ()
    assert problems[A] == (
        f"{tmp_path}/train/{A}/blur: has no sharp partner; expected "
        + " or ".join(f"{tmp_path}/train/{A}/{name}" for name in ("sharp", "gt", "GT", "sharp_gamma")),
    )
    assert "has no blurred partner" in problems["lone"][0]


def test_check_compares_depth_and_names(tmp_path):
    fill(tmp_path / "a" / "blur")
    fill(tmp_path / "a" / "sharp", first=7)
    fill(tmp_path / "b" / "blur", 1)
    (tmp_path / "b" / "sharp").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "b" / "sharp" / "000000.png"), np.zeros((16, 24, 3), np.uint16))
    found = {clip.sequence: clip.problems for clip in check(tmp_path)}
    assert "its images are named 000007 and on" in found["a"][0]
    assert "has 16 bits where the blurred frames have 8" in found["b"][0]


def test_check_reads_videos_and_raw_yuv(tmp_path):
    frames = moving_frames((48, 32), 3)
    for kind in ("blur", "sharp"):
        (tmp_path / kind).mkdir()
        make_yuv(tmp_path / kind / "one_48x32_30_8bit.yuv", frames)
        make_yuv(tmp_path / kind / "two.yuv", frames, cut_bytes=9 if kind == "sharp" else 0)
        make_clip(tmp_path / kind / "three.y4m", codec="wrapped_avframe", content=frames)

    def run(*options: str):
        return unsmear("data", "check", str(tmp_path), "--workers", "1", *options)

    result = run()
    assert result.exit_code == 1
    assert "blur/one_48x32_30_8bit.yuv: 3 frames of 48x32" in result.output
    assert "blur/three.y4m: 3 frames of 48x32" in result.output
    assert "two.yuv: raw video does not state its size" in result.output
    result = run("--yuv", "48x32_30")
    assert (
        f"unsmear: {tmp_path}/sharp/two.yuv: holds 2 frames of 48x32 8-bit 4:2:0 and 2295 bytes of another of 2304"
        in result.output
    )
    make_yuv(tmp_path / "sharp" / "two.yuv", frames)
    result = run("--yuv", "48x32_30")
    assert result.exit_code == 0, result.output
    assert "layout: sorted by kind\nblur: 3 clips, 9 frames\n" in result.output
    (tmp_path / "list.txt").write_text("two 3\n")
    assert "1 clips, 3 frames, 1 with a sharp" in run("--yuv", "48x32_30", "--list", str(tmp_path / "list.txt")).output
    assert run("--yuv", "big").exit_code == 2
