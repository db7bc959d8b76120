"""The motion-line head, its closed-form start, and the duty cycle read from the blur."""

import cv2
import numpy as np
import pytest
import torch

from unsmear.blur.compress import h264_round_trip
from unsmear.models.cpfp.motion_line import (
    LENGTHS_PX,
    SHORTEST_PX,
    LineBlock,
    MotionLine,
    hat_weights,
    line_motion,
    stretched,
    taps_along,
)
from unsmear.priors import chunk_priors
from unsmear.priors.duty import estimate_duty
from unsmear.training.line_fit import LineFit


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random texture with the 1/f amplitude spectrum of photographs, float32 in [0, 255]."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.normal(size=(height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    image = np.fft.irfft2(spectrum / np.maximum(frequency, 2 / width), (height, width))
    return np.clip(128 + 45 * image / image.std(), 0, 255).astype(np.float32)


def shifted(image: np.ndarray, dx: float, dy: float = 0.0) -> np.ndarray:
    """The content of ``image`` moved by (dx, dy) pixels."""
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def moving_clip(speed: tuple[float, float], duty: float, frames: int = 6, size=(192, 256)) -> list[np.ndarray]:
    """Luma of a translating texture seen through a lens, averaged over ``duty`` of the frame step, and coded."""
    base = cv2.GaussianBlur(texture(*size), None, 0.8)
    out = []
    for t in range(frames):
        times = t + np.linspace(-duty / 2, duty / 2, 33) if duty else [float(t)]
        out.append(np.mean([shifted(base, s * speed[0], s * speed[1]) for s in times], 0).round().astype(np.uint8))
    coded = h264_round_trip((np.repeat(f[..., None], 3, -1) for f in out), 18)
    return [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in coded]


def test_line_motion_uses_one_side_at_a_reset():
    motion, back = torch.full((1, 2, 1, 1), -4.0), torch.full((1, 2, 1, 1), 6.0)
    yes, no = torch.tensor([True]), torch.tensor([False])
    assert line_motion(motion, back, no, no).unique().item() == 5
    assert line_motion(motion, back, yes, no).unique().item() == 6
    assert line_motion(motion, back, no, yes).unique().item() == 4
    assert line_motion(motion, back, yes, yes).unique().item() == 0


def test_hat_weights_interpolate_and_hold_their_ends():
    w = hat_weights(torch.tensor([0.0, 0.5, 0.75, 1.0, 3.0, 99.0]), LENGTHS_PX)
    torch.testing.assert_close(w.sum(-1), torch.ones(6))
    assert w[0, 0] == 1 and w[1, 0] == 1 and w[-1, -1] == 1
    assert w[2, :2].tolist() == [0.5, 0.5]


def test_the_bank_depends_on_blur_length_and_on_whether_the_duty_is_known():
    head = MotionLine(3, 1.0)
    head.bank.data[0] = torch.arange(len(LENGTHS_PX)).float()[:, None]
    head.bank.data[1] = -1
    blur = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1).expand(2, 2, 2, 2)  # 5 px long
    weights = head.bank_weights(blur, torch.tensor([True, False]))
    assert weights[0].unique().item() == LENGTHS_PX.index(5.0)
    assert weights[1].unique().item() == -1


def test_short_blur_is_stretched_and_none_is_not():
    blur = torch.tensor([[0.0, 0.0], [0.0, 1.5], [20.0, 0.0]]).reshape(3, 2, 1, 1)
    length = stretched(blur).norm(dim=1).flatten()
    torch.testing.assert_close(length, torch.tensor([0.0, (1.5**2 + SHORTEST_PX**2) ** 0.5, 404**0.5]))


def test_a_head_without_weights_or_motion_changes_nothing():
    head = MotionLine(5, 1.5)
    frame = torch.rand(1, 3, 16, 16)
    zero = torch.zeros(1, 5, 4, 4)
    assert head(frame, torch.ones(1, 2, 4, 4) * 3, zero).abs().max() == 0
    assert head(frame, torch.zeros(1, 2, 4, 4), zero + 1).abs().max() < 1e-6


def test_a_single_tap_reads_along_the_line():
    head = MotionLine(5, 1.0)  # taps at -1, -0.5, 0, 0.5, 1
    frame = torch.rand(1, 3, 12, 16)
    weights = torch.zeros(1, 5, 12, 16)
    weights[:, 4] = 1
    line = torch.tensor([12**0.5, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 12, 16)  # stretched to 4 px
    out = frame + head(frame, line, weights)
    torch.testing.assert_close(out[..., :12], frame[..., 4:], atol=1e-5, rtol=1e-5)


def test_line_block_starts_near_the_identity_and_follows_the_line():
    torch.manual_seed(0)
    block = LineBlock(8)
    x = torch.randn(1, 8, 12, 12)
    assert (block(x, torch.zeros(1, 2, 12, 12)) - x).abs().mean() < 0.2
    assert not torch.equal(block(x, torch.zeros(1, 2, 12, 12)), block(x, torch.ones(1, 2, 12, 12) * 3))


def test_even_taps_are_refused():
    with pytest.raises(ValueError, match="odd"):
        taps_along(4, 1.0)


def test_the_closed_form_fit_sharpens_other_frames():
    duty, speed = 0.6, 8.0
    clips = []
    for seed in (0, 1):
        sharp = texture(160, 224, seed)
        times = np.linspace(-duty / 2, duty / 2, 33)
        blurred = np.mean([shifted(sharp, s * speed) for s in times], 0)
        clips.append([torch.from_numpy(a / 255).float().expand(3, -1, -1) for a in (blurred, sharp)])
    blur = torch.tensor([speed * duty, 0.0]).reshape(2, 1, 1).expand(2, 20, 28)
    fit = LineFit(17, 2.0)
    fit.add(*clips[0], blur, stride=2)
    head = MotionLine(17, 2.0)
    head.bank.data[0] = fit.solve()
    blurred, sharp = (c[None] for c in clips[1])
    weights = head.bank_weights(blur[None], torch.tensor([True]))
    restored = blurred + head(blurred, blur[None], weights)
    inside = (..., slice(16, -16), slice(16, -16))
    before, after = (((a - sharp)[inside] ** 2).mean() for a in (blurred, restored))
    assert after < before * 0.6


@pytest.mark.parametrize("duty", [0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("speed", [(9.0, 0.0), (5.0, 6.0)])
def test_duty_is_estimated_from_the_blur(duty, speed):
    clip = moving_clip(speed, duty)
    found = estimate_duty(clip, chunk_priors(clip, before=None, after=None))
    assert found == pytest.approx(duty, abs=0.15)


def test_no_duty_where_nothing_moves():
    clip = moving_clip((0.0, 0.0), 0.0)
    assert estimate_duty(clip, chunk_priors(clip, before=None, after=None)) is None


def test_sharp_motion_has_a_short_exposure():
    clip = moving_clip((9.0, 0.0), 0.0)
    found = estimate_duty(clip, chunk_priors(clip, before=None, after=None))
    assert found is not None and found < 0.3
