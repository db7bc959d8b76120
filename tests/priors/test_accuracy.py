"""Accuracy of the motion against known flow, and what shots that are hard for a codec give."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from unsmear.priors import Prior, PriorSettings, chunk_priors, stream
from unsmear.priors.flow import DisFlow

HEIGHT, WIDTH = 192, 256


def texture(seed: int = 0, height: int = 3 * HEIGHT, width: int = 3 * WIDTH) -> np.ndarray:
    rng = np.random.default_rng(seed)
    layers = [
        cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), sigma)
        for sigma in (1.2, 3.0, 8.0)
    ]
    return (127 + 28 * sum(layer / layer.std() for layer in layers)).astype(np.float32)


def seen(source: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The middle of ``source`` after its content moved by a 2×3 affine map about the picture's centre."""
    to_centre = np.array([[1, 0, -source.shape[1] / 2], [0, 1, -source.shape[0] / 2], [0, 0, 1]])
    from_centre = np.array([[1, 0, WIDTH / 2], [0, 1, HEIGHT / 2], [0, 0, 1]])
    whole = from_centre @ np.vstack([matrix, [0, 0, 1]]) @ to_centre
    return cv2.warpAffine(source, whole[:2], (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def matrix(dx: float = 0, dy: float = 0, degrees: float = 0, zoom: float = 1) -> np.ndarray:
    c, s = zoom * np.cos(np.radians(degrees)), zoom * np.sin(np.radians(degrees))
    return np.array([[c, -s, dx], [s, c, dy]])


def filmed(step: dict[str, float], frames: int = 4, duty: float = 0.6) -> list[np.ndarray]:
    """``frames`` luma frames blurred over ``duty`` of the frame step while content moves by ``step`` a frame."""
    source = texture()
    out = []
    for t in range(frames):
        taps = []
        for s in t + duty * np.linspace(-0.5, 0.5, 9):
            zoom = step.get("zoom", 1) ** s
            rest = {name: value * s for name, value in step.items() if name != "zoom"}
            taps.append(seen(source, matrix(**rest, zoom=zoom)))
        out.append(np.clip(np.rint(np.mean(taps, axis=0)), 0, 255).astype(np.uint8))
    return out


def true_motion(step: dict[str, float]) -> np.ndarray:
    """``(2, gh, gw)``: from each cell's centre to where its content was a frame before."""
    y, x = np.mgrid[: HEIGHT // 8, : WIDTH // 8] * 8 + 3.5
    x, y = x - WIDTH / 2, y - HEIGHT / 2
    whole = np.vstack([matrix(**step), [0, 0, 1]])
    # Translation, rotation and zoom come one at a time, so the map of one step holds between any two frames.
    back = np.linalg.inv(whole)
    return np.stack(
        [back[0, 0] * x + back[0, 1] * y + back[0, 2] - x, back[1, 0] * x + back[1, 1] * y + back[1, 2] - y]
    )


def end_point_error(priors: list[Prior], truth: np.ndarray) -> float:
    return float(np.median([np.hypot(*(prior.motion() - truth)) for prior in priors[1:]]))


def priors_of(lumas: list[np.ndarray], **options) -> list[Prior]:
    return chunk_priors(lumas, before=None, after=None, settings=PriorSettings(**options), workers=1)


@pytest.mark.parametrize(
    ("step", "limit"),
    [
        ({"dx": 1.0}, 0.25),
        ({"dx": -2.5, "dy": 2.5}, 0.4),
        ({"dx": 3.5}, 0.4),
        ({"dx": 5.0, "dy": -4.9}, 0.5),
        ({"dx": -12.0, "dy": 3.0}, 0.75),
        ({"dx": 20.0}, 1.0),
        ({"degrees": 1.5}, 0.4),
        ({"degrees": -4.0}, 0.5),
        ({"zoom": 1.03}, 0.4),
        ({"zoom": 0.95}, 0.5),
    ],
    ids=str,
)
def test_motion_against_the_truth(step, limit):
    """Translation from 1 to 20 pixels, rotation and zoom, blurred over 0.6 of the frame step."""
    assert end_point_error(priors_of(filmed(step)), true_motion(step)) <= limit


@pytest.mark.parametrize("speed", [3, 8, 15])
def test_a_moving_object_moves_and_its_background_does_not(speed):
    background, thing = texture(1, HEIGHT, WIDTH), texture(2, 80, 80)
    lumas = []
    for t in range(4):
        frame = background.copy()
        frame[56:136, 48 + speed * t : 128 + speed * t] = thing
        lumas.append(np.clip(frame, 0, 255).astype(np.uint8))
    motion = priors_of(lumas)[2].motion()
    inside = motion[:, 9:15, (48 + 2 * speed + 16) // 8 : (48 + 2 * speed + 64) // 8]
    np.testing.assert_allclose(np.median(inside, (1, 2)), (-speed, 0), atol=0.25)
    assert np.abs(motion[:, :5]).max() <= 0.25 and np.abs(motion[:, 19:]).max() <= 0.25


def test_quarter_pixel_motion_is_resolved():
    for quarter in range(1, 5):
        step = {"dx": 2 + quarter / 4}
        found = np.median(priors_of(filmed(step, duty=0))[1].motion()[0])
        assert abs(found + step["dx"]) <= 0.25


def test_hardly_any_residual_is_coded_at_the_coarsest_quantiser():
    """Share of inter blocks with exactly no residual at qp 51; noise is needed for fewer."""
    shares = []
    for prior in priors_of(filmed({"dx": 2.7, "dy": -1.3}, 6), qp=51)[1:]:
        if not prior.reset:
            blocks = prior.residual.reshape(HEIGHT // 8, 8, WIDTH // 8, 8).max((1, 3))
            shares.append((blocks[prior.valid] == 0).mean())
    assert len(shares) >= 3 and np.mean(shares) >= 0.99


@dataclass
class Shot:
    luma: np.ndarray

    @property
    def rgb(self) -> np.ndarray:
        return np.repeat(self.luma[..., None], 3, axis=2)


def test_flow_accuracy_on_the_grid():
    """So the two kinds of source can be compared number by number."""
    step = {"dx": 5.0, "dy": -4.9}
    shots = [Shot(luma) for luma in filmed(step)]
    motion_q = DisFlow().motion(shots[1], shots[0], np.zeros((HEIGHT // 8, WIDTH // 8, 2), np.int16))
    error = np.hypot(*(np.moveaxis(motion_q, -1, 0) / 4 - true_motion(step)))
    assert np.median(error) <= 0.3


# Shots that are hard for a codec.


def walk(lumas: list[np.ndarray]) -> list[Prior]:
    return [prior for _, prior in stream(lumas, PriorSettings(chunk_frames=5), workers=1)]


def test_a_fade_is_no_cut():
    lumas = filmed({"dx": 2.0}, 12, duty=0)
    faded = [np.rint(16 + (luma - 16.0) * (1 - t / 14)).astype(np.uint8) for t, luma in enumerate(lumas)]
    priors = walk(faded)
    assert [t for t, p in enumerate(priors) if p.reset] == [0]
    for prior in priors[1:]:
        assert abs(np.median(prior.motion()[0]) + 2) <= 0.5


def test_a_flash_adds_no_cut_before_or_after_it():
    lumas = filmed({"dx": 2.0}, 8, duty=0)
    lumas[4] = np.clip(lumas[4].astype(int) + 120, 0, 255).astype(np.uint8)
    priors = walk(lumas)
    assert not any(p.reset for p in priors[1:4]) and not any(p.reset for p in priors[6:])


def test_a_still_shot_has_neither_motion_nor_residual():
    priors = walk(filmed({"dx": 0.0}, 8))
    for prior in priors[1:]:
        assert not prior.reset and not prior.motion_q.any() and prior.residual.mean() < 0.5


def test_black_and_noise():
    black = walk([np.full((64, 64), 16, np.uint8)] * 7)
    assert [p.reset for p in black] == [True] + [False] * 6 and not any(p.motion_q.any() for p in black)
    rng = np.random.default_rng(0)
    noise = walk([rng.integers(0, 256, (64, 64), dtype=np.uint8) for _ in range(7)])
    assert all(p.reset and p.reset_back for p in noise)


def test_two_runs_are_equal():
    lumas = filmed({"dx": 3.3, "dy": 1.1}, 11)
    for one, other in zip(walk(lumas), walk(lumas), strict=True):
        for name in Prior.__dataclass_fields__:
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
