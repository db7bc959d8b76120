"""The recipes of stage 2: ``prior``, a compact denoiser on sharp pictures, and ``control``, CPGD-Net's phase II.

Phase II (§III-C): UNet and autoencoder are frozen, the control network learns to steer them by the latent of what stage
1 makes of a blurred frame and by its coding priors; the loss is that of the base model. The prior stands in for Stable
Diffusion, which the full-size model brings (ours).
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from unsmear.data.degrade import DegradeRanges, degrade
from unsmear.errors import UsageError
from unsmear.models.cpc.attention import control_priors
from unsmear.models.cpc.control import CPControlNet
from unsmear.models.cpc.pipeline import CPCPipeline
from unsmear.models.cpfp import CPFP, PriorTensors
from unsmear.models.loading import load_autoencoder, load_denoiser, load_model
from unsmear.models.zoo import ModelEntry, find
from unsmear.training.batches import Batch, PackBatches
from unsmear.training.config import LoopConfig, from_mapping, read_yaml
from unsmear.training.images import ImageConfig, ImageCrops
from unsmear.training.loop import Job
from unsmear.training.sequences import DataConfig
from unsmear.training.validation import ValidationClip, restore

STAGES = ("prior", "control")

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


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
    """Options of ``CPControlNet`` (METHODS §7)."""

    guided: bool = True
    prior_width: int | None = None
    shared_query: bool = False
    joint_time_attention: bool = False


@dataclass(frozen=True)
class CPCTraining:
    """The whole of a ``train cpc`` configuration."""

    stage: str = "control"
    """``prior`` or ``control``."""
    autoencoder: str = ""
    """Folder of an ``AutoencoderKL`` or ``AutoencoderTiny``."""
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
    data: DataConfig = field(default_factory=DataConfig)
    """Deblurring pairs, of stage ``control``; ``data.validation`` is used there."""
    images: ImageConfig = field(default_factory=ImageConfig)
    """Sharp pictures: all of stage ``prior``, and the hybrid share of ``control``."""
    hybrid: float = 0.0
    """Share of the batches of stage ``control`` that are sharp pictures, degraded, with priors of nothing (§IV)."""
    degrade: DegradeRanges = field(default_factory=DegradeRanges)
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

    @classmethod
    def read(cls, path: Path) -> "CPCTraining":
        return from_mapping(cls, read_yaml(path), str(path))


class Diffusion:
    """Noising and target of a latent diffusion model, with frozen parts."""

    def __init__(self, config: CPCTraining):
        self.config = config
        self.vae = load_autoencoder(ModelEntry("autoencoder", Path(config.autoencoder)))
        self.schedule = DDPMScheduler(**SCHEDULE, prediction_type=config.prediction)
        self.latest = min(config.latest, int(self.schedule.config["num_train_timesteps"]))

    def encode(self, frames: Tensor) -> Tensor:
        """Latents of frames (B, 3, H, W) in [0, 1]."""
        nn.Module.to(self.vae, frames.device)
        return CPCPipeline.encode_with(self.vae, frames)

    def noised(self, clean: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """(noisy latents, timesteps, target) of clean latents; draws come from ``seed`` alone."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        t = torch.randint(0, self.latest, (len(clean),), generator=generator).to(clean.device)
        noisy = self.schedule.add_noise(clean, noise, t)
        target = noise if self.config.prediction == "epsilon" else self.schedule.get_velocity(clean, noise, t)
        return noisy, t, target


class PriorBatch(NamedTuple):
    images: Tensor
    """(B, 3, S, S) uint8."""
    seed: Tensor


