"""Configuration of stage 2's trainings, and the sizes of what they build."""

from dataclasses import dataclass, field
from pathlib import Path

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from unsmear.data.degrade import DegradeRanges
from unsmear.errors import UsageError
from unsmear.training.config import LoopConfig, from_mapping, read_yaml
from unsmear.training.images import ImageConfig
from unsmear.training.sequences import DataConfig

STAGES = ("prior", "control")


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
    """Options of ``CPControlNet`` (``unsmear.models.cpgd.control``)."""

    guided: bool = True
    prior_width: int | None = None
    shared_query: bool = False
    joint_time_attention: bool = False


@dataclass(frozen=True)
class CPGDTraining:
    """The whole of a ``train cpgd`` configuration."""

    stage: str = "control"
    """``prior`` or ``control``."""
    autoencoder: str = ""
    """Folder of an ``AutoencoderKL``, ``AutoencoderDC`` or ``AutoencoderTiny``."""
    unet: UNetConfig = field(default_factory=UNetConfig)
    """Of stage ``prior``."""
    prior: str = ""
    """Of stage ``control``: folder of the frozen UNet."""
    control: ControlConfig = field(default_factory=ControlConfig)
    prediction: str = "epsilon"
    """What the UNet predicts: ``epsilon`` or ``v_prediction``."""
    first_stage: str | None = "cpfp"
    """Model whose frames are the hint; None for the blurred frames themselves (Table II, without CPFP)."""
    latest: int = 1000
    """Timesteps below this are trained; a sampler that starts later needs no more. Ours."""
    from_hint: float = 0.0
    """Of stage ``control``: share of samples whose noise lies on the hint's latent, where a sampler with ``start``
    below 1 begins, and not on the sharp one's. Ours."""
    data: DataConfig = field(default_factory=DataConfig)
    """Deblurring pairs, of stage ``control``; ``data.validation`` is used there."""
    images: ImageConfig = field(default_factory=ImageConfig)
    """Sharp pictures: all of stage ``prior``, and the hybrid share of ``control``."""
    hybrid: float = 0.0
    """Share of the batches of stage ``control`` that are sharp pictures, degraded, with priors of nothing (§IV)."""
    degrade: DegradeRanges = field(default_factory=DegradeRanges)
    perceptual: float = 0.0
    """Of stage ``control``: weight of L1 + LPIPS of the picture that the prediction means, beside the noise loss. Ours.
    The autoencoder is run backwards too; 0 leaves it out."""
    cancel_autoencoder: bool = True
    """That picture is X + D(z) − D(E(X)), as the sampler makes it with its option of this name; else D(z)."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    init: str | None = None
    """Folder of weights to start from; without, ``control`` starts as the UNet's encoder."""

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise UsageError(f"stage {self.stage!r} is unknown; choose {' or '.join(STAGES)}")
        if not self.autoencoder:
            raise UsageError("autoencoder is missing: name a folder made by `unsmear train autoencoder`, or import one")
        if self.stage == "control" and not self.prior:
            raise UsageError("prior is missing: name the folder of the frozen UNet (stage prior makes a compact one)")
        if not 0 <= self.from_hint <= 1:
            raise UsageError(f"from_hint {self.from_hint} is a share: give 0 to 1")
        if self.perceptual < 0:
            raise UsageError(f"perceptual {self.perceptual} is a weight: give 0 (none of it) or more")

    @classmethod
    def read(cls, path: Path) -> "CPGDTraining":
        return from_mapping(cls, read_yaml(path), str(path))
