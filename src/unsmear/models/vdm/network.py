"""Video diffusion model: a 3D UNet of the ModelScopeT2V family, conditioned on the blurred clip (VDM §4.1, Fig. 1).

The UNet is diffusers' own, unchanged, so that published weights load and save without conversion.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unsmear.models.vdm.conditions import BlurEncoder, ImageTokens

CLIP_FRAMES = 16
"""F: frames of a clip (§5.2)."""

PARTS = ("unet", "blur_encoder", "image_tokens")


class VDM(nn.Module):
    """3D UNet with the encoders of its conditions: predicts from noisy latents, blurred frames and an image vector.

    Args:
        unet: ``UNet3DConditionModel`` over L latent channels.
        blur_encoder: its width is that of the UNet's first level.
        image_tokens: its token width is that of the UNet's context.

    Raises:
        ValueError: sizes that do not match; both are named.
    """

    def __init__(self, unet: UNet3DConditionModel, blur_encoder: BlurEncoder, image_tokens: ImageTokens):
        super().__init__()
        self.unet, self.blur_encoder, self.image_tokens = unet, blur_encoder, image_tokens
        for what, ours, theirs in (
            ("latent channels", blur_encoder.channels, unet.config["in_channels"]),
            ("width", blur_encoder.config["width"], unet.config["block_out_channels"][0]),
            ("context", image_tokens.config["token_width"], unet.config["cross_attention_dim"]),
        ):
            if ours != theirs:
                raise ValueError(f"the 3D UNet's {what} is {theirs}, that of its conditions {ours}")

    @classmethod
    def assembled(
        cls,
        unet: UNet3DConditionModel,
        vae: Any,
        blur_encoder: BlurEncoder | None = None,
        image_tokens: ImageTokens | None = None,
    ) -> "VDM":
        """Assemble the model of a UNet and its autoencoder; missing parts are initialised.

        Args:
            unet: over L latent channels, or 3L as in TF-T2V: then its first convolution is split, and the weights of
                the further 2L channels become the second layer of a new projection.
            vae: the autoencoder, whose encoder a new ``BlurEncoder`` copies.
            blur_encoder, image_tokens: trained parts; None for new ones.

        Raises:
            ValueError: sizes that do not match.
        """
        width = int(unet.config["block_out_channels"][0])
        encoder = BlurEncoder.beside(vae, width) if blur_encoder is None else blur_encoder
        if unet.config["in_channels"] == 3 * encoder.channels:
            unet, further = divided(unet, encoder.channels)
            if blur_encoder is None:
                encoder.last.weight.data.copy_(further)
        if image_tokens is None:
            context = int(unet.config["cross_attention_dim"])
            image_tokens = ImageTokens(vector_width=context, token_width=context)
        return cls(unet, encoder, image_tokens)

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        blurred: Tensor | None = None,
        vector: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Prediction (B, F, L, h, w) of a batch of clips.

        Args:
            noisy: noisy latents (B, F, L, h, w).
            timestep: (B,).
            blurred: frames (B, F, 3, H, W) in [0, 1]; None for no condition at all.
            vector: image vectors (B, width) of the centre frames; None: from the model's own embedding.
            known: (B,) bool, False where the image vector is dropped (zeros); None keeps all.
        """
        if blurred is None:
            return self.denoise(noisy, timestep, self.image_tokens(self.image_tokens.unknown(len(noisy))), None)
        if vector is None:
            vector = self.image_tokens.embed(centre(blurred))
        if known is not None:
            vector = vector * known[:, None].to(vector)
        return self.denoise(noisy, timestep, self.image_tokens(vector), self.blur_encoder(blurred))

    def denoise(self, noisy: Tensor, timestep: Tensor, tokens: Tensor, projected: Tensor | None) -> Tensor:
        """Prediction (B, F, L, h, w) from tokens (B, n, width) and projected latents (B, F, C, h, w) of the blur."""
        with _added(self.unet.conv_in, projected):
            prediction = self.unet(noisy.transpose(1, 2), timestep, tokens, return_dict=False)[0]
        return prediction.transpose(1, 2)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute every layer in the backward pass of training: less memory, more time."""
        self.blur_encoder.checkpointed = True
        for block in (*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks):
            for kind in ("resnets", "temp_convs", "attentions", "temp_attentions"):
                for layer in getattr(block, kind, ()):
                    layer.forward = partial(_checkpointed, type(layer).forward, layer)

    def save_pretrained(self, folder: Path | str) -> None:
        """Save each part in a folder of its name, in the layout of diffusers."""
        for part in PARTS:
            getattr(self, part).save_pretrained(Path(folder) / part)


def centre(frames: Tensor) -> Tensor:
    """Centre frames (B, 3, H, W) of clips (B, F, 3, H, W)."""
    return frames[:, frames.shape[1] // 2]


def divided(unet: UNet3DConditionModel, channels: int) -> tuple[UNet3DConditionModel, Tensor]:
    """Split the first convolution: the UNet over the first ``channels``, and the weights (C, n, 3, 3) of the others."""
    state = unet.state_dict()
    weight = state["conv_in.weight"]
    state["conv_in.weight"] = weight[:, :channels].contiguous()
    with torch.device("meta"):
        narrow = UNet3DConditionModel.from_config({**unet.config, "in_channels": channels})
    narrow.load_state_dict(state, strict=True, assign=True)
    return narrow.train(unet.training), weight[:, channels:]


@contextmanager
def _added(layer: nn.Module, more: Tensor | None) -> Iterator[None]:
    """Context in which ``more`` (B, F, C, h, w) is added to the output (B·F, C, h, w) of ``layer``."""
    if more is None:
        yield
        return
    flat = more.flatten(0, 1)
    hook = layer.register_forward_hook(lambda _, __, out: out + flat.to(out.dtype))
    try:
        yield
    finally:
        hook.remove()


def _checkpointed(forward: Any, layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(layer, *args, **kwargs)
    return checkpoint(forward, layer, *args, use_reentrant=False, **kwargs)
