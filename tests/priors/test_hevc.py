"""Re-encoding with HEVC: vectors out of x265's analysis file, the standard's interpolation, and what is refused."""

import struct
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest

from support.clips import moving_lumas
from support.cuts import with_cuts
from unsmear.errors import UnsupportedVideo
from unsmear.options import OptionError
from unsmear.priors import Prior, PriorSettings, chunk_priors, stream
from unsmear.priors.hevc import encode_hevc
from unsmear.priors.hevc_compensation import compensate_hevc
from unsmear.priors.steps import encode_steps
from unsmear.priors.x265_analysis import read_analysis

needs_x265 = pytest.mark.skipif("libx265" not in av.codecs_available, reason="this PyAV has no libx265")
HEVC = PriorSettings(codec="hevc")
TAPS = {0: [0, 0, 0, 64, 0, 0, 0, 0], 1: [-1, 4, -10, 58, 17, -5, 1, 0], 2: [-1, 4, -11, 40, 40, -11, 4, -1]}
TAPS[3] = TAPS[1][::-1]


# Interpolation.


def standard_sample(reference: np.ndarray, x4: int, y4: int) -> int:
    """One luma sample at (x4 / 4, y4 / 4), as ITU-T H.265 8.5.3.3.3.1 and 8.5.3.3.4.2 word it, 8 bits."""
    height, width = reference.shape

    def across(y: int) -> int:
        row = min(max(y, 0), height - 1)
        at = [int(reference[row, min(max((x4 >> 2) + i - 3, 0), width - 1)]) for i in range(8)]
        return sum(tap * value for tap, value in zip(TAPS[x4 & 3], at, strict=True))

    if y4 & 3 == 0:
        predicted = across(y4 >> 2)
    elif x4 & 3 == 0:
        predicted = sum(tap * (across((y4 >> 2) + i - 3) >> 6) for i, tap in enumerate(TAPS[y4 & 3]))
    else:
        predicted = sum(tap * across((y4 >> 2) + i - 3) for i, tap in enumerate(TAPS[y4 & 3])) >> 6
    return min(max((predicted + 32) >> 6, 0), 255)


