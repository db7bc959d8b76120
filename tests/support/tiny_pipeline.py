"""A stage-2 pipeline of tiny random networks, in memory and as a folder of weights."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.cpgd.pipeline import CPGDPipeline

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def unet(seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        norm_num_groups=16,
    ).eval()


def vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=32,
    ).eval()


def control(opened: bool = False, **options) -> CPControlNet:
    """As if trained: what starts at zero between it and the UNet does not any more, and ``opened``, nor what guides."""
    torch.manual_seed(2)
    made = CPControlNet.beside(unet(), **options)
    for name, parameter in made.named_parameters():
        if name.startswith("controlnet_"):
            torch.nn.init.normal_(parameter, std=0.1)
    if opened:
        for name, parameter in made.named_parameters():
            if ".to_qm." in name:
                torch.nn.init.normal_(parameter, std=1.0)
    return made.eval()


def pipeline(scheduler=None, **options) -> CPGDPipeline:
    pipe = CPGDPipeline(vae(), unet(), control(**options), scheduler or DDIMScheduler(**BETAS))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def folder(path: Path, **options) -> Path:
    """Weights of ``pipeline`` as ``unsmear models import`` leaves them."""
    pipe = pipeline(**options)
    for name in ("vae", "unet", "control", "scheduler"):
        getattr(pipe, name).save_pretrained(path / name)
    return path
