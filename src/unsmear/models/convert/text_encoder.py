"""Conversion of the text encoder of an original Stable Diffusion 2 checkpoint, OpenCLIP ViT-H, to transformers' layout.

transformers itself is needed only to run it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

from unsmear.errors import WeightsError
from unsmear.models.convert.strict import State, and_more, check_shapes

PREFIX = "cond_stage_model.model."
HEAD_WIDTH = 64

UNUSED = ("text_projection", "logit_scale", "attn_mask")
"""Parts of OpenCLIP that only its contrastive training uses."""

_BLOCK_WIDTHS = {
    "layer_norm1.weight": (1,),
    "layer_norm1.bias": (1,),
    "layer_norm2.weight": (1,),
    "layer_norm2.bias": (1,),
    **{f"self_attn.{name}_proj.weight": (1, 1) for name in ("q", "k", "v", "out")},
    **{f"self_attn.{name}_proj.bias": (1,) for name in ("q", "k", "v", "out")},
    "mlp.fc1.weight": (4, 1),
    "mlp.fc1.bias": (4,),
    "mlp.fc2.weight": (1, 4),
    "mlp.fc2.bias": (1,),
}
"""Shapes of a block's tensors, in multiples of its width."""

_BLOCK_KEYS = (
    *(f"{name}.{kind}" for name in ("ln_1", "ln_2", "attn.out_proj") for kind in ("weight", "bias")),
    *(f"mlp.{name}.{kind}" for name in ("c_fc", "c_proj") for kind in ("weight", "bias")),
    "attn.in_proj_weight",
    "attn.in_proj_bias",
)


@dataclass(frozen=True)
class TextEncoder:
    """``config.json`` and tensors of a ``CLIPTextModel``."""

    config: dict[str, Any]
    state: State


def convert_text_encoder(state: Mapping[str, torch.Tensor], width: int, blocks_held: int) -> TextEncoder:
    """Convert OpenCLIP's text encoder without its last block: Stable Diffusion 2 uses the penultimate one's output.

    Args:
        state: tensors under ``cond_stage_model.model.``, with that prefix.
        width: width of the embeddings, that of the denoiser's context.
        blocks_held: number of blocks in the checkpoint, including the unused last one.

    Raises:
        WeightsError: a key is missing, unknown, or of another shape.
    """
    blocks = {f"transformer.resblocks.{n}.{key}" for n in range(blocks_held) for key in _BLOCK_KEYS}
    last = {key for key in blocks if key.startswith(f"transformer.resblocks.{blocks_held - 1}.")}
    tops = {"positional_embedding", "token_embedding.weight", "ln_final.weight", "ln_final.bias"}
    used = {PREFIX + key for key in tops | blocks - last}
    unused = {PREFIX + key for key in last.union(UNUSED)}
    for what, keys in (("lacks", used - state.keys()), ("has unknown", state.keys() - used - unused)):
        if keys:
            raise WeightsError(f"{what} {and_more(sorted(keys))}: expected the text encoder of Stable Diffusion 2")
    found = state[f"{PREFIX}ln_final.weight"].shape[0]
    if found != width:
        raise WeightsError(f"has a text encoder {found} wide, expected {width}, as wide as the denoiser's context")
    source = {key: value for key, value in state.items() if key in used}
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
    converted = convert_open_clip_checkpoint(model, source, prefix=PREFIX)
    vocabulary = converted["text_model.embeddings.token_embedding.weight"].shape[0]
    tokens = converted["text_model.embeddings.position_embedding.weight"].shape[0]
    config = _config(width, blocks_held - 1, vocabulary, tokens)
    target = _shapes(config)
    if converted.keys() != target.keys():
        raise WeightsError(f"has a text encoder that converts to unknown {min(converted.keys() ^ target.keys())}")
    check_shapes(converted, target)
    return TextEncoder(config, {key: value.contiguous() for key, value in converted.items()})


def _config(width: int, layers: int, vocabulary: int, tokens: int) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "vocab_size": vocabulary,
        "max_position_embeddings": tokens,
        "projection_dim": width,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def _shapes(config: dict[str, Any]) -> State:
    width = config["hidden_size"]
    top = {
        "embeddings.token_embedding.weight": (config["vocab_size"], width),
        "embeddings.position_embedding.weight": (config["max_position_embeddings"], width),
        "final_layer_norm.weight": (width,),
        "final_layer_norm.bias": (width,),
    }
    for n in range(config["num_hidden_layers"]):
        for key, multiples in _BLOCK_WIDTHS.items():
            top[f"encoder.layers.{n}.{key}"] = tuple(width * m for m in multiples)
    return {f"text_model.{key}": torch.empty(shape, device="meta") for key, shape in top.items()}
