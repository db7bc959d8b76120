"""Richardson–Lucy deconvolution along the motion line: what optics alone can undo. Ours.

The line that an exposure covered is the blur kernel, and the codec tells it at every pixel. A few iterations of the
classical algorithm (Richardson, 1972; Lucy, 1974) with it, in linear light, undo long and strong blur better than any
linear filter of affordable length does: ratios keep dark things dark next to bright ones. They also ring and amplify
noise, so a network is shown the result after few and after more iterations and decides what to take.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unsmear.models.common.gather import positions_of, read_pixels
from unsmear.models.common.warp import pixel_grid, sample

MOST_SAMPLES = 13
"""Points of a line that are averaged, at most: a blur of 30 pixels is read every 2.5."""

SPACING_PX = 1.25
_FLOOR = 2e-3
_LEAST = 1e-4
_MOMENTUM = (0.0, 0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.8)
"""How far each iteration starts beyond the last one, in steps (Biggs & Andrews, 1997, with fixed factors: nothing may
depend on the whole frame). Later ones as the last."""


def line_samples(blur: Tensor) -> int:
    """How many points (odd) a line of the longest blur but one hundredth needs, from ``blur`` (…, 2, h, w) px."""
    length = torch.linalg.vector_norm(blur.float(), dim=-3).flatten()
    longest = float(np.percentile(length.cpu().numpy(), 99))
    return min(max(int(np.ceil(longest / 2 / SPACING_PX)), 1) * 2 + 1, MOST_SAMPLES)


def coarse_samples(samples: int) -> int:
    """As many points as a line of half the length needs, ``samples`` being those of ``line_samples``."""
    return samples if samples == MOST_SAMPLES else max(samples // 4 * 2 + 1, 3)


@torch.no_grad()
def richardson_lucy(frame: Tensor, blur: Tensor, samples: int, after: tuple[int, ...]) -> list[Tensor]:
    """``frame`` deconvolved, after each of the numbers of iterations in ``after``.

    Light is taken for the square of the value: close to every display curve, and cheap both ways.

    Args:
        frame: (B, 3, H, W) float32 in [0, 1], gamma-encoded.
        blur: duty · V̄ (B, 2, h, w) in pixels of ``frame``, on any grid; upsampled bilinearly.
        samples: points of the line that are averaged, odd.
        after: increasing.

    Returns:
        Frames like ``frame``, in [0, 1].
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

    seen = frame**2 + _FLOOR
    estimate, previous, out = seen.clone(), seen, []
    for k in range(after[-1]):
        start = (estimate + _MOMENTUM[min(k, len(_MOMENTUM) - 1)] * (estimate - previous)).clamp(min=_LEAST)
        previous, estimate = estimate, start * blurred(seen / blurred(start).clamp(min=_LEAST))
        if k + 1 in after:
            out.append((estimate - _FLOOR).clamp(0, 1).sqrt())
    return out


def _on_cpu(frame: Tensor, line: Tensor, samples: int, after: tuple[int, ...]) -> list[Tensor]:
    """The same by OpenCV, which reads several times faster on a CPU; fastest with four channels.

    Everything is written in place: fresh arrays of this size cost more than the arithmetic on them.
    """
    height, width = frame.shape[-2:]
    x, y = positions_of(height, width)
    seen, estimate, previous, start, ratio, total, read = np.zeros((7, height, width, 4), np.float32)
    out = [torch.empty_like(frame) for _ in after]
    parts = [float(a) for a in np.linspace(-0.5, 0.5, samples) if a]  # the middle needs no reading

    for b in range(len(frame)):
        dx, dy = line[b].numpy()
        maps = [(cv2.scaleAdd(dx, a, x), cv2.scaleAdd(dy, a, y)) for a in parts]

        def blur(image: np.ndarray, maps: list[tuple[np.ndarray, np.ndarray]] = maps) -> None:
            """The mean of ``image`` over the line, at least ``_LEAST``, into ``total``."""
            np.copyto(total, image)
            for map_x, map_y in maps:
                read_pixels(image, map_x, map_y, read)
                cv2.add(total, read, dst=total)
            np.multiply(total, np.float32(1 / samples), out=total)
            np.maximum(total, np.float32(_LEAST), out=total)

        seen[..., :3] = frame[b].permute(1, 2, 0).numpy()
        np.multiply(seen, seen, out=seen)
        seen += np.float32(_FLOOR)
        np.copyto(estimate, seen)
        np.copyto(previous, seen)
        for k in range(after[-1]):
            np.subtract(estimate, previous, out=start)  # start = estimate + momentum · (estimate − previous)
            cv2.scaleAdd(start, _MOMENTUM[min(k, len(_MOMENTUM) - 1)], estimate, dst=start)
            np.maximum(start, np.float32(_LEAST), out=start)
            blur(start)
            np.divide(seen, total, out=ratio)
            blur(ratio)
            estimate, previous = previous, estimate
            np.multiply(start, total, out=estimate)
            if k + 1 in after:
                np.subtract(estimate, np.float32(_FLOOR), out=ratio)
                np.sqrt(np.clip(ratio, 0, 1, out=ratio), out=ratio)
                out[after.index(k + 1)][b] = torch.from_numpy(ratio[..., :3]).permute(2, 0, 1)
    return out
