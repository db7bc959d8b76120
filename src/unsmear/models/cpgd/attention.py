"""Self-attention whose query is guided by the coding priors (CPGD-Net §III-C, Eqs. 6–7).

``A = L_m(V, R)`` on the grid of the layer's tokens, ``Q' = L_q(F) + L_qm(F ⊙ A)``; keys, values and the softmax
stay as they are. ``L_m`` is ``attn1.mask`` and ``L_qm`` is ``attn1.to_qm`` in the state dict.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

PRIOR_CHANNELS = 3
"""V_x, V_y and R."""

LONGEST_PX = 32.0
"""Scale of V, which is then clipped to [-1, 1]; a constant, so that crops, tiles and frames agree. Ours."""

RELEASED_RESIDUAL = 32 / 255
"""R in the ``released`` form is the magnitude of the residual over 255 levels; ours is over 32, and clipped there."""

PriorForm = Literal["fixed", "released"]
"""Form of the prior tensor, see ``control_priors``."""

PriorTokens = Mapping[int, Tensor]
"""Number of tokens → (B, tokens, 3)."""


def control_priors(motion: Tensor, residual: Tensor, form: PriorForm = "fixed", frames: int = 1) -> Tensor:
    """Priors as inputs of the control network; the paper does not state their scale.

    ``fixed`` (ours): V over ``LONGEST_PX``, clipped, so that crops, tiles and frames agree; R as it is. ``released``,
    as in the authors' release: V over the largest of its magnitudes, and the residual over 255 levels. The release
    takes the largest of the 48 frames of a test clip; here it is that of the frames that are sampled together. Where
    nothing moves, V stays 0.

    Args:
        motion: V, (B, 2, H, W), pixels of the frame to be restored.
        residual: R, (B, 1, H, W) in [0, 1].
        form: ``fixed`` or ``released``.
        frames: length of the groups of consecutive frames in B.

    Returns:
        (B, 3, H, W), each value in [-1, 1].
    """
    if form == "fixed":
        return torch.cat([(motion / LONGEST_PX).clamp(-1, 1), residual], dim=1)
    largest = motion.unflatten(0, (-1, frames)).abs().amax((1, 2, 3, 4)).repeat_interleave(frames)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))[:, None, None, None]
    return torch.cat([motion / scale, residual * RELEASED_RESIDUAL], dim=1)


def on_latent_grid(priors: Tensor, size: tuple[int, int], form: PriorForm) -> Tensor:
    """Priors (B, 3, H, W) of whole frames as the ``released`` form has them on the grid of the latent (height, width).

    Resized bilinearly, with aligned corners, which a tile cannot be: tiles are cut from the result. ``fixed`` priors
    are returned unchanged.
    """
    if form == "fixed" or tuple(priors.shape[-2:]) == size:
        return priors
    return F.interpolate(priors, size=size, mode="bilinear", align_corners=True)


def prior_tokens(priors: Tensor, grid: tuple[int, int], levels: int, form: PriorForm = "fixed") -> dict[int, Tensor]:
    """Resize priors (B, 3, H, W) to every token grid of a network of ``levels`` that halves ``grid`` (height, width).

    ``fixed``: area means where the grid is coarser than the priors, bilinear where it is finer. ``released``: from the
    grid of the latent, bilinear to all.

    Returns:
        Number of tokens → (B, tokens, 3).
    """
    priors = on_latent_grid(priors, grid, form)
    tokens = {}
    for count, size in token_grids(grid, levels).items():
        coarser = size[0] <= priors.shape[-2] and size[1] <= priors.shape[-1]
        if form == "fixed" and coarser:
            resized = F.interpolate(priors, size=size, mode="area")
        else:
            resized = F.interpolate(priors, size=size, mode="bilinear", align_corners=False)
        tokens[count] = resized.flatten(2).transpose(1, 2)
    return tokens


def token_grids(grid: tuple[int, int], levels: int) -> dict[int, tuple[int, int]]:
    """Number of tokens → (height, width) of the grid, for a network of ``levels`` that halves ``grid``."""
    grids = {}
    for _ in range(levels):
        grids[prod(grid)] = grid
        grid = (-(-grid[0] // 2), -(-grid[1] // 2))
    return grids


def add_prior_query(attn: Attention, width: int | None, shared_query: bool) -> None:
    """Add L_m (and L_qm) to a self-attention layer, initialised so that its output is unchanged.

    Args:
        attn: the layer; its processor must be a ``PriorAttnProcessor``.
        width: channels of A, 1 or the layer's; None for the layer's.
        shared_query: L_qm is L_q, and L_m is initialised with zeros; else L_qm is initialised with zeros.

    Raises:
        ValueError: another width.
    """
    channels = attn.to_q.in_features
    if width not in (None, 1, channels):
        raise ValueError(f"prior_width {width} fits no layer of {channels} channels: give 1, or none for the layer's")
    attn.mask = nn.Linear(PRIOR_CHANNELS, width or channels, bias=not shared_query)
    if shared_query:
        nn.init.zeros_(attn.mask.weight)
    else:
        attn.to_qm = nn.Linear(channels, attn.to_q.out_features, bias=False)
        nn.init.zeros_(attn.to_qm.weight)


class PriorAttnProcessor:
    """Scaled dot-product attention, with the guided query where the layer has ``mask`` and priors are given.

    For diffusers' transformer blocks: tokens (B, N, C), no padding masks. In cross-attention priors are ignored.
    """

    def __init__(self) -> None:
        self.heat: Tensor | None = None
        self.gate: Tensor | None = None
        self.watched = False

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        priors: PriorTokens | None = None,
        frames: int = 1,
    ) -> Tensor:
        """Args: priors: by number of tokens; frames: number of consecutive samples that attend to each other."""
        if attention_mask is not None:
            raise NotImplementedError("padding masks are not supported in the attention of images")
        within = encoder_hidden_states is None
        context = hidden_states if within else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        if within and priors is not None and hasattr(attn, "mask"):
            prior = priors[hidden_states.shape[1]].to(hidden_states.dtype)
            project = attn.to_qm if hasattr(attn, "to_qm") else attn.to_q
            gate: Tensor = attn.mask(prior)  # type: ignore[operator]
            query = query + project(hidden_states * gate)  # type: ignore[operator]
            if self.watched:
                without: Tensor = attn.mask(torch.zeros_like(prior[:, :1]))  # type: ignore[operator]
                self.gate = (gate - without).float().square().mean(-1).sqrt()
        batch = hidden_states.shape[0]
        together = frames if within else 1
        query, key, value = (
            t.reshape(batch // together, -1, attn.heads, t.shape[-1] // attn.heads).transpose(1, 2)
            for t in (query, key, value)
        )
        if self.watched and within:
            self.heat = _received(query, key).reshape(batch, -1)
        out = F.scaled_dot_product_attention(query, key, value)
        out = out.transpose(1, 2).reshape(batch, -1, query.shape[1] * query.shape[-1])
        return attn.to_out[1](attn.to_out[0](out))


def _received(query: Tensor, key: Tensor, chunk: int = 1024) -> Tensor:
    """Attention received by each token, mean over heads and queries, times the number of tokens: (B, N) with mean 1."""
    total = key.new_zeros(key.shape[0], key.shape[2], dtype=torch.float32)
    for part in query.split(chunk, dim=2):
        scores = part.float() @ key.float().transpose(-1, -2) / key.shape[-1] ** 0.5
        total += scores.softmax(dim=-1).sum(dim=2).mean(dim=1)
    return total * (key.shape[2] / query.shape[2])


@contextmanager
def watched_attention(model: nn.Module) -> Iterator[dict[str, PriorAttnProcessor]]:
    """Context in which every self-attention of ``model`` records the attention of its last call (Fig. 10).

    Yields:
        Name of the layer → its processor. ``heat``: received attention (B, tokens) with mean 1, None before the first
        call. ``gate``: distance of A = L_m(V, R) from L_m(0, 0), root mean square over channels, (B, tokens); None
        where the layer was not guided.
    """
    layers: dict[str, PriorAttnProcessor] = {
        name: m.processor
        for name, m in model.named_modules()
        if isinstance(m, Attention) and isinstance(m.processor, PriorAttnProcessor) and name.endswith("attn1")
    }
    for processor in layers.values():
        processor.watched, processor.heat, processor.gate = True, None, None
    try:
        yield layers
    finally:
        for processor in layers.values():
            processor.watched = False
