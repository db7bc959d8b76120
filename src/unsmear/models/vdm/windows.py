"""Windows in time: a denoiser of clips on a longer shot, its answers blended where windows overlap (METHODS §4).

Ours: the paper restores single clips. At every step neighbouring windows agree on the frames that they share, so no
window begins with a picture of its own; the weights are those of a cross-fade.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Span = tuple[int, int]
"""First frame and the one after the last."""


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
    """Shots by the frames that begin one; the first frame begins one whatever it says."""
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
    """Denoise every window and mix what they say, a running mean: where windows agree the result is exactly theirs.

    Args:
        spans: from ``window_spans``.
        denoise: a window → (F, C, h, w).
        like: (T, C, h, w), tells shape and device.

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
