"""Transformer over windows of frames, rows and columns, every other layer shifted by half of one (Liu et al., 2022)."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int, int]
"""Frames, rows and columns."""

_APART = -100.0
"""Added to the scores of tokens that only the cyclic shift made neighbours."""


class WindowLayer(nn.Module):
    """Self-attention within windows, with a learnt bias by relative position, and a perceptron; both residual.

    Args:
        channels: of the tokens.
        heads: of the attention.
        window: its size; a map that is smaller has smaller windows.
        shifted: whether windows are shifted by half their size, along axes on which there is more than one.
    """

    def __init__(self, channels: int, heads: int, window: Size, shifted: bool):
        super().__init__()
        self.heads, self.window, self.shifted = heads, window, shifted
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.project = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.zeros((2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1), heads))
        self.expand, self.reduce = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: (B, T, H, W, C)."""
        x = x + self._attend(self.norm1(x))
        return x + self.reduce(F.gelu(self.expand(self.norm2(x))))

    def _attend(self, x: Tensor) -> Tensor:
        size = x.shape[1:4]
        window: Size = tuple(min(w, n) for w, n in zip(self.window, size, strict=True))  # type: ignore[assignment]
        shift = [w // 2 if self.shifted and n > w else 0 for w, n in zip(window, size, strict=True)]
        more = [-n % w for w, n in zip(window, size, strict=True)]
        x = F.pad(x, (0, 0, 0, more[2], 0, more[1], 0, more[0]))
        moved = x.roll([-s for s in shift], (1, 2, 3))
        regions = [_regions(n + m, w, s) for n, m, w, s in zip(size, more, window, shift, strict=True)]
        # One row of windows in time after the other, since scores of all of them at once take much memory
        parts = []
        for frames, apart in zip(moved.split(window[0], 1), regions[0].split(window[0]), strict=True):
            parts.append(self._rows(frames, window, apart, regions[1], regions[2]))
        out = torch.cat(parts, 1).roll(shift, (1, 2, 3))
        return out[:, : size[0], : size[1], : size[2]]

    def _rows(self, x: Tensor, window: Size, *regions: Tensor) -> Tensor:
        """Attention within the windows of (B, window[0], H, W, C); ``regions``: of each frame, row and column."""
        b, _, h, w, c = x.shape
        y = _windows(x, window)
        q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, c // self.heads)).permute(2, 0, 3, 1, 4)
        bias = self.bias[_relative(self.window, y.shape[1]).to(y.device)].permute(2, 0, 1)[None]
        if any(len(r.unique()) > 1 for r in regions):
            combined = sum(r.reshape([-1 if i == k else 1 for i in range(3)]) * 3**k for k, r in enumerate(regions))
            labels = _windows(combined[None, ..., None], window)[..., 0]
            apart = (labels[:, None, :] != labels[:, :, None]).to(y) * _APART
            bias = bias + apart.to(bias)[:, None].repeat(b, 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q).expand(len(q), -1, -1, -1))
        out = self.project(out.transpose(1, 2).flatten(2))
        grid = (b, h // window[1], w // window[2], *window, c)
        return out.reshape(grid).permute(0, 3, 1, 4, 2, 5, 6).reshape(b, window[0], h, w, c)


class WindowGroup(nn.Module):
    """A plain and a shifted layer, a linear layer, and a skip connection over all three."""

    def __init__(self, channels: int, heads: int, window: Size):
        super().__init__()
        self.layers = nn.Sequential(*(WindowLayer(channels, heads, window, shifted) for shifted in (False, True)))
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.layers(x))


def _windows(x: Tensor, window: Size) -> Tensor:
    """(B, window[0], H, W, C) → (B · windows, tokens, C), batch first, then rows, then columns."""
    b, t, h, w, c = x.shape
    x = x.reshape(b, t, h // window[1], window[1], w // window[2], window[2], c)
    return x.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, t * window[1] * window[2], c)


def _regions(length: int, window: int, shift: int) -> Tensor:
    """Label of each position along an axis: tokens of a window attend to each other where all three labels agree."""
    labels = torch.zeros(length, dtype=torch.long)
    if shift:
        labels[-window:], labels[-shift:] = 1, 2
    return labels


def _relative(window: Size, tokens: int) -> Tensor:
    """Row of the table of biases for each pair of the first ``tokens`` of a window, (tokens, tokens)."""
    places = torch.tensor(list(product(*map(range, window))))
    spans = [2 * w - 1 for w in window]
    difference = places[:, None] - places[None] + torch.tensor(window) - 1
    rows = (difference[..., 0] * spans[1] + difference[..., 1]) * spans[2] + difference[..., 2]
    return rows[:tokens, :tokens]
