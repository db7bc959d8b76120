"""Richardson–Lucy deconvolution along the motion line. Ours.

The blur kernel of a pixel is the line that the exposure covers, known from the motion vectors. A few iterations of the
classical algorithm (Richardson, 1972; Lucy, 1974) in linear light remove long and strong blur better than a linear
filter of affordable length, and multiplicative updates keep dark areas dark next to bright ones. They also cause
ringing and amplify noise, so the network is given results of few and of more iterations and predicts their weights.
"""

from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unsmear.models.common.bands import Buffers, in_bands
from unsmear.models.common.gather import pixels_of, positions_of, read_pixels
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
def richardson_lucy(frame: Tensor, blur: Tensor, samples: int | Tensor, after: tuple[int, ...]) -> list[Tensor]:
    """Deconvolve ``frame`` along the motion line.

    Light is approximated by the square of the value, which is close to display curves and cheap to invert.

    Args:
        frame: (B, 3, H, W) float32 in [0, 1], gamma-encoded.
        blur: duty · V̄ (B, 2, h, w) in pixels of ``frame``, on any grid; upsampled bilinearly.
        samples: points averaged along the line, odd; or their positions (S,) in blur lengths, as ``line_points`` gives.
        after: numbers of iterations, increasing.

    Returns:
        The result for each entry of ``after``, shaped like ``frame``, in [0, 1].
    """
    line = F.interpolate(blur.float(), frame.shape[-2:], mode="bilinear", align_corners=False)
    frame = frame.float().clamp(0, 1)
    if isinstance(samples, int) and frame.device.type == "cpu":
        return _on_cpu(frame, line, samples, after)
    return _on_device(frame, line, line_points(samples).to(frame) if isinstance(samples, int) else samples, after)


def line_points(samples: int) -> Tensor:
    """Positions (S,) of the points of a line, in blur lengths: the exposure covers ±0.5."""
    return torch.linspace(-0.5, 0.5, samples)


def _on_device(frame: Tensor, line: Tensor, points: Tensor, after: tuple[int, ...]) -> list[Tensor]:
    grid = pixel_grid(frame.shape[-2], frame.shape[-1], frame)
    along = grid[:, None] + points[:, None, None] * line[:, :, None]  # (B, 2, S, H, W)
    positions = along.flatten(2, 3)

    def blurred(x: Tensor) -> Tensor:
        return sample(x, positions, "border").reshape(*x.shape[:2], -1, *x.shape[-2:]).mean(2)

    observed = frame**2 + _FLOOR
    estimate, previous, out = observed.clone(), observed, []
    for k in range(after[-1]):
        start = (estimate + _MOMENTUM[min(k, len(_MOMENTUM) - 1)] * (estimate - previous)).clamp(min=_LEAST)
        previous, estimate = estimate, start * blurred(observed / blurred(start).clamp(min=_LEAST))
        if k + 1 in after:
            out.append((estimate - _FLOOR).clamp(0, 1).sqrt())
    return out


def _on_cpu(frame: Tensor, line: Tensor, samples: int, after: tuple[int, ...]) -> list[Tensor]:
    made = []
    for picture, (dx, dy) in zip(frame, line.numpy(), strict=True):
        results = deconvolved_pixels(pixels_of(picture[None]), dx, dy, samples, after)
        made.append([np.ascontiguousarray(x[..., :3].transpose(2, 0, 1)) for x in results])
    return [torch.from_numpy(np.stack(same)) for same in zip(*made, strict=True)]


def deconvolved_pixels(
    pixels: np.ndarray,
    dx: np.ndarray,
    dy: np.ndarray,
    samples: int,
    after: tuple[int, ...],
    buffers: Buffers | None = None,
) -> list[np.ndarray]:
    """``richardson_lucy`` of one frame with OpenCV, which samples several times faster than torch on a CPU.

    Args:
        pixels: (H, W, 4) float32 in [0, 1]; the fourth channel does not matter.
        dx, dy: duty · V̄ (H, W), pixels.
        samples, after: see ``richardson_lucy``.
        buffers: memory to work in.

    Returns:
        (H, W, 4) for each entry of ``after``.
    """
    (height, width), buffers = dx.shape, buffers or Buffers()
    x, y = positions_of(height, width)
    parts = [float(a) for a in np.linspace(-0.5, 0.5, samples) if a]  # the centre is the pixel itself
    maps = [
        (
            cv2.scaleAdd(dx, a, x, dst=buffers.take(f"{samples} x {a}", *x.shape)),
            cv2.scaleAdd(dy, a, y, dst=buffers.take(f"{samples} y {a}", *y.shape)),
        )
        for a in parts
    ]
    observed, estimate, start, ratio = (buffers.take(name, *pixels.shape) for name in ("o", "e", "s", "r"))
    np.multiply(pixels, pixels, out=observed)
    observed += np.float32(_FLOOR)
    np.copyto(estimate, observed)
    np.copyto(start, observed)
    out = [np.empty_like(observed) for _ in after]

    def total_of(image: np.ndarray, rows: slice) -> np.ndarray:
        """Rows of the sum of ``image`` over the line: ``samples`` times the blurred image."""
        here = image[rows]
        total, read = (buffers.take(name, *here.shape) for name in ("total", "read"))
        for k, (map_x, map_y) in enumerate(maps):
            read_pixels(image, map_x[rows], map_y[rows], read)
            cv2.add(total if k else here, read, dst=total)
        return total

    def divide(rows: slice) -> None:
        cv2.divide(observed[rows], total_of(start, rows), dst=ratio[rows], scale=samples)

    def update(rows: slice, momentum: float, result: np.ndarray | None) -> None:
        """Write the next estimate, and where the iteration after it starts."""
        made, begin, last = total_of(ratio, rows), start[rows], estimate[rows]
        cv2.multiply(begin, made, dst=made, scale=1 / samples)
        cv2.subtract(made, last, dst=begin)
        cv2.scaleAdd(begin, momentum, made, dst=begin)
        np.maximum(begin, np.float32(_LEAST), out=begin)
        np.copyto(last, made)
        if result is not None:
            made -= np.float32(_FLOOR)
            np.sqrt(np.clip(made, 0, 1, out=made), out=result[rows])

    for k in range(after[-1]):
        result = out[after.index(k + 1)] if k + 1 in after else None
        in_bands(height, width, divide)
        in_bands(height, width, partial(update, momentum=_MOMENTUM[min(k + 1, len(_MOMENTUM) - 1)], result=result))
    return out
