"""``train cpc``: stage ``prior`` makes a compact denoiser, stage ``control`` is CPGD-Net's phase II (§III-C, §IV)."""

from pathlib import Path

import torch

from unsmear.models.cpc.control import CPControlNet
from unsmear.models.loading import load_denoiser
from unsmear.models.zoo import ModelEntry
from unsmear.training.control import ControlRecipe
from unsmear.training.cpc_config import CPCTraining
from unsmear.training.denoiser import PriorRecipe
from unsmear.training.loop import Job


def prepare(config: Path, resuming: bool) -> Job:
    """What ``train`` needs for a configuration file."""
    del resuming
    chosen = CPCTraining.read(config)
    torch.manual_seed(chosen.loop.seed)
    if chosen.stage == "prior":
        unet = load_denoiser(ModelEntry("init", Path(chosen.init))) if chosen.init else chosen.unet.build()
        unet = unet.requires_grad_(True)
        return Job(unet, PriorRecipe(unet, chosen), chosen.loop)
    unet = load_denoiser(ModelEntry("prior", Path(chosen.prior)))
    if chosen.init:
        control = CPControlNet.from_pretrained(chosen.init, low_cpu_mem_usage=False)
    else:
        control = CPControlNet.beside(unet, **vars(chosen.control))
    control = control.requires_grad_(True)
    return Job(control, ControlRecipe(control, unet, chosen), chosen.loop)
