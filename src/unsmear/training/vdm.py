"""Training recipe of the video diffusion model: pretraining on sharp clips, then the paper's two stages (VDM §4.2).

Stage 1 (``encoder``) trains the blur encoder and its projection only, stage 2 (``all``) everything but the autoencoder
(and CLIP, where there is one). The network is trained to predict v on a schedule with zero terminal SNR, also where the
initial weights are of another family.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from unsmear.errors import UsageError
from unsmear.metrics.lpips import LPIPS, load_lpips
from unsmear.models.common.latents import decode, encode
from unsmear.models.common.schedule import SCHEDULES, Prediction
from unsmear.models.loading import AUTOENCODERS, load_model
from unsmear.models.vdm.conditions import ImageTokens, image_vectors
from unsmear.models.vdm.network import VDM, centre
from unsmear.models.vdm.pipeline import VDMPipeline, VDMSampling
from unsmear.models.zoo import ModelEntry, write_index
from unsmear.options import Limits, OptionError, Share, check
from unsmear.training.batches import open_batches
from unsmear.training.clips import ClipPair, SharpClips, validation_clips
from unsmear.training.config import LoopConfig, read_config, sizes_of
from unsmear.training.diffusion import noised_from_input, picture_loss
from unsmear.training.images import spread, strip
from unsmear.training.loop import Job
from unsmear.training.sequences import DataConfig
from unsmear.training.vdm_losses import COHERENCE, vdm_loss

SHOWN_STEPS = 8

VALIDATED_NOISES = 4
"""Number of timesteps, evenly spaced, at which every validation clip is scored."""


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of the compact 3D UNet, with attention in space and time at the two lowest levels, and of its tokens. Ours.

    With ``init`` the sizes are those of its folder.
    """

    channels: Annotated[tuple[int, ...], Limits(32, step=32, count=1)] = (64, 96, 160)
    layers: Annotated[int, Limits(1)] = 1
    """Residual blocks per level."""
    head_px: Annotated[int, Limits(1)] = 16
    """Channels per attention head."""
    token_width: Annotated[int, Limits(1)] = 128
    tokens: Annotated[int, Limits(1)] = 4
    embedding_channels: Annotated[tuple[int, ...], Limits(1, count=1)] = (32, 64, 96, 128)
    """Channels of the levels of the centre frame's embedding."""

    def __post_init__(self) -> None:
        check(self)

    def unet(self, latent_channels: int) -> UNet3DConditionModel:
        """Return the 3D UNet with initial weights."""
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
        """Return the image tokens with initial weights."""
        return ImageTokens(
            vector_width=self.token_width,
            token_width=self.token_width,
            tokens=self.tokens,
            prompt_tokens=0,
            embedding_channels=self.embedding_channels,
        )


