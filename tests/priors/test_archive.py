"""Priors on disk: what goes in comes out, byte by byte as documented, and damage is named."""

from __future__ import annotations

import json
import re
import shutil
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.clips import LAYOUTS_PUBLISHED, moving_frames, write_published
from unsmear.errors import DataLayoutError, OutputError, UnsupportedVideo, UsageError
from unsmear.priors import Prior, chunk_priors
from unsmear.priors.archive import ArchiveWriter, PriorArchive
from unsmear.priors.published import PublishedArrays, find_published, reversed_motion
from unsmear.video.colour import luma_of_rgb

DOCS = Path(__file__).resolve().parents[2] / "docs" / "priors.md"


@pytest.fixture(scope="module")
def clip() -> tuple[list[np.ndarray], list[Prior]]:
    lumas = [luma_of_rgb(frame) for frame in moving_frames((101, 70), 7)]
    priors = chunk_priors(lumas, before=None, after=None)
    priors[2] = replace(priors[2], origin="native", motion_back_source="coarse")
    priors[3] = replace(priors[3], motion_source="borrowed")
    return lumas, priors


@pytest.fixture
def archive(tmp_path, clip) -> Path:
    path = tmp_path / "clip.priors.npz"
    with ArchiveWriter(path, {"source": "clip.mp4"}) as writer:
        for luma, prior in zip(*clip, strict=True):
            writer.add(prior, luma)
    return path


def assert_equal(one: Prior, other: Prior) -> None:
    for name in Prior.__dataclass_fields__:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_frames_are_read_back_in_any_order(archive, clip):
    lumas, priors = clip
    with PriorArchive(archive) as opened:
        assert len(opened) == 7 and (opened.width, opened.height) == (101, 70)
        assert opened.provenance["source"] == "clip.mp4"
        for t in (6, 0, 3, 2):
            assert_equal(opened[t], priors[t])
        assert_equal(opened[-1], priors[6])
        for one, other in zip(opened, priors, strict=True):
            assert_equal(one, other)
        assert [p.reset for p in opened[1:3]] == [False, False]
        assert opened.luma_crc32.tolist() == [zlib.crc32(luma.tobytes()) for luma in lumas]
        with pytest.raises(IndexError):
            opened[7]


def test_the_reader_in_the_documentation_works(archive, clip, monkeypatch):
    """The dozen lines of docs/priors.md, with NumPy alone."""
    [code] = re.findall(r"<!-- reader -->\n```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 14
    assert set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)) <= {"json", "numpy"}
    space: dict = {}
    exec(compile(code, str(DOCS), "exec"), space)
    priors = list(space["read_priors"](archive))
    assert len(priors) == len(clip[1])
    for found, prior in zip(priors, clip[1], strict=True):
        np.testing.assert_array_equal(found["motion"], np.stack([prior.motion(0), prior.motion_back(0)]))
        np.testing.assert_array_equal(found["valid"], np.stack([prior.valid, prior.valid_back]))
        np.testing.assert_array_equal(found["residual"], prior.residual)
        assert found["reset"].tolist() == [prior.reset, prior.reset_back]


def test_every_measured_table_has_its_command():
    page = DOCS.read_text()
    measured = re.findall(
        r"`python tools/measure_priors.py (\w+)`\n<!-- measured: (\w+) -->\n.*?<!-- end -->", page, re.DOTALL
    )
    assert len(measured) == page.count("<!-- measured: ") >= 6 and all(one == other for one, other in measured)
    for name, _ in measured:
        assert f'"{name}":' in (DOCS.parents[1] / "tools" / "measure_priors.py").read_text()
    assert (DOCS.parent / "priors.jpg").stat().st_size < 150_000


