"""Errors of any kind, once a segment is finished: the work stays, and the same command goes on from it."""

import errno
from pathlib import Path

import numpy as np
import pytest

import unsmear
import unsmear.video.join
import unsmear.video.rehearsal
from support.clips import frame_times, make_clip, packets_of
from support.restorers import Negative
from unsmear.video import SegmentWriter, open_video
from unsmear.video.check import Finding
from unsmear.video.muxing import Muxing

FRAMES = 44
WINDOW = 8  # four windows a segment: one of 32 frames and one of 12


class Counting(Negative):
    """A restorer that counts the windows it was given."""

    def restore(self, clip, state, tile_px):
        return super().restore(clip, state, tile_px)

    @property
    def windows(self) -> int:
        return len(self.tiles)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", frames=FRAMES, audio="aac")


def frames_of(path: Path) -> np.ndarray:
    with open_video(path) as reader:
        return np.stack([frame.rgb for frame in reader])


def fails_to_write(monkeypatch) -> None:
    def run(self: Muxing) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    replaced(monkeypatch, "run", run)


def differs(monkeypatch) -> None:
    replaced(monkeypatch, "check", lambda self: [Finding(None, "it holds 3 frames of 44")])


def is_stopped(monkeypatch) -> None:
    def run(self: Muxing) -> int:
        raise KeyboardInterrupt

    replaced(monkeypatch, "run", run)


def replaced(monkeypatch, name: str, by) -> None:
    """Replace a method, but not for the rehearsal."""
    own = getattr(Muxing, name)
    monkeypatch.setattr(Muxing, name, lambda self: (own if self.path.stem == "rehearsal" else by)(self))


@pytest.mark.parametrize("trouble", [fails_to_write, differs, is_stopped])
def test_trouble_at_the_very_end_costs_no_frame(trouble, clip, tmp_path, monkeypatch) -> None:
    output, model = tmp_path / "out.mp4", Counting()
    trouble(monkeypatch)
    with pytest.raises(unsmear.UnsmearError, match=r"44 frames finished are kept|run the same command again") as error:
        unsmear.deblur(clip, output, model=model, window=WINDOW)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [".out.mp4.unsmear"]
    monkeypatch.undo()
    again = Counting()
    report = unsmear.deblur(clip, output, model=again, window=WINDOW)
    assert (report.frames, report.resumed_frames, again.windows) == (FRAMES, FRAMES, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert frame_times(output) == frame_times(clip)
    assert packets_of(output, "audio") == packets_of(clip, "audio")


def test_a_full_disk_in_the_middle_costs_the_open_segment_alone(clip, tmp_path, monkeypatch) -> None:
    output, write = tmp_path / "out.mp4", SegmentWriter.write

    def full(self, rgb, pts, *more):
        if self.path.name == "segment-000001.nut" and len(self._pts) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, rgb, pts, *more)

    monkeypatch.setattr(SegmentWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        unsmear.deblur(clip, output, model=Negative(), window=WINDOW)
    kept = sorted(path.name for path in (tmp_path / ".out.mp4.unsmear").iterdir())
    assert kept == ["done.json", "job.json", "segment-000000.nut", "state-000001.safetensors"]
    monkeypatch.undo()
    report = unsmear.deblur(clip, output, model=Negative(), window=WINDOW)
    assert report.resumed_frames == 32
    unsmear.deblur(clip, tmp_path / "whole.mp4", model=Negative(), window=WINDOW)
    assert np.array_equal(frames_of(output), frames_of(tmp_path / "whole.mp4"))


def test_a_picture_that_changes_its_size_keeps_what_was_before(tmp_path) -> None:
    small = make_clip(tmp_path / "small.ts", frames=60, options={"g": "10"})
    large = make_clip(tmp_path / "large.ts", frames=6, size=(128, 96))
    source = tmp_path / "both.ts"
    source.write_bytes(small.read_bytes() + large.read_bytes())
    folder = tmp_path / "out"
    with pytest.raises(unsmear.UnsupportedVideo, match=r"128x96.*32 frames finished are kept"):
        unsmear.deblur(source, folder / "out.mp4", model=Negative(), window=WINDOW)
    assert [path.name for path in folder.iterdir()] == [".out.mp4.unsmear"]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".h264"])
def test_an_input_that_goes_away(suffix, tmp_path) -> None:
    source = make_clip(tmp_path / f"a{suffix}", frames=20)

    def take_away(_progress: object) -> None:
        source.unlink(missing_ok=True)

    with pytest.raises(unsmear.UnsmearError, match=r"no such file.* frames finished are kept"):
        unsmear.deblur(source, model=Counting(), window=8, progress=take_away)


def test_trouble_before_the_first_segment_leaves_nothing(clip, tmp_path) -> None:
    class Failing(Negative):
        def restore(self, clip, state, tile_px):
            raise unsmear.UnsmearError("broken")

    with pytest.raises(unsmear.UnsmearError, match=r"^broken$"):
        unsmear.deblur(clip, tmp_path / "out.mp4", model=Failing(), window=WINDOW)
    assert list(tmp_path.iterdir()) == []


def test_what_the_output_cannot_hold_is_known_before_any_frame(tmp_path) -> None:
    source = make_clip(tmp_path / "a.mkv", audio="aac", frames=20)
    model = Counting()
    with pytest.raises(unsmear.UsageError, match=r"can be written as \.xyz"):
        unsmear.deblur(source, tmp_path / "out.xyz", model=model, window=WINDOW, codec="h264")
    assert model.windows == 0
    report = unsmear.deblur(source, tmp_path / "out.webm", model=model, window=WINDOW)
    assert "the audio stream 1 (aac) as it is, so it is encoded anew (libopus)" in report.note


def test_recordings_appended_to_each_other_resume(tmp_path) -> None:
    """Where the clock starts again is known once more in the second run."""
    one = make_clip(tmp_path / "one.ts", frames=22, audio="aac", options={"g": "11"})
    source = tmp_path / "both.ts"
    source.write_bytes(one.read_bytes() * 2)
    seen: list[int] = []

    def stop(progress) -> None:
        seen.append(progress.done)
        if progress.done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(unsmear.Interrupted):
        unsmear.deblur(source, tmp_path / "out.mp4", model=Negative(), window=WINDOW, progress=stop)
    report = unsmear.deblur(source, tmp_path / "out.mp4", model=Negative(), window=WINDOW)
    assert report.resumed_frames == 32
    unsmear.deblur(source, tmp_path / "whole.mp4", model=Negative(), window=WINDOW)
    assert packets_of(tmp_path / "out.mp4", "audio") == packets_of(tmp_path / "whole.mp4", "audio")
    times = frame_times(tmp_path / "out.mp4")
    assert float(times[-1] - times[0]) == pytest.approx(43 / 25, abs=0.001)
