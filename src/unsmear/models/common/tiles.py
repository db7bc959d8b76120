"""Denoising on overlapping tiles of a latent (Gaussian weights) and on overlapping windows in time (cross-fade).

Tiles follow the release of CPGD-Net's authors. Windows are ours: VDM restores single clips. At every step neighbouring
windows agree on the frames that they share, so no window begins with a picture of its own.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TileBox = tuple[int, int, int, int]
"""Top, bottom, left, right; half open, cells of the latent."""

Span = tuple[int, int]
"""First frame of a window and the one after its last."""

SPREAD = 0.15
"""Standard deviation of a tile's weight, in sides of the tile: near nothing at its rim."""


def tile_boxes(height: int, width: int, side: int, stride: int) -> list[TileBox]:
    """Tiles of ``side`` cells, at most ``stride`` apart, evenly spread; a shorter axis has one tile of its length.

    Raises:
        ValueError: a stride that leaves gaps.
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
    """(height, width), 1 in the middle, positive everywhere."""

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
    """Prediction for a whole latent, the running mean over tiles: where tiles agree the result is exactly theirs.

    Args:
        shape: of the result (T, C, h, w).
        boxes: from ``tile_boxes``.
        denoise: n tiles of one size → (n·T, C, height, width), the tiles one after the other.
        batch: at most so many tiles at once.
        like: on the device of the result, which is float32.
    """
    mixed = torch.zeros(shape, device=like.device, dtype=torch.float32)
    seen = torch.zeros(shape[-2:], device=like.device, dtype=torch.float32)
    for first in range(0, len(boxes), batch):
        some = boxes[first : first + batch]
        for box, tile in zip(some, denoise(some).float().split(shape[0]), strict=True):
            top, bottom, left, right = box
            weight = gaussian_weight(bottom - top, right - left, like)
            total = seen[top:bottom, left:right]
            total += weight
            place = mixed[..., top:bottom, left:right]
            share = weight / total
            place.copy_(torch.where(share >= 1, tile, place + share * (tile - place)))
    return mixed


def window_spans(count: int, frames: int, overlap: int) -> list[Span]:
    """Windows of ``frames`` over ``count`` frames, at least ``overlap`` shared, evenly spread; a short shot has one.

    Raises:
        ValueError: an overlap that leaves no way forward.
    """
    if not 0 <= overlap < frames:
        raise ValueError(f"overlap {overlap} of windows must lie in 0 to their length, {frames}, less 1")
    if count <= frames:
        return [(0, count)]
    pieces = -(-(count - frames) // (frames - overlap)) + 1
    starts = [round((count - frames) * i / (pieces - 1)) for i in range(pieces)]
    return [(start, start + frames) for start in starts]


def shot_spans(reset: Sequence[bool]) -> list[Span]:
    """Shots, from a flag for each frame that begins one; the first frame always does."""
    begins = [i for i, new in enumerate(reset) if new or i == 0]
    return list(zip(begins, [*begins[1:], len(reset)], strict=True))


def fade(span: Span, before: int, after: int, like: Tensor) -> Tensor:
    """Weight (F,) of each frame of a window: it rises over ``before`` shared frames and falls over ``after``."""
    length = span[1] - span[0]
    at = torch.arange(length, device=like.device, dtype=torch.float32)
    rise = ((at + 1) / (before + 1)).clamp(max=1)
    fall = ((length - at) / (after + 1)).clamp(max=1)
    return torch.minimum(rise, fall)


def by_windows(spans: Sequence[Span], denoise: Callable[[Span], Tensor], like: Tensor) -> Tensor:
    """Prediction for a whole shot, the running mean over windows: where windows agree the result is exactly theirs.

    Args:
        spans: from ``window_spans``.
        denoise: a window → (F, C, h, w).
        like: (T, C, h, w), of the result's shape and device.

    Returns:
        (T, C, h, w) float32.
    """
    mixed = torch.zeros(like.shape, device=like.device, dtype=torch.float32)
    seen = torch.zeros(len(like), device=like.device, dtype=torch.float32)
    for i, span in enumerate(spans):
        before = spans[i - 1][1] - span[0] if i else 0
        after = span[1] - spans[i + 1][0] if i + 1 < len(spans) else 0
        made, part = denoise(span).float(), slice(*span)
        weight = fade(span, before, after, like)
        seen[part] += weight
        mixed[part] = mixed_in(mixed[part], made, weight / seen[part])
    return mixed


def mixed_in(before: Tensor, new: Tensor, share: Tensor) -> Tensor:
    """``before`` + share · (``new`` − ``before``), frame by frame; exactly ``new`` where the share is 1."""
    share = share.to(new).reshape(-1, 1, 1, 1)
    return torch.where(share >= 1, new, before + share * (new - before))
