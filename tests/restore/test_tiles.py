"""Tiles: everything covered, no seam, and the same picture as from the whole frame."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.clips import moving_frames
from unsmear.restore.restorer import Clip
from unsmear.restore.tiles import Tile, by_tiles, spans, tile_rows

cells = st.integers(1, 60)


@given(length=cells, overlap=st.integers(0, 8), extra=st.integers(1, 20), multiple=st.sampled_from([1, 4, 16]))
def test_spans_cover_in_order(length, overlap, extra, multiple):
    length, overlap, tile = length * multiple, overlap * multiple, (overlap + extra) * multiple
    found = spans(length, tile, overlap, multiple)
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert all(bound % multiple == 0 for span in found for bound in span)
    assert all(b - a == min(tile, length) for a, b in found)
    for (a, b), (c, d) in pairwise(found):
        assert a < c <= b - overlap
        assert d > b


@given(height=cells, width=cells, overlap=st.integers(0, 3), extra=st.integers(1, 10), spare=st.integers(0, 15))
def test_tiles_cover_the_frame(height, width, overlap, extra, spare):
    height, width, overlap = 16 * height, 16 * width, 16 * overlap
    tile = overlap + 16 * extra - spare
    rows = tile_rows(height, width, tile, overlap, 16)
    seen = np.zeros((height, width), bool)
    for row in rows:
        for t in row:
            assert 0 <= t.top < t.bottom <= height
            assert 0 <= t.left < t.right <= width
            seen[t.top : t.bottom, t.left : t.right] = True
    assert seen.all()


def test_a_tile_no_larger_than_the_overlap_is_refused():
    with pytest.raises(ValueError, match="larger than the overlap"):
        spans(100, 10, 10, 1)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 14), width=st.integers(1, 14), extra=st.integers(1, 6), overlap=st.integers(0, 2))
def test_pointwise_work_is_exact(height, width, extra, overlap):
    field = torch.randn(2, 3, 16 * height, 16 * width, generator=torch.Generator().manual_seed(height + 100 * width))
    coarse = field[..., ::4, ::4]
    rows = tile_rows(16 * height, 16 * width, 16 * (overlap + extra), 16 * overlap, 16)

    def process(tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
        return tile.cut(field) * 2 + 1, tile.cut(coarse, 4).sin()

    fine, small = by_tiles(rows, process, (1, 4))
    assert torch.equal(fine, field * 2 + 1)
    assert torch.equal(small, coarse.sin())


def test_what_a_tile_sees_at_its_border_is_thrown_away():
    """Wrong values within a third of the overlap from an inner border leave no trace."""
    size, overlap, wrong = 160, 48, 16
    field = torch.randn(1, size, size)

    def process(tile: Tile) -> tuple[torch.Tensor]:
        out = tile.cut(field).clone()
        for axis, (begin, end) in ((1, tile[:2]), (2, tile[2:])):
            if begin:
                out.narrow(axis, 0, wrong).fill_(99)
            if end < size:
                out.narrow(axis, end - begin - wrong, wrong).fill_(99)
        return (out,)

    (joined,) = by_tiles(tile_rows(size, size, 96, overlap, 16), process, (1,))
    assert torch.equal(joined, field)


def clip_of(size: tuple[int, int], frames: int, step_px: tuple[int, int]) -> Clip:
    return Clip.of(moving_frames(size, frames, step_px=step_px), 0.5)


def test_model_sees_no_tiles_where_motion_is_small(tiny):
    """Receptive field of the tiny model over two frames, plus their motion, is below a third of the overlap."""
    clip = clip_of((320, 240), 2, (1, 0))
    whole, state = tiny.restore(clip, None, None)
    tiled, tiled_state = tiny.restore(clip, None, 160)
    assert np.abs(whole.astype(int) - tiled).max() <= 1  # float noise may tip a rounding
    assert (whole != tiled).mean() < 1e-3
    assert torch.allclose(state["features"], tiled_state["features"], atol=1e-4)


def test_tiles_hardly_show_in_ordinary_motion(tiny):
    clip = clip_of((320, 240), 8, (4, 2))
    whole, state = tiny.restore(clip, None, None)
    tiled, tiled_state = tiny.restore(clip, None, 160)
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    # And the state that was carried on from tiles serves as well.
    after, _ = tiny.restore(clip, state, None)
    after_tiled, _ = tiny.restore(clip, tiled_state, 160)
    assert np.abs(after.astype(int) - after_tiled).max() <= 1
