"""Encoding and decoding of frames by diffusers' autoencoders, and wavelet colour transfer between frames."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

WAVELET_LEVELS = 5
"""Levels of the à-trous decomposition, as in the release of CPGD-Net's authors."""


def is_kl(vae: Any) -> bool:
    """Whether ``vae`` is an ``AutoencoderKL``; ``AutoencoderDC`` and ``AutoencoderTiny`` encode to plain tensors."""
    return hasattr(vae.config, "latent_channels") and hasattr(vae, "quant_conv")


def cell_px(vae: Any) -> int:
    """Frame pixels per latent cell, each way."""
    config = vae.config
    return 2 ** (len(config.block_out_channels if is_kl(vae) else config.encoder_block_out_channels) - 1)


def encode(vae: Any, frames: Tensor) -> Tensor:
    """Latents (T, L, h, w) float32 of frames (T, 3, H, W) in [0, 1]: the posterior's mode, scaled."""
    encoded = vae.encode((frames * 2 - 1).to(vae.dtype))
    latents = encoded.latent_dist.mode() if is_kl(vae) else encoded[0]
    return latents.float() * vae.config.scaling_factor


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Frames (T, 3, H, W) float32, about [0, 1] and not clipped, of latents (T, L, h, w)."""
    return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float() / 2 + 0.5


def one_by_one(function: Any, vae: Any, items: Tensor) -> Tensor:
    """Apply ``function`` (``encode`` or ``decode``) to (T, …) item by item, which takes the memory of one frame."""
    return torch.cat([function(vae, item[None]) for item in items])


def accepted_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration without the key that ``AutoencoderTiny`` saves and its constructor does not accept."""
    tiny = "encoder_block_out_channels" in config
    return {key: value for key, value in config.items() if not (tiny and key == "block_out_channels")}


def coarse(image: Tensor, levels: int = WAVELET_LEVELS) -> Tensor:
    """Low-pass of ``image`` (B, C, H, W): 3×3 binomials at ``levels`` spacings 1, 2, 4, …; edges are replicated."""
    profile = image.new_tensor([0.25, 0.5, 0.25])
    channels = image.shape[1]
    for level in range(levels):
        step = 2**level
        for axis, pad in ((2, (0, 0, step, step)), (3, (step, step, 0, 0))):
            kernel = profile.reshape([1, 1, *(3 if a == axis else 1 for a in (2, 3))]).expand(channels, -1, -1, -1)
            image = F.conv2d(F.pad(image, pad, mode="replicate"), kernel, dilation=step, groups=channels)
    return image


def transfer_colour(image: Tensor, reference: Tensor) -> Tensor:
    """Return ``image`` with the coarse scales of ``reference``; both (B, 3, H, W). As in the release of CPGD-Net."""
    return image + coarse(torch.as_tensor(reference - image))
