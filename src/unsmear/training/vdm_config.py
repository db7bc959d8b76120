"""What a ``train vdm`` configuration says."""

from dataclasses import dataclass, field
from pathlib import Path

from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel

from unsmear.errors import UsageError
from unsmear.models.vdm.conditions import ImageTokens
from unsmear.training.config import LoopConfig, from_mapping, read_yaml
from unsmear.training.sequences import DataConfig
from unsmear.training.vdm_losses import COHERENCE

STAGES = ("pretrain", "encoder", "all")


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of the compact 3D UNet, whose two lowest levels have attention in space and time, and of its tokens. Ours.

    ``ModelScopeT2V``'s sizes are those of the folder that ``init`` names.
    """

    channels: tuple[int, ...] = (64, 96, 160)
    layers: int = 1
    head_px: int = 16
    """Channels of an attention head."""
    token_width: int = 128
    tokens: int = 4
    embedding_channels: tuple[int, ...] = (32, 64, 96, 128)
    """Of the embedding of the centre frame, level by level."""

    def unet(self, latent_channels: int) -> UNet3DConditionModel:
        plain = max(len(self.channels) - 2, 0)
        deep = len(self.channels) - plain
        return UNet3DConditionModel(
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=self.channels,
            layers_per_block=self.layers,
            down_block_types=("DownBlock3D",) * plain + ("CrossAttnDownBlock3D",) * deep,
            up_block_types=("CrossAttnUpBlock3D",) * deep + ("UpBlock3D",) * plain,
            attention_head_dim=self.head_px,
            cross_attention_dim=self.token_width,
        )

    def image_tokens(self) -> ImageTokens:
        return ImageTokens(
            vector_width=self.token_width,
            token_width=self.token_width,
            tokens=self.tokens,
            prompt_tokens=0,
            embedding_channels=self.embedding_channels,
        )


@dataclass(frozen=True)
class VDMTraining:
    """The whole of a ``train vdm`` configuration."""

    stage: str = "encoder"
    """``pretrain``: sharp clips, without condition, which stands in for text-to-video pretraining (compact only).
    ``encoder``: stage 1 of §4.2, only the blur encoder with its projection. ``all``: stage 2, everything."""
    init: str | None = None
    """Folder to start from: of an earlier stage, or made by ``unsmear models import``; ``pretrain`` needs none."""
    autoencoder: str = ""
    """Of ``pretrain`` without ``init``: folder of the ``AutoencoderTiny`` or ``AutoencoderKL``."""
    compact: CompactConfig = field(default_factory=CompactConfig)
    """Of ``pretrain`` without ``init``."""
    image_tokens: bool = True
    """Whether stage ``encoder`` trains the image tokens too: where nobody has trained them before. Not TF-T2V's."""
    drop_image: float = 0.1
    """Share of clips whose image vector is dropped (§4.1: "with a designated probability")."""
    coherence: float = COHERENCE
    """λ of Eq. 4."""
    latest: int = 1000
    """Timesteps below this are trained; a sampler that starts later needs no more. Ours."""
    from_blurred: float = 0.0
    """Share of clips whose noise lies on the blurred latents, where a sampler with ``start`` below 1 begins, and not
    on the sharp ones. Ours."""
    perceptual: float = 0.0
    """Weight of L1 + LPIPS of one frame that the prediction means, as the sampler makes it, beside Eq. 4. Ours."""
    temporal_dropout: float = 0.1
    """In the temporal convolutions, ModelScope's."""
    gradient_checkpointing: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    """Clips of ``data.frames`` frames: blurred and sharp, of which ``pretrain`` sees the sharp half."""
    clips: list[str] = field(default_factory=list)
    """Of ``pretrain``: folders of sharp videos, from which ``clips_share`` of its batches come."""
    clips_share: float = 1.0
    clips_longest_px: int = 480
    """Those videos are shrunk to this in memory."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise UsageError(f"stage {self.stage!r} is unknown; choose {', '.join(STAGES)}")
        if self.stage != "pretrain" and not self.init:
            raise UsageError(
                f"init is missing: stage {self.stage} starts from a folder of an earlier stage, or from one made by "
                "`unsmear models import`"
            )
        if self.stage == "pretrain" and not self.init and not self.autoencoder:
            raise UsageError("autoencoder is missing: name a folder made by `unsmear train autoencoder`")
        for name, low, high in (
            ("drop_image", 0, 1),
            ("clips_share", 0, 1),
            ("latest", 1, 1000),
            ("from_blurred", 0, 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name} {getattr(self, name)} must lie in {low}…{high}")
        if self.perceptual < 0:
            raise UsageError(f"perceptual {self.perceptual} is a weight: give 0 (none of it) or more")
        if self.stage == "pretrain" and (self.from_blurred or self.perceptual):
            raise UsageError("from_blurred and perceptual want blurred clips: leave them out of stage pretrain")
        if self.loop.channels_last:
            raise UsageError("loop.channels_last is for networks without convolutions over time: leave it out")
        if self.stage == "pretrain" and self.clips_share < 1 and not (self.data.packs or self.data.shards):
            raise UsageError("clips_share below 1 wants other clips too: name packs or shards in data")

    @classmethod
    def read(cls, path: Path) -> "VDMTraining":
        return from_mapping(cls, read_yaml(path), str(path))