def test_bytes_are_as_documented(archive, clip):
    """Read with a ZIP reader alone, by the offsets that the documentation gives."""
    prior = clip[1][3]
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
        assert names[:2] == ["frame/000000.npy", "frame/000001.npy"]
        assert names[7:] == [
            "resets.npy",
            "origin.npy",
            "luma_crc32.npy",
            "motion_source.npy",
            "provenance.json",
        ]
        assert {member.compress_type for member in file.infolist()} == {zipfile.ZIP_DEFLATED}
        data = file.read("frame/000003.npy")
        origin = file.read("origin.npy")
        source = file.read("motion_source.npy")
        about = json.loads(file.read("provenance.json"))
    assert data[:8] == b"\x93NUMPY\x01\x00"
    body = data[10 + struct.unpack("<H", data[8:10])[0] :]
    cells = 10 * 14
    assert len(body) == 8 * cells + 2 * cells + 101 * 70
    motion = np.frombuffer(body[: 8 * cells], "<i2").reshape(2, 10, 14, 2)
    np.testing.assert_array_equal(motion, [prior.motion_q, prior.motion_back_q])
    valid = np.frombuffer(body[8 * cells : 10 * cells], "u1").reshape(2, 10, 14)
    np.testing.assert_array_equal(valid, [prior.valid, prior.valid_back])
    np.testing.assert_array_equal(np.frombuffer(body[10 * cells :], "u1").reshape(70, 101), prior.residual)
    assert list(origin[-7:]) == [0, 0, 1, 0, 0, 0, 0]
    assert list(source[-14:]) == [0, 1, 1, 1, 1, 2, 3, 1, 1, 1, 1, 1, 1, 0]
    assert (about["format"], about["version"], about["frames"]) == ("unsmear-priors", 2, 7)


def test_archives_of_version_1_are_read(archive, clip):
    """They said nothing of where motion came from."""
    with zipfile.ZipFile(archive) as file:
        about = json.loads(file.read("provenance.json")) | {"version": 1}
    old = rewritten(archive, **{"motion_source.npy": None, "provenance.json": json.dumps(about).encode()})
    with PriorArchive(old) as opened:
        for found, prior in zip(opened, clip[1], strict=True):
            expected = ("none" if prior.reset else "codec", "none" if prior.reset_back else "codec")
            assert (found.motion_source, found.motion_back_source) == expected
            assert_equal(
                replace(found, motion_source="codec", motion_back_source="codec"),
                replace(prior, motion_source="codec", motion_back_source="codec"),
            )


def test_equal_priors_make_equal_files(archive, clip, tmp_path):
    with ArchiveWriter(tmp_path / "again.npz", {"source": "clip.mp4"}) as writer:
        for luma, prior in zip(*clip, strict=True):
            writer.add(prior, luma)
    assert (tmp_path / "again.npz").read_bytes() == archive.read_bytes()


def test_a_failed_run_leaves_no_file_and_keeps_existing_ones(tmp_path, clip, archive):
    lumas, priors = clip
    with pytest.raises(RuntimeError), ArchiveWriter(tmp_path / "b" / "x.npz", {}) as writer:
        writer.add(priors[0], lumas[0])
        raise RuntimeError
    assert list((tmp_path / "b").iterdir()) == []
    before = archive.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        ArchiveWriter(archive, {})
    with pytest.raises(RuntimeError), ArchiveWriter(archive, {}, overwrite=True):
        raise RuntimeError
    assert archive.read_bytes() == before
    with pytest.raises(UnsupportedVideo, match="not one frame"), ArchiveWriter(tmp_path / "empty.npz", {}):
        pass
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        ArchiveWriter(tmp_path / "file" / "x.npz", {})


def test_an_archive_holds_one_size(tmp_path, clip):
    lumas, priors = clip
    with pytest.raises(UnsupportedVideo, match="16x16"), ArchiveWriter(tmp_path / "x.npz", {}) as writer:
        writer.add(priors[0], lumas[0])
        writer.add(Prior.empty(16, 16), np.zeros((16, 16), np.uint8))


