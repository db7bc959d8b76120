"""Richardson–Lucy deconvolution along the motion line. Ours.

The blur kernel of a pixel is the line that the exposure covers, known from the motion vectors. A few iterations of the
classical algorithm (Richardson, 1972; Lucy, 1974) in linear light remove long and strong blur better than a linear
filter of affordable length, and multiplicative updates keep dark areas dark next to bright ones. They also cause
ringing and amplify noise, so the network is given results of few and of more iterations and predicts their weights.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unsmear.models.common.gather import positions_of, read_pixels
from unsmear.models.common.warp import pixel_grid, sample

MOST_SAMPLES = 13
"""Maximum number of points averaged along a line: a blur of 30 px is sampled every 2.5 px."""

SPACING_PX = 1.25
_FLOOR = 2e-3
_LEAST = 1e-4
_MOMENTUM = (0.0, 0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.8)
"""Extrapolation factor of each iteration (Biggs & Andrews, 1997, with fixed factors, so that no result depends on the
whole frame). The last one holds for later iterations."""


def line_samples(blur: Tensor) -> int:
    """Number of points (odd) for a line of the 99th percentile of the lengths of ``blur`` (…, 2, h, w) px."""
    length = torch.linalg.vector_norm(blur.float(), dim=-3).flatten()
    longest = float(np.percentile(length.cpu().numpy(), 99))
    return min(max(int(np.ceil(longest / 2 / SPACING_PX)), 1) * 2 + 1, MOST_SAMPLES)


def coarse_samples(samples: int) -> int:
    """Number of points for a line of half the length, from the ``samples`` of ``line_samples``."""
    return samples if samples == MOST_SAMPLES else max(samples // 4 * 2 + 1, 3)


@torch.no_grad()
def richardson_lucy(frame: Tensor, blur: Tensor, samples: int, after: tuple[int, ...]) -> list[Tensor]:
    """Deconvolve ``frame`` along the motion line.

    Light is approximated by the square of the value, which is close to display curves and cheap to invert.

    Args:
        frame: (B, 3, H, W) float32 in [0, 1], gamma-encoded.
        blur: duty · V̄ (B, 2, h, w) in pixels of ``frame``, on any grid; upsampled bilinearly.
        samples: points averaged along the line, odd.
        after: numbers of iterations, increasing.

    Returns:
        The result for each entry of ``after``, shaped like ``frame``, in [0, 1].
    """
    line = F.interpolate(blur.float(), frame.shape[-2:], mode="bilinear", align_corners=False)
    run = _on_cpu if frame.device.type == "cpu" else _on_device
    return run(frame.float().clamp(0, 1), line, samples, after)


def _on_device(frame: Tensor, line: Tensor, samples: int, after: tuple[int, ...]) -> list[Tensor]:
    grid = pixel_grid(frame.shape[-2], frame.shape[-1], frame)
    positions = [grid + float(a) * line for a in np.linspace(-0.5, 0.5, samples)]

    def blurred(x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for k, at in enumerate(positions):
            total += x if k == samples // 2 else sample(x, at, "border")
        return total / samples

    observed = frame**2 + _FLOOR
    estimate, previous, out = observed.clone(), observed, []
    for k in range(after[-1]):
        start = (estimate + _MOMENTUM[min(k, len(_MOMENTUM) - 1)] * (estimate - previous)).clamp(min=_LEAST)
        previous, estimate = estimate, start * blurred(observed / blurred(start).clamp(min=_LEAST))
        if k + 1 in after:
            out.append((estimate - _FLOOR).clamp(0, 1).sqrt())
    return out


def _on_cpu(frame: Tensor, line: Tensor, samples: int, after: tuple[int, ...]) -> list[Tensor]:
    """The same with OpenCV, which samples several times faster on a CPU, and fastest with four channels.

    All arrays are reused: allocating them costs more than the arithmetic.
    """
    height, width = frame.shape[-2:]
    x, y = positions_of(height, width)
    observed, estimate, previous, start, ratio, total, read = np.zeros((7, height, width, 4), np.float32)
    out = [torch.empty_like(frame) for _ in after]
    parts = [float(a) for a in np.linspace(-0.5, 0.5, samples) if a]  # the centre is the pixel itself

    for b in range(len(frame)):
        dx, dy = line[b].numpy()
        maps = [(cv2.scaleAdd(dx, a, x), cv2.scaleAdd(dy, a, y)) for a in parts]

        def blur(image: np.ndarray, maps: list[tuple[np.ndarray, np.ndarray]] = maps) -> None:
            """Write the mean of ``image`` over the line, at least ``_LEAST``, to ``total``."""
            np.copyto(total, image)
            for map_x, map_y in maps:
                read_pixels(image, map_x, map_y, read)
                cv2.add(total, read, dst=total)
            np.multiply(total, np.float32(1 / samples), out=total)
            np.maximum(total, np.float32(_LEAST), out=total)

        observed[..., :3] = frame[b].permute(1, 2, 0).numpy()
        np.multiply(observed, observed, out=observed)
        observed += np.float32(_FLOOR)
        np.copyto(estimate, observed)
        np.copyto(previous, observed)
        for k in range(after[-1]):
            np.subtract(estimate, previous, out=start)  # start = estimate + momentum · (estimate − previous)
            cv2.scaleAdd(start, _MOMENTUM[min(k, len(_MOMENTUM) - 1)], estimate, dst=start)
            np.maximum(start, np.float32(_LEAST), out=start)
            blur(start)
            np.divide(observed, total, out=ratio)
            blur(ratio)
            estimate, previous = previous, estimate
            np.multiply(start, total, out=estimate)
            if k + 1 in after:
                np.subtract(estimate, np.float32(_FLOOR), out=ratio)
                np.sqrt(np.clip(ratio, 0, 1, out=ratio), out=ratio)
                out[after.index(k + 1)][b] = torch.from_numpy(ratio[..., :3]).permute(2, 0, 1)
    return out
