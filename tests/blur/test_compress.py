"""The encode that synthetic frames go through."""

import numpy as np

from support.clips import moving_frames
from unsmear.blur.compress import h264_round_trip


def test_a_nearly_lossless_encode_moves_no_mean_colour():
    """What is trained and measured on must not be darker than its target by the rounding of a conversion."""
    frames = moving_frames((320, 256), 3, step_px=(2, 1))
    for before, after in zip(frames, h264_round_trip(frames, 0), strict=True):
        assert np.abs((after.astype(float) - before).mean((0, 1))).max() < 0.1
