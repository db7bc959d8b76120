"""Conversion of the stage 1 of CPGD-Net's release to ``ReleasedCPFP``."""

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unsmear.models.convert.strict import State, convert_strictly, filled, without_prefixes
from unsmear.models.cpfp_released.attention import WindowLayer
from unsmear.models.cpfp_released.blocks import AttendedBlock, GatedBlock
from unsmear.models.cpfp_released.network import PASSES, ReleasedCPFP

log = logging.getLogger(__name__)

PREFIXES = ("module.",)
MARK = "deform_align.backward_1."

UNUSED = re.compile(
    r"(feat_extract|decoder_level1_2|decoder_level2(_[12])?|conv_before_upsampler|conv_before_input|upsampler|conv_last)\."
    r"|.*\.relative_position_index$"
)
"""Layers that the release stores and its own code never runs, and positions, which follow from the window."""

_PASSES = [f"{direction}_{number}" for direction, number in zip(PASSES, (1, 1, 2, 2), strict=True)]

_PLACES = {
    "at_full": "concat",
    "at_half.0": "down01.0",
    "at_half.2": "encoder_level1",
    "at_half.3": "encoder_level1_1",
    "at_quarter.0": "down12.0",
    "at_quarter.2": "encoder_level2",
    "at_quarter.3": "encoder_level2_1",
    **{f"align.{j}.condition": f"deform_align.{name}.conv_offset" for j, name in enumerate(_PASSES)},
    **{f"align.{j}.deform": f"deform_align.{name}" for j, name in enumerate(_PASSES)},
    **{f"body.{j}": f"backbone.{name}" for j, name in enumerate(_PASSES)},
    "fuse": "reconstruction.main.1",
    "norm_in": "reconstruction.main.3",
    **{f"transformer.{i}.layers": f"reconstruction.main.5.{i}.residual_group.blocks" for i in range(2)},
    **{f"transformer.{i}.project": f"reconstruction.main.5.{i}.linear" for i in range(2)},
    "norm_out": "reconstruction.main.7",
    "refine": "cabattn",
    "up_half": "up21.up.1",
    "skip_half": "skip_attn1",
    **{
        f"decoder.{i}.rounds.{k}": f"decoder_level1{'_1' * i}.encoder_level1{f'_{k}' if k else ''}"
        for i in range(2)
        for k in range(4)
    },
    "up_full": "upsample0.upsample_conv",
    "join_full": "conv_hr0",
    "skip_full": "skip_conv",
    "last.0": "out_conv",
    "last.1": "last_conv",
}
"""Places of layers and blocks → those of the release."""

_WITHIN: dict[type[nn.Module], dict[str, str]] = {
    AttendedBlock: {
        "conv1": "body.0",
        "conv2": "body.2",
        "scale.first": "CA.conv_du.0",
        "scale.second": "CA.conv_du.2",
    },
    GatedBlock: {
        "extra": "conv1",
        "norm": "norm",
        "expand": "body.0",
        "local": "body.1.conv_2",
        "wide": "body.3.conv_1",
        "narrow": "body.3.conv_2",
        "mix": "body.4",
        "scale.first": "body.6.conv_du.0",
        "scale.second": "body.6.conv_du.2",
        "project": "body.7",
        "gain": "beta",
    },
    WindowLayer: {
        "norm1": "norm1",
        "norm2": "norm2",
        "qkv": "attn.qkv_self",
        "project": "attn.proj",
        "bias": "attn.relative_position_bias_table",
        "expand": "mlp.fc1",
        "reduce": "mlp.fc2",
    },
}
"""Names within a block → those of the release."""


def is_released_cpfp(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is a stage 1 in the layout of CPGD-Net's release, which BSSTNet's shares in part."""
    return any(key.startswith(MARK) for key in without_prefixes(state, PREFIXES))


def convert_cpfp(state: Mapping[str, Tensor], sizes: Mapping[str, Any] | None = None) -> ReleasedCPFP:
    """Convert the stage 1 of CPGD-Net's release.

    Args:
        state: tensors by name, with or without ``module.``; on the meta device to check the layout only.
        sizes: arguments of ``ReleasedCPFP``; None for the release's.

    Raises:
        WeightsError: a key without counterpart or of another shape, such as those of BSSTNet.
    """
    state = without_prefixes(state, PREFIXES)
    used = {key: value for key, value in state.items() if not UNUSED.match(key)}
    if len(used) < len(state):
        log.warning("%d tensors are unused, as in CPGD-Net's own code", len(state) - len(used))
    with torch.device("meta"):
        model = ReleasedCPFP(**(sizes or {}))
    names = released_names(model)

    def renamed(values: State) -> State:
        made = {ours: values[theirs] for ours, theirs in names.items()}
        made["fuse.weight"] = made["fuse.weight"].squeeze(2)  # of a convolution over frames, rows and columns
        return made | {key: values[key] for key in values.keys() - names.values()}

    converted: ReleasedCPFP = filled(model, convert_strictly(used, renamed, model.state_dict()))
    return converted


def released_names(model: ReleasedCPFP) -> dict[str, str]:
    """Keys of the state dict → those of the release."""
    blocks = {name: _WITHIN[type(module)] for name, module in model.named_modules() if type(module) in _WITHIN}
    names = {}
    for key in model.state_dict():
        block = next((name for name in blocks if key.startswith(f"{name}.")), None)
        if block is None:
            names[key] = _renamed(key, _PLACES)
        else:
            rest = key.removeprefix(f"{block}.")
            names[key] = f"{_renamed(block, _PLACES)}.{_renamed(rest, blocks[block])}"
    return names


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """``name`` with its first part replaced by the entry of a table that matches it."""
    found = next(ours for ours in table if name == ours or name.startswith(f"{ours}."))
    return table[found] + name.removeprefix(found)
