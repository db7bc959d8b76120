"""Noising, targets and clean estimates of a latent diffusion model with a frozen autoencoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from unsmear.metrics.lpips import LPIPS
from unsmear.models.common.latents import decode, encode
from unsmear.models.common.schedule import BETAS, SCHEDULES, Prediction
from unsmear.models.loading import AUTOENCODERS, SCHEDULER, load_model, scheduler_of
from unsmear.models.zoo import ModelEntry
from unsmear.options import OptionError, check

if TYPE_CHECKING:
    from unsmear.training.cpgd import CPGDTraining


@dataclass(frozen=True)
class ScheduleConfig:
    """Noise schedule of the training, and the sampler that the result is saved with."""

    zero_snr: bool | None = None
    """Whether the schedule ends at pure noise (zero terminal SNR); None: as that of ``prior``, else with
    ``v_prediction``."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """``ddpm`` (spaced, as in the paper) or ``ddim``."""
    spacing: Literal["linspace", "trailing", "leading"] | None = None
    """Timesteps of the sampler: ``linspace``, ``trailing`` or ``leading``; None: ``trailing`` with zero terminal SNR,
    else ``linspace``."""

    def __post_init__(self) -> None:
        check(self)


def noise_schedule(config: "CPGDTraining") -> dict[str, Any]:
    """Settings of diffusers' schedulers that training and sampling share: betas, prediction, terminal SNR.

    They are those of the scheduler beside ``prior``, if there is one, else Stable Diffusion's with what ``config``
    states.

    Raises:
        OptionError: ``config`` contradicts the scheduler beside ``prior``.
        WeightsError: that one is damaged.
    """
    zero_snr = config.schedule.zero_snr
    base = config.base
    if base is None or not (base / SCHEDULER).exists():
        prediction = config.prediction or "epsilon"
        zero_snr = prediction == "v_prediction" if zero_snr is None else zero_snr
        return BETAS | {"prediction_type": prediction, "rescale_betas_zero_snr": zero_snr}
    stored = scheduler_of(base).config
    own = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False, **stored}
    for name, key, stated in (
        ("prediction", "prediction_type", config.prediction),
        ("schedule.zero_snr", "rescale_betas_zero_snr", zero_snr),
    ):
        if stated not in (None, own[key]):
            raise OptionError(name, stated, f"{str(own[key]).lower()}, as in {base / SCHEDULER}; leave it out")
    shared = BETAS | {"prediction_type": None, "rescale_betas_zero_snr": None}
    return {key: own.get(key, value) for key, value in shared.items()} | {"clip_sample": False}


class Diffusion:
    """Schedule and frozen autoencoder of a latent diffusion model, for training."""

    def __init__(self, config: "CPGDTraining"):
        self.config = config
        self.vae = load_model(ModelEntry("autoencoder", Path(config.autoencoder)), *AUTOENCODERS)
        if config.loop.channels_last:
            nn.Module.to(self.vae, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.settings = noise_schedule(config)
        self.schedule = DDPMScheduler(**self.settings)
        self.prediction: str = self.settings["prediction_type"]
        self.latest = min(config.latest, int(self.schedule.config["num_train_timesteps"]))

    def encode(self, frames: Tensor) -> Tensor:
        """Latents (B, L, h, w) of frames (B, 3, H, W) in [0, 1]."""
        nn.Module.to(self.vae, frames.device)
        return encode(self.vae, frames)

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (B, 3, H, W), about [0, 1], of latents (B, L, h, w); differentiable."""
        nn.Module.to(self.vae, latents.device)
        return decode(self.vae, latents)

    def noised(self, clean: Tensor, seed: int, together: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """(noisy latents, timesteps (B,), target) for clean latents (B, L, h, w); draws depend on ``seed`` only.

        ``together``: number of consecutive samples with the same timestep, as frames that are sampled together have.
        """
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        t = torch.randint(0, self.latest, (len(clean) // together,), generator=generator).to(clean.device)
        t = t.repeat_interleave(together)
        noisy = self.schedule.add_noise(clean, noise, t)
        target = noise if self.prediction == "epsilon" else self.schedule.get_velocity(clean, noise, t)
        return noisy, t, target

    def noised_from(
        self, clean: Tensor, degraded: Tensor, share: float, seed: int, together: int = 1
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As ``noised``, but ``share`` of the groups are noised from the latents ``degraded``. Ours.

        Returns:
            Noisy latents, timesteps, target, and weights of the samples' errors, see ``noised_from_input``.
        """
        noisy, t, target = self.noised(clean, seed, together)
        drawn = torch.rand(len(clean) // together, generator=torch.Generator().manual_seed(~seed))
        chosen = (drawn < share).repeat_interleave(together).to(clean.device)
        step = Prediction(self.schedule, t)
        noisy, target, weights = noised_from_input(step, chosen, noisy, target, clean, degraded)
        return noisy, t, target, weights

    def clean(self, noisy: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """Clean latents implied by predictions (B, C, h, w) at noisy latents of timesteps t (B,)."""
        return Prediction(self.schedule, t).clean(noisy, predicted)

    def sampler(self) -> DDPMScheduler | DDIMScheduler:
        """Scheduler that the result is saved with, on the schedule of the training."""
        chosen = self.config.schedule
        family = SCHEDULES["v-zero-snr" if self.settings["rescale_betas_zero_snr"] else "epsilon"]
        spacing = chosen.spacing or family["timestep_spacing"]
        kind = DDIMScheduler if chosen.sampler == "ddim" else DDPMScheduler
        return kind(**self.settings, timestep_spacing=spacing)

    def preview(self) -> DDIMScheduler:
        """Scheduler for pictures in a few steps: DDIM, trailing, which starts exactly at its start."""
        return DDIMScheduler(**self.settings, timestep_spacing="trailing")

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
