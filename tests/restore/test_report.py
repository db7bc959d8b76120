"""What a job measures of every frame, and the words made of it."""

from fractions import Fraction
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import unsmear
from support.clips import make_clip, moving_frames, texture
from support.restorers import Negative
from unsmear.metrics.blur import blur_estimate, sharpness
from unsmear.priors import Prior
from unsmear.restore.report import (
    CLEAR,
    LITTLE,
    NOTHING,
    Figures,
    Report,
    Second,
    measure,
    motion_lengths,
    notes,
    summarise,
)
from unsmear.restore.sharpness import DutyTracker

SHAPE = (64, 96)


def prior(dx: float = 0, share: float = 1, reset: bool = False, reset_back: bool = False) -> Prior:
    """Content that moves ``dx`` pixels a frame to the right, found in this share of the picture."""
    empty = Prior.empty(*SHAPE)
    valid = np.zeros(empty.valid.shape, np.bool_)
    valid.ravel()[: round(share * valid.size)] = True
    vector = np.full(empty.motion_q.shape, 0, np.int16)
    vector[..., 0] = round(4 * dx)
    return Prior(
        motion_q=-vector * (not reset),
        motion_back_q=vector * (not reset_back),
        valid=valid & (not reset),
        valid_back=valid & (not reset_back),
        residual=empty.residual,
        reset=reset,
        reset_back=reset_back,
        origin="reencode",
    )


def figures_of(priors, duty=None, rate=25, windows=1, before=None, after=None) -> Figures:
    """Figures of frames at ``rate`` a second with these priors."""
    picture = texture((SHAPE[1], SHAPE[0])) if before is None else before
    rgb = np.asarray(picture)
    frames = [(SimpleNamespace(index=i, time_s=i / rate, rgb=rgb), p) for i, p in enumerate(priors)]
    figures = Figures()
    for number, part in enumerate(np.array_split(np.arange(len(frames)), windows)):
        own = [frames[i] for i in part]
        window = SimpleNamespace(number=number, frames=own, after=[])
        restored = np.stack([rgb if after is None else after] * len(own))
        measure(figures, window, restored, range(len(own)), DutyTracker(duty))
    return figures


# --- motion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resets", [(False, False), (True, False), (False, True)])
def test_motion_is_that_of_the_directions_that_are_there(resets):
    lengths = motion_lengths(prior(6, reset=resets[0], reset_back=resets[1]))
    assert np.allclose(lengths, 6)


def test_no_motion_is_not_motion_that_was_not_found():
    assert np.allclose(motion_lengths(prior(0)), 0)
    assert motion_lengths(prior(6, share=0.02)) is None
    assert motion_lengths(Prior.empty(*SHAPE)) is None


def test_still_is_said_of_what_was_seen_to_stand_still_in_every_frame():
    still = [prior(0.25) for _ in range(10)]
    assert notes(figures_of(still)) == ["hardly anything moves, so there is little motion blur to remove"]
    assert notes(figures_of([*still, prior(5)])) == []
    lost = [*still, Prior.empty(*SHAPE)]
    assert "hardly" not in "".join(notes(figures_of(lost)))


@pytest.mark.parametrize(
    ("lost", "frames", "words"),
    [(1, 4, "25 %"), (1, 300, "less than 1 %"), (299, 300, "99 %"), (4, 4, "100 %"), (5, 300, "2 %")],
)
def test_frames_without_motion_are_counted(lost, frames, words):
    priors = [prior(5, share=0)] * lost + [prior(5)] * (frames - lost)
    figures = figures_of(priors)
    assert figures.without_motion == lost
    assert notes(figures) == [f"{words} of the frames without usable motion"]


def test_cuts_are_counted_but_not_the_beginning():
    shot = [prior(5, reset=True), prior(5), prior(5, reset_back=True)]
    assert notes(figures_of(shot)) == []
    assert notes(figures_of(shot * 2)) == ["1 cut"]
    assert notes(figures_of(shot * 4, rate=2)) == ["3 cuts"]


def test_a_single_picture_is_told_so_and_nothing_else():
    alone = Prior.empty(*SHAPE)
    assert notes(figures_of([alone])) == ["single picture: there is no motion to go by; give the video"]
    assert "100 %" in notes(figures_of([alone, alone]))[-1]


def test_one_frame_of_a_video_is_no_single_picture(tmp_path):
    source = make_clip(tmp_path / "a.mp4", frames=12)
    report = unsmear.deblur(source, model=Negative(), window=8, start_s=0.19, end_s=0.21)
    assert (report.frames, report.note) == (1, "")


def test_sharp_is_said_of_most_frames_alone():
    moving = [prior(5)] * 6
    assert "already sharp" in notes(figures_of(moving, duty=0.1))[0]
    assert notes(figures_of(moving, duty=0.6)) == []


