"""Diffusion schedules: families of denoisers, timesteps, clean latents of predictions, and noise by frame number."""

import hashlib
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from unsmear.models.common.warp import pixel_grid

Family = Literal["epsilon", "v-zero-snr"]
"""Prediction of a denoiser: the noise (ε), or velocity on a schedule with zero terminal SNR."""

FAMILIES: tuple[Family, ...] = get_args(Family)

BETAS = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
}
"""Schedule of Stable Diffusion and of all our denoisers, as settings of diffusers."""

SCHEDULES: dict[Family, dict[str, Any]] = {
    "epsilon": BETAS | {"prediction_type": "epsilon", "timestep_spacing": "linspace", "rescale_betas_zero_snr": False},
    "v-zero-snr": BETAS
    | {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
}
"""Scheduler settings of each family."""


class Prediction:
    """Conversion between predictions and clean latents of a variance-preserving schedule: x_t = √ᾱ·x_0 + √(1−ᾱ)·ε.

    Args:
        scheduler: of diffusers, ``epsilon`` or ``v_prediction``.
        timestep: t, one for all samples () or one per sample (B,).

    Raises:
        ValueError: a schedule of another kind, such as Euler's.
    """

    def __init__(self, scheduler: Any, timestep: Tensor):
        if not hasattr(scheduler, "alphas_cumprod") or float(scheduler.init_noise_sigma) != 1.0:
            name = type(scheduler).__name__
            raise ValueError(f"{name} scales its latents: expected a scheduler such as DDPM, DDIM or DPM-Solver++")
        self.kind = scheduler.config.prediction_type
        if self.kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type {self.kind!r} must be epsilon or v_prediction")
        cumulative = scheduler.alphas_cumprod[timestep.cpu()].to(timestep.device).reshape(-1, 1, 1, 1)
        self.signal, self.noise = cumulative**0.5, (1 - cumulative) ** 0.5

    def clean(self, sample: Tensor, predicted: Tensor) -> Tensor:
        """Clean latent x_0 of ``predicted`` at ``sample`` = x_t; both (B, L, h, w)."""
        if self.kind == "epsilon":
            return (sample - self.noise * predicted) / self.signal
        return self.signal * sample - self.noise * predicted

    def of_clean(self, sample: Tensor, clean: Tensor) -> Tensor:
        """Prediction whose clean latent x_0 is ``clean``, at ``sample`` = x_t; both (B, L, h, w)."""
        noise = (sample - self.signal * clean) / self.noise
        return noise if self.kind == "epsilon" else self.signal * noise - self.noise * clean


def start_timesteps(scheduler: Any, steps: int, start: float, device: torch.device) -> Tensor:
    """Set up ``scheduler`` for ``steps`` steps from t = ``start`` · T downwards; returns the timesteps (steps,).

    A start below 1 takes the last ``steps`` timesteps of a proportionally finer schedule.
    """
    total = scheduler.config.num_train_timesteps
    scheduler.set_timesteps(min(round(steps / start), total), device=device)
    every = scheduler.timesteps
    last = every[every <= start * total][-steps:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(len(every) - len(last))
    return last


def frame_generator(seed: int, frame: int) -> torch.Generator:
    """Random generator of the noise of one frame, independent of how the video is split. Ours."""
    digest = hashlib.sha256(f"{seed}/{frame}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def carried_noise(previous: Tensor, fresh: Tensor, motion: Tensor, kept: Tensor) -> Tensor:
    """Noise warped along the motion: where ``kept``, that of the previous frame at p + V, else fresh. Ours.

    Cells are moved to the nearest cell without interpolation, so that they stay independent; a cell that several
    positions map to is used for the first of them only.

    Args:
        previous, fresh: (C, h, w), standard normal.
        motion: V (2, h, w) in cells of the latent.
        kept: (h, w) bool, True where the motion is reliable.

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
    cells = torch.where(inside.flatten(), source, h * w - 1)
    readers = torch.where(inside.flatten(), order, h * w)
    first = first.scatter_reduce(0, cells, readers, "amin")
    is_first = inside.flatten() & (first[source] == order)
    moved = previous.flatten(1)[:, source]
    return torch.where(is_first, moved, fresh.flatten(1)).reshape(fresh.shape)
