"""Metrics against other implementations, published values and closed forms."""

import os
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from support.clips import moving_frames, texture
from unsmear.errors import UsageError, WeightsError
from unsmear.metrics import PROTOCOLS, find_protocol, ssim, ssim_joint
from unsmear.metrics.fidelity import IDENTICAL_DB, levels, luma601, psnr_of_levels
from unsmear.metrics.lpips import frame_tensor, load_lpips
from unsmear.metrics.niqe import niqe
from unsmear.metrics.temporal import align
from unsmear.video import open_video

EXAMPLES = Path(__file__).parents[2] / "examples"


@cache
def example(kind: str) -> np.ndarray:
    with open_video(EXAMPLES / f"handheld.{kind}.mp4") as reader:
        return [frame.rgb for frame in reader][12]


def noisy(image: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    grain = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + grain), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [0.5, 5, 40])
def test_psnr_and_ssim_equal_scikit_image(sigma: float) -> None:
    truth = texture((150, 110), 1)
    image = noisy(truth, sigma)
    assert psnr_of_levels(image, truth) == pytest.approx(peak_signal_noise_ratio(truth, image), abs=1e-4)
    theirs = structural_similarity(
        image, truth, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
    )
    assert ssim(image, truth) == pytest.approx(theirs, abs=1e-4)


def test_joint_ssim_equals_a_gaussian_filter_over_all_three_axes() -> None:
    """The definition in Shift-Net's and BSSTNet's evaluation: scipy's ``gaussian_filter`` on (C, H, W) in [0, 1]."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy comes with scikit-image")
    truth = texture((90, 70), 2)
    image = noisy(cv2.GaussianBlur(truth, (0, 0), 1.2), 4)
    x, y = (i.transpose(2, 0, 1) / 255 for i in (image, truth))
    mx, my = (ndimage.gaussian_filter(i, 1.5) for i in (x, y))
    vx, vy, cov = (ndimage.gaussian_filter(i, 1.5) for i in (x * x, y * y, x * y))
    top = (2 * mx * my + 1e-4) * (2 * (cov - mx * my) + 9e-4)
    index = top / ((mx**2 + my**2 + 1e-4) * (vx - mx**2 + vy - my**2 + 9e-4))
    assert ssim_joint(image, truth) == pytest.approx(float(index.mean()), abs=1e-5)
    assert ssim_joint(image, truth) > ssim(image, truth) + 0.01


def test_luma_is_bt601_in_studio_range() -> None:
    corners = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0]]], np.float32)
    assert luma601(corners)[0] == pytest.approx([16, 235, 81.481, 144.553], abs=1e-3)


@given(st.integers(0, 65535), st.booleans())
def test_levels_of_deep_frames(value: int, rounded: bool) -> None:
    got = float(levels(np.full((1, 1, 3), value, np.uint16), rounded=rounded)[0, 0, 0])
    assert got == pytest.approx(round(value / 257) if rounded else value / 257, abs=1e-4)


def test_niqe_equals_the_reference_implementation() -> None:
    """Values of BasicSR 1.4.2's ``calculate_niqe`` (which matches the authors' MATLAB) on the same two frames."""
    assert niqe(example("blur")) == pytest.approx(6.6588, rel=0.02)
    assert niqe(example("sharp")) == pytest.approx(5.1923, rel=0.02)


def test_niqe_needs_two_blocks_and_texture() -> None:
    with pytest.raises(ValueError, match="192"):
        niqe(texture((400, 150)))
    assert np.isnan(niqe(np.full((192, 192, 3), 90, np.uint8)))


def test_lpips_equals_the_authors_package() -> None:
    """``lpips`` 0.1.4, net "alex", run once on the same two frames: 0.27066."""
    blur, sharp = (frame_tensor(example(kind)) for kind in ("blur", "sharp"))
    model = load_lpips()
    assert float(model(blur, sharp)) == pytest.approx(0.27066, abs=5e-4)
    assert float(model(sharp, sharp)) == 0
    by_features = model.distance(model.features(blur), model.features(sharp))
    assert float(by_features) == pytest.approx(float(model(blur, sharp)), abs=1e-6)


@pytest.mark.skipif("UNSMEAR_LPIPS_EXAMPLES" not in os.environ, reason="needs the authors' three example pictures")
def test_lpips_of_the_published_example_pairs() -> None:
    """0.722 and 0.138, as the authors' README prints them; the folder holds ex_ref.png, ex_p0.png and ex_p1.png."""
    folder = Path(os.environ["UNSMEAR_LPIPS_EXAMPLES"])
    ref, p0, p1 = (
        frame_tensor(cv2.cvtColor(cv2.imread(str(folder / f"ex_{name}.png")), cv2.COLOR_BGR2RGB))
        for name in ("ref", "p0", "p1")
    )
    assert float(load_lpips()(ref, p0)) == pytest.approx(0.722, abs=0.002)
    assert float(load_lpips()(ref, p1)) == pytest.approx(0.138, abs=0.002)


