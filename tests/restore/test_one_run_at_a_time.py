"""Two runs on one output, and runs that were stopped anywhere: the work of neither is lost, nor taken for another's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import unsmear
from support.clips import make_clip, moving_frames
from support.restorers import Negative
from unsmear.restore import resume
from unsmear.video import open_video, read_image, write_png


@pytest.fixture
def clip(tmp_path) -> Path:
    return make_clip(tmp_path / "a.mp4", frames=40)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def frames_of(path: Path) -> np.ndarray:
    with open_video(path) as reader:
        return np.stack([frame.rgb for frame in reader])


def stop(_: object) -> None:
    raise KeyboardInterrupt


def test_the_second_run_says_so_and_the_first_ends_well(clip, tmp_path):
    output, said = tmp_path / "out.mp4", []

    def again(_: object) -> None:
        with pytest.raises(unsmear.OutputError) as raised:
            unsmear.deblur(clip, output, model=Negative(), window=8, overwrite=True)
        said.append(str(raised.value))

    unsmear.deblur(clip, output, model=Negative(), window=8, progress=again)
    assert said == [f"{output}: another run is writing it; wait for it, or choose another `output`"] * 5
    assert len(frames_of(output)) == 40 and names(tmp_path) == ["a.mp4", "out.mp4"]


def test_two_commands_at_once(clip, tiny_model, tmp_path):
    command = [sys.executable, "-m", "unsmear", "deblur", str(clip), "-o", str(tmp_path / "out.mp4")]
    command += ["--model", str(tiny_model), "--device", "cpu", "--window", "8"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    line = max(said, key=len)
    assert len(line.splitlines()) == 1 and ("another run is writing it" in line or "exists already" in line)
    assert len(frames_of(tmp_path / "out.mp4")) == 40 and names(tmp_path) == ["a.mp4", "out.mp4"]


def test_a_run_that_waits_behind_another_sees_what_that_one_wrote(clip, tmp_path, monkeypatch):
    """Between the first look at the output and the lock another run may have ended."""
    entered = resume.only_run

    def late(output: Path):
        output.write_bytes(b"of the other run")
        return entered(output)

    monkeypatch.setattr("unsmear.restore.job.only_run", late)
    with pytest.raises(unsmear.OutputError, match="exists already"):
        unsmear.deblur(clip, tmp_path / "out.mp4", model=Negative(), window=8)
    assert (tmp_path / "out.mp4").read_bytes() == b"of the other run"


def test_the_lock_of_a_process_that_died_is_free(clip, tmp_path):
    with pytest.raises(unsmear.Interrupted):
        unsmear.deblur(clip, tmp_path / "out.mp4", model=Negative(), window=8, progress=stop)
    work = tmp_path / ".out.mp4.unsmear"
    assert resume.LOCK not in names(work), "an interrupted run gives it back"
    script = "import sys, os, filelock; filelock.FileLock(sys.argv[1]).acquire(); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", script, str(work / resume.LOCK)], check=False, timeout=60)
    assert killed.returncode == -9 and resume.LOCK in names(work)
    assert unsmear.deblur(clip, tmp_path / "out.mp4", model=Negative(), window=8).frames == 40
    assert names(tmp_path) == ["a.mp4", "out.mp4"]


@pytest.mark.parametrize("change", ["version", "libraries"])
def test_work_of_another_version_is_not_taken_over(change, clip, tmp_path, monkeypatch):
    def half_way(progress: unsmear.Progress) -> None:
        if progress.done >= 40:
            raise KeyboardInterrupt

    output = tmp_path / "out.mp4"
    with pytest.raises(unsmear.Interrupted):
        unsmear.deblur(clip, output, model=Negative(), window=8, progress=half_way)
    job = json.loads((tmp_path / ".out.mp4.unsmear" / "job.json").read_text())
    assert job["versions"] == json.loads(json.dumps(resume.versions()))
    with monkeypatch.context() as patch:
        if change == "version":
            patch.setattr(resume, "__version__", "99.0")
        else:
            patch.setattr(resume.torch, "__version__", "99.0")
        with pytest.raises(unsmear.Interrupted):
            unsmear.deblur(clip, output, model=Negative(), window=8, progress=stop)
    assert unsmear.deblur(clip, output, model=Negative(), window=8).resumed_frames == 0


def test_a_frame_that_was_changed_in_its_folder_is_another_input(tmp_path):
    folder = tmp_path / "shots"
    folder.mkdir()
    for i, picture in enumerate(moving_frames(frames=3)):
        write_png(folder / f"{i}.png", picture)
    before = resume.stamp(folder)
    assert resume.stamp(folder) == before
    os.utime(folder / "1.png", ns=(1, 10**18))
    assert resume.stamp(folder) != before


# --- frames on their way into a folder that is there ------------------------------------------------------------


@pytest.mark.parametrize("moved", [0, 1, 17, 39])
def test_frames_that_were_moved_in_part_are_moved_on(moved, clip, tmp_path, monkeypatch):
    """Over frames of an earlier run, which had more of them, and beside a file of the user's."""
    output = tmp_path / "out"
    longer = make_clip(tmp_path / "longer.mp4", frames=50)
    options = {"model": Negative(), "window": 8, "frames": True}
    unsmear.deblur(longer, output, **options)
    (output / "notes.txt").write_text("mine")
    unsmear.deblur(clip, tmp_path / "whole", **options)
    replace, left = Path.replace, [moved]

    def until(path: Path, target: Path) -> Path:
        if path.parent.name == "frames" and path.suffix == ".png" and target.parent == output:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", until)
        with pytest.raises(unsmear.Interrupted):
            unsmear.deblur(clip, output, overwrite=True, **options)
    assert len(names(output)) == 51, "nothing is gone"
    report = unsmear.deblur(clip, output, **options)  # allowed without `overwrite`: it is the same job
    assert report.resumed_frames == 40
    assert names(output) == [*names(tmp_path / "whole"), "notes.txt"]
    for path in (tmp_path / "whole").iterdir():
        assert np.array_equal(read_image(path), read_image(output / path.name))
    assert not (tmp_path / ".out.unsmear").exists()
    with pytest.raises(unsmear.OutputError, match="exists already"):
        unsmear.deblur(clip, output, **options)


def test_frames_that_vanished_meanwhile_are_made_again(clip, tmp_path, monkeypatch):
    output, options = tmp_path / "out", {"model": Negative(), "window": 8, "frames": True}
    unsmear.deblur(clip, output, **options)
    replace = Path.replace

    def half(path: Path, target: Path) -> Path:
        if path.name == "000020.png" and target.parent == output:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", half)
        with pytest.raises(unsmear.Interrupted):
            unsmear.deblur(clip, output, overwrite=True, **options)
    (output / "000003.png").unlink()
    assert unsmear.deblur(clip, output, **options).resumed_frames == 0
    assert names(output) == [f"{i:06d}.png" for i in range(40)]


def test_a_frame_that_appears_meanwhile_is_not_replaced(clip, tmp_path):
    output, foreign = tmp_path / "out", moving_frames(frames=1)[0]
    output.mkdir()

    def put(progress: unsmear.Progress) -> None:
        write_png(output / "000005.png", foreign)

    with pytest.raises(unsmear.OutputError, match=r"000005\.png was not written by unsmear"):
        unsmear.deblur(clip, output, model=Negative(), window=8, frames=True, progress=put)
    assert np.array_equal(read_image(output / "000005.png"), foreign) and names(output) == ["000005.png"]
