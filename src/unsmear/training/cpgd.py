"""``train cpgd``: stage ``prior`` makes a compact denoiser, stage ``control`` is CPGD-Net's phase II (§III-C, §IV)."""

import shutil
from functools import partial
from pathlib import Path

import torch
from torch import nn

from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.loading import load
from unsmear.models.zoo import ModelEntry, write_index
from unsmear.training.control import ControlRecipe
from unsmear.training.cpgd_config import CPGDTraining
from unsmear.training.denoiser import PriorRecipe
from unsmear.training.loop import Job


def prepare(config: Path, resuming: bool) -> Job:
    """What ``train`` needs for a configuration file."""
    del resuming
    chosen = CPGDTraining.read(config)
    torch.manual_seed(chosen.loop.seed)
    if chosen.stage == "prior":
        unet = (
            load(ModelEntry("init", Path(chosen.init)), "UNet2DConditionModel") if chosen.init else chosen.unet.build()
        )
        unet = unet.requires_grad_(True)
        return Job(unet, PriorRecipe(unet, chosen), chosen.loop)
    unet = load(ModelEntry("prior", Path(chosen.prior)), "UNet2DConditionModel")
    if chosen.init:
        control = CPControlNet.from_pretrained(chosen.init, low_cpu_mem_usage=False)
    else:
        control = CPControlNet.beside(unet, **vars(chosen.control))
    control = control.requires_grad_(True)
    recipe = ControlRecipe(control, unet, chosen)
    return Job(control, recipe, chosen.loop, partial(_assemble, recipe))


def _assemble(recipe: ControlRecipe, average: nn.Module, run: Path) -> None:
    """``run/pipeline``: all that ``--model`` needs, with the control network of the best validation, or the average."""
    folder, config = run / "pipeline", recipe.config
    shutil.rmtree(folder, ignore_errors=True)
    for part, source in {"vae": config.autoencoder, "unet": config.prior}.items():
        shutil.copytree(source, folder / part)
    if (run / "best").is_dir():
        shutil.copytree(run / "best", folder / "control")
    else:
        average.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        average.save_pretrained(folder / "control")  # type: ignore[operator]
    scheduler = recipe.diffusion.sampler()
    scheduler.save_pretrained(folder / "scheduler")
    start = recipe.diffusion.latest / int(scheduler.config["num_train_timesteps"])
    write_index(folder, {"start": start, "cancel_autoencoder": config.cancel_autoencoder})
