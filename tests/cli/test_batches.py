"""Several inputs in one command: a fault of one does not stop the others, and what is done is not done again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support.clips import make_clip, moving_frames
from support.command import Answer, unsmear
from unsmear.video import write_png


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where a test's files lie, and the current folder: ``a.mp4`` and ``b.mp4`` are there."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copy(make_clip("a.mp4", frames=9), "b.mp4")
    return tmp_path / "here"


@pytest.fixture
def deblur(tiny_model):
    def call(*arguments: object) -> Answer:
        fixed = ["--model", tiny_model, "--device", "cpu", "--dtype", "fp32", "--window", 8]
        return unsmear("deblur", *arguments, *fixed)

    return call


def videos(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_name_that_is_none_does_not_stop_the_others(deblur, folder):
    (folder / "l1.mp4").symlink_to("l2.mp4")
    (folder / "l2.mp4").symlink_to("l1.mp4")
    long = f"{'m' * 245}.mp4"  # that of its output would be longer than names can be
    shutil.copy("a.mp4", long)
    wrong = ["", "https://example.com/c.mp4", "l1.mp4", "gone.mp4", f"{'n' * 300}.mp4", long]
    done = deblur("a.mp4", *wrong, "b.mp4")
    assert done.exit_code == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["a.deblurred.mp4", "b.deblurred.mp4"]
    expected = ["has no name", "https://example.com/c.mp4: addresses are not read", "l1.mp4", "gone.mp4", "nn"]
    expected.append("m.deblurred.mp4: cannot be written (File name too long)")
    for line, words in zip(done.stderr.splitlines(), expected, strict=True):
        assert words in line and "unexpected" not in line


@pytest.mark.parametrize(
    ("name", "status"), [("", 2), (" ", 2), ("https://example.com/a.mp4", 1), ("rtsp://camera/1", 1)]
)
def test_a_single_name_that_is_none(name, status, deblur, folder):
    done = deblur(name)
    assert done.exit_code == status and done.complaint and videos(folder) == ["a.mp4", "b.mp4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_does_not_stop_the_others(deblur, folder):
    (folder / "a.mp4").chmod(0)
    done = deblur("a.mp4", "b.mp4")
    assert done.exit_code == 1 and "a.mp4" in done.complaint and (folder / "b.deblurred.mp4").exists()


def test_a_file_with_two_names_is_done_once(deblur, folder):
    (folder / "0-latest.mp4").symlink_to("b.mp4")
    done = deblur(folder)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "0-latest.mp4 is" in done.stdout and "b.mp4, which is done once" in done.stdout
    assert videos(folder) == ["0-latest.mp4", "a.deblurred.mp4", "a.mp4", "b.deblurred.mp4", "b.mp4"]
    assert deblur("a.mp4", "./a.mp4", "-o", "out/").exit_code == 0 and videos(folder / "out") == ["a.deblurred.mp4"]


def test_a_batch_that_is_run_again_does_what_is_missing(deblur, folder):
    assert deblur("a.mp4", "b.mp4", "--report", "r.json").exit_code == 0
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for inputs in (["a.mp4", "b.mp4"], [folder], sorted(folder.glob("*.mp4"))):
        again = deblur(*inputs, "--report", "r.json")
        assert (again.exit_code, again.stderr) == (0, "")
        assert again.stdout.count("already there") == 2
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "b.deblurred.mp4").unlink()
    again = deblur("a.mp4", "b.mp4")
    assert again.exit_code == 0 and "a.deblurred.mp4: already there" in again.stdout
    assert (folder / "b.deblurred.mp4").read_bytes() == before[folder / "b.deblurred.mp4"]
    assert "already" not in deblur("a.mp4", "b.mp4", "--overwrite").stdout


def test_unfinished_outputs_are_not_taken_for_done(deblur, folder):
    assert deblur("a.mp4", "b.mp4").exit_code == 0
    (folder / ".a.deblurred.mp4.unsmear").mkdir()  # of a run with --overwrite that was stopped
    assert "a.deblurred.mp4 exists already" in deblur("a.mp4", "b.mp4").complaint
    done = deblur("a.mp4", "b.mp4", "--compare")
    assert done.exit_code == 1 and len(done.stderr.splitlines()) == 2, "the comparisons are not there"


def test_frames_of_a_batch_are_done_once(deblur, folder):
    for i, picture in enumerate(moving_frames(frames=3)):
        (folder / "shots").mkdir(exist_ok=True)
        write_png(folder / "shots" / f"{i}.png", picture)
    assert deblur("a.mp4", "shots", "--frames", "-o", "out/").exit_code == 0
    again = deblur("a.mp4", "shots", "--frames", "-o", "out/")
    assert again.exit_code == 0 and again.stdout.count("already there") == 2


def test_priors_of_a_batch_are_made_once(folder):
    (folder / "latest.mp4").symlink_to("a.mp4")
    assert unsmear("priors", folder, "-o", "out").exit_code == 0
    assert videos(folder / "out") == ["a.priors.npz", "b.priors.npz"]
    again = unsmear("priors", folder, "", "-o", "out")
    assert again.exit_code == 2 and "has no name" in again.complaint
    assert again.stdout.count("already there") == 2
