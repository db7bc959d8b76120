"""``train cpgd``: stage ``prior`` trains a compact denoiser, ``control`` is CPGD-Net's phase II (§III-C, §IV)."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from unsmear.blur.degrade import DegradeRanges
from unsmear.errors import UsageError
from unsmear.files import whole_folder
from unsmear.models.common.text import TEXT_PARTS, store_empty_prompt
from unsmear.models.cpgd.attention import PriorForm
from unsmear.models.cpgd.changed import with_options
from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.loading import load_model
from unsmear.models.zoo import BLURRED_HINT, EMPTY_PROMPT_FILE, STAGE_1, ModelEntry, find, write_index
from unsmear.options import Limits, OptionError, Share, check
from unsmear.training.config import LoopConfig, read_config, sizes_of
from unsmear.training.control import ControlRecipe
from unsmear.training.denoiser import PriorRecipe
from unsmear.training.diffusion import ScheduleConfig
from unsmear.training.images import ImageConfig
from unsmear.training.loop import Job
from unsmear.training.sequences import DataConfig

log = logging.getLogger(__name__)


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
    """Options of ``CPControlNet``; None: as in the network of ``init``, else as by default there."""

    guided: bool | None = None
    prior_width: Literal[1, "layer"] | None = None
    """Channels of A: 1, or ``layer`` for those of each layer."""
    shared_query: bool | None = None
    joint_time_attention: bool | None = None
    """Whether the ``data.frames`` frames of a clip are trained together and attend to each other."""
    prior_form: PriorForm | None = None
    """``fixed`` or ``released``: scale and resizing of V and R."""

    def __post_init__(self) -> None:
        check(self)

    def stated(self) -> dict[str, Any]:
        """The options that are not None, as ``CPControlNet`` takes them."""
        stated = {name: value for name, value in vars(self).items() if value is not None}
        return stated | ({"prior_width": None} if self.prior_width == "layer" else {})

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
    prediction: Literal["epsilon", "v_prediction"] | None = None
    """Prediction of the UNet: ``epsilon`` or ``v_prediction``; None: as the scheduler beside ``prior`` says, else
    ``epsilon``."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Noise schedule, and the sampler of the result."""
    prompt: str = ""
    """In stage ``control``: prompt of what has no caption (``captions.json``), and of the result where none is given.
    Needs the text encoder beside ``prior``."""
    drop_prompt: Share = 0.5
    """Share of samples whose prompt is replaced by the empty one (§IV)."""
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
    """Share of the batches of stage ``control`` that are degraded still images, with priors of zeros (§IV). Degraded
    videos with priors of their own are data sets, in ``data.pairs``."""
    degrade: DegradeRanges = field(default_factory=DegradeRanges)
    """Degradations of that share."""
    perceptual: Annotated[float, Limits(0)] = 0.0
    """In stage ``control``: weight of L1 + LPIPS of the decoded clean latent that the prediction implies, in addition
    to the noise loss; gradients pass through the decoder. 0 omits it. Ours."""
    cancel_autoencoder: bool = True
    """Whether the image in ``perceptual`` is X + D(z) − D(E(X)), as with this option of the sampler; else D(z)."""
    gradient_checkpointing: bool = False
    """In stage ``control``: whether layers are recomputed in the backward pass: less memory, more time."""
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

    @property
    def base(self) -> Path | None:
        """Folder of the base model, in which ``prior`` lies, with its scheduler and text encoder if there are any."""
        return Path(self.prior).parent if self.stage == "control" else None


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
        control = _with_options(load_model(ModelEntry("init", Path(chosen.init)), "CPControlNet"), chosen)
    else:
        with sizes_of("control"):
            control = CPControlNet.beside(unet, **chosen.control.stated())
    control = control.requires_grad_(True)
    if chosen.hybrid and control.config["joint_time_attention"]:
        raise UsageError(
            "hybrid: still images are no clips for joint_time_attention; take it out, and name degraded videos "
            "(`unsmear data degrade`, then `augment`) in data.pairs"
        )
    if chosen.gradient_checkpointing:
        for network in (control, unet):
            network.enable_gradient_checkpointing()
    recipe = ControlRecipe(control, unet, chosen)
    return Job(control, recipe, chosen.loop, partial(_assemble, recipe))


def _with_options(control: CPControlNet, config: CPGDTraining) -> CPControlNet:
    """The network of ``init`` with the options of ``control``."""
    stated = {name: value for name, value in config.control.stated().items() if value != control.config[name]}
    try:
        changed = with_options(control, **stated)
    except OptionError as error:
        raise OptionError(f"control.{error.field}", error.value, f"{error.expected} (init: {config.init})") from None
    for name, value in stated.items():
        log.info("init: %s has %s %s, trained with %s", config.init, name, control.config[name], value)
    return changed


def _assemble(recipe: ControlRecipe, average: nn.Module, run: Path) -> None:
    """Write the pipeline ``run/pipeline``: all that the control network of the best validation was trained with."""
    del average
    config, scheduler, base = recipe.config, recipe.diffusion.sampler(), recipe.base
    first = find(config.first_stage) if config.first_stage else None
    parts = {"vae": Path(config.autoencoder), "unet": Path(config.prior), "control": run / "best"}
    parts |= {part: base / part for part in TEXT_PARTS if (base / part).is_dir()}
    if first is not None:
        parts[STAGE_1] = first.folder
    with whole_folder(run / "pipeline") as folder:
        for part, source in parts.items():
            shutil.copytree(source, folder / part)
        scheduler.save_pretrained(folder / "scheduler")
        if (base / EMPTY_PROMPT_FILE).exists():
            shutil.copy(base / EMPTY_PROMPT_FILE, folder)
        elif problem := store_empty_prompt(folder):
            log.warning("%s", problem)
        start = recipe.diffusion.latest / int(scheduler.config["num_train_timesteps"])
        sampling = {"start": start, "cancel_autoencoder": config.cancel_autoencoder}
        trained = {"first_stage": BLURRED_HINT if first is None else first.checksum()}
        write_index(folder, sampling, trained | ({"prompt": config.prompt} if config.prompt else {}))
