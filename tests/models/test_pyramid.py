"""The U-shaped body."""

import pytest
import torch

from unsmear.models.cpfp.pyramid import Pyramid


def test_the_output_has_the_size_of_the_input():
    body = Pyramid([4, 6, 8], [1, 2, 1])
    for size in ((8, 8), (9, 13), (1, 3)):
        assert body(torch.rand(2, 4, *size)).shape == (2, 4, *size)


def test_one_level_is_a_sequence_of_residual_blocks():
    torch.manual_seed(0)
    body, x = Pyramid([4], [2]), torch.rand(1, 4, 8, 8)
    torch.testing.assert_close(body(x), body.bottom(x))


def test_padding_affects_the_border_only():
    """A map and the same map with more rows below agree far from the border, shifted by whole cells of every level."""
    torch.manual_seed(0)
    body, x = Pyramid([4, 4], [1, 1]), torch.rand(1, 4, 64, 8)
    torch.testing.assert_close(body(x)[:, :, :30], body(x[:, :, :48])[:, :, :30], atol=1e-6, rtol=0)


def test_channels_and_depths_must_be_as_many():
    with pytest.raises(ValueError, match="as many"):
        Pyramid([4, 8], [1])
