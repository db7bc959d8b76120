"""The re-encode pass: exactness of the residual, accuracy and sign of the motion."""

import cv2
import numpy as np
import pytest

from support.clips import moving_lumas
from unsmear.errors import UnsupportedVideo, UsageError
from unsmear.priors import PriorSettings, ReencodePass, chunk_priors
from unsmear.priors.compensation import compensate
from unsmear.priors.grid import grid_from_vectors

HEIGHT, WIDTH = 160, 240


@pytest.mark.parametrize("velocity", [(3.0, 0.0), (0.0, -2.0), (-4.5, 2.25), (1.25, 6.75)])
def test_motion_points_to_where_the_content_was(velocity: tuple[float, float]) -> None:
    priors = chunk_priors(moving_lumas(velocity, 4), before=None, after=None)
    for prior in priors[1:]:
        np.testing.assert_allclose(np.median(prior.motion(), (1, 2)), np.negative(velocity), atol=0.25)
    for prior in priors[:-1]:
        np.testing.assert_allclose(np.median(prior.motion_back(), (1, 2)), velocity, atol=0.25)


@pytest.mark.parametrize(("speed", "limit"), [(3.5, 0.4), (7.0, 0.5)])
@pytest.mark.parametrize("degrees", [0, 37, 110])
@pytest.mark.parametrize("profile", ["fast", "best"])
def test_end_point_error_on_blurred_motion(speed: float, limit: float, degrees: int, profile: str) -> None:
    velocity = (speed * np.cos(np.radians(degrees)), speed * np.sin(np.radians(degrees)))
    priors = chunk_priors(
        moving_lumas(velocity, 4, blur=0.6), before=None, after=None, settings=PriorSettings(profile=profile)
    )
    forward = np.stack([p.motion() for p in priors[1:]])
    backward = np.stack([p.motion_back() for p in priors[:-1]])
    target = np.reshape(velocity, (1, 2, 1, 1))
    assert np.median(np.hypot(*np.moveaxis(forward + target, 1, 0))) <= limit
    assert np.median(np.hypot(*np.moveaxis(backward - target, 1, 0))) <= limit


@pytest.mark.parametrize("profile", ["fast", "best"])
def test_residual_is_the_codecs_own(profile: str) -> None:
    """At the coarsest quantiser hardly anything is coded, so prediction is the reconstruction."""
    frames = moving_lumas((2.7, -1.3), 5, blur=0.5)
    encode = ReencodePass(WIDTH, HEIGHT, profile=profile, qp=51)
    reference, nothing = encode(frames[0])
    assert nothing is None or not len(nothing)
    exact = []
    for frame in frames[1:]:
        reconstruction, vectors = encode(frame)
        grid, valid = grid_from_vectors(vectors, HEIGHT, WIDTH)
        difference = cv2.absdiff(reconstruction, compensate(reference, grid))
        blocks = difference.reshape(HEIGHT // 8, 8, WIDTH // 8, 8).max((1, 3))
        exact.append((blocks[valid] == 0).mean())
        assert valid.mean() > 0.5
        reference = reconstruction
    assert np.mean(exact) >= 0.99


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (5, 3), (16, 16), (17, 31), (50, 18)])
def test_one_frame_in_one_frame_out_at_any_size(size: tuple[int, int]) -> None:
    height, width = size
    encode = ReencodePass(width, height)
    rng = np.random.default_rng(0)
    for _ in range(3):
        reconstruction, _ = encode(rng.integers(0, 256, size, dtype=np.uint8))
        assert reconstruction.shape == (-(-height // 16) * 16, -(-width // 16) * 16)
        assert reconstruction.dtype == np.uint8


def test_reconstruction_follows_the_input() -> None:
    frames = moving_lumas((2.0, 1.0), 3)
    encode = ReencodePass(WIDTH, HEIGHT, qp=10)
    for frame in frames:
        reconstruction, _ = encode(frame)
        assert cv2.PSNR(reconstruction[:HEIGHT, :WIDTH], frame) > 40


def test_frames_that_cannot_be_encoded_give_a_one_line_error() -> None:
    for bad in ({"profile": "slow"}, {"qp": 0}, {"qp": 52}, {"threads": 0}):
        with pytest.raises(UsageError):
            ReencodePass(32, 32, **bad)
    for width, height in ((0, 16), (16, 20000)):
        with pytest.raises(UnsupportedVideo):
            ReencodePass(width, height)
    encode = ReencodePass(32, 16)
    for frame in (np.zeros((32, 16), np.uint8), np.zeros((16, 32), np.uint16)):
        with pytest.raises(UnsupportedVideo) as raised:
            encode(frame)
        assert "\n" not in str(raised.value)


def test_frames_need_not_be_contiguous() -> None:
    frames = moving_lumas((2.0, 1.0), 2)
    straight, strided = ReencodePass(WIDTH, HEIGHT), ReencodePass(WIDTH, HEIGHT)
    for frame in frames:
        view = np.repeat(frame, 2, axis=1)[:, ::2]
        np.testing.assert_array_equal(straight(frame)[0], strided(view)[0])
