"""The blur estimate: more blur is a higher figure, whatever its direction, and noise is not crispness."""

import cv2
import numpy as np
import pytest

from unsmear.metrics.blur import blur_estimate


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Random edges at every distance, softened by a lens."""
    rng = np.random.default_rng(0)
    image = np.full((256, 384), 128, np.uint8)
    for _ in range(300):
        centre = tuple(int(v) for v in rng.integers(0, (384, 256)))
        cv2.circle(image, centre, int(rng.integers(4, 40)), int(rng.integers(0, 255)), -1)
    return cv2.GaussianBlur(image, None, 0.7)


@pytest.mark.parametrize("along", [(1, 0), (0, 1)])
def test_the_blur_estimate_rises_with_blur(picture, along):
    figures = []
    for length in (1, 7, 15, 31):
        kernel = (length if along[0] else 1, length if along[1] else 1)
        figures.append(blur_estimate(cv2.blur(picture, kernel)))
    assert figures == sorted(figures)
    assert figures[-1] - figures[0] > 0.3
    assert all(0 <= f <= 1 for f in figures)


def test_the_blur_estimate_is_robust_to_noise(picture):
    blurred = cv2.blur(picture, (15, 1))
    noisy = np.clip(blurred + np.random.default_rng(1).normal(0, 2, blurred.shape), 0, 255).astype(np.uint8)
    assert blur_estimate(noisy) > blur_estimate(picture) + 0.1


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (64, 64)])
def test_a_plain_image_has_no_blur(shape):
    assert blur_estimate(np.full(shape, 90, np.uint8)) == 0
