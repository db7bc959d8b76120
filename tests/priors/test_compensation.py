"""Quarter-pel motion compensation against the standard's formulas, sample by sample."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsmear.priors.compensation import compensate

TAPS = (1, -5, 20, 20, -5, 1)


def standard_sample(reference: np.ndarray, x4: int, y4: int) -> int:
    """One luma sample at (x4 / 4, y4 / 4), as ITU-T H.264 8.4.2.2.1 words it."""
    height, width = reference.shape
    x, y, phase_x, phase_y = x4 >> 2, y4 >> 2, x4 & 3, y4 & 3

    def full(dx: int, dy: int) -> int:
        return int(reference[min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)])

    def clip(value: int) -> int:
        return min(max(value, 0), 255)

    def half_x_sum(dy: int) -> int:
        return sum(tap * full(i - 2, dy) for i, tap in enumerate(TAPS))

    def half_x(dy: int = 0) -> int:
        return clip((half_x_sum(dy) + 16) >> 5)

    def half_y(dx: int = 0) -> int:
        return clip((sum(tap * full(dx, i - 2) for i, tap in enumerate(TAPS)) + 16) >> 5)

    def half_xy() -> int:
        return clip((sum(tap * half_x_sum(i - 2) for i, tap in enumerate(TAPS)) + 512) >> 10)

    def mean(p: int, q: int) -> int:
        return (p + q + 1) >> 1

    return {
        (0, 0): lambda: full(0, 0),
        (1, 0): lambda: mean(full(0, 0), half_x()),
        (2, 0): lambda: half_x(),
        (3, 0): lambda: mean(half_x(), full(1, 0)),
        (0, 1): lambda: mean(full(0, 0), half_y()),
        (1, 1): lambda: mean(half_x(), half_y()),
        (2, 1): lambda: mean(half_x(), half_xy()),
        (3, 1): lambda: mean(half_x(), half_y(1)),
        (0, 2): lambda: half_y(),
        (1, 2): lambda: mean(half_y(), half_xy()),
        (2, 2): lambda: half_xy(),
        (3, 2): lambda: mean(half_xy(), half_y(1)),
        (0, 3): lambda: mean(half_y(), full(0, 1)),
        (1, 3): lambda: mean(half_y(), half_x(1)),
        (2, 3): lambda: mean(half_xy(), half_x(1)),
        (3, 3): lambda: mean(half_y(1), half_x(1)),
    }[phase_x, phase_y]()


def standard_prediction(reference: np.ndarray, motion_q: np.ndarray) -> np.ndarray:
    out = np.empty_like(reference)
    for y in range(reference.shape[0]):
        for x in range(reference.shape[1]):
            dx, dy = (int(v) for v in motion_q[y // 8, x // 8])
            out[y, x] = standard_sample(reference, 4 * x + dx, 4 * y + dy)
    return out


@pytest.mark.parametrize("phase_y", range(4))
def test_all_phases_match_the_standard(phase_y: int) -> None:
    rng = np.random.default_rng(phase_y)
    reference = rng.integers(0, 256, (16, 32), dtype=np.uint8)
    motion_q = rng.integers(-3, 4, (2, 4, 2)) * 4
    motion_q[..., 0] += np.arange(4)
    motion_q[..., 1] += phase_y
    np.testing.assert_array_equal(compensate(reference, motion_q), standard_prediction(reference, motion_q))


@given(
    seed=st.integers(0, 2**32 - 1),
    binary=st.booleans(),
    reach=st.sampled_from([8, 100, 2000, 32767]),
)
@settings(max_examples=30, deadline=None)
def test_any_vector_matches_the_standard(seed: int, binary: bool, reach: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 256, (16, 16), dtype=np.uint8)
    if binary:
        reference = np.where(reference > 127, 255, 0).astype(np.uint8)
    motion_q = rng.integers(-reach, reach + 1, (2, 2, 2)).astype(np.int16)
    np.testing.assert_array_equal(compensate(reference, motion_q), standard_prediction(reference, motion_q))


@pytest.mark.parametrize("inverted", [False, True])
def test_the_largest_sums_do_not_wrap(inverted: bool) -> None:
    """Rows on which the intermediate sums of the diagonal half-pel filter leave 16 bits."""
    high = np.tile([255, 0, 255, 255, 0, 255], 3)[:16]
    rows = [255 - high, high, 255 - high, 255 - high, high, 255 - high]
    reference = np.tile(np.stack(rows), (3, 1))[:16].astype(np.uint8)
    if inverted:
        reference = 255 - reference
    motion_q = np.full((2, 2, 2), 2)
    np.testing.assert_array_equal(compensate(reference, motion_q), standard_prediction(reference, motion_q))


def test_tall_frames_are_filtered_without_seams() -> None:
    reference = np.random.default_rng(0).integers(0, 256, (208, 16), dtype=np.uint8)
    motion_q = np.full((26, 2, 2), 2)
    np.testing.assert_array_equal(compensate(reference, motion_q), standard_prediction(reference, motion_q))


def test_no_motion_is_a_copy() -> None:
    reference = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    out = compensate(reference, np.zeros((2, 2, 2), np.int16))
    np.testing.assert_array_equal(out, reference)
    assert not np.shares_memory(out, reference)


def test_a_grid_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="32x16 samples"):
        compensate(np.zeros((16, 16), np.uint8), np.zeros((2, 4, 2), np.int16))
