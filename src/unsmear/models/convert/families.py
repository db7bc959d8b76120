"""Families of denoisers: prediction of noise or of velocity, and the scheduler of each.

A denoiser predicts the noise (ε), or velocity on a schedule with zero terminal SNR (v). Keys and shapes are the same in
both families, so that the wrong schedule raises no error but gives wrong images.
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
"""Least cosine similarity of noise and prediction of a denoiser that predicts ε. Ours."""


def scheduler(family: Family, video: bool = False) -> Any:
    """Scheduler of a family: ``DDPMScheduler``, or ``DDIMScheduler`` for video models, as in the respective paper."""
    return (DDIMScheduler if video else DDPMScheduler)(**SCHEDULES[family])


def family_named(name: str) -> Family:
    """Return the family of a name. Raises UsageError for an unknown name."""
    for family in FAMILIES:
        if family == name:
            return family
    raise UsageError(f"`family` {name}: expected {' or '.join(FAMILIES)}")


def family_of_scheduler(folder: Path) -> Family | None:
    """Family of the scheduler described by ``scheduler_config.json`` in ``folder``; None where there is no such file.

    Raises:
        WeightsError: the file is not a JSON object, or describes neither family.
    """
    path = folder / SCHEDULER_FILE
    if not path.exists():
        return None
    config = read_json(path, "restore the file", WeightsError)
    prediction = config.get("prediction_type", "epsilon")
    zero_snr = bool(config.get("rescale_betas_zero_snr", False))
    if (prediction, zero_snr) == ("epsilon", False):
        return "epsilon"
    if (prediction, zero_snr) == ("v_prediction", True):
        return "v-zero-snr"
    raise WeightsError(
        f"{path} states {prediction}{' with' if zero_snr else ' without'} zero terminal SNR, which is neither epsilon "
        "nor v-zero-snr: give a checkpoint of one of the two"
    )


def agreed(claims: Mapping[str, Family | None]) -> Family | None:
    """Family that all sources of information state; None where none does.

    Args:
        claims: name of a source → the family, None where it states none.

    Raises:
        UsageError: two sources contradict each other; both are named.
    """
    stated = [(source, family) for source, family in claims.items() if family is not None]
    for source, family in stated[1:]:
        if family != stated[0][1]:
            raise UsageError(
                f"{stated[0][0]} states {stated[0][1]}, {source} states {family}: the two are incompatible, correct one"
            )
    return stated[0][1] if stated else None


@torch.no_grad()
def family_by_probe(unet: Any) -> Family:
    """Determine the family by one step at t = 999 on pure noise: a denoiser of ε returns nearly its input.

    Any other prediction is inconclusive: those of v with and without zero terminal SNR are alike, and so may be that of
    a damaged network.

    Raises:
        WeightsError: the prediction is inconclusive; the message names ``family``.
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
        f"the weights do not state their prediction type (likeness to pure noise {likeness:.2f}; epsilon has "
        f"{PROBED_LIKENESS} or more): give {' or '.join(FAMILIES)} as `family`"
    )
