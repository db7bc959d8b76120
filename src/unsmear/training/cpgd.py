"""``train cpgd``: stage ``prior`` trains a compact denoiser, ``control`` is CPGD-Net's phase II (§III-C, §IV)."""

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
from unsmear.models.cpgd.attention import PriorForm
from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.loading import load_model
from unsmear.models.zoo import ModelEntry, write_index
from unsmear.options import Limits, OptionError, Share, check
from unsmear.training.config import LoopConfig, read_config, sizes_of
from unsmear.training.control import ControlRecipe
from unsmear.training.denoiser import PriorRecipe
from unsmear.training.images import ImageConfig
from unsmear.training.loop import Job
from unsmear.training.sequences import DataConfig


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the compact denoiser, a ``UNet2DConditionModel`` with attention at the two lowest levels."""

    channels: Annotated[tuple[int, ...], Limits(32, step=32, count=2)] = (64, 96, 128, 192)
    layers: Annotated[int, Limits(1)] = 1
    """Residual blocks per level."""
    head_px: Annotated[int, Limits(1)] = 32
    """Channels per attention head."""
    latent_channels: Annotated[int, Limits(1)] = 4
    text_width: Annotated[int, Limits(1)] = 32
    """Width of the prompt embedding; the compact model has an empty prompt of zeros."""

    def __post_init__(self) -> None:
        check(self)

    def build(self) -> UNet2DConditionModel:
        """Return the network with initial weights."""
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
    prior_width: Annotated[int | None, Limits(1)] = None
    shared_query: bool = False
    joint_time_attention: bool = False
    prior_form: PriorForm = "fixed"
    """``fixed`` or ``released``: scale and resizing of V and R."""

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def preset(cls, name: str) -> "ControlConfig":
        """Return named options; ``release``: those of the authors' release.

        Raises:
            ValueError: the name is unknown.
        """
        if name != "release":
            raise ValueError(f"preset {name!r} is unknown; there is: release")
        return cls(shared_query=True, joint_time_attention=True, prior_form="released")


@dataclass(frozen=True)
class CPGDTraining:
    """Configuration of ``train cpgd``."""

    stage: Literal["prior", "control"] = "control"
    """``prior`` or ``control``."""
    autoencoder: str = ""
    """Folder of an ``AutoencoderKL``, ``AutoencoderDC`` or ``AutoencoderTiny``."""
    unet: UNetConfig = field(default_factory=UNetConfig)
    """In stage ``prior``: sizes of the UNet."""
    prior: str = ""
    """In stage ``control``: folder of the frozen UNet."""
    control: ControlConfig = field(default_factory=ControlConfig)
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"
    """Prediction of the UNet: ``epsilon`` or ``v_prediction``."""
    first_stage: str | None = "cpfp"
    """Model whose frames are the hint; None for the blurred frames themselves (Table II, without CPFP)."""
    latest: Annotated[int, Limits(1, 1000)] = 1000
    """Timesteps below this are trained, which is sufficient for a sampler with that ``start``. Ours."""
    from_hint: Share = 0.0
    """In stage ``control``: share of samples that are noised from the hint's latent, as by a sampler with ``start``
    below 1, instead of from the sharp latent. Ours."""
    data: DataConfig = field(default_factory=DataConfig)
    """In stage ``control``: deblurring pairs and validation data."""
    images: ImageConfig = field(default_factory=ImageConfig)
    """Sharp images: the data of stage ``prior``, and the hybrid share of ``control``."""
    hybrid: Share = 0.0
    """Share of the batches of stage ``control`` that are degraded sharp images with zero priors (§IV)."""
    degrade: DegradeRanges = field(default_factory=DegradeRanges)
    """Degradations of that share."""
    perceptual: Annotated[float, Limits(0)] = 0.0
    """In stage ``control``: weight of L1 + LPIPS of the decoded clean latent that the prediction implies, in addition
    to the noise loss; gradients pass through the decoder. 0 omits it. Ours."""
    cancel_autoencoder: bool = True
    """Whether the image in ``perceptual`` is X + D(z) − D(E(X)), as with this option of the sampler; else D(z)."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    init: str | None = None
    """Folder of initial weights; without it, ``control`` is initialised with the UNet's encoder."""

    def __post_init__(self) -> None:
        check(self)
        if not self.autoencoder:
            expected = "a folder made by `unsmear train autoencoder`, or an imported one"
            raise OptionError("autoencoder", self.autoencoder, expected)
        if self.stage == "control" and not self.prior:
            raise OptionError("prior", self.prior, "the folder of the frozen UNet; stage prior trains a compact one")


def prepare(config: Path, resuming: bool, changes: Sequence[str] = ()) -> Job:
    """Network, recipe and loop of a configuration file with ``changes``."""
    del resuming
    chosen = read_config(CPGDTraining, config, changes)
    torch.manual_seed(chosen.loop.seed)
    if chosen.stage == "prior":
        if chosen.init:
            unet = load_model(ModelEntry("init", Path(chosen.init)), "UNet2DConditionModel")
        else:
            with sizes_of("unet"):
                unet = chosen.unet.build()
        unet = unet.requires_grad_(True)
        return Job(unet, PriorRecipe(unet, chosen), chosen.loop)
    unet = load_model(ModelEntry("prior", Path(chosen.prior)), "UNet2DConditionModel")
    if chosen.init:
        control = load_model(ModelEntry("init", Path(chosen.init)), "CPControlNet")
    else:
        with sizes_of("control"):
            control = CPControlNet.beside(unet, **vars(chosen.control))
    control = control.requires_grad_(True)
    recipe = ControlRecipe(control, unet, chosen)
    return Job(control, recipe, chosen.loop, partial(_assemble, recipe))


def _assemble(recipe: ControlRecipe, average: nn.Module, run: Path) -> None:
    """Write the pipeline ``run/pipeline``, with the control network of the best validation."""
    folder, config = run / "pipeline", recipe.config
    shutil.rmtree(folder, ignore_errors=True)
    for part, source in {"vae": config.autoencoder, "unet": config.prior}.items():
        shutil.copytree(source, folder / part)
    shutil.copytree(run / "best", folder / "control")
    scheduler = recipe.diffusion.sampler()
    scheduler.save_pretrained(folder / "scheduler")
    start = recipe.diffusion.latest / int(scheduler.config["num_train_timesteps"])
    write_index(folder, {"start": start, "cancel_autoencoder": config.cancel_autoencoder})
