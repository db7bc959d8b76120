"""A small network in the layout of the released stage 1, and its weights under the release's names."""

from pathlib import Path

import torch
from torch import Tensor

from unsmear.models.convert.cpfp_released import released_names
from unsmear.models.cpfp_released.network import ReleasedCPFP

SIZES = {"channels": 24, "shallow": 16, "heads": 3, "window": (2, 4, 4), "offset_groups": 4}


def network(noise: float = 0.02) -> ReleasedCPFP:
    """As if trained: what starts at zero does not any more."""
    torch.manual_seed(11)
    made = ReleasedCPFP(**SIZES)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += noise * torch.randn_like(parameter)
    return made.eval()


def folder(path: Path) -> Path:
    network().save_pretrained(path)
    return path


def released(model: ReleasedCPFP) -> dict[str, Tensor]:
    """Weights as the release stores them, with some of those that it never uses."""
    names = released_names(model)
    state = {names[key]: value for key, value in model.state_dict().items()}
    state["reconstruction.main.1.weight"] = state["reconstruction.main.1.weight"].unsqueeze(2)
    idle = ("feat_extract.0.weight", "decoder_level2_1.encoder_level1.0.beta", "conv_last.bias")
    state |= {name: torch.zeros(2) for name in idle}
    index = "reconstruction.main.5.0.residual_group.blocks.0.attn.relative_position_index"
    return state | {index: torch.zeros(2, 2, dtype=torch.long)}
