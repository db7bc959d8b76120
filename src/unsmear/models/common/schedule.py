"""Diffusion schedules: families of denoisers, timesteps, the clean latent a prediction stands for, and noise that is
tied to frame numbers.
"""

import hashlib
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from unsmear.models.common.warp import pixel_grid

Family = Literal["epsilon", "v-zero-snr"]
"""What a denoiser predicts: the noise (ε), or velocity on a schedule with zero terminal SNR."""

FAMILIES: tuple[Family, ...] = get_args(Family)

BETAS = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
}
"""Stable Diffusion's schedule, in diffusers' words; all our denoisers have it."""

SCHEDULES: dict[Family, dict[str, Any]] = {
    "epsilon": BETAS | {"prediction_type": "epsilon", "timestep_spacing": "linspace", "rescale_betas_zero_snr": False},
    "v-zero-snr": BETAS
    | {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
}
"""Settings of the scheduler by family."""


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
        """x_0 of ``predicted`` at ``sample`` = x_t; both (B, L, h, w)."""
        if self.kind == "epsilon":
            return (sample - self.noise * predicted) / self.signal
        return self.signal * sample - self.noise * predicted

    def of_clean(self, sample: Tensor, clean: Tensor) -> Tensor:
        """The prediction whose x_0 is ``clean``, at ``sample`` = x_t; both (B, L, h, w)."""
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


def frame_generator(seed: int, frame: int) -> torch.Generator:
    """Generator of all noise of one frame: the same on every run, however the video is cut up. Ours."""
    digest = hashlib.sha256(f"{seed}/{frame}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def carried_noise(previous: Tensor, fresh: Tensor, motion: Tensor, kept: Tensor) -> Tensor:
    """Noise warped along the motion: where ``kept``, that of the previous frame at p + V, else fresh. Ours.

    Values are moved whole, to the nearest cell, so that they stay independent; a cell that is read twice keeps its
    value for the first reader only.

    Args:
        previous, fresh: (C, h, w), standard normal.
        motion: V (2, h, w) in cells of the latent.
        kept: (h, w) bool, where the motion can be trusted.

    Returns:
        (C, h, w), standard normal.
    """
    h, w = fresh.shape[-2:]
    at = (pixel_grid(h, w, motion) + motion).round().long()
    x, y = at[0], at[1]
    inside = kept & (x >= 0) & (x < w) & (y >= 0) & (y < h)
    source = (y.clamp(0, h - 1) * w + x.clamp(0, w - 1)).flatten()
    order = torch.arange(h * w, device=source.device)
    first = torch.full((h * w,), h * w, device=source.device)
    asked = torch.where(inside.flatten(), source, h * w - 1)
    readers = torch.where(inside.flatten(), order, h * w)
    first = first.scatter_reduce(0, asked, readers, "amin")
    alone = inside.flatten() & (first[source] == order)
    moved = previous.flatten(1)[:, source]
    return torch.where(alone, moved, fresh.flatten(1)).reshape(fresh.shape)