def rewritten(archive: Path, **members: bytes | None) -> Path:
    """A copy with some members replaced, or left out (None)."""
    out = archive.with_name("changed.npz")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = members.get(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return out


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"provenance.json": None}, "missing"),
        ({"provenance.json": b"[]"}, "not that of an archive"),
        ({"provenance.json": b'{"format":"x","version":1,"height":1,"width":1,"frames":1}'}, "it is x version 1"),
        ({"provenance.json": b'{"format":"unsmear-priors","version":2,"height":70,"width":1e9,"frames":7}'}, "states"),
        ({"provenance.json": b'{"format":"unsmear-priors","version":2,"height":70,"width":9,"frames":9999}'}, "states"),
        ({"resets.npy": b""}, "no .npy file"),
        ({"resets.npy": b"\x93NUMPY\x01\x00" + b"\xff" * 2000}, "states"),
        ({"motion_source.npy": None}, "missing"),
        ({"frame/000002.npy": None}, "missing"),
        ({"frame/000002.npy": b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16}, "no .npy file"),
    ],
)  # fmt: skip
def test_damage_is_named_in_one_line(archive, members, words):
    changed = rewritten(archive, **members)
    with pytest.raises(DataLayoutError, match=words) as raised, PriorArchive(changed) as opened:
        list(opened)
    assert "\n" not in str(raised.value) and str(changed) in str(raised.value)


def test_flipped_and_missing_bytes_are_detected(archive, clip):
    data = archive.read_bytes()
    rng = np.random.default_rng(0)
    changed = archive.with_name("changed.npz")
    for _ in range(150):
        mutant = bytearray(data)
        if rng.random() < 0.3:
            del mutant[int(rng.integers(len(mutant))) :]
        for _ in range(int(rng.integers(1, 5)) if mutant else 0):
            mutant[int(rng.integers(len(mutant)))] ^= 1 << int(rng.integers(8))
        changed.write_bytes(mutant)
        try:
            with PriorArchive(changed) as opened:
                for one, other in zip(opened, clip[1], strict=True):
                    assert_equal(one, other)
        except DataLayoutError as error:
            assert "\n" not in str(error)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataLayoutError, match="cannot be opened"):
        PriorArchive(tmp_path / "no.npz")


# The arrays of CPGD-Net's authors.


def publish(folder: Path, coding: str | None, motion: np.ndarray, residual: np.ndarray) -> PublishedArrays:
    """Three frames, the same motion and residual twice."""
    for t in (1, 2):
        write_published(folder, "GOPR0410", t, motion, residual, layout="flat")
    return PublishedArrays(folder, "GOPR0410", coding)


@pytest.mark.parametrize("coding", ["h264", "h265"])
def test_published_block_vectors(tmp_path, coding):
    motion = np.zeros((2, 9, 16), np.int16)
    motion[0], motion[1] = -12, 6
    residual = np.full((72, 128), -5, np.int16)
    priors = publish(tmp_path, coding, motion, residual)
    assert len(priors) == 3
    assert [(p.reset, p.reset_back) for p in priors] == [(True, False), (False, False), (False, True)]
    np.testing.assert_array_equal(np.median(priors[1].motion(), (1, 2)), (-3, 1.5))
    np.testing.assert_array_equal(np.median(priors[0].motion_back(), (1, 2)), (3, -1.5))
    assert priors[1].motion_q.shape == (10, 16, 2) and priors[1].residual.shape == (72, 128)
    assert (priors[1].residual == 5).all() and not priors[0].residual.any()
    assert priors[1].origin == "published"


def test_published_vvc_vectors_are_finer_in_space_and_value(tmp_path):
    motion = np.zeros((2, 18, 32), np.float32)
    motion[0] = 16 * 2.5
    residual = (np.full((72, 128), 40) + 1) / 512  # ten bits, normalised
    priors = publish(tmp_path, None, motion, residual.astype(np.float32))
    assert priors.coding == "vvc" and PublishedArrays(tmp_path, "GOPR0410", "h264").coding == "h264"
    np.testing.assert_array_equal(np.median(priors[2].motion(), (1, 2)), (2.5, 0))
    assert (priors[2].residual == 10).all()


