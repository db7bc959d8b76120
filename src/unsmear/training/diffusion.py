"""Noising, target and estimate of a latent diffusion model whose autoencoder is frozen."""

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
    """Noising and target of a latent diffusion model, with frozen parts."""

    def __init__(self, config: "CPGDTraining"):
        self.config = config
        self.vae = load_model(ModelEntry("autoencoder", Path(config.autoencoder)), *AUTOENCODERS)
        if config.loop.channels_last:
            nn.Module.to(self.vae, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.schedule = DDPMScheduler(**BETAS, prediction_type=config.prediction)
        self.latest = min(config.latest, int(self.schedule.config["num_train_timesteps"]))

    def encode(self, frames: Tensor) -> Tensor:
        """Latents of frames (B, 3, H, W) in [0, 1]."""
        nn.Module.to(self.vae, frames.device)
        return encode(self.vae, frames)

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (B, 3, H, W), about [0, 1], of latents; gradients pass."""
        nn.Module.to(self.vae, latents.device)
        return decode(self.vae, latents)

    def noised(self, clean: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """(noisy latents, timesteps, target) of clean latents; draws come from ``seed`` alone."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        t = torch.randint(0, self.latest, (len(clean),), generator=generator).to(clean.device)
        noisy = self.schedule.add_noise(clean, noise, t)
        target = noise if self.config.prediction == "epsilon" else self.schedule.get_velocity(clean, noise, t)
        return noisy, t, target

    def started(self, clean: Tensor, given: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``noised``, but for ``share`` of the samples the noise lies on latents ``given``, where a sampler begins.

        Their target leads to ``clean`` all the same. The fourth is what an error counts, (B, 1, 1, 1): there 1 − ᾱ,
        with which it is the squared error of the clean latents. Ours.
        """
        noisy, t, target = self.noised(clean, seed)
        chosen = (torch.rand(len(clean), generator=torch.Generator().manual_seed(~seed)) < share).to(clean.device)
        noisy, target, counts = begun(Prediction(self.schedule, t), chosen, noisy, target, clean, given)
        return noisy, t, target, counts

    def clean(self, noisy: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """The clean latents that predictions (B, C, h, w) mean at noisy latents of timesteps t (B,)."""
        return Prediction(self.schedule, t).clean(noisy, predicted)

    def sampler(self) -> DDIMScheduler:
        """The schedule to sample by: trailing, so that it begins at its start and spends no step at t = 0."""
        return DDIMScheduler.from_config(self.schedule.config, timestep_spacing="trailing")

    def gain(self, t: Tensor) -> Tensor:
        """(B,) what keeps gradients through ``clean`` of one size at all timesteps.

        ∂x_0/∂ε = −√(1−ᾱ)/√ᾱ grows without bound towards t = T: √ᾱ takes that away. A v-prediction has no need of it.
        """
        step = Prediction(self.schedule, t)
        signal = step.signal.flatten()
        return signal if step.kind == "epsilon" else torch.ones_like(signal)


def begun(
    step: Prediction, chosen: Tensor, noisy: Tensor, target: Tensor, clean: Tensor, given: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Let the noise of some samples lie on latents ``given``, where a sampler that starts below T begins. Ours.

    Args:
        step: of the samples' timesteps.
        chosen: (B,) bool, which samples.
        noisy, target, clean, given: (B, C, h, w).

    Returns:
        ``noisy``; ``target``, which leads to ``clean`` all the same; and what an error counts, (B, 1, 1, 1): where
        chosen 1 − ᾱ, with which it is the squared error of the clean latents, else 1.
    """
    there = chosen.reshape(-1, 1, 1, 1)
    noisy = torch.where(there, noisy + step.signal * (given - clean), noisy)
    target = torch.where(there, step.of_clean(noisy, clean), target)
    return noisy, target, torch.where(there, step.noise**2, torch.ones_like(step.noise))


def picture_loss(lpips: LPIPS, picture: Tensor, sharp: Tensor) -> Tensor:
    """L1 + LPIPS of pictures (B, 3, H, W), sharp ones in [0, 1] → (B,)."""
    with torch.autocast(picture.device.type, enabled=False):
        picture, sharp = picture.float(), sharp.float()
        distance = lpips.to(picture.device)(picture.clamp(0, 1) * 2 - 1, sharp * 2 - 1)
        return (picture - sharp).abs().mean((1, 2, 3)) + distance
