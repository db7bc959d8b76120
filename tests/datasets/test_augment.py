"""Data sets with priors beside their clips: layouts, resuming, and finding what is damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from support.clips import make_clip, moving_frames, write_published
from support.command import unsmear
from unsmear.datasets.augment import augment
from unsmear.datasets.check import check
from unsmear.datasets.layouts import find_clips
from unsmear.datasets.pairs import open_priors
from unsmear.errors import DataLayoutError, UsageError
from unsmear.priors.archive import PriorArchive
from unsmear.priors.flow import DisFlow, MotionSource
from unsmear.priors.settings import PriorSettings

LAYOUTS = {
    "gopro": ["train/GOPR1/blur", "train/GOPR1/blur_gamma", "train/GOPR1/sharp", "test/GOPR2/blur", "test/GOPR2/sharp"],
    "gopro by kind": ["train/blur/GOPR1", "train/gt/GOPR1", "test/blur/GOPR2", "test/gt/GOPR2"],
    "gopro11": ["test_GT_blurred/GOPR1", "test_GT/GOPR1"],
    "dvd": ["quantitative_datasets/720p_240fps_1/input", "quantitative_datasets/720p_240fps_1/GT"],
    "bsd": ["BSD_3ms24ms/test/000/Blur/RGB", "BSD_3ms24ms/test/000/Sharp/RGB"],
    "any": ["one", "two/deep"],
}
BLURRED = {
    "gopro": ["test/GOPR2/blur", "train/GOPR1/blur", "train/GOPR1/blur_gamma"],
    "gopro by kind": ["test/blur/GOPR2", "train/blur/GOPR1"],
    "gopro11": ["test_GT_blurred/GOPR1"],
    "dvd": ["quantitative_datasets/720p_240fps_1/input"],
    "bsd": ["BSD_3ms24ms/test/000/Blur/RGB"],
    "any": ["one", "two/deep"],
}


def fill(folder: Path, frames: int = 4, seed: int = 0, suffix: str = ".png") -> None:
    folder.mkdir(parents=True)
    for i, frame in enumerate(moving_frames((48, 32), frames, seed=seed)):
        cv2.imwrite(str(folder / f"{i:06d}{suffix}"), frame[..., ::-1])


@pytest.fixture
def gopro(tmp_path) -> Path:
    for n, name in enumerate(LAYOUTS["gopro"]):
        fill(tmp_path / "GOPRO" / name, seed=n)
    return tmp_path / "GOPRO"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_understood(tmp_path, layout):
    for name in LAYOUTS[layout]:
        fill(tmp_path / name, frames=2, suffix=".jpg" if layout == "dvd" else ".png")
    clips = find_clips(tmp_path)
    assert [clip.name for clip in clips] == BLURRED[layout]
    assert all((clip.sharp is None) == (layout == "any") and clip.frames == 2 for clip in clips)
    done = augment(tmp_path, PriorSettings(), workers=1)
    assert sorted(done.made) == BLURRED[layout] and not done.failures
    for clip in clips:
        assert clip.archive == clip.source.parent / f"{clip.source.name}.priors.npz"
        with PriorArchive(clip.archive) as archive:
            assert len(archive) == 2
    found = check(tmp_path)
    assert all(c.augmented and not c.problems and c.paired == (layout != "any") for c in found)
    assert [clip.name for clip in find_clips(tmp_path)] == BLURRED[layout]  # archives are no clips


def test_sharp_sets_alone_and_videos_are_clips(tmp_path):
    fill(tmp_path / "a" / "sharp", frames=2)
    make_clip(tmp_path / "b.mp4", frames=5)
    make_clip(tmp_path / "b.mkv", frames=3)
    done = augment(tmp_path)
    assert sorted(done.made) == ["a/sharp", "b.mkv", "b.mp4"]
    assert (tmp_path / "b.mp4.priors.npz").exists() and (tmp_path / "b.mkv.priors.npz").exists()
    frames = tmp_path / "c"
    fill(frames)
    assert [clip.name for clip in find_clips(frames)] == ["c"]
    augment(frames)
    assert (frames / "frames.priors.npz").exists()


def test_a_stopped_run_resumes(gopro):
    done = augment(gopro)
    kept = gopro / "train/GOPR1/blur.priors.npz"
    lost = gopro / "test/GOPR2/blur.priors.npz"
    stamp, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    (lost.parent / ".blur.priors.npz.partial").write_bytes(b"half")
    again = augment(gopro)
    assert list(again.made) == ["test/GOPR2/blur"] and len(again.kept) == len(done.made) - 1
    assert kept.stat().st_mtime_ns == stamp and lost.read_bytes() == content
    assert not list(gopro.rglob("*.partial"))


def test_results_do_not_depend_on_the_workers(gopro, tmp_path):
    shutil.copytree(gopro, tmp_path / "other")
    augment(gopro)
    told = []
    augment(tmp_path / "other", workers=2, on_clip=lambda name, made: told.append((name, made.frames)))
    assert sorted(told) == [(name, 4) for name in BLURRED["gopro"]]
    for name in BLURRED["gopro"]:
        one, other = (root / f"{name}.priors.npz" for root in (gopro, tmp_path / "other"))
        assert one.read_bytes() == other.read_bytes()
    assert [c.name for c in check(tmp_path / "other", workers=2)] == BLURRED["gopro"]


def test_archives_of_other_settings_are_refused(gopro):
    augment(gopro)
    changed = augment(gopro, PriorSettings(qp=30))
    assert not changed.made and len(changed.failures) == 3
    assert "qp 24, not 30" in str(changed.failures[0][1])
    assert len(augment(gopro, PriorSettings(qp=30), overwrite=True).made) == 3
    with pytest.raises(UsageError):
        augment(gopro, PriorSettings(motion="guess"))


def test_a_damaged_clip_does_not_stop_the_others(gopro):
    (gopro / "test/GOPR2/blur/000001.png").write_bytes(b"\x89PNG broken")
    done = augment(gopro)
    assert [name for name, _ in done.failures] == ["test/GOPR2/blur"] and len(done.made) == 2
    assert not (gopro / "test/GOPR2/blur.priors.npz").exists()


def broken(kind: str, gopro: Path) -> str:
    blur, sharp, archive = (gopro / "train/GOPR1" / name for name in ("blur", "sharp", "blur.priors.npz"))
    if kind == "missing sharp":
        (sharp / "000002.png").unlink()
        return "000002 is missing in"
    if kind == "damaged sharp":
        (sharp / "000002.png").write_bytes(b"")
        return "000002.png"
    if kind == "other size":
        cv2.imwrite(str(sharp / "000000.png"), np.zeros((8, 8, 3), np.uint8))
        return "8x8"
    if kind == "missing blurred":
        (blur / "000003.png").unlink()
        return "000003 is missing in"
    if kind == "damaged priors":
        data = bytearray(archive.read_bytes())
        data[200] ^= 255
        archive.write_bytes(data)
        return "blur.priors.npz"
    if kind == "priors of others":
        shutil.copy(gopro / "test/GOPR2/blur.priors.npz", archive)
        return "is not the clip's"
    fill(gopro / "spare", frames=3)
    augment(gopro / "spare")
    shutil.copy(gopro / "spare/frames.priors.npz", archive)
    shutil.rmtree(gopro / "spare")
    return "holds 3 frames"


DAMAGE = [
    "missing sharp",
    "damaged sharp",
    "other size",
    "missing blurred",
    "damaged priors",
    "priors of others",
    "short",
]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found(gopro, kind):
    augment(gopro)
    words = broken(kind, gopro)
    found = {clip.name: clip.problems for clip in check(gopro)}
    assert found["test/GOPR2/blur"] == ()
    problems = found["train/GOPR1/blur"]
    assert problems and words in problems[0]
    assert all("\n" not in problem for problem in problems)


def test_no_clips_is_an_error(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        for command in (augment, check):
            with pytest.raises(DataLayoutError, match=str(folder)):
                command(folder)


# Published arrays, RAFT's weights and other codecs.


def publish(top: Path, sequence: str, layout: str, frames: int = 4, step: int = 4, size: tuple[int, int] = (32, 48)):
    """Arrays of a clip: motion of ``step`` quarter pixels to the right and t levels of residual at frame t."""
    motion = np.zeros((2, size[0] // 8, size[1] // 8), np.int16)
    motion[0] = step
    for t in range(frames - 1):
        write_published(top, sequence, t, motion, np.full(size, t + 1, np.int16), layout=layout)


PUBLISHED_SETS = {
    "GoPro, DVD": ["train/blur/GOPR1", "train/gt/GOPR1", "test/blur/GOPR2", "test/gt/GOPR2"],
    "flat": ["quantitative_datasets/GOPR1/input", "quantitative_datasets/GOPR1/GT"],
    "BSD": ["test/GOPR1/Blur/RGB", "test/GOPR1/Sharp/RGB"],
}


@pytest.mark.parametrize("layout", PUBLISHED_SETS)
def test_published_arrays_become_archives(tmp_path, layout):
    top = tmp_path / "set"
    for name in PUBLISHED_SETS[layout]:
        fill(top / name)
    arrays = top / "test" if layout == "BSD" else tmp_path / "arrays"
    sequences = sorted({clip.sequence for clip in find_clips(top)})
    for sequence in sequences:
        publish(arrays, sequence, layout)
    done = augment(top, published=arrays)
    assert not done.failures and len(done.made) == len(sequences) == len(find_clips(top))
    for clip in find_clips(top):
        with open_priors(clip) as archive:
            assert archive.provenance["settings"] == {"mode": "published", "coding": "h264"}
            assert [p.origin for p in archive] == ["published"] * 4
            assert (archive[2].motion_q[:4] == (4, 0)).all() and (archive[2].residual == 2).all()
    assert not [problem for clip in check(top) for problem in clip.problems]
    assert len(augment(top, published=arrays).kept) == len(sequences)
    refused = augment(top)
    assert "was made with mode published, not auto" in str(refused.failures[0][1])


def test_arrays_that_do_not_fit_their_clip_are_named(tmp_path):
    top, arrays = tmp_path / "set", tmp_path / "arrays"
    for name in ("a", "b", "c", "d", "e"):
        fill(top / name / "blur")
        fill(top / name / "sharp")
    publish(arrays, "a", "flat")
    publish(arrays, "b", "flat", frames=3)
    publish(arrays, "c", "flat", frames=5)
    publish(arrays, "d", "flat", size=(48, 64))
    done = augment(top, published=arrays, workers=2)
    assert list(done.made) == ["a/blur"]
    told = {name: str(error) for name, error in done.failures}
    assert "it has more frames where the arrays of b in" in told["b/blur"] and "3 frames of 48x32" in told["b/blur"]
    assert "it has 4 frames" in told["c/blur"] and "5 frames of 48x32" in told["c/blur"]
    assert "it is 48x32" in told["d/blur"] and "4 frames of 64x48" in told["d/blur"]
    assert "no arrays are called e; there are a, b, c and the like" in told["e/blur"]
    assert not (top / "b/blur.priors.npz").exists() and not list(top.rglob("*.partial"))
    publish(tmp_path / "arrays" / "again", "a", "flat")
    twice = augment(top, published=arrays, overwrite=True)
    assert any("its arrays may be" in str(error) for _, error in twice.failures)
    with pytest.raises(DataLayoutError, match="holds no MVs"):
        augment(top, published=top)


def test_published_arrays_on_the_command_line(tmp_path, gopro):
    publish(tmp_path / "arrays", "GOPR1", "GoPro, DVD")
    publish(tmp_path / "arrays", "GOPR2", "GoPro, DVD")
    answer = unsmear("data", "augment", gopro, "--from", tmp_path / "arrays", "--role", "blur", "--workers", 1)
    assert answer.exit_code == 0 and "2 clips augmented, 0 were, 0 failed" in answer.stdout
    assert not (gopro / "train/GOPR1/blur_gamma.priors.npz").exists()
    wrong = unsmear("data", "augment", gopro, "--from", tmp_path / "arrays", "--qp", 30)
    assert wrong.exit_code == 2 and wrong.complaint.startswith("unsmear: --from priors are not encoded")
    wrong = unsmear("data", "augment", gopro, "--codec", "vvc")
    assert wrong.exit_code == 2 and "--codec vvc: expected h264 or hevc; VVC's vectors" in wrong.complaint


def test_archives_from_before_there_was_a_codec_are_kept(gopro):
    augment(gopro)
    for clip in find_clips(gopro):
        settings_of(clip.archive, lambda settings: settings.pop("codec"))
    assert len(augment(gopro).kept) == 3
    refused = augment(gopro, PriorSettings(codec="hevc"))
    assert "was made with codec h264, not hevc" in str(refused.failures[0][1])


def settings_of(archive: Path, change) -> None:
    """Rewrite an archive with other settings in its provenance."""
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    about = json.loads(members["provenance.json"])
    change(about["settings"])
    members["provenance.json"] = json.dumps(about).encode()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members.items():
            new.writestr(name, data)


def test_raft_takes_its_weights_and_archives_say_which(gopro, monkeypatch, tmp_path):
    weights = tmp_path / "raft-things.pth"
    weights.write_bytes(b"things")
    asked = []

    def found(name: str, weights: Path | None = None) -> MotionSource:
        asked.append((name, weights))
        return DisFlow()

    monkeypatch.setattr("unsmear.datasets.augment.find_source", found)
    settings = PriorSettings(motion="raft-4")
    done = augment(gopro, settings, raft=weights)
    assert len(done.made) == 3 and ("raft-4", weights) in asked and {given for _, given in asked} == {weights}
    with PriorArchive(gopro / "test/GOPR2/blur.priors.npz") as archive:
        assert archive.provenance["raft_sha256"] == hashlib.sha256(b"things").hexdigest()
    assert len(augment(gopro, settings, raft=weights).kept) == 3
    weights.write_bytes(b"others")
    assert "was made with raft_sha256" in str(augment(gopro, settings, raft=weights).failures[0][1])
