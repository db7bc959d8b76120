"""Conditions of the video diffusion model: latents of the blurred frames, and tokens of the centre frame.

The projected latents (``BlurEncoder``) are added to the 3D UNet's first convolution, and the tokens of the centre frame
(``ImageTokens``) are the context of its cross-attention (VDM §4.1; what the paper does not state is ours).
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unsmear.models.common.latents import accepted_config, is_kl
from unsmear.models.common.public import public

AUTOENCODERS: dict[str, Any] = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderDC, AutoencoderTiny)}

START = 0.1
"""Scale of the initial weights of the projection's last layer; with zeros the encoder would have no gradient at first.
Ours."""

EMBEDDED_PX = 64
"""Side to which the compact embedding resizes a whole frame."""


@public
class BlurEncoder(ModelMixin, ConfigMixin):
    """Image encoder of the blurred frames: a copy of the autoencoder's encoder, and a projection into the UNet.

    The projection is ``Conv(L→2L) → Conv(2L→C)``, added to the UNet's first convolution (ours). With L = 4 its
    second layer corresponds to the eight further channels of TF-T2V's first convolution.

    Args:
        autoencoder: configuration of the autoencoder with its ``_class_name``, one of ``AUTOENCODERS``.
        width: C, channels of the UNet's first level.
    """

    config_name = "config.json"  # type: ignore[assignment]  # diffusers' own protocol

    @register_to_config
    def __init__(self, autoencoder: dict[str, Any], width: int = 320):
        super().__init__()
        vae = AUTOENCODERS[autoencoder["_class_name"]].from_config(autoencoder)
        channels = vae.config.latent_channels
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv if is_kl(vae) else None
        self.projection = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.Conv2d(2 * channels, width, 3, padding=1, bias=False)
        )
        self.last.weight.data.mul_(START)
        self.channels, self.scaling = int(channels), float(vae.config.scaling_factor)
        self.checkpointed = False
        """Whether training uses gradient checkpointing."""

    @classmethod
    def beside(cls, vae: Any, width: int) -> "BlurEncoder":
        """Initialise with a copy of the encoder of ``vae`` and a new projection."""
        config = {key: value for key, value in accepted_config(vae.config).items() if not key.startswith("_")}
        blur_encoder = cls(config | {"_class_name": type(vae).__name__}, width)
        blur_encoder.encoder.load_state_dict(vae.encoder.state_dict())
        if blur_encoder.quant_conv is not None:
            blur_encoder.quant_conv.load_state_dict(vae.quant_conv.state_dict())
        return blur_encoder

    @property
    def last(self) -> nn.Conv2d:
        """The second layer of the projection."""
        layer = self.projection[1]
        assert isinstance(layer, nn.Conv2d)
        return layer

    def latents(self, frames: Tensor) -> Tensor:
        """Latents (N, L, h, w) of frames (N, 3, H, W) in [0, 1]; before training those of the autoencoder."""
        inputs = (frames * 2 - 1).to(self.dtype)
        again = self.checkpointed and torch.is_grad_enabled()
        encoded = checkpoint(self.encoder, inputs, use_reentrant=False) if again else self.encoder(inputs)
        if self.quant_conv is not None:
            encoded = self.quant_conv(encoded)[:, : self.channels]  # the posterior's mean
        return encoded * self.scaling

    def forward(self, frames: Tensor) -> Tensor:
        """Projected latents (B, T, C, h, w) of frames (B, T, 3, H, W) in [0, 1], for the UNet's first convolution."""
        return self.projection(self.latents(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])


class FrameEmbedding(nn.Module):
    """Embedding of a frame as one vector, in place of CLIP in the compact model. Ours.

    Args:
        channels: of each level, half the resolution of the one before.
        width: of the vector.
    """

    def __init__(self, channels: tuple[int, ...], width: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(channels[-1], width)

    def forward(self, frames: Tensor) -> Tensor:
        """Vectors (B, width) of frames (B, 3, H, W) in [0, 1]."""
        small = F.adaptive_avg_pool2d(frames, EMBEDDED_PX) * 2 - 1
        return self.out(self.layers(small.to(self.out.weight.dtype)).mean((2, 3)))


@public
class ImageTokens(ModelMixin, ConfigMixin):
    """Context tokens of the UNet's cross-attention: those of the empty prompt, then those of the image vector.

    Args:
        vector_width: width of the image vector; CLIP ViT-H's projection has 1,024.
        token_width: width of the UNet's context.
        tokens: number of tokens of the image vector; 4 in TF-T2V.
        prompt_tokens: number of tokens of the empty prompt, stored in ``empty_prompt``; 0 for a model without text.
        embedding_channels: of our ``FrameEmbedding``; None where image vectors come from CLIP.
    """

    config_name = "config.json"  # type: ignore[assignment]  # diffusers' own protocol

    @register_to_config
    def __init__(
        self,
        vector_width: int = 1024,
        token_width: int = 1024,
        tokens: int = 4,
        prompt_tokens: int = 77,
        embedding_channels: tuple[int, ...] | None = None,
    ):
        super().__init__()
        self.pre_image_condition = nn.Sequential(
            nn.Linear(vector_width, token_width), nn.SiLU(), nn.Linear(token_width, tokens * token_width)
        )
        self.register_buffer("empty_prompt", torch.zeros(prompt_tokens, token_width))
        self.embedding = FrameEmbedding(tuple(embedding_channels), vector_width) if embedding_channels else None

    def forward(self, vector: Tensor) -> Tensor:
        """Tokens (B, ``prompt_tokens`` + ``tokens``, ``token_width``) of image vectors (B, ``vector_width``).

        A vector of zeros is the unconditional input of classifier-free guidance.
        """
        width = int(self.config["token_width"])
        image = self.pre_image_condition(vector.to(self.dtype)).unflatten(1, (-1, width))
        prompt = self.empty_prompt.to(image).expand(len(image), -1, -1)
        return torch.cat([prompt, image], dim=1)

    def unknown(self, count: int) -> Tensor:
        """Image vectors (count, ``vector_width``) of zeros, the unconditional input."""
        return torch.zeros(count, int(self.config["vector_width"]), device=self.device)

    @apply_forward_hook
    def embed(self, frames: Tensor) -> Tensor:
        """Image vectors (B, ``vector_width``) of frames (B, 3, H, W) in [0, 1], by our ``FrameEmbedding``.

        Raises:
            ValueError: the model has none, and image vectors must come from CLIP.
        """
        if self.embedding is None:
            raise ValueError("these image tokens have no embedding of their own: give CLIP's image vectors")
        return self.embedding(frames)


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation of images in [0, 1], by channel."""


def image_vectors(tokens: ImageTokens, image_encoder: Any, frames: Tensor) -> Tensor:
    """Image vectors (B, width) of frames (B, 3, H, W) in [0, 1].

    Args:
        tokens: its embedding is used where it has one.
        image_encoder: ``CLIPVisionModelWithProjection`` of transformers; without it and without an embedding the
            vectors are zero (unconditional).
        frames: whole frames; for CLIP they are resized to its square without keeping the aspect ratio, as in TF-T2V.
    """
    if tokens.embedding is not None:
        return tokens.embed(frames)
    if image_encoder is None:
        return tokens.unknown(len(frames))
    side = image_encoder.config.image_size
    small = F.interpolate(frames, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    mean, std = (small.new_tensor(values).reshape(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        return image_encoder(((small - mean) / std).to(image_encoder.dtype)).image_embeds.float()
