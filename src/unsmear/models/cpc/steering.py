"""Between what a network predicts and the clean latent that it means, so that the latter can be steered."""

from typing import Any

import torch
from torch import Tensor


class Prediction:
    """The arithmetic of one step of a variance-preserving schedule: x_t = √ᾱ·x_0 + √(1−ᾱ)·ε.

    Args:
        scheduler: of diffusers, ``epsilon`` or ``v_prediction``.
        timestep: t, one for all samples () or one each (B,).

    Raises:
        ValueError: a schedule of another kind (Euler's, say).
    """

    def __init__(self, scheduler: Any, timestep: Tensor):
        if not hasattr(scheduler, "alphas_cumprod") or float(scheduler.init_noise_sigma) != 1.0:
            name = type(scheduler).__name__
            raise ValueError(f"{name} scales its latents: steering needs a schedule such as DDPM, DDIM or DPM-Solver++")
        self.kind = scheduler.config.prediction_type
        if self.kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type {self.kind!r} must be epsilon or v_prediction")
        cumulative = scheduler.alphas_cumprod[timestep.cpu()].to(timestep.device).reshape(-1, 1, 1, 1)
        self.signal, self.noise = cumulative**0.5, (1 - cumulative) ** 0.5

    def clean(self, sample: Tensor, predicted: Tensor) -> Tensor:
        """x_0 that ``predicted`` means at ``sample`` = x_t."""
        if self.kind == "epsilon":
            return (sample - self.noise * predicted) / self.signal
        return self.signal * sample - self.noise * predicted

    def of_clean(self, sample: Tensor, clean: Tensor) -> Tensor:
        """The prediction that means ``clean``."""
        noise = (sample - self.signal * clean) / self.noise
        return noise if self.kind == "epsilon" else self.signal * noise - self.noise * clean


def start_timesteps(scheduler: Any, steps: int, start: float, device: torch.device) -> Tensor:
    """Set ``scheduler`` up for ``steps`` steps from t = ``start`` · T downwards; the timesteps, (steps,).

    A start below 1 takes the last ``steps`` timesteps of a proportionally finer schedule.
    """
    total = scheduler.config.num_train_timesteps
    scheduler.set_timesteps(min(round(steps / start), total), device=device)
    every = scheduler.timesteps
    wanted = every[every <= start * total][-steps:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(len(every) - len(wanted))
    return wanted
