"""Denoising on overlapping tiles of a latent (Gaussian weights) and on overlapping windows in time (cross-fade).

Tiles follow the release of CPGD-Net's authors. Windows are ours: VDM restores single clips. Neighbouring windows are
blended at every sampling step, so that they generate the same content in the frames that they share.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TileBox = tuple[int, int, int, int]
"""Top, bottom, left, right; half open, cells of the latent."""

Span = tuple[int, int]
"""First frame of a window and the one after its last."""

SPREAD = 0.15
"""Standard deviation of the weight of a tile, relative to its side; near zero at the border."""


def tile_boxes(height: int, width: int, side: int, stride: int) -> list[TileBox]:
    """Tiles of ``side`` cells, at most ``stride`` apart, evenly spaced; a shorter axis has one tile of its length.

    Raises:
        ValueError: the stride leaves gaps.
    """
    if not 0 < stride <= side:
        raise ValueError(f"stride {stride} of tiles must lie in 1 to their side, {side}")

    def spans(length: int) -> list[tuple[int, int]]:
        if length <= side:
            return [(0, length)]
        count = -(-(length - side) // stride) + 1
        starts = [round((length - side) * i / (count - 1)) for i in range(count)]
        return [(s, s + side) for s in starts]

    return [(top, bottom, left, right) for top, bottom in spans(height) for left, right in spans(width)]


def gaussian_weight(height: int, width: int, like: Tensor) -> Tensor:
    """Weight (height, width) of a tile: 1 in the middle, positive everywhere."""

    def profile(length: int) -> Tensor:
        at = (torch.arange(length, device=like.device, dtype=torch.float32) - (length - 1) / 2) / length
        return torch.exp(-0.5 * (at / SPREAD) ** 2)

    return profile(height)[:, None] * profile(width)


def by_latent_tiles(
    shape: torch.Size,
    boxes: Sequence[TileBox],
    denoise: Callable[[Sequence[TileBox]], Tensor],
    batch: int,
    like: Tensor,
) -> Tensor:
    """Prediction for a whole latent: weighted running mean over tiles, exact where all tiles agree.

    Args:
        shape: of the result (T, C, h, w).
        boxes: from ``tile_boxes``.
        denoise: n tiles of one size → (n·T, C, height, width), tile after tile.
        batch: maximum number of tiles per call of ``denoise``.
        like: a tensor on the device of the result.

    Returns:
        (T, C, h, w) float32.
    """
    mixed = torch.zeros(shape, device=like.device, dtype=torch.float32)
    weights = torch.zeros(shape[-2:], device=like.device, dtype=torch.float32)
    for first in range(0, len(boxes), batch):
        tiles = boxes[first : first + batch]
        for box, tile in zip(tiles, denoise(tiles).float().split(shape[0]), strict=True):
            top, bottom, left, right = box
            weight = gaussian_weight(bottom - top, right - left, like)
            total = weights[top:bottom, left:right]
            total += weight
            place = mixed[..., top:bottom, left:right]
            share = weight / total
            place.copy_(torch.where(share >= 1, tile, place + share * (tile - place)))
    return mixed


def window_spans(count: int, frames: int, overlap: int) -> list[Span]:
    """Windows of ``frames`` frames over ``count`` frames, evenly spaced, neighbours sharing at least ``overlap``.

    A shot of at most ``frames`` frames has one window.

    Raises:
        ValueError: the overlap is negative or not less than ``frames``.
    """
    if not 0 <= overlap < frames:
        raise ValueError(f"overlap {overlap} of windows must lie in 0 to their length, {frames}, less 1")
    if count <= frames:
        return [(0, count)]
    pieces = -(-(count - frames) // (frames - overlap)) + 1
    starts = [round((count - frames) * i / (pieces - 1)) for i in range(pieces)]
    return [(start, start + frames) for start in starts]


def shot_spans(reset: Sequence[bool]) -> list[Span]:
    """Spans of shots from flags that are True where a frame begins one; the first frame always does."""
    begins = [i for i, new in enumerate(reset) if new or i == 0]
    return list(zip(begins, [*begins[1:], len(reset)], strict=True))


def fade(span: Span, before: int, after: int, like: Tensor) -> Tensor:
    """Weight (F,) of each frame of a window: rises over the first ``before`` frames, falls over the last ``after``."""
    length = span[1] - span[0]
    at = torch.arange(length, device=like.device, dtype=torch.float32)
    rise = ((at + 1) / (before + 1)).clamp(max=1)
    fall = ((length - at) / (after + 1)).clamp(max=1)
    return torch.minimum(rise, fall)


def by_windows(spans: Sequence[Span], denoise: Callable[[Span], Tensor], like: Tensor) -> Tensor:
    """Prediction for a whole shot: weighted running mean over windows, exact where all windows agree.

    Args:
        spans: from ``window_spans``.
        denoise: a window → (F, C, h, w).
        like: (T, C, h, w), of the result's shape and device.

    Returns:
        (T, C, h, w) float32.
    """
    mixed = torch.zeros(like.shape, device=like.device, dtype=torch.float32)
    weights = torch.zeros(len(like), device=like.device, dtype=torch.float32)
    for i, span in enumerate(spans):
        before = spans[i - 1][1] - span[0] if i else 0
        after = span[1] - spans[i + 1][0] if i + 1 < len(spans) else 0
        prediction, part = denoise(span).float(), slice(*span)
        weight = fade(span, before, after, like)
        weights[part] += weight
        mixed[part] = mixed_in(mixed[part], prediction, weight / weights[part])
    return mixed


def mixed_in(before: Tensor, new: Tensor, share: Tensor) -> Tensor:
    """Blend ``before`` + share · (``new`` − ``before``) by frame; exactly ``new`` where the share is 1."""
    share = share.to(new).reshape(-1, 1, 1, 1)
    return torch.where(share >= 1, new, before + share * (new - before))
