"""Turning and mirroring by display matrices, and 16 bits to 8."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from support.clips import make_clip
from support.orientation import ORIENTATIONS, turned_clip
from unsmear.video import eight_bit, open_video, probe, upright, upright_size
from unsmear.video.upright import upright_info

PICTURE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    return replace(probe(make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", frames=1)), width=3, height=2)


@pytest.mark.parametrize(("matrix", "shown"), ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_each_of_the_eight_orientations(info, matrix, shown):
    turned, expected = replace(info, display_matrix=matrix), shown(PICTURE)
    assert np.array_equal(upright(PICTURE, turned), expected)
    assert upright_size(turned) == expected.shape[1::-1]
    assert np.array_equal(upright(PICTURE[..., 0], turned), expected[..., 0])
    straight = upright_info(turned)
    assert (straight.width, straight.height) == expected.shape[1::-1]
    assert upright(expected, straight) is expected


def test_without_a_matrix_the_rotation_counts(info):
    for turns in range(-2, 4):
        turned = replace(info, display_matrix=None, rotation=90 * turns)
        assert np.array_equal(upright(PICTURE, turned), np.rot90(PICTURE, turns))
    assert upright(PICTURE, info) is PICTURE


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_the_matrix_says_what_ffmpeg_says(tmp_path, degrees):
    turned = probe(make_clip(tmp_path / "a.mp4", frames=1, rotation=degrees))
    assert turned.display_matrix is not None and turned.rotation % 360 == degrees % 360
    plain = replace(turned, display_matrix=None)
    assert np.array_equal(upright(PICTURE, turned), upright(PICTURE, plain))


def test_mirrored_video_is_not_taken_for_turned(tmp_path):
    left_dark = np.repeat(np.uint8([20] * 32 + [220] * 32)[None, :, None], 48, 0).repeat(3, 2)
    left_dark[:8] = 128
    turned_clip(tmp_path / "mirrored.mp4", ORIENTATIONS["mirrored"][0], content=[left_dark])
    with open_video(tmp_path / "mirrored.mp4") as reader:
        frame = upright(next(iter(reader)).rgb, reader.info)
    assert frame[24, 8].mean() > 200 > 40 > frame[24, 56].mean()
    assert abs(frame[3].mean() - 128) < 5


def test_every_level_survives_16_bits_and_others_are_rounded():
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(eight_bit(levels.astype(np.uint16) * 257), levels)
    deep = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(eight_bit(deep), np.rint(deep / 257).astype(np.uint8))
    assert eight_bit(levels) is levels
