"""``train cpgd``: stage ``prior`` makes a compact denoiser, stage ``control`` is CPGD-Net's phase II (§III-C, §IV)."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from unsmear.blur.degrade import DegradeRanges
from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.loading import load_model
from unsmear.models.zoo import ModelEntry, write_index
from unsmear.options import Limits, OptionError, Share, check
from unsmear.training.config import LoopConfig, read_config
from unsmear.training.control import ControlRecipe
from unsmear.training.denoiser import PriorRecipe
from unsmear.training.images import ImageConfig
from unsmear.training.loop import Job
from unsmear.training.sequences import DataConfig


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the compact denoiser, a ``UNet2DConditionModel`` whose two lowest levels have attention."""

    channels: tuple[int, ...] = (64, 96, 128, 192)
    layers: int = 1
    head_px: int = 32
    """Channels of an attention head."""
    latent_channels: int = 4
    text_width: int = 32
    """Of the prompt embedding; the compact model has an empty prompt of zeros."""

    def build(self) -> UNet2DConditionModel:
        plain = len(self.channels) - 2
        return UNet2DConditionModel(
            in_channels=self.latent_channels,
            out_channels=self.latent_channels,
            block_out_channels=self.channels,
            layers_per_block=self.layers,
            down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",) * plain,
            attention_head_dim=tuple(max(c // self.head_px, 1) for c in self.channels),
            cross_attention_dim=self.text_width,
            use_linear_projection=True,
        )


@dataclass(frozen=True)
class ControlConfig:
    """Options of ``CPControlNet``."""

    guided: bool = True
    prior_width: int | None = None
    shared_query: bool = False
    joint_time_attention: bool = False


@dataclass(frozen=True)
class CPGDTraining:
    """The whole of a ``train cpgd`` configuration."""

    stage: Literal["prior", "control"] = "control"
    """``prior`` or ``control``."""
    autoencoder: str = ""
    """Folder of an ``AutoencoderKL``, ``AutoencoderDC`` or ``AutoencoderTiny``."""
    unet: UNetConfig = field(default_factory=UNetConfig)
    """Of stage ``prior``."""
    prior: str = ""
    """Of stage ``control``: folder of the frozen UNet."""
    control: ControlConfig = field(default_factory=ControlConfig)
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"
    """Prediction of the UNet: ``epsilon`` or ``v_prediction``."""
    first_stage: str | None = "cpfp"
    """Model whose frames are the hint; None for the blurred frames themselves (Table II, without CPFP)."""
    latest: Annotated[int, Limits(1, 1000)] = 1000
    """Timesteps below this are trained; a sampler that starts later needs no more. Ours."""
    from_hint: Share = 0.0
    """Of stage ``control``: share of samples whose noise lies on the hint's latent, where a sampler with ``start``
    below 1 begins, and not on the sharp one's. Ours."""
    data: DataConfig = field(default_factory=DataConfig)
    """Deblurring pairs, of stage ``control``; ``data.validation`` is used there."""
    images: ImageConfig = field(default_factory=ImageConfig)
    """Sharp pictures: all of stage ``prior``, and the hybrid share of ``control``."""
    hybrid: Share = 0.0
    """Share of the batches of stage ``control`` that are sharp pictures, degraded, with priors of nothing (§IV)."""
    degrade: DegradeRanges = field(default_factory=DegradeRanges)
    perceptual: Annotated[float, Limits(0)] = 0.0
    """Of stage ``control``: weight of L1 + LPIPS of the picture that the prediction means, beside the noise loss. Ours.
    The autoencoder is run backwards too; 0 leaves it out."""
    cancel_autoencoder: bool = True
    """That picture is X + D(z) − D(E(X)), as the sampler makes it with its option of this name; else D(z)."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    init: str | None = None
    """Folder of weights to start from; without, ``control`` starts as the UNet's encoder."""

    def __post_init__(self) -> None:
        check(self)
        if not self.autoencoder:
            expected = "a folder made by `unsmear train autoencoder`, or an imported one"
            raise OptionError("autoencoder", self.autoencoder, expected)
        if self.stage == "control" and not self.prior:
            raise OptionError("prior", self.prior, "the folder of the frozen UNet; stage prior makes a compact one")


def prepare(config: Path, resuming: bool, changes: Sequence[str] = ()) -> Job:
    """Network, recipe and loop of a configuration file with ``changes``."""
    del resuming
    chosen = read_config(CPGDTraining, config, changes)
    torch.manual_seed(chosen.loop.seed)
    if chosen.stage == "prior":
        unet = (
            load_model(ModelEntry("init", Path(chosen.init)), "UNet2DConditionModel")
            if chosen.init
            else chosen.unet.build()
        )
        unet = unet.requires_grad_(True)
        return Job(unet, PriorRecipe(unet, chosen), chosen.loop)
    unet = load_model(ModelEntry("prior", Path(chosen.prior)), "UNet2DConditionModel")
    if chosen.init:
        control = CPControlNet.from_pretrained(chosen.init, low_cpu_mem_usage=False)
    else:
        control = CPControlNet.beside(unet, **vars(chosen.control))
    control = control.requires_grad_(True)
    recipe = ControlRecipe(control, unet, chosen)
    return Job(control, recipe, chosen.loop, partial(_assemble, recipe))


def _assemble(recipe: ControlRecipe, average: nn.Module, run: Path) -> None:
    """Write ``run/pipeline``, a folder to restore with; its control network is that of the best validation."""
    folder, config = run / "pipeline", recipe.config
    shutil.rmtree(folder, ignore_errors=True)
    for part, source in {"vae": config.autoencoder, "unet": config.prior}.items():
        shutil.copytree(source, folder / part)
    shutil.copytree(run / "best", folder / "control")
    scheduler = recipe.diffusion.sampler()
    scheduler.save_pretrained(folder / "scheduler")
    start = recipe.diffusion.latest / int(scheduler.config["num_train_timesteps"])
    write_index(folder, {"start": start, "cancel_autoencoder": config.cancel_autoencoder})
