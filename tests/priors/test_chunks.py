"""Chunks: cuts, both directions in step, and the same priors however a video is walked through."""

from dataclasses import fields

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsmear.errors import UnsupportedVideo, UsageError
from unsmear.priors import DEFAULT_CHUNK_FRAMES, Prior, PriorSettings, chunk_priors, chunk_start, stream
from unsmear.video import Frame


def scene(frames: int, seed: int = 0, height: int = 48, width: int = 64, step: int = 2) -> list[np.ndarray]:
    """A texture that slides by ``step`` pixels a frame."""
    noise = np.random.default_rng(seed).standard_normal((height, width + step * frames)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    picture = np.clip(127 + 45 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return [np.ascontiguousarray(picture[:, step * t : step * t + width]) for t in range(frames)]


def assert_equal(one: list[Prior], other: list[Prior]) -> None:
    assert len(one) == len(other)
    for t, (p, q) in enumerate(zip(one, other, strict=True)):
        for field in fields(Prior):
            a, b = getattr(p, field.name), getattr(q, field.name)
            assert np.array_equal(a, b), f"frame {t}: {field.name}"


def assert_resets_agree(priors: list[Prior]) -> None:
    assert priors[0].reset and priors[-1].reset_back
    assert [p.reset for p in priors[1:]] == [p.reset_back for p in priors[:-1]]
    for p in priors:
        if p.reset:
            assert not (p.motion_q.any() or p.valid.any() or p.residual.any())
        if p.reset_back:
            assert not (p.motion_back_q.any() or p.valid_back.any())


def walk(frames: list[np.ndarray], n: int) -> list[Prior]:
    return [prior for _, prior in stream(frames, PriorSettings(chunk_frames=n))]


def test_shapes_and_ends() -> None:
    priors = chunk_priors(scene(5), before=None, after=None)
    assert_resets_agree(priors)
    assert [p.reset for p in priors] == [True, False, False, False, False]
    for p in priors:
        assert p.motion_q.shape == p.motion_back_q.shape == (6, 8, 2)
        assert p.motion_q.dtype == p.motion_back_q.dtype == np.int16
        assert p.valid.shape == p.valid_back.shape == (6, 8)
        assert p.residual.shape == (48, 64) and p.residual.dtype == np.uint8
        assert p.origin == "reencode"
    assert np.median(priors[2].motion()[0]) == 2.0  # the content was two pixels to the right
    assert np.median(priors[2].motion_back()[0]) == -2.0


def test_a_chunk_in_the_middle_has_no_reset() -> None:
    frames = scene(6)
    priors = chunk_priors(frames[1:5], before=frames[0], after=frames[5])
    assert not any(p.reset or p.reset_back for p in priors)
    assert all(p.coverage > 0.5 for p in priors)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 8])
def test_cuts_show_in_both_directions(cut: int) -> None:
    """In the middle of a chunk of four, before its first and its last frame, next to the ends."""
    frames = scene(cut, seed=1) + scene(9 - cut, seed=2)
    priors = walk(frames, 4)
    assert [t for t, p in enumerate(priors) if p.reset] == [0, cut]
    assert_resets_agree(priors)


def test_directions_agree_where_a_cut_is_doubtful() -> None:
    """Fresh noise of growing strength around the threshold, over many chunk boundaries."""
    rng = np.random.default_rng(0)
    frames = [
        np.clip(frame + rng.normal(0, 8 + 0.5 * t, frame.shape), 0, 255).astype(np.uint8)
        for t, frame in enumerate(scene(30))
    ]
    for n in (1, 2, 3):
        priors = walk(frames, n)
        assert_resets_agree(priors)
        assert 3 < sum(p.reset for p in priors) < 27  # the threshold is crossed on the way


def test_a_still_clip_has_neither_motion_nor_residual() -> None:
    frame = scene(1)[0]
    priors = walk([frame] * 7, 3)
    assert_resets_agree(priors)
    for p in priors[1:]:
        assert not p.reset and p.coverage == 1.0
        assert not p.motion_q.any()
        assert p.residual.mean() < 0.5
    assert not any(p.motion_back_q.any() for p in priors)


