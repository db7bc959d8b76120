"""No output takes the place of an input, of another output, or of what somebody else wrote, and this is seen first."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support.clips import make_clip, moving_frames
from support.command import Answer, unsmear
from unsmear.errors import OutputError
from unsmear.restore import destination
from unsmear.video import write_png


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder: ``a.mp4``, links to it, ``b.mp4`` and what it becomes, folders of frames."""
    monkeypatch.chdir(tmp_path)
    make_clip("a.mp4", frames=4)
    for name in ("b.mp4", "b.deblurred.mp4"):
        shutil.copy("a.mp4", name)
    os.link("a.mp4", "hard.mp4")
    Path("soft.mp4").symlink_to("a.mp4")
    Path("loop.mp4").symlink_to("loop.mp4")
    Path("sub").mkdir()
    for name in ("shots", "b.shots"):
        Path(name).mkdir()
        for i, picture in enumerate(moving_frames(frames=3)):
            write_png(f"{name}/{i:06d}.png", picture)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def deblur(*arguments: str) -> Answer:
    return unsmear("deblur", *arguments, "--device", "cpu")


CLASHES = {
    "report-is-output": (
        ["a.mp4", "-o", "o.mp4", "--report", "o.mp4"],
        2,
        "a.mp4 and --report would both become o.mp4",
    ),
    "report-is-input": (["a.mp4", "--report", "a.mp4"], 1, "a.mp4 is an input, which --report would replace"),
    "report-is-input-by-a-link": (["a.mp4", "--report", "soft.mp4"], 1, "soft.mp4 is an input"),
    "report-is-input-by-a-hard-link": (["a.mp4", "--report", "hard.mp4"], 1, "hard.mp4 is an input"),
    "report-is-input-by-another-path": (["a.mp4", "--report", "sub/../a.mp4"], 1, "is an input"),
    "report-is-the-next-input": (["a.mp4", "b.mp4", "--report", "b.mp4"], 1, "b.mp4 is an input"),
    "report-is-comparison": (["a.mp4", "--compare", "--report", "a.deblurred.compare.mp4"], 2, "would both become"),
    "report-is-a-frame": (["shots", "-o", "o/", "--report", "shots/000001.png"], 1, "is a frame of shots"),
    "report-is-a-folder-of-frames": (["shots", "a.mp4", "--report", "shots"], 1, "shots is an input"),
    "report-is-a-folder": (["a.mp4", "--report", "."], 1, ". is a folder, but a file is to be written there"),
    "output-is-input": (["a.mp4", "-o", "a.mp4"], 1, "a.mp4 is the input itself"),
    "output-is-the-next-input": (
        ["b.mp4", "b.deblurred.mp4"],
        1,
        "deblurred.mp4 is an input, which b.mp4 would",
    ),
    "frames-into-the-input": (["shots", "-o", "shots"], 1, "shots is the input itself"),
    "two-outputs": (["a.mp4", "sub/a.mp4", "-o", "out/"], 2, "would both become out/a.deblurred.mp4"),
    "two-comparisons": (["a.mp4", "sub/a.mov", "-o", "out/", "--compare"], 2, "out/a.deblurred.compare.mp4"),
    "frames-of-somebody-else": (
        ["a.mp4", "-o", "b.shots", "--frames"],
        1,
        "b.shots/000000.png was not written by",
    ),
    "loop-of-links": (["a.mp4", "-o", "loop.mp4"], 1, "loop.mp4: cannot be written"),
    "too-long": (["a.mp4", "-o", f"{'n' * 300}.mp4"], 1, "cannot be written (File name too long)"),
    "too-long-for-its-parts": (["a.mp4", "-o", f"{'n' * 250}.mp4"], 1, "cannot be written (File name too long)"),
    "standard-output": (["a.mp4", "-o", "-"], 2, "--output -: nothing is written to standard output"),
    "empty-output": (["a.mp4", "-o", ""], 2, "--output is empty"),
    "empty-output-of-a-batch": (["a.mp4", "b.mp4", "-o", ""], 2, "--output is empty"),
}


@pytest.mark.parametrize(("arguments", "status", "words"), CLASHES.values(), ids=CLASHES)
def test_what_would_be_replaced_is_seen_before_any_work(arguments, status, words, here, monkeypatch):
    shutil.copy("a.mp4", "sub/a.mp4")
    shutil.copy("a.mp4", "sub/a.mov")
    before = contents(here)
    monkeypatch.setattr("unsmear.restore.job._Job.run", lambda job: pytest.fail("work has begun"))
    done = deblur(*arguments, "--overwrite")
    assert (done.exit_code, done.stdout) == (status, "")
    assert words in done.complaint
    assert contents(here) == before


def test_previews_and_reports_of_priors_replace_nothing(here):
    before = contents(here)
    cases = {
        "soft.mp4 is an input, which --preview would replace": ["--preview", "soft.mp4"],
        "a.mp4 is an input, which --report would replace": ["--report", "sub/../a.mp4"],
        "--preview and --report would both become": ["--preview", "x.mp4", "--report", "x.mp4"],
        "would both become out/a.priors.npz": ["--report", "out/a.priors.npz"],
    }
    for words, options in cases.items():
        done = unsmear("priors", "a.mp4", "-o", "out", "--overwrite", *options)
        assert done.exit_code in (1, 2) and words in done.complaint
    assert contents(here) == before and not Path("out").exists()


@pytest.mark.parametrize("folds", [True, False])
def test_letters_of_another_case_where_they_make_no_difference(folds, tmp_path, monkeypatch):
    """On disks of Windows and macOS ``A`` and ``a`` are one name, here they are two."""
    monkeypatch.setattr(destination, "folds_case", lambda path: folds)
    monkeypatch.chdir(tmp_path)
    for name in ("x/Clip.mp4", "y/clip.mp4"):
        Path(name).parent.mkdir()
        Path(name).touch()
    jobs = [(Path(name), [Path("out", f"{Path(name).stem}.deblurred.mp4")]) for name in ("x/Clip.mp4", "y/clip.mp4")]
    if folds:
        with pytest.raises(destination.UsageError, match="would both become"):
            destination.refuse_clashes(jobs, {})
    else:
        destination.refuse_clashes(jobs, {})


def test_this_disk_tells_whether_letters_make_a_difference(tmp_path):
    (tmp_path / "Name").touch()
    assert destination.folds_case(tmp_path / "Name" / "new") == (tmp_path / "nAME").exists()


def test_frames_are_replaced_only_by_who_wrote_them(here):
    assert deblur("a.mp4", "-o", "out", "--frames").exit_code == 0
    assert deblur("a.mp4", "-o", "out", "--frames", "--overwrite").exit_code == 0
    write_png("out/000099.png", moving_frames(frames=1)[0])  # a frame of the user's
    before = contents(here)
    done = deblur("a.mp4", "-o", "out", "--frames", "--overwrite")
    assert done.exit_code == 1 and "out/000099.png was not written by unsmear" in done.complaint
    assert contents(here) == before


def test_an_output_that_names_nothing_is_told_from_one_that_is_free(tmp_path):
    assert not destination.exists(tmp_path / "free.mp4")
    (tmp_path / "file").touch()
    assert not destination.exists(tmp_path / "file" / "below.mp4")
    with pytest.raises(OutputError, match="File name too long"):
        destination.exists(tmp_path / ("n" * 300))
