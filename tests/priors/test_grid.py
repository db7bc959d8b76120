"""Vectors on the grid, holes, and what a Prior makes of them."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsmear.priors import RESIDUAL_SCALE, Prior
from unsmear.priors.grid import fill_holes, grid_from_vectors, grid_shape

FIELDS = [
    ("source", "i4"),
    ("w", "u1"),
    ("h", "u1"),
    ("dst_x", "i2"),
    ("dst_y", "i2"),
    ("motion_x", "i4"),
    ("motion_y", "i4"),
    ("motion_scale", "u2"),
]


def vectors(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array(list(rows), dtype=FIELDS)


def test_blocks_cover_their_cells() -> None:
    grid, valid = grid_from_vectors(
        vectors(
            (-1, 16, 16, 8, 8, 5, -6, 4),
            (-1, 8, 16, 20, 8, 1, 2, 4),
            (-1, 16, 8, 24, 20, 3, 4, 4),
            (-1, 8, 8, 4, 28, 7, 8, 4),
        ),
        32,
        32,
    )
    dx = [[5, 5, 1, 0], [5, 5, 1, 0], [0, 0, 3, 3], [7, 0, 0, 0]]
    dy = [[-6, -6, 2, 0], [-6, -6, 2, 0], [0, 0, 4, 4], [8, 0, 0, 0]]
    np.testing.assert_array_equal(grid, np.stack([dx, dy], -1))
    np.testing.assert_array_equal(valid, np.array(dx) != 0)


def test_scales_become_quarter_pel() -> None:
    grid, _ = grid_from_vectors(
        vectors((-1, 8, 8, 4, 4, 3, -3, 2), (-1, 8, 8, 12, 4, 3, -3, 1), (-1, 4, 4, 6, 12, 9, 9, 4)), 16, 16
    )
    assert grid[0, 0].tolist() == [6, -6]
    assert grid[0, 1].tolist() == [12, -12]
    assert grid[1, 0].tolist() == [9, 9]  # a 4x4 block speaks for its cell


def test_vectors_into_the_future_do_not_count() -> None:
    grid, valid = grid_from_vectors(vectors((1, 16, 16, 8, 8, 4, 4, 4)), 16, 16)
    assert not valid.any() and not grid.any()


def test_no_vectors_are_all_holes() -> None:
    for nothing in (None, vectors()):
        grid, valid = grid_from_vectors(nothing, 17, 16)
        assert grid.shape == (4, 2, 2) and grid.dtype == np.int16
        assert valid.shape == (4, 2) and not valid.any()


@given(
    st.lists(
        st.tuples(
            st.sampled_from([-1, 1]),
            st.sampled_from([4, 8, 16]),
            st.sampled_from([4, 8, 16]),
            st.integers(-40, 80),
            st.integers(-40, 80),
            st.integers(-(2**17), 2**17),
            st.integers(-(2**17), 2**17),
            st.sampled_from([0, 1, 2, 4]),
        ),
        max_size=20,
    )
)
@settings(max_examples=50, deadline=None)
def test_vectors_outside_the_picture_are_harmless(rows: list[tuple[int, ...]]) -> None:
    grid, valid = grid_from_vectors(vectors(*rows), 33, 20)
    assert grid.shape == (*grid_shape(33, 20), 2) == (6, 4, 2)
    assert not grid[~valid].any()


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
@settings(max_examples=30, deadline=None)
def test_holes_take_a_near_vector(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    valid = rng.random((9, 13)) < share
    valid[rng.integers(9), rng.integers(13)] = True
    ys, xs = np.mgrid[:9, :13]
    grid = np.stack([xs, ys], -1).astype(np.int16) * valid[..., None]  # each valid cell names itself
    filled = fill_holes(grid, valid)
    np.testing.assert_array_equal(filled[valid], grid[valid])
    known = np.argwhere(valid)
    for y, x in np.argwhere(~valid):
        fx, fy = filled[y, x]
        assert valid[fy, fx]
        nearest = np.hypot(*(known - (y, x)).T).min()
        # the chamfer metric of the distance transform is within a tenth of the Euclidean one
        assert np.hypot(fy - y, fx - x) <= nearest * 1.1 + 1e-6


def test_filling_leaves_full_and_empty_grids() -> None:
    grid = np.ones((2, 2, 2), np.int16)
    np.testing.assert_array_equal(fill_holes(grid, np.ones((2, 2), bool)), grid)
    assert not fill_holes(grid, np.zeros((2, 2), bool)).any()


def a_prior(motion_q: np.ndarray, height: int, width: int, level: int = 0) -> Prior:
    valid = np.ones(motion_q.shape[:2], bool)
    residual = np.full((height, width), level, np.uint8)
    return Prior(motion_q, -motion_q, valid, valid, residual, False, False, "reencode")


def test_motion_is_in_pixels_with_planes_first() -> None:
    motion_q = np.zeros((4, 6, 2), np.int16)
    motion_q[..., 0], motion_q[..., 1] = 7, -2
    prior = a_prior(motion_q, 30, 41)
    assert (prior.height, prior.width, prior.coverage) == (30, 41, 1.0)
    for median in (0, 3):
        motion = prior.motion(median)
        assert motion.shape == (2, 4, 6) and motion.dtype == np.float32
        assert (motion[0] == 1.75).all() and (motion[1] == -0.5).all()
        np.testing.assert_array_equal(prior.motion_back(median), -motion)


def test_median_removes_a_lone_vector() -> None:
    motion_q = np.zeros((4, 4, 2), np.int16)
    motion_q[2, 2] = 400
    prior = a_prior(motion_q, 32, 32)
    assert prior.motion(0).max() == 100.0
    assert prior.motion().max() == 0.0


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 83)])
def test_dense_motion_is_aligned_with_cell_centres(height: int, width: int) -> None:
    gh, gw = grid_shape(height, width)
    # A linear field sampled at the cell centres, pixel 8 i + 3.5, is reproduced between them.
    motion_q = np.zeros((gh, gw, 2), np.int16)
    motion_q[..., 0] = np.arange(gw) * 32 + 14
    motion_q[..., 1] = np.arange(gh)[:, None] * 32 + 14
    dense = a_prior(motion_q, height, width).dense_motion(median=0)
    assert dense.shape == (2, height, width) and dense.dtype == np.float32
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    inner = (slice(4, min(height, gh * 8 - 4)), slice(4, min(width, gw * 8 - 4)))
    np.testing.assert_allclose(dense[0][inner], xs[inner], atol=1e-3)
    np.testing.assert_allclose(dense[1][inner], ys[inner], atol=1e-3)


def test_nearest_dense_motion_repeats_cells() -> None:
    motion_q = np.random.default_rng(0).integers(-99, 99, (4, 4, 2)).astype(np.int16)
    prior = a_prior(motion_q, 25, 31)
    expected = np.kron(prior.motion(0), np.ones((8, 8), np.float32))[:, :25, :31]
    np.testing.assert_array_equal(prior.dense_motion(0, nearest=True), expected)
    np.testing.assert_array_equal(prior.dense_motion_back(0, nearest=True), -expected)


def test_residual_is_scaled_by_a_constant_and_clipped() -> None:
    motion_q = np.zeros((2, 2, 2), np.int16)
    for level, expected in ((0, 0.0), (8, 0.25), (32, 1.0), (255, 1.0)):
        r = a_prior(motion_q, 9, 10, level).residual01()
        assert r.shape == (9, 10) and r.dtype == np.float32
        assert (r == np.float32(expected)).all()
    assert RESIDUAL_SCALE == 32.0
    assert (a_prior(motion_q, 9, 10, 8).residual01(scale=16.0) == 0.5).all()


def test_an_empty_prior_is_all_reset() -> None:
    prior = Prior.empty(17, 40)
    assert prior.reset and prior.reset_back and prior.coverage == 0.0
    assert prior.motion_q.shape == prior.motion_back_q.shape == (4, 6, 2)
    assert prior.residual.shape == (17, 40) and not prior.residual.any()


def test_priors_need_no_torch() -> None:
    code = "import sys, unsmear.priors; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
