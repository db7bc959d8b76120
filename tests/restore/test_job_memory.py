"""Memory: bounded whatever the length, and less of it where the device has too little."""

import gc
import logging
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

import unsmear
from support.clips import make_clip, moving_frames
from support.restorers import Negative
from unsmear.restore.windows import prefetched
from unsmear.video import VideoReader, open_video, write_png


@pytest.fixture
def large(tmp_path) -> Path:
    """A folder of 20 frames of 800×160."""
    (tmp_path / "large").mkdir()
    for i, picture in enumerate(moving_frames((800, 160), 20)):
        write_png(tmp_path / "large" / f"{i}.png", picture)
    return tmp_path / "large"


@pytest.mark.parametrize(
    ("options", "tried"),
    [
        ({}, [None, 400, 192, 192, 192]),
        ({"tile": 320}, [320, 160, 160, 160]),
        ({"tile": "off"}, [None, 400, 192, 192, 192]),
    ],
)
def test_out_of_memory_leads_to_smaller_tiles(options, tried, large, caplog):
    restorer = Negative(fits_px=200)
    with caplog.at_level(logging.WARNING):
        report = unsmear.deblur(large, model=restorer, window=8, **options)
    assert restorer.tiles == tried
    smaller = list(dict.fromkeys(tried[1:]))
    assert [r.getMessage() for r in caplog.records] == [
        f"out of memory: going on with tiles of {side} px" for side in smaller
    ]
    assert all(f"went on with tiles of {side} px" in report.note for side in smaller)
    assert report.tile_px == tried[-1]
    assert report.frames == 20


def test_out_of_memory_for_good_is_an_error_of_one_line(large):
    with pytest.raises(unsmear.UnsmearError, match="out of memory even with tiles of") as caught:
        unsmear.deblur(large, model=Negative(fits_px=10), window=8)
    assert "no room for 12 GiB" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [p.name for p in large.parent.iterdir()] == ["large"]


def test_resumed_job_goes_on_with_the_smaller_tiles(tmp_path):
    (tmp_path / "large").mkdir()
    for i in range(41):
        write_png(tmp_path / "large" / f"{i}.png", np.full((16, 400, 3), i, np.uint8))

    def stop(progress: unsmear.restore.options.Progress) -> None:
        if progress.done > 32:
            raise KeyboardInterrupt

    with pytest.raises(unsmear.Interrupted):
        unsmear.deblur(tmp_path / "large", model=Negative(fits_px=200), window=8, progress=stop)
    second = Negative(fits_px=200)
    report = unsmear.deblur(tmp_path / "large", model=second, window=8)
    assert (report.resumed_frames, report.frames) == (32, 41)
    assert set(second.tiles) == {192}
    assert "went on with tiles of 192 px" in report.note


def most_frames_alive(source: Path, window: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most decoded frames that exist at one time while a video is restored."""
    alive: list[weakref.ref] = []
    most = 0
    read = VideoReader.frames

    def frames(self, first: int = 0, last: int | None = None):
        nonlocal most
        for frame in read(self, first, last):
            alive[:] = [ref for ref in alive if ref() is not None]
            alive.append(weakref.ref(frame))
            most = max(most, len(alive))
            yield frame

    with monkeypatch.context() as patched:
        patched.setattr(VideoReader, "frames", frames)
        gc.disable()
        try:
            unsmear.deblur(source, source.with_suffix(".out.mp4"), model=Negative(), window=window, overwrite=True)
        finally:
            gc.enable()
    return most


def test_memory_does_not_grow_with_length(tmp_path, monkeypatch):
    """At most: the window and the next chunk, a queue of one more, and what the priors gather."""
    peaks = [most_frames_alive(make_clip(tmp_path / f"{n}.mp4", frames=n), 8, monkeypatch) for n in (60, 240)]
    assert max(peaks) <= 5 * 8
    assert abs(peaks[0] - peaks[1]) <= 8


def test_reading_ahead_is_bounded_and_stops():
    drawn = []

    def numbers():
        for i in range(1000):
            drawn.append(i)
            yield i

    ahead = prefetched(numbers(), 3)
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    ahead.close()
    assert len(drawn) <= 5 + 3 + 2


def test_errors_while_reading_ahead_come_after_what_was_read():
    def broken():
        yield from range(5)
        raise unsmear.DamagedVideo("cut")

    seen = []
    with pytest.raises(unsmear.DamagedVideo, match="cut"):
        for item in prefetched(broken(), 2):
            seen.append(item)
    assert seen == list(range(5))


def test_sharp_input_is_said_to_be_sharp_and_still_input_still(tmp_path):
    sharp = moving_frames((320, 192), 12, step_px=(8, 3), smooth_px=0.8)
    source = make_clip(tmp_path / "sharp.mp4", content=sharp, options={"crf": "8"})
    assert "already sharp" in unsmear.deblur(source, model=Negative(), window=8).note
    still = make_clip(tmp_path / "still.mp4", frames=12, content=[sharp[0]] * 12)
    note = unsmear.deblur(still, model=Negative(), window=8).note
    assert "hardly anything moves" in note
    assert "sharp" not in note


def test_reader_is_left_alone_when_stopped(tmp_path):
    """The thread that reads ahead has ended before the file is closed."""
    source = make_clip(tmp_path / "a.mp4", frames=60)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(unsmear.Interrupted):
        unsmear.deblur(source, model=Negative(), window=8, progress=stop)
    assert not [t for t in threading.enumerate() if t.name == "unsmear-reader"]
    with open_video(source) as reader:
        assert sum(1 for _ in reader) == 60
