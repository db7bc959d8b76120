"""Bands of rows: all rows once, the same by several threads; enlargement of a part."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unsmear.models.common.bands import enlarged, in_bands


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("height", "width", "multiple"), [(7, 9, 1), (100, 3000, 4), (5000, 64, 8), (3, 90_000, 1)])
def test_every_row_is_worked_on_once(height, width, multiple, threads):
    torch.set_num_threads(threads)
    count, starts = np.zeros(height, int), []

    def work(rows: slice) -> None:
        count[rows] += 1
        starts.append(rows.start)

    in_bands(height, width, work, multiple)
    assert (count == 1).all() and all(start % multiple == 0 for start in starts)


def test_an_error_in_a_thread_is_raised():
    torch.set_num_threads(2)

    def work(rows: slice) -> None:
        if rows.start:
            raise MemoryError

    with pytest.raises(MemoryError):
        in_bands(100, 30_000, work)


@pytest.mark.parametrize("scale", [4, 8])
def test_a_part_is_enlarged_as_the_whole(scale):
    plane = np.random.default_rng(0).random((9, 11), np.float32)
    size = [side * scale for side in plane.shape]
    whole = F.interpolate(torch.from_numpy(plane)[None, None], size, mode="bilinear", align_corners=False)[0, 0].numpy()
    for rows in (slice(0, size[0]), slice(0, scale), slice(5, 13), slice(size[0] - 3, size[0])):
        np.testing.assert_allclose(enlarged(plane, rows, scale, size[0]), whole[rows], atol=1e-6)
