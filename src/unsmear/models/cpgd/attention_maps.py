"""Attention maps of the control network, and of the gates that the priors set (CPGD-Net, Fig. 10)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unsmear.models.cpgd.attention import token_grids, watched_attention
from unsmear.models.cpgd.control import CPControlNet


class Heat(NamedTuple):
    """Attention maps of one frame on the grid of its latent (h, w), the mean over all self-attention layers."""

    received: Tensor
    """Attention that a token receives from all others, with mean 1."""
    gate: Tensor | None
    """Distance of A = L_m(V, R) from L_m(0, 0), the root mean square over channels; None where the layers are
    not guided.
    """


@torch.inference_mode()
def control_heat(
    control: CPControlNet, sample: Tensor, timestep: Tensor, text: Tensor, hint: Tensor, priors: Tensor | None
) -> Heat:
    """Attention maps of one call of the control network. The paper does not state what its maps average: ours.

    Args:
        control: the network.
        sample, hint: latents (1, C, h, w).
        timestep: t.
        text: prompt embedding (1, tokens, ``cross_attention_dim``).
        priors: (1, 3, H, W) of ``control.prior_tensor``; None for none.
    """
    size = (sample.shape[-2], sample.shape[-1])
    grids = token_grids(size, len(control.config["block_out_channels"]))
    with watched_attention(control) as layers:
        control(sample, timestep, text, hint, priors, return_dict=False)
        kept = [(p.heat, p.gate) for p in layers.values()]

    def mean(maps: list[Tensor]) -> Tensor:
        grown = [F.interpolate(m.reshape(1, 1, *grids[m.shape[1]]).float(), size, mode="bilinear") for m in maps]
        return torch.stack(grown).mean(0)[0, 0].cpu()

    received = mean([heat for heat, _ in kept if heat is not None])
    gates = [gate for _, gate in kept if gate is not None]
    return Heat(received / received.mean(), mean(gates) if gates else None)
