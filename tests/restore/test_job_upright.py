"""Turned and mirrored videos: outputs stand as players show the source."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import unsmear
from support.orientation import ORIENTATIONS, turned_clip
from support.restorers import Negative
from unsmear.blur.pairset import upright_frames
from unsmear.evaluation.evaluate import Settings, compare
from unsmear.video import open_video, probe, read_image


@pytest.mark.parametrize(("matrix", "shown"), ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_every_output_stands_upright(matrix, shown, tmp_path):
    source = turned_clip(tmp_path / "a.mp4", matrix, frames=9, sample_aspect_ratio=Fraction(4, 3))
    with open_video(source) as reader:
        decoded = [frame.rgb for frame in reader]
    unsmear.deblur(source, tmp_path / "b.mp4", model=Negative(), window=8)
    unsmear.deblur(source, tmp_path / "frames", model=Negative(), window=8, strength=0, frames=True, compare=True)
    assert probe(tmp_path / "b.mp4").display_matrix == probe(source).display_matrix
    for i, picture in enumerate(decoded):
        assert np.array_equal(read_image(tmp_path / "frames" / f"{i:06d}.png"), shown(picture))
    compared = tmp_path / "frames.compare.mp4"
    info = probe(compared)
    assert info.display_matrix is None and info.rotation == 0
    assert info.sample_aspect_ratio == (Fraction(4, 3) if shown(decoded[0]).shape[0] == 64 else Fraction(3, 4))
    with open_video(compared) as reader:
        for frame, picture in zip(reader, decoded, strict=True):
            assert np.abs(frame.rgb.astype(int) - np.concatenate([shown(picture)] * 2, 1)).mean() < 6


@pytest.mark.parametrize("kind", ["mirrored", "transposed", "a quarter to the left"])
def test_data_sets_and_measures_see_the_same(kind, tmp_path):
    matrix, shown = ORIENTATIONS[kind]
    source = turned_clip(tmp_path / "a.mp4", matrix, frames=9)
    with open_video(source) as reader:
        decoded = [frame.rgb for frame in reader]
        for picture, frame in zip(decoded, upright_frames(reader, None), strict=True):
            assert np.array_equal(frame, shown(picture))
    unsmear.deblur(source, tmp_path / "frames", model=Negative(), window=8, strength=0, frames=True)
    found = compare(tmp_path / "frames", source, None, Settings("basicsr", ("psnr",)))
    assert found.result.mean("psnr") == 100, "identical"
