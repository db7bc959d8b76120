"""Families of denoisers: prediction of noise or of velocity, and the scheduler of each.

A denoiser predicts the noise (ε), or velocity on a schedule that ends without signal (v, zero terminal SNR). Its keys
and shapes are the same either way, and with the other's schedule it makes pictures that are wrong without an error.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel

from unsmear.errors import UsageError, WeightsError
from unsmear.files import read_json
from unsmear.models.common.schedule import FAMILIES, SCHEDULES, Family

SCHEDULER_FILE = "scheduler_config.json"

PROBED_TIMESTEP = 999
PROBED_LIKENESS = 0.95
"""Cosine between noise and prediction from which a denoiser counts as one of ε. Ours."""


def scheduler(family: Family, video: bool = False) -> Any:
    """The ``DDPMScheduler`` of a family, for denoisers of clips the ``DDIMScheduler``, by which each paper samples."""
    return (DDIMScheduler if video else DDPMScheduler)(**SCHEDULES[family])


def family_named(name: str) -> Family:
    """The family of that name. Raises UsageError where there is none."""
    for family in FAMILIES:
        if family == name:
            return family
    raise UsageError(f"`family` {name}: expected {' or '.join(FAMILIES)}")


def family_of_scheduler(folder: Path) -> Family | None:
    """What ``scheduler_config.json`` in ``folder`` says; None where there is no such file.

    Raises:
        WeightsError: the file is no JSON object, or describes neither family.
    """
    path = folder / SCHEDULER_FILE
    if not path.exists():
        return None
    config = read_json(path, "restore the file", WeightsError)
    predicts = config.get("prediction_type", "epsilon")
    zero_snr = bool(config.get("rescale_betas_zero_snr", False))
    if (predicts, zero_snr) == ("epsilon", False):
        return "epsilon"
    if (predicts, zero_snr) == ("v_prediction", True):
        return "v-zero-snr"
    raise WeightsError(
        f"{path} says {predicts}{' with' if zero_snr else ' without'} zero terminal SNR, which is neither epsilon nor "
        "v-zero-snr: give a checkpoint of one of the two"
    )


def agreed(claims: Mapping[str, Family | None]) -> Family | None:
    """The family that all claims agree on, None without any.

    Args:
        claims: who says it → the family, None for no opinion.

    Raises:
        UsageError: two contradict each other; both are named.
    """
    said = [(who, family) for who, family in claims.items() if family is not None]
    for who, family in said[1:]:
        if family != said[0][1]:
            raise UsageError(
                f"{said[0][0]} says {said[0][1]}, {who} says {family}: the two cannot work together, correct one"
            )
    return said[0][1] if said else None


@torch.no_grad()
def family_by_probe(unet: Any) -> Family:
    """One step at t = 999 on pure noise: a denoiser that predicts ε returns nearly its input.

    Another answer proves nothing: v with and without zero terminal SNR answer alike, and so may a damaged network.

    Raises:
        WeightsError: the answer is not nearly the input; ``family`` is named as the way out.
    """
    side = max(64, 2 ** len(unet.config["block_out_channels"]))
    noise = torch.randn(1, unet.config["in_channels"], side, side, generator=torch.Generator().manual_seed(0))
    context = torch.zeros(1, 77, unet.config["cross_attention_dim"])
    with torch.device("meta"):
        network = UNet2DConditionModel.from_config(unet.config)
    network.load_state_dict({key: value.float() for key, value in unet.state_dict().items()}, assign=True)
    predicted = network.eval()(noise, PROBED_TIMESTEP, context).sample
    likeness = float(torch.cosine_similarity(predicted.flatten(), noise.flatten(), dim=0))
    if likeness >= PROBED_LIKENESS:
        return "epsilon"
    raise WeightsError(
        f"the weights do not say what they predict (likeness to pure noise {likeness:.2f}; epsilon has "
        f"{PROBED_LIKENESS} or more): give {' or '.join(FAMILIES)} as `family`"
    )