@pytest.mark.parametrize("reach", [0, 8, 100, 2000, 32767])
def test_interpolation_is_the_standards(reach):
    rng = np.random.default_rng(reach)
    reference = rng.choice([0, 255, 128, 7], (32, 48)).astype(np.uint8)
    motion_q = rng.integers(-reach, reach + 1, (4, 6, 2)) + np.stack(np.mgrid[:4, :6][::-1], -1)  # every phase
    expected = np.empty_like(reference)
    for y in range(32):
        for x in range(48):
            dx, dy = (int(v) for v in motion_q[y // 8, x // 8])
            expected[y, x] = standard_sample(reference, 4 * x + dx, 4 * y + dy)
    np.testing.assert_array_equal(compensate_hevc(reference, motion_q), expected)


def test_a_grid_of_another_size_is_refused():
    with pytest.raises(ValueError, match="needs 32x16"):
        compensate_hevc(np.zeros((16, 16), np.uint8), np.zeros((2, 4, 2), np.int16))


# The pass.


@needs_x265
@pytest.mark.parametrize("profile", ["fast", "best"])
def test_prediction_by_the_vectors_is_what_the_decoder_shows(profile):
    """At the coarsest quantiser hardly anything is coded, so the prediction is the reconstruction: to the sample, if
    the vectors are those of these blocks.
    """
    coded = encode_hevc(moving_lumas((2.75, -1.25), 5), profile, 51)
    exact, moved = [], []
    for (past, *_), (now, motion_q, valid) in pairwise(coded):
        missed = cv2.absdiff(now, compensate_hevc(past, motion_q)).reshape(20, 8, 30, 8).max((1, 3))
        exact.append((missed[valid] == 0).mean())
        moved.append(motion_q.any(-1)[valid].mean())
        assert valid.mean() > 0.9
    assert not coded[0][2].any() and not coded[0][1].any(), "an I-frame has no vectors"
    assert np.mean(exact) > 0.97 and np.mean(moved) > 0.9


@needs_x265
@pytest.mark.parametrize("velocity", [(3.0, 0.0), (0.0, -2.0), (-4.5, 2.25)])
def test_motion_points_to_where_the_content_was(velocity):
    priors = chunk_priors(moving_lumas(velocity, 4), before=None, after=None, settings=HEVC)
    for prior in priors[1:]:
        np.testing.assert_allclose(np.median(prior.motion(), (1, 2)), np.negative(velocity), atol=0.25)
    for prior in priors[:-1]:
        np.testing.assert_allclose(np.median(prior.motion_back(), (1, 2)), velocity, atol=0.25)
    assert {prior.origin for prior in priors} == {"reencode"}


def differs(a: Prior, b: Prior) -> bool:
    return any(not np.array_equal(getattr(a, name), getattr(b, name)) for name in ("motion_q", "residual", "valid"))


@needs_x265
def test_priors_are_a_function_of_the_chunk_and_of_the_codec():
    frames = moving_lumas((3, 1), 9)
    settings = PriorSettings(codec="hevc", chunk_frames=4)
    whole = [prior for _, prior in stream(frames, settings, workers=3)]
    late = [prior for _, prior in stream(frames[4:], settings, first=4, before=frames[3], workers=1)]
    assert not any(map(differs, whole[4:], late))
    other = [prior for _, prior in stream(frames, PriorSettings(chunk_frames=4))]
    assert all(map(differs, whole[1:], other[1:]))


@needs_x265
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (48, 8)])
def test_frames_of_any_size_are_padded(size):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, size[::-1], dtype=np.uint8) for _ in range(3)]
    [_, step] = encode_steps(frames, codec="hevc")
    rows, columns = -(-size[1] // 16) * 2, -(-size[0] // 16) * 2
    assert step.grid.shape == (rows, columns, 2) and step.reconstruction.shape == (8 * rows, 8 * columns)
    with pytest.raises(UnsupportedVideo, match="frame 1 of the pass is"):
        encode_steps([frames[0], np.zeros((4, 4), np.uint8)], codec="hevc")
    with pytest.raises(OptionError, match="`qp` 0"):
        encode_steps(frames, qp=0, codec="hevc")


@needs_x265
def test_cuts_are_found():
    reel = next(iter(with_cuts(0)))
    found = {t for t, (_, prior) in enumerate(stream(reel.frames, HEVC)) if prior.reset and t}
    assert found == set(reel.cuts)


def test_codecs_without_vectors_are_refused():
    with pytest.raises(OptionError, match="h264 or hevc; VVC's vectors"):
        PriorSettings(codec="vvc")
    with pytest.raises(OptionError, match=r"`codec` vp9: expected h264 or hevc$"):
        PriorSettings(codec="vp9")


# The file.


def record(depth: list[int], modes: list[int], vectors: list[tuple[int, int]]) -> bytes:
    """A P-frame's, as x265 4.2 writes it: 32x16 samples, two tree units of 16 partitions."""
    n = len(depth)
    body = bytes(16) + bytes(depth) + bytes(modes) + bytes(6 * n)
    body += np.array(vectors, "<i4").tobytes() + bytes(2 * 16)
    return struct.pack("<IIiiiqii", 36 + len(body), n, 1, 3, 0, 0, 2, 16) + body


HEAD = struct.pack("<20i", *[0] * 17, 32, 16, 16)
WHOLE_THEN_QUARTERS = record([0, 1, 1, 1, 1], [1, 5, 1, 2, 1], [(4, -8), (1, 1), (2, 2), (3, 3), (70000, 4)])


def test_coding_units_land_where_they_lie():
    [(motion_q, valid)] = read_analysis(HEAD + WHOLE_THEN_QUARTERS, 16, 32)
    np.testing.assert_array_equal(motion_q[:, :2].reshape(-1, 2), [(4, -8)] * 4)
    np.testing.assert_array_equal(motion_q[0, 2:], [(1, 1), (2, 2)])
    np.testing.assert_array_equal(motion_q[1, 2:], [(0, 0), (32767, 4)])  # intra; beyond 16 bits
    np.testing.assert_array_equal(valid, [[True] * 4, [True, True, False, True]])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEAD[:-1],
        struct.pack("<20i", *range(20)) + WHOLE_THEN_QUARTERS,
        HEAD + WHOLE_THEN_QUARTERS[:-1],
        HEAD + WHOLE_THEN_QUARTERS + b"\0",
        HEAD + b"\0\0\0\0" + WHOLE_THEN_QUARTERS[4:],
        HEAD + record([0, 1, 1, 1], [1] * 4, [(0, 0)] * 4),
        HEAD + record([0, 2, 1, 1, 1], [1] * 5, [(0, 0)] * 5),
        HEAD + record([0, 255], [1] * 2, [(0, 0)] * 2),
    ],
    ids=["empty", "short head", "other options", "cut", "more", "no length", "uncovered", "too deep", "far too deep"],
)
def test_another_layout_is_one_line(data):
    with pytest.raises(UnsupportedVideo, match=r"has another layout than that of x265 4\.2") as raised:
        read_analysis(data, 16, 32)
    assert "\n" not in str(raised.value)
