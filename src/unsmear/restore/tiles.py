"""Cutting a frame into overlapping tiles and putting results together without a seam. Ours.

Neighbouring tiles share ``overlap`` pixels. The outer third of what a tile adds there is thrown away, since
it has seen the tile's border; over the middle third one tile fades into the next. Where two tiles agree the
result is exactly what both say.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from unsmear.models.cpfp.network import PriorTensors

FULL_SIZE_CHANNELS = 1000
"""Of the widest level, from which on a network counts as full size."""

S = TypeVar("S", bound=Any)


class Tile(NamedTuple):
    """Half-open pixel ranges."""

    top: int
    bottom: int
    left: int
    right: int

    def cut(self, field: Tensor, cell: int = 1) -> Tensor:
        """This part of a field (…, H/cell, W/cell)."""
        return field[..., self.top // cell : self.bottom // cell, self.left // cell : self.right // cell]

    def meets(self, other: "Tile") -> bool:
        """Whether the two have a pixel in common."""
        return (
            self.top < other.bottom and other.top < self.bottom and self.left < other.right and other.left < self.right
        )

    @classmethod
    def around(cls, tiles: Sequence["Tile"]) -> "Tile":
        """The smallest tile that holds all of ``tiles``."""
        tops, bottoms, lefts, rights = zip(*tiles, strict=True)
        return cls(min(tops), max(bottoms), min(lefts), max(rights))


def cut_priors(priors: PriorTensors, tile: Tile) -> PriorTensors:
    """Priors of a tile whose bounds are multiples of 8."""
    return priors._replace(
        motion=tile.cut(priors.motion, 8),
        motion_back=tile.cut(priors.motion_back, 8),
        residual=tile.cut(priors.residual, 4),
    )


def spans(length: int, tile: int, overlap: int, multiple: int) -> list[tuple[int, int]]:
    """Cover [0, length) by ranges of ``tile`` that overlap by at least ``overlap``; bounds are multiples.

    ``length`` itself must be a multiple.
    """
    if tile >= length:
        return [(0, length)]
    if tile <= overlap:
        raise ValueError(f"tile {tile} px must be larger than the overlap, {overlap} px")
    count = -(-(length - overlap) // (tile - overlap))
    last = length - tile
    starts = [round(last * i / (count - 1) / multiple) * multiple for i in range(count)]
    return [(s, s + tile) for s in starts]


def tile_rows(height: int, width: int, tile: int, overlap: int, multiple: int) -> list[list[Tile]]:
    """Tiles of a frame, row by row. ``tile`` is rounded up to a multiple."""
    tile = -(-tile // multiple) * multiple
    columns = spans(width, tile, overlap, multiple)
    return [
        [Tile(top, bottom, left, right) for left, right in columns]
        for top, bottom in spans(height, tile, overlap, multiple)
    ]


def _ramp(shared: int, like: Tensor) -> Tensor:
    """Weight of the newer tile over ``shared`` pixels: 0, then a rise over the middle third, then 1."""
    position = (torch.arange(shared, device=like.device, dtype=torch.float32) + 0.5) / shared
    return ((position - 1 / 3) * 3).clamp(0, 1).to(like.dtype)


def _append(done: Tensor | None, piece: Tensor, at: int, axis: int) -> Tensor:
    """Join ``piece``, which starts at ``at`` along ``axis``, to what is done up to there."""
    if done is None:
        return piece
    size = done.shape[axis]
    shared = size - at
    shape = [1] * piece.ndim
    shape[axis] = shared
    weight = _ramp(shared, piece).reshape(shape)
    old, new = done.narrow(axis, at, shared), piece.narrow(axis, 0, shared)
    mixed = torch.where(weight >= 1, new, old + weight * (new - old))
    rest = piece.narrow(axis, shared, piece.shape[axis] - shared)
    return torch.cat([done.narrow(axis, 0, at), mixed, rest], axis)


def by_tiles(
    rows: list[list[Tile]], process: Callable[[Tile], tuple[Tensor, ...]], cells: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Run ``process`` on every tile and join each of its results.

    Args:
        rows: from ``tile_rows``.
        process: returns one or more fields (…, h/cell, w/cell) for a tile.
        cells: for each result, frame pixels a cell.
    """
    joined: list[Tensor | None] = [None] * len(cells)
    for row in rows:
        strips: list[Tensor | None] = [None] * len(cells)
        for tile in row:
            for i, result in enumerate(process(tile)):
                strips[i] = _append(strips[i], result, tile.left // cells[i], result.ndim - 1)
        for i, strip in enumerate(strips):
            assert strip is not None
            joined[i] = _append(joined[i], strip, row[0].top // cells[i], strip.ndim - 2)
    return tuple(j for j in joined if j is not None)


def first_latent_tile_px(pipe: Any, tile: int, whole_cells: int, height: int, width: int) -> int | None:
    """Side of the tiles to begin with, None for whole frames.

    Args:
        pipe: a pipeline with ``cell`` and ``unet``.
        tile: its sampling's, for a full-size network, which takes tiles always.
        whole_cells: latents up to this many cells are denoised in one tile by a compact network.
        height, width: of the frames.
    """
    if max(pipe.unet.config.block_out_channels) >= FULL_SIZE_CHANNELS:
        return int(tile * pipe.cell)
    return None if height * width <= whole_cells * pipe.cell**2 else int(whole_cells**0.5) * int(pipe.cell)


def tiled(sampling: S, frames: Tensor, tile_px: int | None, cell: int) -> S:
    """The sampling with tiles of the latent of frames (T, 3, H, W) that overlap by half."""
    longest = max(frames.shape[-2:])
    cells = (longest if tile_px is None else min(tile_px, longest)) // cell
    return replace(sampling, tile=cells, stride=max(cells // 2, 1))