@dataclass(frozen=True)
class VDMTraining:
    """Configuration of ``train vdm``."""

    stage: Literal["pretrain", "encoder", "all"] = "encoder"
    """``pretrain``: unconditional, on sharp clips, in place of text-to-video pretraining (compact model only).
    ``encoder``: stage 1 of §4.2, the blur encoder with its projection only. ``all``: stage 2, everything."""
    init: str | None = None
    """Folder of initial weights: of an earlier stage, or of ``unsmear models import``; optional in ``pretrain``."""
    autoencoder: str = ""
    """In ``pretrain`` without ``init``: folder of the autoencoder."""
    compact: CompactConfig = field(default_factory=CompactConfig)
    """In ``pretrain`` without ``init``: sizes of the networks."""
    image_tokens: bool = True
    """Whether stage ``encoder`` also trains the image tokens; not needed for those of TF-T2V, which are trained."""
    drop_image: Share = 0.1
    """Share of clips whose image vector is dropped (§4.1: "with a designated probability")."""
    coherence: Annotated[float, Limits(0)] = COHERENCE
    """λ of Eq. 4."""
    latest: Annotated[int, Limits(1, 1000)] = 1000
    """Timesteps below this are trained, which is sufficient for a sampler with that ``start``. Ours."""
    from_blurred: Share = 0.0
    """Share of clips that are noised from the blurred latents, as by a sampler with ``start`` below 1, instead of from
    the sharp ones. Ours."""
    perceptual: Annotated[float, Limits(0)] = 0.0
    """Weight of L1 + LPIPS of one frame decoded from the clean latents that the prediction implies, in addition to
    Eq. 4. Ours."""
    temporal_dropout: Share = 0.1
    """Dropout in the temporal convolutions, as in ModelScope."""
    gradient_checkpointing: bool = False
    """Whether layers are recomputed in the backward pass: less memory, more time."""
    data: DataConfig = field(default_factory=DataConfig)
    """Blurred and sharp clips of ``data.frames`` frames; ``pretrain`` uses the sharp ones only."""
    clips: list[str] = field(default_factory=list)
    """In ``pretrain``: folders of sharp videos."""
    clips_share: Share = 1.0
    """Share of the batches of ``pretrain`` that come from ``clips``."""
    clips_longest_px: Annotated[int, Limits(16)] = 480
    """Longest side to which these videos are shrunk in memory."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check(self)
        if self.stage != "pretrain" and not self.init:
            expected = f"for stage {self.stage} a folder of an earlier stage, or one made by `unsmear models import`"
            raise OptionError("init", self.init, expected)
        if self.stage == "pretrain" and not self.init and not self.autoencoder:
            raise OptionError("autoencoder", self.autoencoder, "a folder made by `unsmear train autoencoder`")
        if self.stage == "pretrain" and (self.from_blurred or self.perceptual):
            raise UsageError("from_blurred and perceptual need blurred clips: leave them out of stage pretrain")
        if self.loop.channels_last:
            raise UsageError("loop.channels_last is for networks without convolutions over time: leave it out")
        if self.stage == "pretrain" and self.clips_share < 1 and not (self.data.packs or self.data.shards):
            raise UsageError("clips_share below 1 needs other clips too: name packs or shards in data")


class TrainedVDM(VDM):
    """A model that is saved as a complete pipeline, with its frozen autoencoder and its scheduler."""

    frozen: tuple[tuple[str, Any], ...] = ()
    """(folder name, frozen part); in tuples, so that the parts are not registered as modules to train and average."""
    sampling: tuple[tuple[str, Any], ...] = ()
    """Sampling defaults of the initial model's folder, as items."""

    def save_pretrained(self, folder: Path | str) -> None:
        super().save_pretrained(folder)
        for name, part in self.frozen:
            part.save_pretrained(Path(folder) / name)
        write_index(Path(folder), dict(self.sampling) or None)


class ClipBatch(NamedTuple):
    """Clips, and the seed of their noise."""

    sharp: Tensor
    """(B, F, 3, S, S) uint8."""
    blurred: Tensor | None
    """The blurred clips; None in ``pretrain``."""
    seed: Tensor


