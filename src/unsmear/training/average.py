"""Weighted averages of checkpoints of one stage-1 network."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unsmear.errors import UsageError, WeightsError
from unsmear.models.cpfp.network import CPFP
from unsmear.models.zoo import CONFIG_FILE, WEIGHTS_FILE, ModelEntry

HEADS = ("to_pixels", "to_gates", "to_neighbours", "to_line")
"""Linear layers whose outputs are added to a frame, in addition to the bank of the motion line."""


def average(parts: Sequence[tuple[Path, float]], confidence: float = 1.0) -> CPFP:
    """Return the network with the weighted mean of the weights in several folders.

    Args:
        parts: (folder, share); a folder of ``save_pretrained``, or ``last`` of a run, of which the moving average is
            used. The configuration is that of the last folder that has one; a head that a folder lacks counts as zero.
        confidence: factor of the correction that the network adds to a frame, applied to its linear heads.

    Raises:
        UsageError: shares that do not add up to 1; no folder with a configuration.
        WeightsError: a folder without weights, or with weights that are not part of the network.
    """
    if abs(sum(share for _, share in parts) - 1) > 1e-6:
        raise UsageError(f"the shares add up to {sum(share for _, share in parts):g}, not to 1")
    configured = [folder for folder, _ in parts if (folder / CONFIG_FILE).exists()]
    if not configured:
        raise UsageError(f"none of the folders has a {CONFIG_FILE}: give one that was saved as a network, such as best")
    if (kind := ModelEntry("average", configured[-1]).kind) != "CPFP":
        raise UsageError(f"{configured[-1]} holds a {kind!r}: only checkpoints of CPFP are averaged")
    model = CPFP.from_pretrained(configured[-1], low_cpu_mem_usage=False)
    total = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    for folder, share in parts:
        weights = _weights(folder)
        if unknown := weights.keys() - total.keys():
            raise WeightsError(
                f"{folder} has {min(unknown)}, which {configured[-1]} lacks: average checkpoints of one network"
            )
        for key, value in weights.items():
            total[key] += share * value.float()
    model.load_state_dict(total)
    with torch.no_grad():
        for name in HEADS:
            if head := getattr(model, name, None):
                head.weight *= confidence
                head.bias *= confidence
        if model.line is not None:
            model.line.bank *= confidence
    return model


def _weights(folder: Path) -> dict[str, Tensor]:
    moving = folder / "ema.safetensors"
    path = moving if moving.exists() else folder / WEIGHTS_FILE
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read ({error}): give a folder of weights, or last of a run") from None
