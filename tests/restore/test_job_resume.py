"""The same frames whatever happens: twice, in other pieces, stopped and resumed, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import unsmear
from support.clips import make_clip
from support.restorers import Negative
from unsmear.video import open_video

FRAMES = 90  # with windows of 8: two segments of four chunks, and a third


def frames_of(path: Path) -> np.ndarray:
    with open_video(path) as reader:
        return np.stack([frame.rgb for frame in reader])


class StopAfter:
    """A progress callback that interrupts as Ctrl-C does."""

    def __init__(self, chunks: int):
        self.left = chunks

    def __call__(self, _: object) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", frames=FRAMES, audio="aac")


@pytest.fixture(scope="module")
def whole(clip, tiny, tmp_path_factory) -> np.ndarray:
    """Frames of an unbroken run."""
    output = tmp_path_factory.mktemp("whole") / "out.mp4"
    unsmear.deblur(clip, output, model=tiny, window=8)
    return frames_of(output)


def interrupt(clip: Path, output: Path, tiny, chunks: int, **options: object) -> None:
    with pytest.raises(unsmear.Interrupted, match="run the same command again"):
        unsmear.deblur(clip, output, model=tiny, window=8, progress=StopAfter(chunks), **options)
    assert not output.exists()
    assert (output.parent / f".{output.name}.unsmear").is_dir()


def resume(clip: Path, output: Path, tiny, **options: object) -> int:
    """Run again to the end → frames taken over."""
    report = unsmear.deblur(clip, output, model=tiny, **({"window": 8} | options))
    assert report.frames == FRAMES
    assert [p.name for p in output.parent.iterdir()] == [output.name]
    return report.resumed_frames


def test_two_runs_are_equal(clip, tiny, whole, tmp_path):
    unsmear.deblur(clip, tmp_path / "out.mp4", model=tiny, window=8)
    assert np.array_equal(frames_of(tmp_path / "out.mp4"), whole)


@pytest.mark.parametrize(("chunks", "kept"), [(1, 0), (3, 0), (4, 32), (9, 64), (12, FRAMES)])
def test_interrupted_and_resumed_is_unbroken(chunks, kept, clip, tiny, whole, tmp_path):
    output = tmp_path / "out.mp4"
    interrupt(clip, output, tiny, chunks)
    assert resume(clip, output, tiny) == kept
    assert np.array_equal(frames_of(output), whole)


@pytest.mark.parametrize("options", [{}, {"start_s": 0.5, "end_s": 3.1}], ids=["whole", "part"])
def test_resumed_run_reports_on_the_whole(options, clip, tmp_path):
    """All that was measured is as of an unbroken run; what differs is time and what was taken over."""
    output = tmp_path / "out.mp4"
    unbroken = unsmear.deblur(clip, output, model=Negative(), window=8, **options).as_dict()
    output.unlink()
    interrupt(clip, output, Negative(), 6, **options)
    resumed = unsmear.deblur(clip, output, model=Negative(), window=8, **options).as_dict()
    assert resumed["resumed_frames"] > 0
    changing = {"seconds", "frames_per_second", "peak_memory_mb", "resumed_frames"}
    assert {k for k in resumed if resumed[k] != unbroken[k]} <= changing
    assert [row["second"] for row in resumed["blur_per_second"]] == [0, 1, 2, 3]


def test_interrupted_twice(clip, tiny, whole, tmp_path):
    output = tmp_path / "out.mp4"
    interrupt(clip, output, tiny, 5)
    interrupt(clip, output, tiny, 5)
    assert resume(clip, output, tiny) == 64
    assert np.array_equal(frames_of(output), whole)


def test_frames_and_comparison_resume_too(clip, tiny, tmp_path):
    options = {"model": tiny, "window": 8, "frames": True}
    unsmear.deblur(clip, tmp_path / "whole", **options)
    output = tmp_path / "broken" / "out"
    with pytest.raises(unsmear.Interrupted):
        unsmear.deblur(clip, output, compare=True, progress=StopAfter(6), **options)
    report = unsmear.deblur(clip, output, compare=True, **options)
    assert report.resumed_frames == 32
    assert np.array_equal(frames_of(output), frames_of(tmp_path / "whole"))
    assert sorted(p.name for p in output.parent.iterdir()) == ["out", "out.compare.mp4"]
    assert len(frames_of(tmp_path / "broken" / "out.compare.mp4")) == FRAMES


def test_part_of_a_video_resumes(clip, tiny, tmp_path):
    part = {"start_s": 0.5, "end_s": 3.0, "frames": True, "window": 8}
    unsmear.deblur(clip, tmp_path / "whole", model=tiny, **part)
    with pytest.raises(unsmear.Interrupted):
        unsmear.deblur(clip, tmp_path / "out", model=tiny, progress=StopAfter(5), **part)
    assert unsmear.deblur(clip, tmp_path / "out", model=tiny, **part).resumed_frames > 0
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert names == [f"{i:06d}.png" for i in range(13, 75)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    assert np.array_equal(frames_of(tmp_path / "out"), frames_of(tmp_path / "whole"))


@pytest.mark.parametrize("change", [{"strength": 0.5}, {"crf": 30}, {"window": 10}, {"resume": False}, {"end_s": 99.0}])
def test_another_job_starts_afresh(change, clip, tiny, tmp_path):
    interrupt(clip, tmp_path / "out.mp4", tiny, 6)
    assert resume(clip, tmp_path / "out.mp4", tiny, **change) == 0


def test_wrong_option_does_not_cost_the_work(clip, tiny, tmp_path):
    output = tmp_path / "out.mp4"
    interrupt(clip, output, tiny, 6)
    with pytest.raises(unsmear.UsageError):
        unsmear.deblur(clip, output, model=tiny, window=8, codec="nonsense")
    assert resume(clip, output, tiny) == 32


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_record(work: Path, **values: object) -> None:
    record = json.loads((work / "done.json").read_text())
    (work / "done.json").write_text(json.dumps(record | values))


DAMAGE = {
    "manifest": lambda work: truncate(work / "job.json"),
    "record": lambda work: truncate(work / "done.json"),
    "record-of-another-kind": lambda work: (work / "done.json").write_text("[1, 2]"),
    "record-of-an-older-version": lambda work: change_record(work, figures=[{"frames": 8, "blur_before": 0.3}]),
    "figures-with-a-strange-field": lambda work: change_record(work, figures={"seconds": [], "colour": "red"}),
    "record-lacks-a-field": lambda work: (work / "done.json").write_text(json.dumps({"segments": 1})),
    "state": lambda work: truncate(work / "state-000001.safetensors"),
    "no-state": lambda work: (work / "state-000001.safetensors").unlink(),
    "no-segment": lambda work: (work / "segment-000000.nut").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_work_starts_afresh(damage, clip, tiny, whole, tmp_path):
    output = tmp_path / "out.mp4"
    interrupt(clip, output, tiny, 6)
    damage(tmp_path / ".out.mp4.unsmear")
    assert resume(clip, output, tiny) == 0
    assert np.array_equal(frames_of(output), whole)


def test_killed_and_resumed_is_unbroken(tiny_model, tiny, tmp_path):
    source = make_clip(tmp_path / "a.mp4", frames=240)
    folder = tmp_path / "out"
    folder.mkdir()
    work = folder / ".out.mp4.unsmear"
    arguments = ["deblur", str(source), "-o", str(folder / "out.mp4"), "--model", str(tiny_model)]
    arguments += ["--dtype", "fp32", "--device", "cpu", "--window", "8"]
    running = subprocess.Popen([sys.executable, "-m", "unsmear", *arguments], env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        for _ in range(6000):
            if (work / "done.json").exists() or running.poll() is not None:
                break
            time.sleep(0.01)
        assert running.poll() is None, "it ended before it could be killed"
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert [p.name for p in folder.iterdir()] == [work.name]
    report = unsmear.deblur(source, folder / "out.mp4", model=tiny, window=8)
    assert report.frames == 240
    assert report.resumed_frames >= 32
    unsmear.deblur(source, tmp_path / "whole.mp4", model=tiny, window=8)
    assert np.array_equal(frames_of(folder / "out.mp4"), frames_of(tmp_path / "whole.mp4"))
    assert [p.name for p in folder.iterdir()] == ["out.mp4"]