class VDMRecipe:
    """Batches, loss and validation for ``training.loop.train``."""

    def __init__(self, model: VDM, vae: Any, image_encoder: Any, config: VDMTraining):
        self.model, self.config, self.image_encoder = model, config, image_encoder
        self.vae = vae.eval().requires_grad_(False)
        self.schedule = DDPMScheduler(**SCHEDULES["v-zero-snr"])
        self.sampler = DDIMScheduler(**SCHEDULES["v-zero-snr"])
        self.lpips = load_lpips() if config.perceptual else None
        data, loop = config.data, config.loop
        self.sharp = (
            SharpClips(config.clips, data.crop_px, data.frames, config.clips_longest_px)
            if config.stage == "pretrain" and config.clips
            else None
        )
        no_pairs = self.sharp is not None and config.clips_share == 1
        self.pairs = None if no_pairs else open_batches(data, loop.seed, loop.batch, priors=False)

    @cached_property
    def validation(self) -> list[ClipPair]:
        """Clips of ``data.validation``, in batches of one."""
        data = self.config.data
        return validation_clips(data.validation, data.crop_px, data.frames)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.model.parameters() if p.requires_grad]}]

    def batches(self, steps: range) -> Generator[ClipBatch, None, None]:
        pairs = iter(()) if self.pairs is None else self.pairs.at(steps)
        for step in steps:
            pair = next(pairs, None)
            rng = np.random.default_rng((self.config.loop.seed, step, 1))
            seed = torch.tensor(int(rng.integers(1 << 40)))
            if self.sharp is not None and (pair is None or rng.random() < self.config.clips_share):
                yield ClipBatch(self.sharp.batch(rng, self.config.loop.batch), None, seed)
            elif pair is not None:
                yield ClipBatch(pair.sharp, None if self.config.stage == "pretrain" else pair.blurred, seed)

    def loss(self, model: nn.Module, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(int(batch.seed))
        t = torch.randint(0, self.config.latest, (len(batch.sharp),), generator=generator)
        known = torch.rand(len(batch.sharp), generator=generator) >= self.config.drop_image
        device = batch.sharp.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(batch.seed))  # of dropout, so that a resumed run equals an uninterrupted one
            return self._loss(model, batch, t.to(device), known.to(device), generator)

    def _loss(
        self, model: nn.Module, batch: ClipBatch, t: Tensor, known: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        nn.Module.to(self.vae, t.device)
        with torch.no_grad():
            clean = torch.stack([encode(self.vae, clip.float() / 255) for clip in batch.sharp])
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        noisy, target = self.schedule.add_noise(clean, noise, t), self.schedule.get_velocity(clean, noise, t)
        blurred = None if batch.blurred is None else batch.blurred.float() / 255
        weights = torch.ones(())
        if blurred is not None and self.config.from_blurred:
            noisy, target, weights = self._noised_from(blurred, clean, noisy, target, t, generator)
        predicted = model(noisy, t, blurred, self._vector(blurred), known).float()
        root = weights.to(predicted) ** 0.5
        terms = vdm_loss(root * predicted, root * target)
        total = terms.total(self.config.coherence)
        figures = {"base": float(terms.base.detach()), "coherence": float(terms.coherence.detach())}
        if blurred is not None and self.lpips is not None:
            perceptual = self._perceptual(self.lpips, batch, blurred, noisy, predicted, t)
            total = total + self.config.perceptual * perceptual
            figures["perceptual"] = float(perceptual.detach())
        return total, figures

    def _noised_from(
        self, blurred: Tensor, clean: Tensor, noisy: Tensor, target: Tensor, t: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``noised_from_input`` for whole clips (B, F, L, h, w), of which a share is chosen."""
        chosen = (torch.rand(len(clean), generator=generator) < self.config.from_blurred).to(t.device)
        with torch.no_grad():
            degraded = torch.cat([encode(self.vae, clip) for clip in blurred])
        step = Prediction(self.schedule, t.repeat_interleave(clean.shape[1]))
        noisy, target, frames = (x.flatten(0, 1) for x in (noisy, target, clean))
        parts = noised_from_input(step, chosen.repeat_interleave(clean.shape[1]), noisy, target, frames, degraded)
        return tuple(x.unflatten(0, clean.shape[:2]) for x in parts)

    def _perceptual(
        self, lpips: LPIPS, batch: ClipBatch, blurred: Tensor, noisy: Tensor, predicted: Tensor, t: Tensor
    ) -> Tensor:
        """L1 + LPIPS of one frame of each clip, x + D(z) − D(E(x)) as in the sampler, z the predicted clean latent."""
        i = int(batch.seed) % blurred.shape[1]
        latents = Prediction(self.schedule, t).clean(noisy[:, i], predicted[:, i])
        with torch.no_grad():
            error = blurred[:, i] - decode(self.vae, encode(self.vae, blurred[:, i]))
        return picture_loss(lpips, decode(self.vae, latents) + error, batch.sharp[:, i] / 255).mean()

    def _vector(self, blurred: Tensor | None) -> Tensor | None:
        """CLIP's image vectors; None where the model has an embedding of its own, or there are no blurred frames."""
        if blurred is None or self.model.image_tokens.embedding is not None:
            return None
        if self.image_encoder is not None:
            nn.Module.to(self.image_encoder, blurred.device)
        return image_vectors(self.model.image_tokens, self.image_encoder, centre(blurred))

    @torch.inference_mode()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss on validation clips at fixed timesteps and noise; ``score`` is its negative."""
        device, losses = next(model.parameters()).device, []
        known = torch.ones(1, dtype=torch.bool, device=device)
        for i, clip in enumerate(self.validation):
            sharp, blurred = (frames.to(device) for frames in clip)
            batch = ClipBatch(sharp, None if self.config.stage == "pretrain" else blurred, torch.tensor(0))
            for k in range(VALIDATED_NOISES):
                t = torch.tensor([int(self.config.latest * (k + 0.5) / VALIDATED_NOISES)], device=device)
                source = torch.Generator().manual_seed(VALIDATED_NOISES * i + k)
                losses.append(float(self._loss(model, batch, t, known, source)[0]))
        if not losses:
            return {}
        mean = round(float(np.mean(losses)), 5)
        return {"loss": mean, "score": -mean}

    @torch.inference_mode()
    def pictures(self, model: Any) -> list[tuple[str, np.ndarray]]:
        """Blurred | generated in a few steps | sharp, centre frames; none in ``pretrain``."""
        if self.config.stage == "pretrain":
            return []
        device, out = next(model.parameters()).device, []
        for part in (self.vae, self.image_encoder):
            if part is not None:
                nn.Module.to(part, device)
        trained = model.unet, model.blur_encoder, model.image_tokens
        pipe = VDMPipeline(self.vae, *trained, self.sampler, self.image_encoder)
        pipe.set_progress_bar_config(disable=True)
        options = VDMSampling(SHOWN_STEPS, start=self.config.latest / self.sampler.config["num_train_timesteps"])
        for i, clip in enumerate(spread(self.validation)):
            sharp, blurred = (frames.float() / 255 for frames in clip)
            generated = pipe(blurred[0], options=options).frames[None]
            out.append((str(i), strip(centre(blurred), centre(generated), centre(sharp))))
        return out


def select(model: VDM, config: VDMTraining) -> None:
    """Enable gradients of the parameters that the stage trains, and freeze the others."""
    model.requires_grad_(False)
    trained: dict[str, list[nn.Module]] = {
        "pretrain": [model.unet, model.image_tokens.pre_image_condition],
        "encoder": [model.blur_encoder, *([model.image_tokens] if config.image_tokens else [])],
        "all": [model],
    }
    for part in trained[config.stage]:
        part.requires_grad_(True)


def start(config: VDMTraining) -> tuple[TrainedVDM, VDMPipeline]:
    """Return the model with initial weights, prepared for its stage, and the pipeline of its parts."""
    torch.manual_seed(config.loop.seed)
    sampler = DDIMScheduler(**SCHEDULES["v-zero-snr"])
    if config.init:
        pipe = load_model(ModelEntry("init", Path(config.init)), "VDMPipeline")
        if pipe.scheduler.config.get("rescale_betas_zero_snr"):  # of this family already: its spacing is kept
            sampler.register_to_config(timestep_spacing=pipe.scheduler.config["timestep_spacing"])
    else:
        vae = load_model(ModelEntry("autoencoder", Path(config.autoencoder)), *AUTOENCODERS)
        with sizes_of("compact"):
            unet = config.compact.unet(int(vae.config.latent_channels))
            vdm = VDM.assembled(unet, vae, image_tokens=config.compact.image_tokens())
        pipe = VDMPipeline(vae, vdm.unet, vdm.blur_encoder, vdm.image_tokens, sampler)
    model = TrainedVDM(pipe.unet, pipe.blur_encoder, pipe.image_tokens)
    model.sampling = tuple((pipe.config["sampling"] or {}).items())
    frozen = {"vae": pipe.vae, "scheduler": sampler, "image_encoder": pipe.image_encoder}
    model.frozen = tuple((name, part) for name, part in frozen.items() if part is not None)
    select(model, config)
    for layer in model.modules():
        if isinstance(layer, TemporalConvLayer):
            for inner in layer.modules():
                if isinstance(inner, nn.Dropout):
                    inner.p = config.temporal_dropout
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model, pipe


def prepare(config: Path, resuming: bool, changes: Sequence[str] = ()) -> Job:
    """Network, recipe and loop of a configuration file with ``changes``."""
    del resuming
    chosen = read_config(VDMTraining, config, changes)
    model, pipe = start(chosen)
    return Job(model, VDMRecipe(model, pipe.vae, pipe.image_encoder, chosen), chosen.loop)
