"""Conversion of 3D UNets of TF-T2V and ModelScopeT2V in VGen's layout to diffusers' ``UNet3DConditionModel``.

TF-T2V's first convolution may have further channels beside the latent's; it is kept here, and split when a model is
assembled (``models.vdm.network``).
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import Tensor

from unsmear.errors import WeightsError
from unsmear.models.common.schedule import Family
from unsmear.models.convert.strict import State, convert_strictly, filled, part, without_prefixes
from unsmear.models.vdm.conditions import ImageTokens

log = logging.getLogger(__name__)

PREFIXES = ("module.", "unet.", "model.diffusion_model.")

UNET3D_CONFIG: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"],
    "up_block_types": ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "attention_head_dim": 64,
}
"""ModelScopeT2V's sizes, which TF-T2V shares."""

IMAGE_PREFIX = "pre_image_condition."
PROMPT_TOKENS = 77

_UNUSED = re.compile(
    r"(depth|motion|canny|masked?|sketch|single_sketch|local_image)_embedding(_after)?\.|hist_context_embedding\."
    r"|pre_y_condition_vip\."
)
"""TF-T2V's other conditions, such as sketches and depth, which are not used for deblurring."""

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "input_blocks.0.1": "transformer_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_TEMPORAL = "temopral_conv"  # VGen's own spelling
_KINDS = ("resnets", "attentions", "temp_attentions")
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "temp_attentions.0", "3": "resnets.1"}


@dataclass(frozen=True)
class VideoUNet:
    """Networks of a checkpoint in VGen's layout.

    Attributes:
        unet: over 4 channels, or 12 for TF-T2V.
        image_tokens: TF-T2V's ``pre_image_condition``, None where the checkpoint has none.
        family: family of its predictions, None where its keys do not determine it.
    """

    unet: UNet3DConditionModel
    image_tokens: ImageTokens | None
    family: Family | None


def is_vgen(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is a 3D UNet in VGen's layout, under any of the known prefixes."""
    return any(_TEMPORAL in key for key in state)


def convert_vgen(state: Mapping[str, Tensor], config: Mapping[str, Any] = UNET3D_CONFIG) -> VideoUNet:
    """Convert a checkpoint of TF-T2V or ModelScopeT2V.

    Args:
        state: tensors by name; on the meta device to check the layout only.
        config: sizes of the UNet; by default ModelScopeT2V's.

    Raises:
        WeightsError: a key without counterpart or of another shape, or an input of neither 4 nor 12 channels.
    """
    state = without_prefixes(state, PREFIXES)
    width = int(config["cross_attention_dim"])
    image = part(state, IMAGE_PREFIX)
    unused = [key for key in state if _UNUSED.match(key)]
    if unused:
        log.warning("%d tensors are unused: those of other conditions, such as %s", len(unused), unused[0])
    rest = {key: v for key, v in state.items() if not key.startswith(IMAGE_PREFIX) and not _UNUSED.match(key)}
    first, latent = rest.get("input_blocks.0.0.weight"), int(config["in_channels"])
    channels = latent if first is None else int(first.shape[1])
    if channels not in (latent, 3 * latent):
        raise WeightsError(
            f"reads {channels} channels, expected {latent} (ModelScopeT2V) or {3 * latent} (TF-T2V): "
            "models for inpainting and upscaling are not supported"
        )
    with torch.device("meta"):
        unet = UNet3DConditionModel.from_config({**config, "in_channels": channels})
    converted = convert_strictly(rest, lambda s: _converted(s, int(config["layers_per_block"])), unet.state_dict())
    is_tf_t2v = bool(image) or channels != latent
    return VideoUNet(
        filled(unet, converted), _image_tokens(image, width) if image else None, "v-zero-snr" if is_tf_t2v else None
    )


def _image_tokens(image: State, width: int) -> ImageTokens:
    last = image.get("2.weight")
    with torch.device("meta"):
        tokens = ImageTokens(
            vector_width=width,
            token_width=width,
            tokens=4 if last is None else max(last.shape[0] // width, 1),
            prompt_tokens=PROMPT_TOKENS,
        )
    target = {k: v for k, v in tokens.state_dict().items() if k != "empty_prompt"}
    converted = convert_strictly(image, lambda s: {IMAGE_PREFIX + key: v for key, v in s.items()}, target, IMAGE_PREFIX)
    like = next(iter(converted.values()))
    converted["empty_prompt"] = torch.zeros(PROMPT_TOKENS, width, device=like.device, dtype=like.dtype)
    return filled(tokens, converted)


def _converted(state: State, layers: int) -> State:
    upsamplers = {key.rsplit(".", 2)[0] for key in state if re.fullmatch(r"output_blocks\.\d+\.\d\.conv\.weight", key)}
    return {renamed(key, layers, upsamplers): _linear(key, value) for key, value in state.items()}


def _linear(key: str, value: Tensor) -> Tensor:
    """Weights of the 1×1 convolutions around attention as weights of linear layers."""
    if key.endswith(("proj_in.weight", "proj_out.weight")):
        while value.dim() > 2:
            value = value[..., 0]
    return value


def renamed(key: str, layers: int, upsamplers: set[str] | frozenset[str] = frozenset()) -> str:
    """Name of ``key`` in diffusers; unknown keys are returned unchanged.

    Args:
        key: name in VGen's layout.
        layers: resnets per block of the encoder.
        upsamplers: names of the layers of ``output_blocks`` that upsample.
    """
    for begin, name in _ENDS.items():
        if key.startswith(begin + "."):
            return name + key.removeprefix(begin)
    if match := re.fullmatch(r"middle_block\.([0-3])\.(.+)", key):
        return "mid_block." + _inside(_MIDDLE[match[1]], match[2])
    if match := re.fullmatch(r"input_blocks\.(\d+)\.(?:0\.)?op\.(weight|bias)", key):
        return f"down_blocks.{(int(match[1]) - 1) // (layers + 1)}.downsamplers.0.conv.{match[2]}"
    if match := re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", key):
        down, number, which = match[1] == "input", int(match[2]), int(match[3])
        block, layer = divmod(number - 1 if down else number, layers + 1)
        if f"output_blocks.{number}.{which}" in upsamplers and not down:
            return f"up_blocks.{block}.upsamplers.0.{match[4]}"
        if which < len(_KINDS):
            return f"{'down' if down else 'up'}_blocks.{block}." + _inside(f"{_KINDS[which]}.{layer}", match[4])
    return key


def _inside(layer: str, rest: str) -> str:
    if rest.startswith(_TEMPORAL + "."):
        return layer.replace("resnets", "temp_convs") + rest.removeprefix(_TEMPORAL)
    if layer.startswith("resnets"):
        for theirs, ours in _RESNET.items():
            if rest.startswith(theirs + "."):
                return f"{layer}.{ours}{rest.removeprefix(theirs)}"
    return f"{layer}.{rest}"
