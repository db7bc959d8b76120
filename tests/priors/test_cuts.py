"""Cuts and fast motion: what begins a new shot, what does not, and where motion comes from."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from support.clips import make_clip
from support.cuts import HEIGHT, WIDTH, Camera, Reel, calm_and_wild, developed, film, scene, with_cuts
from unsmear.priors import Prior, PriorSettings, chunk_priors, stream
from unsmear.priors.cuts import CutTest, Glimpse, is_suspect, kinship
from unsmear.priors.follow import as_coded, residual_of
from unsmear.priors.steps import encode_steps
from unsmear.video import open_video

SEED = 7
"""Thresholds were chosen on seeds 101 to 106."""


def priors_of(reel: Reel) -> list[Prior]:
    return [prior for _, prior in stream(reel.frames)]


def resets(priors: list[Prior]) -> set[int]:
    return {t for t, prior in enumerate(priors) if prior.reset and t}


def test_fast_motion_and_changes_of_light_are_no_cuts():
    frames, false = 0, []
    for reel in calm_and_wild(SEED):
        assert not reel.cuts
        frames += len(reel.frames)
        false += [(reel.name, t) for t in sorted(resets(priors_of(reel)))]
    assert frames >= 2000
    assert len(false) <= frames / 1000, false


def test_cuts_are_found():
    cuts, missed, frames, false = 0, [], 0, []
    for reel in with_cuts(SEED):
        found = resets(priors_of(reel))
        cuts += len(reel.cuts)
        frames += len(reel.frames) - len(reel.cuts)
        missed += [(reel.name, t) for t in sorted(reel.cuts - found)]
        false += [(reel.name, t) for t in sorted(found - reel.cuts)]
    assert cuts >= 60
    assert len(missed) <= 0.02 * cuts, missed
    assert len(false) <= frames / 1000, false


# Where motion comes from.


def panned(px: float, frames: int, name: str = "gravel") -> list[np.ndarray]:
    shots = film(scene(name), lambda t: Camera(250 + px * t, 300), frames, 0.0)
    return developed(shots, np.random.default_rng(0))


def jerk(px: int) -> list[np.ndarray]:
    """A still camera that jumps ``px`` to the right at frame 2, in a picture of 960x540."""
    frames = [*panned(0, 2, "chelsea"), *panned(px / 3, 2, "chelsea")[1:] * 2]
    return [cv2.resize(frame, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC) for frame in frames]


def test_calm_motion_is_the_codecs():
    priors = chunk_priors(panned(3, 6), before=None, after=None)
    assert [p.motion_source for p in priors] == ["none"] + ["codec"] * 5
    assert [p.motion_back_source for p in priors] == ["codec"] * 5 + ["none"]


@pytest.mark.parametrize("px", [120, 144])
def test_what_moves_too_far_for_the_codec_is_found_at_small_sizes(px):
    frames = jerk(px)
    priors = chunk_priors(frames, before=None, after=None)
    assert resets(priors) == set()
    assert priors[2].motion_source == "coarse" and priors[1].motion_back_source == "coarse"
    [step] = encode_steps(frames[1:3])
    seen = slice(None), slice(4, -6), slice(4, -px // 8 - 6)  # what was in the picture before
    coded = np.hypot(*(np.moveaxis(as_coded(step).motion_q, -1, 0)[seen] / 4 - np.array([px, 0])[:, None, None]))
    found = np.hypot(*(priors[2].motion(0)[seen] - np.array([px, 0])[:, None, None]))
    assert np.median(found) <= 1 and (found <= 4).mean() > (coded <= 4).mean() + 0.1
    back = priors[1].motion_back(0)[:, 4:-6, px // 8 + 4 : -6]
    np.testing.assert_allclose(np.median(back, (1, 2)), (-px, 0), atol=1)
    assert priors[2].residual.mean() < residual_of(step, as_coded(step).motion_q, 540, 960).mean()


def test_a_white_frame_borrows_its_neighbours_motion():
    frames = panned(4, 9)
    frames[5] = np.full((HEIGHT, WIDTH), 235, np.uint8)
    for n in (9, 24):
        priors = [prior for _, prior in stream(frames, PriorSettings(chunk_frames=n))]
        assert resets(priors) == set()
        for t in (5, 6):
            assert priors[t].motion_source == "borrowed" and not priors[t].valid.any()
            assert abs(np.median(priors[t].motion()[0]) - 4) <= 0.25
        for t in (4, 5):
            assert priors[t].motion_back_source == "borrowed" and not priors[t].valid_back.any()
            assert abs(np.median(priors[t].motion_back()[0]) + 4) <= 0.25
        assert priors[5].residual.mean() > 40


def test_without_a_neighbour_to_borrow_from_there_is_no_motion():
    white = np.full((HEIGHT, WIDTH), 235, np.uint8)
    first, second = chunk_priors([panned(0, 1)[0], white], before=None, after=None)
    assert not second.reset and not first.reset_back
    assert second.motion_source == first.motion_back_source == "none"
    assert not (second.motion_q.any() or second.valid.any() or first.motion_back_q.any() or first.valid_back.any())


# The test of cuts by itself.


def test_kinship_separates_one_scene_from_two():
    one, moved, other = (Glimpse(f) for f in (panned(0, 1)[0], panned(40, 2)[1], panned(0, 1, "astronaut")[0]))
    assert kinship(one, moved) > 0.8 and kinship(one, other) < 0.25 and kinship(other, one) < 0.25
    brighter = Glimpse(np.clip(panned(40, 2)[1] * 0.5 + 120, 0, 255).astype(np.uint8))
    assert kinship(one, brighter) > 0.8


def test_frames_with_low_coverage_or_high_residual_are_suspect():
    luma = panned(0, 1)[0]
    assert not is_suspect(1.0, 0.0, luma) and not is_suspect(0.9, 1.0, luma) and not is_suspect(0.0, 0.3, luma)
    assert is_suspect(0.4, 6.0, luma) and is_suspect(0.9, 13.0, luma)
    dark = (luma // 20).astype(np.uint8)
    assert is_suspect(0.9, 1.5, dark)


def test_at_a_seam_only_two_frames_are_used():
    frames = panned(4, 5)
    frames[2] = np.full((HEIGHT, WIDTH), 16, np.uint8)
    test = CutTest(frames)
    assert not test(2, 0.0, 90.0) and not test(3, 0.0, 90.0)  # the frames around the black one match
    assert test(2, 0.0, 90.0, alone=True)


def test_pictures_too_small_to_search_in_go_by_the_codec():
    frames = [np.zeros((24, 40), np.uint8)] * 2
    test = CutTest(frames)
    assert test(1, 0.4, 0.0) and test(1, 1.0, 13.0) and not test(1, 0.6, 5.0)


# However a video is walked through, also where frames are suspect.


def eventful() -> list[np.ndarray]:
    """Jumps, a white frame, a black one and a cut, in 26 frames."""
    frames = [*jerk(120), *jerk(144)] + [cv2.resize(f, (960, 540)) for f in panned(4, 18, "coffee")]
    frames[12] = np.full_like(frames[0], 235)
    frames[16] = np.full_like(frames[0], 16)
    return [np.ascontiguousarray(frame[:270, :480]) for frame in frames]


def assert_equal(one: Prior, other: Prior) -> None:
    for name in Prior.__dataclass_fields__:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("n", [1, 4, 5])
def test_chunks_are_equal_to_a_stream_and_agree_at_their_seams(n):
    frames = eventful()
    whole = [prior for _, prior in stream(frames, PriorSettings(chunk_frames=n))]
    assert [p.reset for p in whole[1:]] == [p.reset_back for p in whole[:-1]]
    for start in range(0, len(frames), n):
        before = frames[start - 1] if start else None
        after = frames[start + n] if start + n < len(frames) else None
        piece = chunk_priors(frames[start : start + n], before=before, after=after, workers=1)
        for one, other in zip(piece, whole[start:], strict=False):
            assert_equal(one, other)


def test_a_native_stream_of_suspect_frames_can_be_taken_up_at_any_chunk(tmp_path):
    content = [np.repeat(frame[..., None], 3, -1) for frame in eventful()]
    options = {"preset": "veryfast", "x264-params": "bframes=0:ref=1:weightp=0:scenecut=0"}
    path = make_clip(tmp_path / "a.mp4", content=content, options=options)

    def priors_from(first: int) -> list[Prior]:
        with open_video(path) as reader:
            lumas = [frame.luma for frame in reader]
        before = lumas[first - 1] if first else None
        found = stream(lumas[first:], PriorSettings(chunk_frames=4), path=path, first=first, before=before)
        assert found.native_frames is None
        return [prior for _, prior in found]

    whole = priors_from(0)
    assert "native" in {p.origin for p in whole} and "borrowed" in {p.motion_source for p in whole}
    assert [p.reset for p in whole[1:]] == [p.reset_back for p in whole[:-1]]
    for first in (4, 12, 16):
        for one, other in zip(priors_from(first), whole[first:], strict=True):
            assert_equal(one, other)
