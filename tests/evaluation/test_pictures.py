"""Error maps, crops and panels, on pictures whose differences are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from support.clips import texture
from unsmear.evaluation.pictures import (
    FULL_ERROR,
    Box,
    Picture,
    error_map,
    error_scale,
    most_blurred_crop,
    side_by_side,
)


def colours() -> np.ndarray:
    """The 256 colours from no error to full error, RGB."""
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)
    return cv2.cvtColor(ramp, cv2.COLOR_BGR2RGB)[0]


def test_an_error_map_shows_the_error_on_a_fixed_scale():
    truth = np.full((4, 5, 3), 100, np.uint8)
    restored = truth.copy()
    restored[0, 0] += 16  # half of the scale
    restored[1, 1, 0] -= 48  # 16 on the mean over channels
    restored[2, 2] += 150  # beyond the scale
    shown = error_map(restored, truth)
    half, full = colours()[128], colours()[255]
    assert FULL_ERROR == 32
    assert shown.shape == truth.shape
    assert shown[0, 0].tolist() == shown[1, 1].tolist() == half.tolist()
    assert shown[2, 2].tolist() == full.tolist()
    assert (shown[3] == colours()[0]).all()
    assert np.array_equal(shown, error_map(truth, restored))


def test_sixteen_bits_give_the_same_map():
    a, b = texture((40, 30), 1), texture((40, 30), 2)
    assert np.array_equal(error_map(a, b), error_map(a.astype(np.uint16) * 257, b.astype(np.uint16) * 257))


def test_the_scale_runs_from_none_to_full():
    assert error_scale()[0] == "#" + bytes(colours()[0].tolist()).hex()
    assert error_scale()[-1] == "#" + bytes(colours()[255].tolist()).hex()
    assert len(error_scale()) == 9


def test_pictures_of_different_size_or_depth_are_refused():
    image = np.zeros((4, 4, 3), np.uint8)
    for other in (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4, 3), np.uint16)):
        with pytest.raises(ValueError, match="expected two"):
            error_map(image, other)


def test_a_picture_without_truth_has_no_error():
    image = texture((8, 8))
    assert Picture("c", 0, "m", None, image, None).error is None
    assert (Picture("c", 0, "m", None, image, image).error == colours()[0]).all()


@pytest.mark.parametrize("scale", [1, 257], ids=["8 bit", "16 bit"])
def test_the_crop_is_where_the_blur_is(scale: int):
    sharp = texture((200, 120), seed=4, smooth_px=0.7)
    blurred = sharp.copy()
    blurred[70:100, 130:170] = cv2.blur(sharp, (15, 15))[70:100, 130:170]
    kind = np.uint8 if scale == 1 else np.uint16
    box = most_blurred_crop(blurred.astype(kind) * kind(scale), sharp.astype(kind) * kind(scale), (40, 30))
    assert box == Box(130, 70, 40, 30)
    assert box.cut(sharp).shape == (30, 40, 3)


def test_a_crop_is_never_larger_than_the_picture():
    sharp = texture((50, 40), seed=4)
    assert most_blurred_crop(cv2.blur(sharp, (5, 5)), sharp, (320, 240)) == Box(0, 0, 50, 40)


def test_panels_stand_side_by_side_under_their_labels():
    red, blue = np.full((60, 80, 3), (200, 0, 0), np.uint8), np.full((60, 80, 3), (0, 0, 200), np.uint8)
    plain = side_by_side([red, blue], ["", ""])
    labelled = side_by_side([red, blue], ["input", "output that has a very long name"], ["20.1 dB", ""])
    assert plain.shape[1] == labelled.shape[1] == 2 * 80 + 4
    top = plain.shape[0] - 60
    assert (plain[:top] == 255).all()
    assert (labelled[top : top + 60, :80] == (200, 0, 0)).all()
    assert (labelled[top : top + 60, 84:] == (0, 0, 200)).all()
    assert (labelled[:, 80:84] == 255).all()  # labels stay in their own column
    for part in (labelled[:top, :80], labelled[:top, 84:], labelled[top + 60 :, :80]):
        assert part.min() < 100
    assert (labelled[top + 60 :, 84:] == 255).all()
    deep = side_by_side([red.astype(np.uint16) * 257, blue.astype(np.uint16) * 257], ["", ""])
    assert np.array_equal(deep, plain)
    with pytest.raises(ValueError, match="one size"):
        side_by_side([red, blue[:50]], ["a", "b"])