def test_pan_between_wrong_cuts_is_not_called_still(tmp_path):
    """Frames of noise have no motion that a codec could find: that is said, and not that nothing moves."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(9)]
    report = unsmear.deblur(make_clip(tmp_path / "a.mp4", content=frames), model=Negative(), window=8)
    assert "without usable motion" in report.note
    assert "hardly" not in report.note
    assert report.frames_without_motion > 4


# --- sums -------------------------------------------------------------------------------------------------------


def test_one_row_a_second_of_the_videos_own_clock():
    figures = figures_of([prior(3)] * 25 + [prior(7)] * 25 + [prior(1, share=0)] * 5, duty=0.5)
    rows = summarise(figures)["blur_per_second"]
    assert [row["second"] for row in rows] == [0, 1, 2]
    assert [row["motion_px"] for row in rows] == [3, 7, None]
    assert all(row["duty"] == 0.5 for row in rows)
    assert figures_of([prior(3)] * 3).seconds[0].row()["duty"] is None


def test_gaps_and_late_starts_make_no_empty_rows(tmp_path):
    source = make_clip(tmp_path / "a.mkv", frames=30, start=90_000, time_base=Fraction(1, 1000))
    report = unsmear.deblur(source, model=Negative(), window=8)
    assert [row["second"] for row in report.blur_per_second] == [90, 91]


def test_figures_do_not_depend_on_windows():
    priors = [prior(i % 7, reset=i % 20 == 0) for i in range(60)]
    assert figures_of(priors, windows=1) == figures_of(priors, windows=9)


def test_figures_survive_being_stored():
    figures = figures_of([prior(3)] * 30, duty=0.4)
    assert Figures.from_json(figures.as_json()) == figures
    assert isinstance(Figures.from_json(figures.as_json()).seconds[0], Second)


def test_median_motion_counts_seconds_by_their_frames():
    figures = figures_of([prior(3)] * 25 + [prior(9)] * 2)
    assert summarise(figures)["motion_median_px"] == 3


def test_all_frames_are_measured():
    """Half of them blurred: a figure of one frame in a window would be that of either half."""
    sharp = texture((SHAPE[1], SHAPE[0]), smooth_px=0.8)
    soft = cv2.GaussianBlur(sharp, (0, 0), 3)
    figures = figures_of([prior(1)] * 4, before=sharp, after=soft)
    more = figures_of([prior(1)] * 4, before=soft, after=soft)
    together = Figures(seconds=figures.seconds + more.seconds)
    wanted = [blur_estimate(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)) for p in (sharp, soft)]
    assert summarise(together)["blur_before"] == pytest.approx(np.mean(wanted), abs=1e-4)
    assert summarise(together)["blur_after"] == pytest.approx(wanted[1], abs=1e-4)


# --- steepness and its words ------------------------------------------------------------------------------------


def ramps(width: int) -> np.ndarray:
    """Upright edges that climb by 160 levels over ``width`` pixels."""
    row = np.interp(np.arange(256), [96, 96 + width], [40, 200])
    return np.tile(np.rint(row).astype(np.uint8), (64, 1))


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_steepness_is_the_slope_of_an_edge(width):
    slope = 2 * 160 / width * (1 - 0.75 / width)  # of the halved frame, whose samples lie beside the ramp's ends
    assert sharpness(ramps(width)).steepness == pytest.approx(slope, rel=0.02)
    assert sharpness(ramps(width).T.copy()).steepness == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 40), (64, 64)])
def test_a_plain_picture_has_no_slope(shape):
    assert sharpness(np.full(shape, 90, np.uint8)).steepness == 0


def report_of(steeper: float) -> Report:
    known = dict.fromkeys(Report.__dataclass_fields__, 0) | {"blur_before": 0.226, "blur_after": 0.211}
    return Report(**(known | {"edges_steeper": steeper}))


@pytest.mark.parametrize(
    ("steeper", "words"),
    [
        (0.18, "clearly sharper (edges 18 % steeper, blur 0.226 -> 0.211)"),
        (CLEAR, "clearly sharper (edges 10 % steeper, "),
        (0.07, "a little sharper (edges 7 % steeper, "),
        (LITTLE, "a little sharper (edges 5 % steeper, "),
        (0.03, "sharpness hardly changed (edges 3 % steeper, blur 0.226 -> 0.211)"),
        (NOTHING, "sharpness hardly changed (edges 1 % steeper, "),
        (0.004, "sharpness unchanged (blur 0.226 -> 0.211)"),
        (0.0, "sharpness unchanged ("),
        (-0.004, "sharpness unchanged ("),
        (-0.01, "sharpness hardly changed (edges 1 % flatter, "),
        (-0.05, "a little softer (edges 5 % flatter, "),
        (-0.3, "clearly softer (edges 30 % flatter, "),
    ],
)
def test_words_for_sharpness(steeper, words):
    assert report_of(steeper).sharpness.startswith(words)


class Sharpened(Negative):
    """Unsharp masking by an amount known beforehand."""

    def __init__(self, amount: float):
        super().__init__()
        self.amount = amount

    def restore(self, clip, state, tile_px):
        frames, state = super().restore(clip, state, tile_px)
        kept = clip.frames[: clip.wanted].astype(np.float32)
        soft = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in kept])
        return np.clip(np.rint(kept + self.amount * (kept - soft)), 0, 255).astype(np.uint8), state


def test_sharpness_of_whole_jobs(tmp_path):
    soft = [cv2.GaussianBlur(f, (0, 0), 2) for f in moving_frames((160, 96), 10)]
    source = make_clip(tmp_path / "a.mp4", content=soft, options={"crf": "8"})
    found = [
        unsmear.deblur(source, model=Sharpened(amount), window=8, overwrite=True) for amount in (-0.5, 0.0, 0.2, 1.0)
    ]
    changes = [report.edges_steeper for report in found]
    assert changes == sorted(changes)
    assert changes[1] == 0
    assert [report.sharpness.split(" (")[0] for report in found] == [
        "clearly softer",
        "sharpness unchanged",
        "a little sharper",
        "clearly sharper",
    ]
