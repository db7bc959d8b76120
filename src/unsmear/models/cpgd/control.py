"""CPControlNet: a ControlNet conditioned on a latent and on coding priors (CPGD-Net §III-C, Fig. 5).

The layout is that of DiffBIR's IRControlNet: the hint is the latent of the blurred frame or of stage 1's result, and is
concatenated with the noisy latent. The query of each self-attention is guided by the priors (``cpgd.attention``).
"""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.controlnets.controlnet import ControlNetModel, ControlNetOutput
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from unsmear.models.common.public import public
from unsmear.models.cpgd.attention import (
    PriorAttnProcessor,
    PriorForm,
    add_prior_query,
    control_priors,
    on_latent_grid,
    prior_tokens,
)

LATENT_CHANNELS = 4

SHARED_WITH_THE_UNET = (
    "in_channels",
    "down_block_types",
    "mid_block_type",
    "block_out_channels",
    "layers_per_block",
    "norm_num_groups",
    "cross_attention_dim",
    "attention_head_dim",
    "use_linear_projection",
    "upcast_attention",
)
"""Fields of the configuration that the control network shares with the UNet whose encoder it copies."""


class _NoEmbedding(nn.Module):
    """Zero, in place of ControlNet's pixel-space embedding: the hint is concatenated with the latent instead."""

    def forward(self, hint: Tensor) -> Tensor:
        return hint.new_zeros(())


@public
class CPControlNet(ControlNetModel):
    """ControlNet over (noisy latent, hint latent, priors).

    Args:
        guided: whether the priors are used; without them it is a plain IRControlNet (Table II).
        prior_width: channels of A; None for each layer's, 1 for one mask per token (Fig. 5). Ours; the paper does not
            state it.
        shared_query: L_qm is L_q, as in the authors' release; in the paper L_qm is a projection of its own.
        joint_time_attention: self-attention over all tokens of a group of frames, as in the authors' release.
        prior_form: scale and resizing of the priors, ``fixed`` or ``released`` (``cpgd.attention.control_priors``).
        others: as in diffusers' ``ControlNetModel``; ``in_channels`` counts the noisy latent alone.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = LATENT_CHANNELS,
        down_block_types: tuple[str, ...] = (
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        mid_block_type: str | None = "UNetMidBlock2DCrossAttn",
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        cross_attention_dim: int = 1024,
        attention_head_dim: int | tuple[int, ...] = (5, 10, 20, 20),
        use_linear_projection: bool = True,
        upcast_attention: bool = False,
        guided: bool = True,
        prior_width: int | None = None,
        shared_query: bool = False,
        joint_time_attention: bool = False,
        prior_form: PriorForm = "fixed",
    ):
        super().__init__(
            in_channels=in_channels,
            down_block_types=down_block_types,
            mid_block_type=mid_block_type,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            cross_attention_dim=cross_attention_dim,
            attention_head_dim=attention_head_dim,
            use_linear_projection=use_linear_projection,
            upcast_attention=upcast_attention,
        )
        self.conv_in = nn.Conv2d(2 * in_channels, block_out_channels[0], 3, padding=1)
        with torch.no_grad():
            self.conv_in.weight[:, in_channels:] = 0
        self.controlnet_cond_embedding = _NoEmbedding()  # type: ignore[assignment]
        for name, layer in self.named_modules():
            if isinstance(layer, Attention):
                layer.set_processor(PriorAttnProcessor())  # type: ignore[arg-type]  # it accepts any
                if guided and name.endswith("attn1"):
                    add_prior_query(layer, prior_width, shared_query)

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in diffusers; fields that ``ControlNetModel`` adds to the configuration are ignored."""
        inherited = cls._get_init_keys(ControlNetModel) - cls._get_init_keys(cls)
        return super().extract_init_dict({k: v for k, v in config_dict.items() if k not in inherited}, **kwargs)

    @classmethod
    def beside(cls, unet: UNet2DConditionModel, **options: Any) -> "CPControlNet":
        """Initialise a control network with the encoder of ``unet``; hint weights and output convolutions are zero.

        Args:
            unet: the frozen denoiser.
            options: ``guided``, ``prior_width``, ``shared_query``, ``joint_time_attention``, ``prior_form``.

        Raises:
            ValueError: the encoder has other keys.
        """
        config = {key: unet.config[key] for key in SHARED_WITH_THE_UNET}
        if unet.config.get("num_attention_heads"):
            config["attention_head_dim"] = unet.config["num_attention_heads"]
        control = cls(**config, **options)
        encoder = {
            key: value
            for key, value in unet.state_dict().items()
            if key.split(".")[0] in ("conv_in", "time_embedding", "down_blocks", "mid_block")
        }
        copied = encoder.pop("conv_in.weight")
        with torch.no_grad():
            control.conv_in.weight[:, : copied.shape[1]] = copied
        missing, unexpected = control.load_state_dict(encoder, strict=False)
        ours = ("conv_in.weight", "controlnet_", ".mask.", ".to_qm.")
        if unexpected or any(not any(part in key for part in ours) for key in missing):
            raise ValueError(f"the UNet's encoder has other keys: {[*unexpected, *missing][:3]}")
        return control

    def prior_tensor(
        self, motion: Tensor, residual: Tensor, frames: int = 1, latent: tuple[int, int] | None = None
    ) -> Tensor:
        """Priors (B, 3, H, W) in the form that the network is conditioned on.

        Args:
            motion: V, (B, 2, H, W), frame pixels.
            residual: R, (B, 1, H, W) in [0, 1].
            frames: length of the groups of consecutive frames in B that are sampled together.
            latent: (height, width) of the latent of whole frames, before it is cut into tiles; None where it is not.
        """
        form: PriorForm = self.config["prior_form"]
        priors = control_priors(motion, residual, form, frames)
        return priors if latent is None else on_latent_grid(priors, latent, form)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor,
        priors: Tensor | None = None,
        frames: int = 1,
        joint_time_attention: bool | None = None,
        conditioning_scale: float = 1.0,
        return_dict: bool = True,
        **others: Any,
    ) -> ControlNetOutput | tuple[Any, ...]:
        """Residuals for the UNet's skip connections.

        Args:
            sample: noisy latent (B, 4, h, w).
            timestep: one for all samples, or (B,).
            encoder_hidden_states: prompt embeddings (B, tokens, ``cross_attention_dim``).
            controlnet_cond: hint, the latent (B, 4, h, w) of the frame to be restored.
            priors: (B, 3, H, W) of ``prior_tensor``, at any size; None for none.
            frames: length of the groups of consecutive frames in B; used with ``joint_time_attention`` only.
            joint_time_attention: overrides the network's configuration; None keeps it.
            conditioning_scale: factor of the residuals.
            return_dict: whether to return a ``ControlNetOutput``; else a tuple.
            others: as in diffusers' ``ControlNetModel``.
        """
        kwargs: dict[str, Any] = dict(others.pop("cross_attention_kwargs", None) or {})
        if self.config["guided"] and priors is not None:
            size = (sample.shape[-2], sample.shape[-1])
            kwargs["priors"] = prior_tokens(
                priors, size, len(self.config["block_out_channels"]), self.config["prior_form"]
            )
        if self.config["joint_time_attention"] if joint_time_attention is None else joint_time_attention:
            kwargs["frames"] = frames
        return super().forward(
            torch.cat([sample, controlnet_cond], dim=1),
            timestep,
            encoder_hidden_states,
            controlnet_cond,
            conditioning_scale=conditioning_scale,
            cross_attention_kwargs=kwargs,
            return_dict=return_dict,
            **others,
        )
