"""Sharp shots change little, others as much as the model wants."""

import numpy as np
import pytest

import unsmear
from support.clips import make_clip, moving_frames
from support.restorers import Negative
from unsmear.metrics import psnr
from unsmear.priors import Prior, chunk_priors
from unsmear.restore.sharpness import (
    CLOSE_DB,
    FREE_DUTY,
    SHARP_DUTY,
    DutyTracker,
    closeness_db,
    flat_kept,
    is_sharp,
    restrained,
    typical_motion_px,
)
from unsmear.video import open_video
from unsmear.video.colour import luma_of_rgb

FRAMES = np.stack(moving_frames((96, 64), 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_sharp_shot_stays_close(dtype) -> None:  # type: ignore[no-untyped-def]
    before = FRAMES.astype(dtype) * (257 if dtype == np.uint16 else 1)
    after = np.iinfo(dtype).max - before
    drawn = restrained(before, after, SHARP_DUTY - 0.01)
    for b, a in zip(before, drawn, strict=True):
        assert psnr(a, b) == pytest.approx(CLOSE_DB, abs=0.2)
    assert np.corrcoef((drawn - before.astype(float)).ravel(), (after - before.astype(float)).ravel())[0, 1] > 0.95


@pytest.mark.parametrize("duty", [None, FREE_DUTY, 0.7])
def test_a_blurred_or_unknown_shot_is_left_to_the_model(duty: float | None) -> None:
    assert np.array_equal(restrained(FRAMES, 255 - FRAMES, duty), 255 - FRAMES)


def test_the_bound_loosens_from_sharp_to_blurred() -> None:
    bounds = [closeness_db(d) for d in (0.0, SHARP_DUTY, 0.3, 0.34)]
    assert bounds[:2] == [CLOSE_DB, CLOSE_DB]
    assert CLOSE_DB > bounds[2] > bounds[3] > 30
    half = restrained(FRAMES, 255 - FRAMES, 0.3)
    assert all(psnr(h, f) == pytest.approx(bounds[2], abs=0.2) for h, f in zip(half, FRAMES, strict=True))


def test_a_short_exposure_of_fast_motion_is_blur() -> None:
    """13 pixels of blur are blur though the shutter was open for a fifth of the frame step."""
    assert closeness_db(0.2, 7.6) == CLOSE_DB
    assert CLOSE_DB > closeness_db(0.2, 9.0) > 30  # type: ignore[operator]
    assert closeness_db(0.2, 13.0) is None
    assert np.array_equal(restrained(FRAMES, 255 - FRAMES, 0.2, 13.0), 255 - FRAMES)
    assert psnr(restrained(FRAMES, 255 - FRAMES, 0.2, 5.0)[0], FRAMES[0]) == pytest.approx(CLOSE_DB, abs=0.2)


def test_the_length_of_blur_is_the_exposure_times_the_motion_of_what_moves() -> None:
    pictures = [luma_of_rgb(frame) for frame in moving_frames((256, 192), 3, step_px=(12, 5))]
    priors = chunk_priors(pictures, before=None, after=None)
    assert typical_motion_px(priors) == pytest.approx(13.0, abs=0.5)
    assert typical_motion_px([Prior.empty(192, 256)]) == 0.0
    shot = DutyTracker()
    shot.update(pictures, priors)
    assert shot.motion_px == typical_motion_px(priors)
    assert DutyTracker(0.5, 1, 13.0, 1).blur_px == 6.5 and DutyTracker(None, 0, 13.0, 1).blur_px == 0.0
    assert is_sharp(0.2, 5.0) and not is_sharp(0.2, 9.0) and not is_sharp(0.5, 5.0) and not is_sharp(None, 0.0)


def test_small_changes_of_a_sharp_shot_are_kept_as_they_are() -> None:
    after = np.clip(FRAMES.astype(int) + 2, 0, 255).astype(np.uint8)
    assert np.array_equal(restrained(FRAMES, after, 0.0), after)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_flat_stays_flat_and_detail_is_left_to_the_model(dtype) -> None:  # type: ignore[no-untyped-def]
    unit = 257 if dtype == np.uint16 else 1
    before = np.full((1, 64, 96, 3), 120 * unit, dtype)
    stripes = np.where(np.arange(32) // 4 % 2, 60, 180).astype(dtype) * unit
    before[:, :, 64:] = stripes[:, None]  # detail to the right of column 64
    after = np.clip(before.astype(np.int64) + 40 * unit, 0, 255 * unit).astype(dtype)
    kept = flat_kept(before, after)
    assert np.all(kept[:, :, :48] == 120 * unit)
    assert np.array_equal(kept[:, :, 64:], after[:, :, 64:])
    assert np.array_equal(flat_kept(before, before), before)


def test_a_whole_sharp_video_changes_little_whatever_the_model_does(tmp_path) -> None:  # type: ignore[no-untyped-def]
    sharp = moving_frames((320, 192), 12, step_px=(8, 3), smooth_px=0.8)
    source = make_clip(tmp_path / "sharp.mp4", content=sharp, options={"crf": "8"})
    unsmear.deblur(source, tmp_path / "out", model=Negative(), window=8, frames=True)
    with open_video(source) as given, open_video(tmp_path / "out") as made:
        assert all(psnr(m.rgb, g.rgb) > CLOSE_DB - 0.5 for m, g in zip(made, given, strict=True))
