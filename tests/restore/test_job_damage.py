"""Damaged files through a whole job: what can be read is restored and written, and what is missing is said."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import unsmear
from support.clips import frame_times, make_clip
from support.command import unsmear as command
from support.restorers import Identity
from unsmear.errors import Interrupted
from unsmear.video import open_video, write_png

FRAMES = 40


@pytest.fixture
def cut(tmp_path) -> Path:
    """Two thirds of a video."""
    whole = make_clip(tmp_path / "whole.mkv", frames=FRAMES, options={"g": "5"}, audio="aac")
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    return path


def readable(path: Path) -> list[float]:
    """Times of the frames."""
    with open_video(path, keep_going=True) as reader:
        return [frame.time_s for frame in reader]


def test_all_that_can_be_read_is_restored(cut):
    times = readable(cut)
    assert 8 < len(times) < FRAMES
    report = unsmear.deblur(cut, model=Identity(), window=8)
    assert report.frames == len(times)
    assert [float(time) for time in frame_times(report.output)] == pytest.approx(times)
    assert re.match(rf"{cut}: damaged after frame \d+ \({len(times)} frames read\): ", report.damage)
    assert f"{report.output} holds what can be read" in report.damage
    assert report.as_dict()["damage"] == report.damage


def test_the_part_that_is_named_is_whole(cut):
    times = readable(cut)
    end_s = float(unsmear.deblur(cut, model=Identity(), window=8).damage.rsplit("whole up to `end_s` ", 1)[1])
    whole = [time for time in times if time < end_s]
    assert whole == pytest.approx([i / 25 for i in range(len(whole))])
    assert len(whole) == round(25 * end_s)
    for end, damaged in ((end_s, False), (end_s - 0.1, False), (end_s + 0.001, True), (99, True)):
        report = unsmear.deblur(cut, model=Identity(), window=8, end_s=end, overwrite=True)
        assert bool(report.damage) == damaged
        assert report.frames == sum(time < end for time in times)


def test_damage_before_the_part_is_no_matter(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(20):
        write_png(folder / f"{number}.png", np.full((48, 64, 3), 10 * number, np.uint8))
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:-30])
    report = unsmear.deblur(folder, tmp_path / "a", model=Identity(), window=8)
    assert (report.frames, "2.png" in report.damage) == (19, True)
    later = unsmear.deblur(folder, tmp_path / "b", model=Identity(), window=8, start_s=0.4)
    assert (later.frames, later.damage) == (9, "")


def test_the_command_says_it_last_and_leaves_with_1(cut, tmp_path, tiny_model):
    whole = tmp_path / "whole.mkv"
    arguments = ("deblur", cut, whole, "--model", tiny_model, "--device", "cpu", "--window", 8)
    answer = command(*arguments, "-o", f"{tmp_path}/out/")
    assert answer.exit_code == 1
    assert answer.complaint.startswith(f"unsmear: {cut}: damaged after frame ")
    assert "whole up to --end" in answer.complaint
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cut.deblurred.mkv", "whole.deblurred.mkv"}
    end = answer.complaint.rsplit("--end ", 1)[1]
    answer = command(*arguments[:2], *arguments[3:], "--end", end, "-o", tmp_path / "part.mkv")
    assert (answer.exit_code, answer.stderr) == (0, "")


def test_a_missing_index_is_a_note(tmp_path):
    source = make_clip(tmp_path / "a.mkv", frames=20)
    source.write_bytes(source.read_bytes()[:-6])
    report = unsmear.deblur(source, model=Identity(), window=8)
    assert (report.frames, report.damage) == (20, "")
    assert "the end of the input is missing, but no frame" in report.note


def test_a_resumed_job_meets_the_same_damage(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(70):
        write_png(folder / f"{number}.png", np.full((48, 64, 3), 3 * number, np.uint8))
    for number in (3, 50):
        path = folder / f"{number}.png"
        path.write_bytes(path.read_bytes()[:-30])

    def stop(progress):
        if progress.done >= 40:
            raise KeyboardInterrupt

    whole = unsmear.deblur(folder, tmp_path / "whole", model=Identity(), window=8)
    with pytest.raises(Interrupted):
        unsmear.deblur(folder, tmp_path / "parts", model=Identity(), window=8, progress=stop)
    resumed = unsmear.deblur(folder, tmp_path / "parts", model=Identity(), window=8)
    assert resumed.resumed_frames == 32
    assert (resumed.frames, whole.frames) == (68, 68)
    assert resumed.damage == whole.damage.replace("/whole", "/parts")
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "parts" / path.name).read_bytes() == path.read_bytes()
