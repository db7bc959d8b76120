"""The sampling loop that both diffusion pipelines share: from noise to latents, step by step, and back to frames."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from unsmear.models.common.latents import decode, one_by_one, transfer_colour
from unsmear.models.common.schedule import start_timesteps
from unsmear.models.common.tiles import TileBox, by_latent_tiles


@dataclass(frozen=True)
class SamplerSettings:
    """Settings of sampling that the pipelines share. Tiles and strides are in cells of the latent.

    Raises:
        ValueError: a value out of range.
    """

    steps: int = 50
    guidance: float = 1.0
    """Scale of classifier-free guidance; at 1 the network is asked once a step."""
    start: float = 1.0
    """From noise at t = T; below 1 from the latent of the given frames with the noise of t = start · T. Ours."""
    seed: int = 0
    tile: int = 64
    stride: int = 32
    tile_batch: int = 1
    colour: bool = True
    """Coarse scales from the given frames, by wavelets."""
    cancel_autoencoder: bool = True
    """Add what the autoencoder alone loses of the given frames, X − D(E(X)). Ours."""

    def __post_init__(self) -> None:
        if not 0 < self.start <= 1:
            raise ValueError(f"start {self.start} of sampling must lie above 0 and at most at 1, where all is noise")
        if self.steps < 1:
            raise ValueError(f"{self.steps} sampling steps: give at least 1")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance {self.guidance} must be a finite number, such as 1 (off) or 4")

    def overridden(self, steps: int | None, guidance: float | None, seed: int | None) -> Self:
        """These settings with those arguments that are not None."""
        return replace(
            self,
            steps=self.steps if steps is None else steps,
            guidance=self.guidance if guidance is None else guidance,
            seed=self.seed if seed is None else seed,
        )


class Stepping(Protocol):
    """A pipeline as the loop needs it: ``unsmear.models.common.pipeline.SamplingPipeline``."""

    scheduler: Any

    @property
    def interrupt(self) -> bool:
        """Whether to stop after this step."""

    def end_step(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        """Progress and callbacks of a step; the latents to go on with."""


def sampled(
    pipe: Stepping,
    settings: SamplerSettings,
    noise: Tensor,
    generators: Sequence[torch.Generator],
    given: Tensor | None,
    predict: Callable[[Tensor, Tensor], Tensor],
    joined: Callable[[int, Tensor], Tensor] | None = None,
) -> Tensor:
    """Latents after all steps, or after the step at which a callback interrupted the pipeline.

    Args:
        pipe: whose scheduler is used.
        settings: steps and start.
        noise: (T, L, h, w), standard normal.
        generators: one a frame, for schedulers that draw noise at each step.
        given: latents (T, L, h, w) of the given frames; needed where ``settings.start`` is below 1.
        predict: (latents (T, L, h, w) as the scheduler scales them, t) → the network's prediction of that shape.
        joined: (0, latents before the first step) and (i, latents after the i-th) → latents to go on with.
    """
    scheduler = pipe.scheduler
    timesteps = start_timesteps(scheduler, settings.steps, settings.start, noise.device)
    if settings.start == 1:
        latents = noise * float(scheduler.init_noise_sigma)
    else:
        latents = scheduler.add_noise(given, noise, timesteps[:1].expand(len(noise)))
    draws = "generator" in inspect.signature(scheduler.step).parameters
    extra: dict[str, Any] = {"generator": list(generators)} if draws else {}
    if joined is not None:
        latents = joined(0, latents)
    for i, t in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, t)
        latents = scheduler.step(predict(scaled, t), t, latents, **extra).prev_sample
        latents = pipe.end_step(i, t, latents)
        if joined is not None:
            latents = joined(i + 1, latents)
        if pipe.interrupt:
            break
    return latents


def predicted(
    ask: Callable[[Tensor, Sequence[TileBox]], Tensor],
    conditions: Sequence[Tensor],
    boxes: Sequence[TileBox],
    settings: SamplerSettings,
    latents: Tensor,
) -> Tensor:
    """Prediction for whole latents, tile by tile, with classifier-free guidance: u + guidance · (c − u).

    Args:
        ask: (condition, n tiles) → the network's answers (n·T, L, height, width), the tiles one after the other.
        conditions: the condition, and with guidance the one of its absence after it.
        boxes: of the tiles.
        settings: guidance and tiles in a batch.
        latents: (T, L, h, w), of the result's shape and device.
    """

    def denoise(some: Sequence[TileBox]) -> Tensor:
        answers = [ask(condition, some) for condition in conditions]
        if len(answers) == 1:
            return answers[0]
        wanted, unwanted = answers
        return unwanted + settings.guidance * (wanted - unwanted)

    return by_latent_tiles(latents.shape, boxes, denoise, settings.tile_batch, latents)


def finished(
    vae: Any, latents: Tensor, frames: Tensor, given: Tensor | None, settings: SamplerSettings, at_once: int = 1
) -> Iterator[Tensor]:
    """Frames (n, 3, H, W) float32 of latents, not clipped, n ≤ ``at_once`` by ``at_once``; all are decoded singly.

    Args:
        vae: the autoencoder.
        latents: (T, L, h, w).
        frames: (T, 3, H, W) in [0, 1], the given ones, on any device.
        given: their latents, for ``cancel_autoencoder``.
        settings: ``cancel_autoencoder`` and ``colour``.
        at_once: frames in memory at a time.
    """
    for first in range(0, len(latents), at_once):
        part = slice(first, first + at_once)
        made, known = one_by_one(decode, vae, latents[part]), frames[part].to(latents.device).float()
        if settings.cancel_autoencoder and given is not None:
            made = made + known - one_by_one(decode, vae, given[part])
        yield transfer_colour(made, known) if settings.colour else made
