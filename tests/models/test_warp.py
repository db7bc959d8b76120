"""Warping and deformable convolution against plain definitions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unsmear.models.common.warp import DeformConv2d, deform_conv2d, sample, warp


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """One bilinear read of (C, H, W), zero outside: the definition, in float64."""
    c, h, w = image.shape
    out = np.zeros(c)
    y0, x0 = int(np.floor(y)), int(np.floor(x))
    for yy, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for xx, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            if 0 <= yy < h and 0 <= xx < w:
                out += wy * wx * image[:, yy, xx]
    return out


def reference_deform_conv(x, offset, mask, weight, bias):
    """DCNv2 by its definition, loops over everything; shapes as in ``deform_conv2d``."""
    b, c, h, w = x.shape
    o, _, kh, kw = weight.shape
    groups = mask.shape[1] // (kh * kw)
    per = c // groups
    out = np.zeros((b, o, h, w))
    for n in range(b):
        for i in range(h):
            for j in range(w):
                for g in range(groups):
                    for k in range(kh * kw):
                        dy, dx = offset[n, (g * kh * kw + k) * 2 : (g * kh * kw + k) * 2 + 2, i, j]
                        y, z = i + k // kw - kh // 2 + dy, j + k % kw - kw // 2 + dx
                        read = bilinear(x[n, g * per : (g + 1) * per], y, z) * mask[n, g * kh * kw + k, i, j]
                        out[n, :, i, j] += weight[:, g * per : (g + 1) * per, k // kw, k % kw] @ read
    return out + bias[None, :, None, None]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_deform_conv_equals_its_definition_in_float64(groups):
    rng = np.random.default_rng(groups)
    x = rng.normal(size=(2, 4, 5, 6))
    offset = rng.normal(size=(2, groups * 18, 5, 6)) * 2
    mask = rng.uniform(size=(2, groups * 9, 5, 6))
    weight, bias = rng.normal(size=(3, 4, 3, 3)), rng.normal(size=3)
    ours = deform_conv2d(*(torch.from_numpy(a) for a in (x, offset, mask, weight, bias)))
    np.testing.assert_allclose(ours.numpy(), reference_deform_conv(x, offset, mask, weight, bias), atol=1e-12)


def test_deform_conv_equals_torchvision():
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed", exc_type=ImportError)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 8, 9, 7), torch.randn(5, 8, 3, 3), torch.randn(5)
    offset, mask = torch.randn(2, 4 * 18, 9, 7) * 2, torch.rand(2, 4 * 9, 9, 7)
    theirs = ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    torch.testing.assert_close(deform_conv2d(x, offset, mask, weight, bias), theirs, atol=1e-4, rtol=1e-4)


def test_without_offsets_it_is_a_convolution():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 4, 8, 8), torch.randn(6, 4, 3, 3), torch.randn(6)
    ours = deform_conv2d(x, torch.zeros(1, 18, 8, 8), torch.ones(1, 9, 8, 8), weight, bias)
    torch.testing.assert_close(ours, F.conv2d(x, weight, bias, padding=1), atol=1e-5, rtol=1e-5)


def test_a_fresh_layer_is_the_identity():
    x = torch.randn(1, 4, 6, 6)
    out = DeformConv2d(4, 4)(x, torch.zeros(1, 18, 6, 6), torch.ones(1, 9, 6, 6))
    torch.testing.assert_close(out, x, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (0, -1), (-3, 2)])
def test_warp_reads_at_p_plus_motion(dx, dy):
    image = torch.randn(1, 2, 12, 10)
    motion = torch.tensor([dx, dy], dtype=torch.float32).reshape(1, 2, 1, 1).expand(1, 2, 12, 10)
    expected = torch.roll(image, (-dy, -dx), (2, 3))
    inside = (..., slice(3, -3), slice(3, -3))
    torch.testing.assert_close(warp(image, motion)[inside], expected[inside], atol=1e-5, rtol=1e-5)


def test_warp_is_zero_outside_and_half_between():
    image = torch.ones(1, 1, 4, 4)
    assert warp(image, torch.full((1, 2, 4, 4), 10.0)).abs().max() == 0
    ramp = torch.arange(4.0).reshape(1, 1, 1, 4).expand(1, 1, 4, 4)
    half = torch.zeros(1, 2, 4, 4)
    half[:, 0] = 0.5
    assert warp(ramp, half)[0, 0, 1, 1] == pytest.approx(1.5, abs=1e-5)


def test_sampling_of_bfloat16_features_keeps_float32_positions():
    image = torch.arange(1024.0).reshape(1, 1, 1, 1024).bfloat16()
    at = torch.tensor([1001.0, 0.0]).reshape(1, 2, 1, 1)
    assert sample(image, at).item() == image[0, 0, 0, 1001].item()
