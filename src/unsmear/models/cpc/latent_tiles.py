"""A denoiser on overlapping tiles of a latent, put together with Gaussian weights (METHODS §3)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TileBox = tuple[int, int, int, int]
"""Top, bottom, left, right; half open, cells of the latent."""

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
    """Denoise every tile and mix what they say, a running mean: where tiles agree the result is exactly theirs.

    Args:
        shape: of the result (T, C, h, w).
        boxes: from ``tile_boxes``.
        denoise: n tiles of one size → (n·T, C, height, width), the tiles one after the other.
        batch: at most so many tiles at once.
        like: tells the device; the result is float32.
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
