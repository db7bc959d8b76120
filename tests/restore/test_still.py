"""Where nothing moves nothing is computed, and the rest comes out as if all had been."""

import numpy as np
import pytest

from support.clips import moving_frames, texture
from unsmear.restore import cpfp
from unsmear.restore.restorer import Clip

SIZE = (480, 320)


@pytest.fixture
def computed(tiny, monkeypatch) -> list[tuple[int, int]]:
    """Sizes of what the network was given."""
    sizes: list[tuple[int, int]] = []
    forward = tiny.model.forward

    def recorded(frames, *others, **named):
        sizes.append(tuple(frames.shape[-2:]))
        return forward(frames, *others, **named)

    monkeypatch.setattr(tiny.model, "forward", recorded)
    return sizes


@pytest.fixture
def scene() -> np.ndarray:
    """A still picture with two small objects that move in opposite corners, (6, H, W, 3)."""
    frames = np.repeat(texture(SIZE)[None], 6, 0)
    for frame, moved in zip(frames, moving_frames((40, 32), 6, seed=1, step_px=(4, 2)), strict=True):
        frame[16:48, 8:48] = moved
        frame[-40:-8, -48:-8] = moved[::-1]
    return frames


def test_only_the_parts_that_move_are_computed(tiny, computed, scene, monkeypatch):
    clip = Clip.of(scene, 0.5)
    first = Clip(clip.frames, clip.priors, 0.5, 3)
    rest = Clip(clip.frames[3:], clip.priors[3:], 0.5, first=3)
    made, state = tiny.restore(first, None, None)
    after, _ = tiny.restore(rest, state, None)
    assert len(computed) == 4 and all(height * width < 0.4 * SIZE[0] * SIZE[1] for height, width in computed)
    assert np.array_equal(made[:, :100, 240:], scene[:3, :100, 240:])
    assert all((part != 0).any() for part in np.split(made.astype(int) - scene[:3], 2, axis=2))
    monkeypatch.setattr(cpfp, "LARGEST_PART", 0.0)
    whole, state = tiny.restore(first, None, None)
    whole_after, _ = tiny.restore(rest, state, None)
    assert computed[-1] == SIZE[::-1]
    assert np.abs(made.astype(int) - whole).max() <= 1
    assert np.abs(after.astype(int) - whole_after).max() <= 1


def test_a_still_clip_is_returned_as_it_is(tiny, computed):
    frames = np.repeat(texture(SIZE)[None], 4, 0)
    made, state = tiny.restore(Clip.of(frames, 0.5), None, None)
    assert np.array_equal(made, frames) and not computed and not state
    again, _ = tiny.restore(Clip.of(frames, 0.5), state, None)
    assert np.array_equal(again, frames)