def test_black_frames_are_one_still_shot() -> None:
    priors = walk([np.zeros((32, 48), np.uint8)] * 4, 3)
    assert [p.reset for p in priors] == [True, False, False, False]
    assert not any(p.motion_q.any() or p.residual.any() for p in priors)


def test_noise_has_no_past() -> None:
    rng = np.random.default_rng(0)
    priors = walk([rng.integers(0, 256, (32, 48), dtype=np.uint8) for _ in range(4)], 3)
    assert all(p.reset and p.reset_back for p in priors)


def test_duplicated_frames_stand_still_between_moving_ones() -> None:
    frames = scene(4, step=4)
    priors = chunk_priors([frames[0], frames[1], frames[1], frames[2]], before=None, after=None)
    assert [float(np.median(p.motion()[0])) for p in priors] == [0.0, 4.0, 0.0, 4.0]
    assert [float(np.median(p.motion_back()[0])) for p in priors] == [-4.0, 0.0, -4.0, 0.0]


def test_runs_are_equal_whatever_the_workers() -> None:
    frames = scene(6)
    first = chunk_priors(frames[:5], before=None, after=frames[5])
    for workers in (1, 2, 4):
        assert_equal(first, chunk_priors(frames[:5], before=None, after=frames[5], workers=workers))


@given(count=st.integers(1, 9), n=st.integers(1, 5), height=st.integers(1, 35), width=st.integers(1, 35))
@settings(max_examples=15, deadline=None)
def test_streaming_is_chunk_by_chunk(count: int, n: int, height: int, width: int) -> None:
    frames = scene(count, height=height, width=width, step=1)
    whole = walk(frames, n)
    pieces: list[Prior] = []
    for start in range(0, count, n):
        pieces += chunk_priors(
            frames[start : start + n],
            before=frames[start - 1] if start else None,
            after=frames[start + n] if start + n < count else None,
        )
    assert_equal(whole, pieces)
    assert_resets_agree(whole)
    assert whole[0].dense_motion().shape == (2, height, width)


def test_a_stream_can_start_at_a_chunk() -> None:
    frames = scene(11)
    whole = walk(frames, 4)
    for start in (4, 8):
        assert chunk_start(start + 2, 4) == start
        later = stream(frames[start:], PriorSettings(chunk_frames=4), first=start, before=frames[start - 1])
        assert_equal([prior for _, prior in later], whole[start:])


def test_a_stream_stopped_at_any_frame_keeps_its_earlier_chunks() -> None:
    frames = scene(9)
    whole = walk(frames, 4)
    assert_equal(walk(frames[:5], 4)[:4], whole[:4])


def test_streams_pair_frames_and_read_one_chunk_ahead() -> None:
    frames = scene(9)
    read = 0

    def source():
        nonlocal read
        for t, frame in enumerate(frames):
            read += 1
            yield Frame(t, None, t / 25, np.repeat(frame[..., None], 3, 2), frame)

    seen = []
    for frame, prior in stream(source(), PriorSettings(chunk_frames=3)):
        t = frame.index
        seen.append(t)
        assert read <= len(frames) and read <= (t // 3 + 1) * 3 + 1
        assert isinstance(prior, Prior)
    assert seen == list(range(9))


def test_an_empty_stream_is_empty() -> None:
    assert list(stream([])) == []
    assert DEFAULT_CHUNK_FRAMES == 24


def test_misuse_is_named() -> None:
    with pytest.raises(UsageError):
        chunk_priors([], before=None, after=None)
    with pytest.raises(UsageError):
        PriorSettings(chunk_frames=0)
    gray = np.zeros((16, 16), np.uint8)
    with pytest.raises(UnsupportedVideo):
        chunk_priors([gray, np.zeros((16, 32), np.uint8)], before=None, after=None)
    with pytest.raises(UnsupportedVideo):
        chunk_priors([np.zeros((16, 16, 3), np.uint8)], before=None, after=None)