class PriorRecipe:
    """A denoiser of the latents of sharp pictures."""

    def __init__(self, model: UNet2DConditionModel, config: CPCTraining):
        self.model, self.config, self.diffusion = model, config, Diffusion(config)
        self.crops = ImageCrops(config.images)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters())}]

    def batches(self, steps: range) -> Generator[PriorBatch, None, None]:
        loop = self.config.loop
        for step in steps:
            rng = np.random.default_rng((loop.seed, step))
            yield PriorBatch(self.crops.batch(rng, loop.batch), torch.tensor(int(rng.integers(1 << 40))))

    def loss(self, model: nn.Module, batch: PriorBatch) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            clean = self.diffusion.encode(batch.images.float() / 255)
        return self._error(model, clean, int(batch.seed)), {"latent_std": float(clean.std())}

    def _error(self, model: nn.Module, clean: Tensor, seed: int) -> Tensor:
        noisy, t, target = self.diffusion.noised(clean, seed)
        text = clean.new_zeros(len(clean), 1, self.model.config["cross_attention_dim"])
        return F.mse_loss(model(noisy, t, text).sample.float(), target)

    @torch.inference_mode()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The loss on validation frames, each at four noises that are always the same; ``score`` is its negative."""
        device = next(model.parameters()).device
        losses = [
            float(self._error(model, self.diffusion.encode(frame.to(device).float() / 255), 4 * i + k))
            for i, frame in enumerate(self.crops.validation)
            for k in range(4)
        ]
        return {"loss": round(float(np.mean(losses)), 5), "score": -round(float(np.mean(losses)), 5)} if losses else {}


class ControlBatch(NamedTuple):
    """Frames to generate and what the control network is given of them."""

    sharp: Tensor
    """(B, 3, S, S) uint8."""
    hint: Tensor
    """(B, 3, S, S) float32 in [0, 1]."""
    priors: Tensor
    """(B, 3, S/4, S/4), of ``control_priors``."""
    seed: Tensor


class ControlRecipe:
    """Phase II: only the control network is moved."""

    def __init__(self, model: CPControlNet, unet: UNet2DConditionModel, config: CPCTraining):
        self.model, self.config, self.diffusion = model, config, Diffusion(config)
        self.unet = unet.eval().requires_grad_(False)
        self.pairs = PackBatches(config.data, config.loop.seed, config.loop.batch)
        self.crops = ImageCrops(config.images) if config.hybrid else None
        self.first: CPFP | None = load_model(find(config.first_stage)) if config.first_stage else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.model.parameters() if p.requires_grad]}]

    def batches(self, steps: range) -> Generator[ControlBatch, None, None]:
        for step in steps:
            rng = np.random.default_rng((self.config.loop.seed, step, 1))
            if self.crops is not None and rng.random() < self.config.hybrid:
                yield self._degraded(rng)
            else:
                yield self._deblurred(self.pairs.at(step), rng)

    @torch.inference_mode()
    def _deblurred(self, batch: Batch, rng: np.random.Generator) -> ControlBatch:
        """One frame of each sequence, as stage 1 restores it."""
        blurred, i = batch.blurred.float() / 255, int(rng.integers(batch.blurred.shape[1]))
        hint = blurred if self.first is None else self.first(blurred, batch.priors).frames.clamp(0, 1)
        priors = _priors_of(batch.priors, i)
        return ControlBatch(batch.sharp[:, i], hint[:, i], priors, torch.tensor(int(rng.integers(1 << 40))))

    def _degraded(self, rng: np.random.Generator) -> ControlBatch:
        assert self.crops is not None
        sharp = [self.crops.crop(rng) for _ in range(self.config.loop.batch)]
        poor = np.stack([degrade([image], rng, self.config.degrade)[0] for image in sharp])
        size = poor.shape[1] // 4
        return ControlBatch(
            torch.from_numpy(np.stack(sharp)).permute(0, 3, 1, 2),
            torch.from_numpy(poor).permute(0, 3, 1, 2).float() / 255,
            torch.zeros(len(poor), 3, size, size),
            torch.tensor(int(rng.integers(1 << 40))),
        )

    def loss(self, model: nn.Module, batch: ControlBatch) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            clean, hint = self.diffusion.encode(batch.sharp.float() / 255), self.diffusion.encode(batch.hint)
        noisy, t, target = self.diffusion.noised(clean, int(batch.seed))
        nn.Module.to(self.unet, noisy.device)
        text = clean.new_zeros(len(clean), 1, self.unet.config["cross_attention_dim"])
        down, mid = model(noisy, t, text, hint, batch.priors, return_dict=False)
        made = self.unet(
            noisy, t, text, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample.float()
        with torch.no_grad():
            alone = F.mse_loss(self.unet(noisy, t, text).sample.float(), target)
        error = F.mse_loss(made, target)
        return error, {"unsteered": float(alone), "share": float(error.detach() / alone)}

    @cached_property
    def clips(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(hint, priors, sharp) of the middle frame of each validation piece, sides cut to multiples of 32."""
        if self.config.data.validation is None:
            return []
        out = []
        for clip in ValidationClip.load_all(Path(self.config.data.validation)):
            if clip.already_sharp:
                continue
            i, (h, w) = len(clip.given) // 2, (side // 32 * 32 for side in clip.given.shape[1:3])
            made = clip.given if self.first is None else restore(self.first, clip.given, clip.priors)
            frames = [torch.from_numpy(x[i, :h, :w]).permute(2, 0, 1)[None].float() / 255 for x in (made, clip.wanted)]
            priors = F.interpolate(_priors_of(clip.priors, i), (-(-h // 4), -(-w // 4)), mode="nearest")
            out.append((frames[0], priors, frames[1]))
        return out

    @torch.inference_mode()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The loss on validation frames at noises that are always the same; ``score`` is its negative."""
        losses, steered = [], []
        for n, (hint, priors, sharp) in enumerate(self.clips):
            for k in range(2):
                batch = ControlBatch((sharp * 255).round().byte(), hint, priors, torch.tensor(2 * n + k))
                device = next(model.parameters()).device
                error, figures = self.loss(model, ControlBatch(*(x.to(device) for x in batch)))
                losses.append(float(error))
                steered.append(figures["share"])
        if not losses:
            return {}
        mean = float(np.mean(losses))
        return {"loss": round(mean, 5), "share": round(float(np.mean(steered)), 4), "score": -round(mean, 5)}


def _priors_of(priors: PriorTensors, i: int) -> Tensor:
    """Of frame i of each clip, on the grid of the residual."""
    residual = priors.residual[:, i].float()
    motion = F.interpolate(priors.motion[:, i].float(), residual.shape[-2:], mode="bilinear", align_corners=False)
    return control_priors(motion, residual)


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