@pytest.mark.parametrize("layout", LAYOUTS_PUBLISHED)
@pytest.mark.parametrize("given", ["the top", "the folder itself"])
def test_every_layout_of_the_published_arrays_is_read(tmp_path, layout, given):
    for t in range(3):
        for clip, step in (("000", 8), ("A_01", -4)):
            motion = np.full((2, 6, 8), step * (t + 1), np.int16)
            write_published(tmp_path, clip, t, motion, np.full((48, 64), t, np.int16), layout=layout)
    found = find_published(tmp_path)
    assert sorted(found) == ["000", "A_01"] and all(len(places) == 1 for places in found.values())
    priors = PublishedArrays(tmp_path if given == "the top" else found["A_01"][0], "A_01")
    assert len(priors) == 4 and priors.coding == "h264"
    for t in (1, 2, 3):
        assert (priors[t].motion_q[:6] == -4 * t).all() and (priors[t].residual == t - 1).all()


def test_published_priors_can_be_archived(tmp_path):
    priors = publish(tmp_path, "h264", np.zeros((2, 4, 4), np.int16), np.zeros((32, 32), np.int16))
    with ArchiveWriter(tmp_path / "x.npz", {}) as writer:
        for prior in priors:
            writer.add(prior, np.zeros((32, 32), np.uint8))
    with PriorArchive(tmp_path / "x.npz") as opened:
        assert [p.origin for p in opened] == ["published"] * 3


def test_unusable_published_arrays_are_named(tmp_path):
    good = np.zeros((2, 4, 4), np.int16), np.zeros((32, 32), np.int16)
    publish(tmp_path, "h264", *good)
    with pytest.raises(UsageError):
        PublishedArrays(tmp_path, "GOPR0410", "mpeg2")
    with pytest.raises(DataLayoutError, match="holds no MVs of a clip other"):
        PublishedArrays(tmp_path, "other")
    with pytest.raises(DataLayoutError, match="holds no MVs/CLIP/CLIP_00000_00001"):
        PublishedArrays(tmp_path / "resi", "GOPR0410")
    publish(tmp_path / "again", "h264", *good)
    with pytest.raises(DataLayoutError, match="both hold a clip GOPR0410"):
        PublishedArrays(tmp_path, "GOPR0410")
    shutil.rmtree(tmp_path / "again")
    for motion, residual in (
        (np.zeros((4, 4), np.int16), good[1]),
        (np.zeros((2, 40, 4), np.int16), good[1]),
        (good[0], np.zeros((3, 32, 32), np.int16)),
        (np.full((2, 4, 4), np.nan, np.float32), good[1]),
        (np.array(["text"]), good[1]),
    ):
        with pytest.raises(DataLayoutError) as raised:
            _ = publish(tmp_path, "h264", motion, residual)[1]
        assert "\n" not in str(raised.value)
    (tmp_path / "MVs" / "GOPR0410_00001_00002.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(DataLayoutError, match="cannot be read"):
        _ = PublishedArrays(tmp_path, "GOPR0410", "h264")[1]
    (tmp_path / "resi" / "GOPR0410_00002_00003.npy").unlink()
    with pytest.raises(DataLayoutError, match="missing"):
        PublishedArrays(tmp_path, "GOPR0410", "h264")


def test_reversed_motion_is_moved_to_its_target_and_negated():
    motion_q = np.zeros((4, 6, 2), np.int16)
    motion_q[1, 2] = (64, 32)  # two cells right, one down
    back = reversed_motion(motion_q)
    assert tuple(back[2, 4]) == (-64, -32)
    assert not reversed_motion(np.zeros((4, 6, 2), np.int16)).any()
