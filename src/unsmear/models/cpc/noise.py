"""Noise that belongs to frames, not to tiles, windows or batches; and its way along the motion. Ours."""

import hashlib

import torch
from torch import Tensor

from unsmear.nn.sampling import pixel_grid


def frame_generator(seed: int, frame: int) -> torch.Generator:
    """The source of all noise of one frame: the same on every run, however the video is cut up."""
    digest = hashlib.sha256(f"{seed}/{frame}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def carried_noise(previous: Tensor, fresh: Tensor, motion: Tensor, kept: Tensor) -> Tensor:
    """Noise that moves with the picture: where ``kept``, that of the previous frame at p + V, else fresh.

    Values are moved whole, to the nearest cell, so that they stay independent; a cell that is read twice keeps its
    value for the first reader only.

    Args:
        previous, fresh: (C, h, w), standard normal.
        motion: V (2, h, w) in cells of the latent.
        kept: (h, w) bool, where the motion can be trusted.

    Returns:
        (C, h, w), standard normal.
    """
    h, w = fresh.shape[-2:]
    at = (pixel_grid(h, w, motion) + motion).round().long()
    x, y = at[0], at[1]
    inside = kept & (x >= 0) & (x < w) & (y >= 0) & (y < h)
    source = (y.clamp(0, h - 1) * w + x.clamp(0, w - 1)).flatten()
    order = torch.arange(h * w, device=source.device)
    first = torch.full((h * w,), h * w, device=source.device)
    asked = torch.where(inside.flatten(), source, h * w - 1)
    readers = torch.where(inside.flatten(), order, h * w)
    first = first.scatter_reduce(0, asked, readers, "amin")
    alone = inside.flatten() & (first[source] == order)
    moved = previous.flatten(1)[:, source]
    return torch.where(alone, moved, fresh.flatten(1)).reshape(fresh.shape)
