"""Noising, targets and clean estimates of a latent diffusion model with a frozen autoencoder."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from unsmear.metrics.lpips import LPIPS
from unsmear.models.common.latents import decode, encode
from unsmear.models.common.schedule import BETAS, Prediction
from unsmear.models.loading import AUTOENCODERS, load_model
from unsmear.models.zoo import ModelEntry

if TYPE_CHECKING:
    from unsmear.training.cpgd import CPGDTraining


class Diffusion:
    """Schedule and frozen autoencoder of a latent diffusion model, for training."""

    def __init__(self, config: "CPGDTraining"):
        self.config = config
        self.vae = load_model(ModelEntry("autoencoder", Path(config.autoencoder)), *AUTOENCODERS)
        if config.loop.channels_last:
            nn.Module.to(self.vae, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.schedule = DDPMScheduler(**BETAS, prediction_type=config.prediction)
        self.latest = min(config.latest, int(self.schedule.config["num_train_timesteps"]))

    def encode(self, frames: Tensor) -> Tensor:
        """Latents (B, L, h, w) of frames (B, 3, H, W) in [0, 1]."""
        nn.Module.to(self.vae, frames.device)
        return encode(self.vae, frames)

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (B, 3, H, W), about [0, 1], of latents (B, L, h, w); differentiable."""
        nn.Module.to(self.vae, latents.device)
        return decode(self.vae, latents)

    def noised(self, clean: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """(noisy latents, timesteps (B,), target) for clean latents (B, L, h, w); draws depend on ``seed`` only."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        t = torch.randint(0, self.latest, (len(clean),), generator=generator).to(clean.device)
        noisy = self.schedule.add_noise(clean, noise, t)
        target = noise if self.config.prediction == "epsilon" else self.schedule.get_velocity(clean, noise, t)
        return noisy, t, target

    def noised_from(
        self, clean: Tensor, degraded: Tensor, share: float, seed: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As ``noised``, but ``share`` of the samples are noised from the latents ``degraded``. Ours.

        Returns:
            Noisy latents, timesteps, target, and weights of the samples' errors, see ``noised_from_input``.
        """
        noisy, t, target = self.noised(clean, seed)
        chosen = (torch.rand(len(clean), generator=torch.Generator().manual_seed(~seed)) < share).to(clean.device)
        step = Prediction(self.schedule, t)
        noisy, target, weights = noised_from_input(step, chosen, noisy, target, clean, degraded)
        return noisy, t, target, weights

    def clean(self, noisy: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """Clean latents implied by predictions (B, C, h, w) at noisy latents of timesteps t (B,)."""
        return Prediction(self.schedule, t).clean(noisy, predicted)

    def sampler(self) -> DDIMScheduler:
        """Scheduler for sampling, with trailing timesteps: it starts exactly at its start and has no step at t = 0."""
        return DDIMScheduler.from_config(self.schedule.config, timestep_spacing="trailing")

    def gain(self, t: Tensor) -> Tensor:
        """Weights (B,) that equalise the scale of gradients through ``clean`` over timesteps.

        ∂x_0/∂ε = −√(1−ᾱ)/√ᾱ grows without bound towards t = T, which the weight √ᾱ cancels; for v-prediction it is 1.
        """
        step = Prediction(self.schedule, t)
        signal = step.signal.flatten()
        return signal if step.kind == "epsilon" else torch.ones_like(signal)


def noised_from_input(
    step: Prediction, chosen: Tensor, noisy: Tensor, target: Tensor, clean: Tensor, degraded: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise some samples from latents of the degraded input, as a sampler with a start below T does. Ours.

    Args:
        step: at the samples' timesteps.
        chosen: (B,) bool, True for these samples.
        noisy, target: (B, C, h, w), noised from ``clean``.
        clean, degraded: latents (B, C, h, w).

    Returns:
        ``noisy``; ``target``, whose clean latents are ``clean`` for all samples; and weights (B, 1, 1, 1) of squared
        errors: 1 where not chosen, else 1 − ᾱ, which gives that of the clean latents (times ᾱ in ε-prediction).
    """
    mask = chosen.reshape(-1, 1, 1, 1)
    noisy = torch.where(mask, noisy + step.signal * (degraded - clean), noisy)
    target = torch.where(mask, step.of_clean(noisy, clean), target)
    return noisy, target, torch.where(mask, step.noise**2, torch.ones_like(step.noise))


def picture_loss(lpips: LPIPS, picture: Tensor, sharp: Tensor) -> Tensor:
    """L1 + LPIPS (B,) of images (B, 3, H, W); ``sharp`` in [0, 1]."""
    with torch.autocast(picture.device.type, enabled=False):
        picture, sharp = picture.float(), sharp.float()
        distance = lpips.to(picture.device)(picture.clamp(0, 1) * 2 - 1, sharp * 2 - 1)
        return (picture - sharp).abs().mean((1, 2, 3)) + distance
