"""Shipped models have their cards; those that generate repeat themselves and stay near the truth."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import unsmear
from support.clips import moving_frames
from support.spectrum import line_strengths
from unsmear import load
from unsmear.blur.pairset import upright_frames
from unsmear.metrics import psnr
from unsmear.models.zoo import PIPELINES, find, shipped
from unsmear.restore.restorer import Clip
from unsmear.video import open_video

EXAMPLES = Path(__file__).parents[2] / "examples"
GENERATING = [entry.name for entry in shipped() if entry.kind in PIPELINES]


def frames_of(name: str) -> np.ndarray:
    with open_video(EXAMPLES / name) as reader:
        return np.stack([frame for frame, _ in zip(upright_frames(reader, 24), range(5), strict=False)])


@pytest.fixture(scope="module")
def pair() -> tuple[Clip, np.ndarray]:
    blurred = frames_of("handheld.blur.mp4")
    return Clip.of(blurred, 0.8), frames_of("handheld.sharp.mp4")


def mean_psnr(made: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([psnr(a, b) for a, b in zip(made, truth, strict=True)]))


@pytest.mark.parametrize("name", GENERATING)
def test_results_are_reproducible_and_near_the_truth(pair, name):
    clip, truth = pair
    restorer = load(name, device="cpu", dtype="fp32")
    made = restorer(clip)
    assert np.array_equal(made, restorer(clip))
    assert not np.array_equal(made, load(name, device="cpu", dtype="fp32", seed=1)(clip))
    assert mean_psnr(made, truth) > mean_psnr(clip.frames, truth) - 1.5


@pytest.mark.parametrize("name", [entry.name for entry in shipped()])
def test_the_card_matches_the_weights(name):
    entry = find(name)
    assert entry.card["sha256"] == entry.checksum()
    assert entry.card["name"] == name and entry.card["licence"] and entry.card["training_files"] > 0
    assert entry.card["sha256"] in entry.card_text and entry.card["validation"]["clips"]


def test_the_default_adds_no_pattern_and_keeps_colours():
    """Spectrum of what it changes: no lines at a quarter and half of the sampling frequency; the mean light stays."""
    pictures = moving_frames((384, 256), 4, step_px=(7, 3))
    pictures = [cv2.GaussianBlur(picture, (13, 1), 4) for picture in pictures]
    restored = unsmear.load("cpfp", device="cpu", dtype="fp32")(Clip.of(pictures, 0.7))
    for before, after in zip(pictures, restored, strict=True):
        change = after.astype(np.float32) - before
        assert np.abs(change).mean() > 0.5
        light = (after.astype(np.float64) ** 2 - before.astype(np.float64) ** 2).mean((0, 1))
        assert np.abs(light / (2 * before.mean((0, 1)))).max() < 0.3  # levels
        assert max(line_strengths(change.mean(-1))) < 2


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_single_image_is_unchanged_bit_for_bit(tmp_path, kind):
    picture = moving_frames((160, 120), 1)[0]
    source = tmp_path / f"one.{kind}"
    cv2.imwrite(str(source), picture)
    report = unsmear.deblur(source, tmp_path / "out.png", device="cpu")
    assert "single picture" in report.note
    with open_video(source) as given, open_video(tmp_path / "out.png") as made:
        assert np.array_equal(next(iter(made)).rgb, next(iter(given)).rgb)
