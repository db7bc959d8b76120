"""Native vectors: which streams qualify, that the residual is the codec's own, and where re-encoding takes over."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from support.clips import make_clip, moving_frames
from unsmear.errors import DamagedVideo, UnsupportedVideo, UsageError
from unsmear.priors import Mode, Prior, PriorSettings, PriorStream, chunk_priors, stream
from unsmear.priors.native import PROVEN, examine
from unsmear.restore.windows import windows
from unsmear.video import open_video

SIZE = (112, 72)  # no multiple of 16 in height: the coded picture is larger than the shown one
PLAIN = "bframes=0:ref=1:weightp=0:scenecut=0"


def clip_of(path: Path, params: str = PLAIN, **options) -> Path:
    options = {"size": SIZE, "frames": 20} | options
    return make_clip(path, options={"preset": "veryfast", "x264-params": params}, **options)


def priors_of(
    path: Path, mode: Mode = "auto", chunk_frames: int = 8, workers: int = 2
) -> tuple[PriorStream, list[Prior]]:
    with open_video(path) as reader:
        found = stream(reader, PriorSettings(mode=mode, chunk_frames=chunk_frames), workers=workers)
        pairs = list(found)
    assert [frame.index for frame, _ in pairs] == list(range(len(pairs)))
    return found, [prior for _, prior in pairs]


def lumas_of(path: Path) -> list[np.ndarray]:
    with open_video(path) as reader:
        return [frame.luma for frame in reader]


def assert_equal(one: Prior, other: Prior) -> None:
    for name in Prior.__dataclass_fields__:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def block_is_zero(prior: Prior) -> np.ndarray:
    rows, columns = prior.height // 8, prior.width // 8
    blocks = prior.residual[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8).max((1, 3))
    return blocks[prior.valid[:rows, :columns]] == 0


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".h264", ".avi", ".ts"])
def test_plain_streams_qualify_in_any_container(tmp_path, suffix):
    found = examine(clip_of(tmp_path / f"a{suffix}"))
    assert (found.frames, found.whole, found.reason) == (20, True, PROVEN)


@pytest.mark.parametrize(
    "extra", ["slices=3", "cabac=0", "8x8dct=0", "partitions=all", "keyint=5", "chroma-qp-offset=3"]
)
def test_settings_that_do_not_affect_references_are_allowed(tmp_path, extra):
    found, priors = priors_of(clip_of(tmp_path / "a.mp4", f"{PLAIN}:{extra}"))
    assert found.native_frames is None
    for prior in priors[1:]:
        assert not prior.reset
        np.testing.assert_allclose(np.median(prior.motion(), (1, 2)), (-3, -1), atol=0.25)


@pytest.mark.parametrize(
    ("params", "codec", "pixels", "reason"),
    [
        ("bframes=2:b-adapt=0:ref=1:weightp=0", "libx264", "yuv420p", "reference frames|another order"),
        ("bframes=0:ref=3:weightp=0", "libx264", "yuv420p", "3 reference frames"),
        ("bframes=0:ref=1:weightp=2", "libx264", "yuv420p", "weighted"),
        (f"{PLAIN}:tff=1", "libx264", "yuv420p", "interlaced"),
        (PLAIN, "libx264", "yuv420p10le", "10 bits"),
        ("log-level=none", "libx265", "yuv420p", "hevc exports no"),
    ],
)
def test_other_streams_are_refused_by_name_and_re_encoded(tmp_path, params, codec, pixels, reason):
    key = "x265-params" if codec == "libx265" else "x264-params"
    path = make_clip(tmp_path / "a.mp4", codec=codec, size=SIZE, frames=10, pix_fmt=pixels, options={key: params})
    with pytest.raises(UnsupportedVideo, match=reason) as raised:
        priors_of(path, "native")
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)
    found, priors = priors_of(path, chunk_frames=16)
    assert found.native_frames == 0 and {p.origin for p in priors} == {"reencode"}
    for prior, expected in zip(priors, chunk_priors(lumas_of(path), before=None, after=None), strict=True):
        assert_equal(prior, expected)


def test_folders_of_frames_have_no_vectors(tmp_path):
    frames = [np.zeros((16, 16), np.uint8)] * 3
    with pytest.raises(UnsupportedVideo, match="single pictures"):
        stream(frames, PriorSettings(mode="native"))
    assert [p.origin for _, p in stream(frames)] == ["reencode"] * 3


def test_residual_is_the_coded_one_without_deblocking(tmp_path):
    """At qp 51 nearly nothing is coded, so that prediction is all there is."""
    _, priors = priors_of(clip_of(tmp_path / "a.mp4", f"{PLAIN}:qp=51:no-deblock=1", frames=10))
    shares = [block_is_zero(prior).mean() for prior in priors if prior.motion_source == "codec"]
    assert len(shares) >= 6 and min(shares) >= 0.99


def test_deblocking_shows_in_the_residual(tmp_path):
    def mean_residual(extra: str) -> float:
        _, priors = priors_of(clip_of(tmp_path / f"{extra}.mp4", f"{PLAIN}:qp=32:{extra}", frames=10))
        return float(np.mean([prior.residual.mean() for prior in priors[1:]]))

    assert mean_residual("deblock=3,3") > mean_residual("no-deblock=1")


def test_native_motion_is_the_streams_own(tmp_path):
    """Against a decode by hand: cell by cell the vectors of the file, not those of another encode."""
    path = clip_of(tmp_path / "a.mp4", frames=6)
    _, priors = priors_of(path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.flags2 |= av.codec.context.Flags2.export_mvs
        for frame, prior in zip(container.decode(stream), priors, strict=True):
            vectors = frame.side_data.get("MOTION_VECTORS")
            for v in [] if vectors is None else vectors.to_ndarray():
                x, y = (v["dst_x"] - v["w"] // 2) // 8, (v["dst_y"] - v["h"] // 2) // 8
                assert tuple(prior.motion_q[y, x]) == (v["motion_x"], v["motion_y"])
                assert prior.valid[y, x]


def test_intra_frames_inside_a_shot_are_bridged(tmp_path):
    found, priors = priors_of(clip_of(tmp_path / "a.mp4", f"{PLAIN}:keyint=7:min-keyint=7"))
    assert found.native_frames is None
    assert [t for t, p in enumerate(priors) if p.origin == "reencode"] == [7, 14]
    assert [t for t, p in enumerate(priors) if p.reset] == [0]


def test_cuts_show_in_native_streams_too(tmp_path):
    content = moving_frames(SIZE, 7, seed=1) + moving_frames(SIZE, 8, seed=2)
    _, priors = priors_of(clip_of(tmp_path / "a.mp4", content=content))
    assert [t for t, p in enumerate(priors) if p.reset] == [0, 7]
    assert [p.reset for p in priors[1:]] == [p.reset_back for p in priors[:-1]]


def test_a_violation_in_mid_stream_switches_at_its_chunk(tmp_path):
    """Two streams in one file; the second has three references. Chunks before it stay native."""
    first = clip_of(tmp_path / "1.h264", frames=12)
    second = clip_of(tmp_path / "2.h264", "bframes=0:ref=3:weightp=0", frames=12)
    joined = tmp_path / "joined.h264"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    examined = examine(joined)
    assert (examined.frames, examined.whole) == (12, False) and "from frame 12 on" in examined.reason
    found, priors = priors_of(joined)
    assert found.native_frames == 8 and len(priors) == 24
    assert [p.origin for p in priors] == ["native"] * 8 + ["reencode"] * 16
    assert [p.reset for p in priors[1:]] == [p.reset_back for p in priors[:-1]]
    lumas = lumas_of(joined)
    expected = chunk_priors(lumas[8:16], before=lumas[7], after=lumas[16])
    for prior, other in zip(priors[8:16], expected, strict=True):
        assert_equal(prior, other)
    with pytest.raises(UnsupportedVideo, match="from frame 12 on"):
        priors_of(joined, "native")


@pytest.mark.parametrize("drop", [1, 5])
def test_native_motion_ends_at_missing_pictures(tmp_path, drop):
    data = clip_of(tmp_path / "a.h264", f"{PLAIN}:repeat-headers=1", frames=10).read_bytes()
    pieces = data.split(b"\0\0\1")
    slices = [i for i, piece in enumerate(pieces) if piece and piece[0] & 31 in (1, 5)]
    del pieces[slices[drop]]
    (tmp_path / "b.h264").write_bytes(b"\0\0\1".join(pieces))
    found = examine(tmp_path / "b.h264")
    assert not found.whole and found.frames == drop


def test_two_runs_and_a_late_start_are_equal(tmp_path):
    path = clip_of(tmp_path / "a.mp4", f"{PLAIN}:keyint=9")
    _, whole = priors_of(path)
    _, again = priors_of(path, workers=1)
    for one, other in zip(whole, again, strict=True):
        assert_equal(one, other)
    lumas = lumas_of(path)
    with open_video(path) as reader:
        late = stream(reader.frames(8), PriorSettings(chunk_frames=8), path=path, first=8, before=lumas[7])
        for (frame, prior), expected in zip(late, whole[8:], strict=True):
            assert frame.index >= 8
            assert_equal(prior, expected)


def test_native_motion_ends_at_a_frame_that_decodes_differently(tmp_path):
    """As damage may have it. What was said already about the next chunk's first frame still holds."""
    path = clip_of(tmp_path / "a.mp4")
    lumas = lumas_of(path)
    lumas[10] = lumas[10] ^ 1
    found = stream(lumas, PriorSettings(chunk_frames=8), path=path)
    priors = [prior for _, prior in found]
    assert [p.origin for p in priors] == ["native"] * 9 + ["reencode"] * 11
    assert found.native_frames == 8 and "frame 10" in found.reason
    assert [p.reset for p in priors[1:]] == [p.reset_back for p in priors[:-1]]
    expected = chunk_priors(lumas[8:16], before=lumas[7], after=lumas[16])
    for prior, other in zip(priors[9:16], expected[1:], strict=True):
        assert_equal(prior, other)
    with pytest.raises(DamagedVideo, match="frame 10"):
        list(stream(lumas, PriorSettings("native", chunk_frames=8), path=path))