def test_lpips_refuses_wrong_trunks_weights_and_sizes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lpips-vgg"):
        load_lpips("vgg")
    with pytest.raises(UsageError, match="alex or vgg"):
        load_lpips("squeeze")
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"wrong\.safetensors"):
        load_lpips("vgg", wrong)
    with pytest.raises(ValueError, match="31"):
        load_lpips()(frame_tensor(texture((30, 40))), frame_tensor(texture((30, 40))))


def test_alignment_follows_motion_and_keeps_changes_of_brightness() -> None:
    previous, now = moving_frames((160, 120), 2, step_px=(4, -2), smooth_px=3)
    found = align(now.astype(np.float32), previous.astype(np.float32))
    assert found.visible.mean() > 0.8
    still = found.difference(now.astype(np.float32), previous.astype(np.float32))
    brighter = found.difference(now.astype(np.float32) + 10, previous.astype(np.float32))
    assert still < 2
    assert brighter == pytest.approx(10, abs=2)


def test_windows_of_each_protocol() -> None:
    assert PROTOCOLS["basicsr"].windows(3) == [0, 0, 0]
    assert PROTOCOLS["koehler"].windows(3) == [None, 0, 0]
    blocks = PROTOCOLS["shiftnet"].windows(110)
    assert blocks[:2] == [None, None]
    assert blocks[2] == 0
    assert blocks[50] == 1
    assert blocks[97] == 1
    assert set(blocks[98:]) == {None}
    overlapping = PROTOCOLS["bsst"].windows(100)  # DVD's clips: BSSTNet scores 44, 44 and the 8 frames from 90 on
    assert [overlapping.count(k) for k in (0, 1, 2)] == [44, 44, 8]
    assert overlapping[90] == 2
    assert overlapping[:2] == overlapping[-2:] == [None, None]


@given(st.integers(5, 400))
def test_overlapping_windows_score_every_inner_frame_once(frames: int) -> None:
    found = PROTOCOLS["bsst"].windows(frames)
    assert found[:2] == found[-2:] == [None, None]
    inner = found[2:-2]
    assert None not in inner
    assert all(b - a in (0, 1) for a, b in pairwise(inner))  # type: ignore[operator]


def test_one_output_scores_differently_under_each_protocol() -> None:
    """The same blurred frame against the same truth: SSIM alone spreads over more than methods differ by."""
    image, truth = (example(kind).astype(np.float32) for kind in ("blur", "sharp"))
    scores = {name: protocol.score(image, truth) for name, protocol in PROTOCOLS.items()}
    assert scores["basicsr"]["psnr"] == scores["shiftnet"]["psnr"] == scores["bsst"]["psnr"]
    assert scores["bsst"]["ssim"] - scores["basicsr"]["ssim"] > 0.02
    assert abs(scores["koehler"]["psnr"] - scores["basicsr"]["psnr"]) > 0.1
    assert scores["basicsr-frame"] == scores["basicsr"]


@settings(max_examples=20, deadline=None)
@given(st.integers(-5, 5), st.integers(-5, 5), st.floats(0.8, 1.1))
def test_koehler_ignores_whole_pixel_shifts_and_brightness(dx: int, dy: int, gain: float) -> None:
    truth = texture((140, 120), 3).astype(np.float32)
    moved = np.roll(truth, (dy, dx), (0, 1)) * np.float32(gain)
    plain = PROTOCOLS["basicsr"].score(moved, truth)["psnr"]
    forgiven = PROTOCOLS["koehler"].score(moved, truth)["psnr"]
    assert forgiven >= min(plain, 60) - 0.01
    if dx or dy:
        assert forgiven > plain + 3


def test_rounding_matters_to_shiftnet_alone() -> None:
    assert [name for name, p in PROTOCOLS.items() if not p.rounded] == ["shiftnet"]
    assert psnr_of_levels(np.zeros(3), np.zeros(3)) == IDENTICAL_DB


def test_unknown_protocol_names_the_known() -> None:
    with pytest.raises(UsageError, match="basicsr, basicsr-frame, koehler, shiftnet, bsst"):
        find_protocol("gopro")
