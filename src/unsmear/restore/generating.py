"""Tiles of the latent, for restorers that generate."""

from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

FULL_SIZE_CHANNELS = 1000
"""Of the widest level, from which on a network counts as full size."""

S = TypeVar("S", bound=Any)


def first_tile_px(pipe: Any, tile: int, whole_cells: int, height: int, width: int) -> int | None:
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