def test_without_backward_motion_no_encoder_is_needed(tmp_path):
    path = clip_of(tmp_path / "a.mp4")
    _, whole = priors_of(path)
    with open_video(path) as reader:
        priors = [prior for _, prior in stream(reader, PriorSettings(chunk_frames=8, motion_back="none"))]
    for one, other in zip(priors, whole, strict=True):
        assert np.array_equal(one.motion_q, other.motion_q) and np.array_equal(one.residual, other.residual)
        assert not one.motion_back_q.any() and one.reset_back == other.reset_back


def test_misuse_is_named(tmp_path):
    for bad in ({"mode": "sometimes"}, {"chunk_frames": 0}, {"qp": 52}, {"profile": "slow"}):
        with pytest.raises(UsageError) as raised:
            PriorSettings(**bad)
        assert "\n" not in str(raised.value) and f"`{next(iter(bad))}`" in str(raised.value)
    for first in (3, 24):
        with pytest.raises(UsageError, match=f"frame {first}"):
            stream([], first=first)
    with pytest.raises(UsageError, match="farneback"):
        stream([], PriorSettings(motion="farneback"))
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    assert examine(tmp_path / "a.mp4").frames == 0
    assert examine(tmp_path / "missing.mp4").frames == 0


def test_deblurring_re_encodes_whatever_the_file_holds(tmp_path):
    path = clip_of(tmp_path / "a.mp4")
    with open_video(path) as reader:
        whole = [prior for window in windows(reader, 8, 2) for _, prior in window.frames]
        late = [prior for window in windows(reader, 8, 2, first_chunk=1) for _, prior in window.frames]
        assert not list(windows(reader, 8, 2, first_chunk=9)), "behind the end"
        expected = [prior for _, prior in stream(reader, PriorSettings(mode="reencode", chunk_frames=8))]
    assert len(whole) == 20 and len(late) == 12 and {p.origin for p in whole} == {"reencode"}
    for one, other in zip([*whole, *late], [*expected, *expected[8:]], strict=True):
        assert_equal(one, other)
