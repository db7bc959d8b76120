"""Degraded copies of high-quality video: each step against its closed form, and the sets made with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.clips import make_yuv, moving_frames, texture
from support.command import unsmear
from unsmear.blur.degrade import Degradation, DegradeRanges, DegradeSettings, degrade, make_degraded
from unsmear.datasets.layouts import find_clips
from unsmear.datasets.pairs import open_pairs
from unsmear.errors import UsageError

NOTHING = Degradation(kernel_px=41, sigma_px=(0.01, 0.01), angle_rad=0, scale=1, noise_level=0, jpeg_quality=100)


def apply(degradation: Degradation, frame: np.ndarray, seed: int = 0) -> np.ndarray:
    [out] = degradation.frames([frame], np.random.default_rng(seed))
    return out


def gray(size: tuple[int, int]) -> np.ndarray:
    """A texture without colour, which JPEG would halve in size."""
    return np.repeat(texture(size)[..., :1], 3, axis=-1)


def rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(float) - b) ** 2)))


def test_the_ranges_are_those_of_the_release():
    assert DegradeRanges() == DegradeRanges(41, (0.1, 12.0), 0.5, (1.0, 2.0), (0.0, 15.0), (40, 60))


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_draws_lie_in_their_ranges(seed):
    drawn = Degradation.draw(np.random.default_rng(seed))
    assert all(0.1 <= sigma <= 12 for sigma in drawn.sigma_px)
    assert 1 <= drawn.scale <= 2 and 0 <= drawn.noise_level <= 15
    assert 40 <= drawn.jpeg_quality <= 60 and 0 <= drawn.angle_rad < np.pi
    assert Degradation.draw(np.random.default_rng(seed)) == drawn


def test_ends_of_the_ranges_and_both_kinds_of_kernel_are_reached():
    many = [Degradation.draw(np.random.default_rng(seed)) for seed in range(300)]
    assert {drawn.jpeg_quality for drawn in many} == set(range(40, 61))
    assert 0.35 < np.mean([drawn.sigma_px[0] == drawn.sigma_px[1] for drawn in many]) < 0.65
    for share in (0.0, 1.0):
        drawn = Degradation.draw(np.random.default_rng(1), DegradeRanges(isotropic_share=share))
        assert (drawn.sigma_px[0] == drawn.sigma_px[1]) == bool(share)


@pytest.mark.parametrize(("along", "across", "angle"), [(3, 3, 0.3), (5, 1.5, 0), (5, 1.5, 0.7), (2, 4, 2.5)])
def test_the_kernel_has_the_moments_that_were_drawn(along, across, angle):
    kernel = replace(NOTHING, sigma_px=(along, across), angle_rad=angle).kernel().astype(float)
    assert kernel.shape == (41, 41) and kernel.sum() == pytest.approx(1, abs=1e-5)
    y, x = np.mgrid[-20:21, -20:21]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = turn @ np.diag([along**2, across**2]) @ turn.T
    got = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
    assert np.allclose(got, expected, atol=0.05 * max(along, across) ** 2)


def test_a_minimal_degradation_keeps_the_frame():
    frame = gray((64, 48))
    assert rms(apply(NOTHING, frame), frame) < 0.8
    assert np.array_equal(apply(NOTHING, np.full((48, 64, 3), 77, np.uint8)), np.full((48, 64, 3), 77, np.uint8))


def test_blur_is_that_of_a_gaussian():
    frame = gray((96, 80))
    inner = (slice(12, -12), slice(12, -12))
    blurred = apply(replace(NOTHING, sigma_px=(2.5, 2.5)), frame)
    assert rms(blurred[inner], cv2.GaussianBlur(frame, (41, 41), 2.5)[inner]) < 1


@pytest.mark.parametrize("size", [(64, 48), (37, 53), (8, 8)])
def test_size_and_type_are_kept(size):
    frames = moving_frames(size, 3)
    for seed in range(4):
        out = degrade(frames, np.random.default_rng(seed))
        assert len(out) == 3
        assert all(frame.shape == (size[1], size[0], 3) and frame.dtype == np.uint8 for frame in out)


def test_scale_noise_and_jpeg_each_have_an_effect():
    frame = texture((96, 80), smooth_px=0.7)
    clean = rms(apply(NOTHING, frame), frame)
    assert rms(apply(replace(NOTHING, scale=2), frame), frame) > clean + 3
    assert rms(apply(replace(NOTHING, jpeg_quality=40), frame), frame) > clean + 1.5
    flat = np.full((80, 96, 3), 128, np.uint8)
    noise = cv2.cvtColor(apply(replace(NOTHING, noise_level=10), flat), cv2.COLOR_RGB2GRAY).astype(float).std()
    assert noise == pytest.approx(10 * np.linalg.norm([0.299, 0.587, 0.114]), rel=0.1)  # of independent channels


def test_a_clip_does_not_flicker_but_its_noise_is_fresh():
    still = [texture((64, 48))] * 3
    ranges = DegradeRanges(noise_levels=(0, 0))
    quiet = degrade(still, np.random.default_rng(3), ranges)
    assert np.array_equal(quiet[0], quiet[1]) and np.array_equal(quiet[1], quiet[2])
    loud = degrade(still, np.random.default_rng(3), DegradeRanges(noise_levels=(10, 10)))
    assert not np.array_equal(loud[0], loud[1])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_same_seed_same_frames(seed):
    frames = moving_frames((32, 24), 2)
    a, b = (degrade(frames, np.random.default_rng(seed)) for _ in range(2))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"kernel_px": 40}, "`kernel_px` 40: expected an odd"),
        ({"sigma_px": (0.0, 1.0)}, "`sigma_px` 0 1: expected 0.01"),
        ({"scale": (0.5, 2.0)}, "`scale` 0.5 2"),
        ({"noise_levels": (9.0, 3.0)}, "`noise_levels` 9 3"),
        ({"jpeg_quality": (0, 50)}, "`jpeg_quality` 0 50"),
        ({"isotropic_share": 2.0}, "`isotropic_share` 2"),
    ],
)
def test_invalid_ranges_are_named(changed, words):
    with pytest.raises(UsageError, match=words):
        DegradeRanges(**changed)


def run(*args: object):
    return unsmear("data", "degrade", *map(str, args), "--workers", "1")


@pytest.fixture
def source(tmp_path) -> Path:
    return make_yuv(tmp_path / "hq_96x64_50fps_10bit.yuv", moving_frames((96, 64), 4), pix_fmt="yuv420p10le")[0]


def test_the_command_writes_pairs_with_a_manifest(source, tmp_path):
    result = run(source, "-o", tmp_path / "set")
    assert result.exit_code == 0, result.output
    assert "hq_96x64_50fps_10bit: 4 frames, sigma " in result.output
    [entry] = json.loads((tmp_path / "set" / "manifest.json").read_text())["clips"]
    assert (entry["method"], entry["frames"], entry["width"], entry["height"]) == ("degrade", 4, 96, 64)
    assert entry["jpeg_range"] == [40, 60] and 40 <= entry["jpeg_quality"] <= 60 and len(entry["sha256"]) == 64
    [clip] = find_clips(tmp_path / "set")
    assert clip.layout == "unsmear data"
    with open_pairs(clip) as pairs:
        measured = [rms(b, s) for _, b, s in pairs]
    assert len(measured) == 4 and min(measured) > 1
    again = run(source, "-o", tmp_path / "set")
    assert "already there" in again.output and again.exit_code == 0
    other = run(source, "-o", tmp_path / "set", "--jpeg", 10, 20)
    assert other.exit_code == 1 and "was made with jpeg_range [40, 60], not [10, 20]" in other.output


def test_a_clip_depends_on_seed_and_name_alone(source, tmp_path):
    copy = tmp_path / "other_96x64_50fps_10bit.yuv"
    copy.write_bytes(source.read_bytes())
    alone = make_degraded([source], tmp_path / "a").manifest["clips"]
    both = make_degraded([copy, source], tmp_path / "b", workers=2).manifest["clips"]
    assert alone[0] in both and both[0]["sha256"] != both[1]["sha256"]
    seeded = make_degraded([source], tmp_path / "c", DegradeSettings(seed=1)).manifest["clips"]
    assert seeded[0]["sigma_px"] != alone[0]["sigma_px"]


def test_sets_of_one_kind_are_not_taken_for_the_other(source, tmp_path):
    assert run(source, "-o", tmp_path / "set", "--max-frames", 1).exit_code == 0
    blurred = unsmear("data", "blur", str(source), "-o", str(tmp_path / "set"), "--workers", "1")
    assert blurred.exit_code == 1 and "was made with duty_range None" in blurred.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kernel", 4], "--kernel 4"),
        (["--seed", -1], "--seed -1"),
        (["--max-frames", 0], "--max-frames 0"),
        (["--sigma", 5, 2], "--sigma 5 2"),
        (["--yuv", "x"], "--yuv x"),
    ],
)
def test_options_out_of_range_are_named(source, tmp_path, options, words):
    result = run(source, "-o", tmp_path / "set", *options)
    assert result.exit_code == 2 and words in result.complaint
    assert not (tmp_path / "set").exists()
