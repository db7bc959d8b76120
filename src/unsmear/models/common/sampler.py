"""Sampling loop of both diffusion pipelines: from noise to latents, and decoding to frames."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol, Self

import torch
from torch import Tensor

from unsmear.models.common.latents import decode, one_by_one, transfer_colour
from unsmear.models.common.schedule import start_timesteps
from unsmear.models.common.tiles import TileBox, by_latent_tiles
from unsmear.options import Limits, check


@dataclass(frozen=True)
class SamplerSettings:
    """Sampler settings shared by the pipelines. Tiles and strides are in cells of the latent.

    Raises:
        OptionError: a value out of range, or of another type; a ``UsageError`` and a ``ValueError``.
    """

    steps: Annotated[int, Limits(1)] = 50
    guidance: Annotated[float, Limits(0)] = 1.0
    """Scale of classifier-free guidance; 1 disables it, and the network is evaluated once per step."""
    start: Annotated[float, Limits(0, 1, above=True)] = 1.0
    """Start of sampling: 1 is pure noise, t = T; below 1 it is the latent of the input frames at noise level
    t = start · T. Ours."""
    seed: int = 0
    tile: Annotated[int, Limits(1)] = 64
    """Side of tiles."""
    stride: Annotated[int, Limits(1)] = 32
    """Largest distance between tiles."""
    tile_batch: Annotated[int, Limits(1)] = 1
    """Tiles per batch."""
    colour: bool = True
    """Take the coarse scales from the input frames, by wavelets."""
    cancel_autoencoder: bool = True
    """Add the reconstruction error of the autoencoder on the input frames, X − D(E(X)). Ours."""

    def __post_init__(self) -> None:
        check(self)

    def overridden(self, steps: int | None, guidance: float | None, seed: int | None) -> Self:
        """Return these settings with the arguments that are not None."""
        return replace(
            self,
            steps=self.steps if steps is None else steps,
            guidance=self.guidance if guidance is None else guidance,
            seed=self.seed if seed is None else seed,
        )


class Stepping(Protocol):
    """Interface of the loop to a pipeline, a ``unsmear.models.common.pipeline.SamplingPipeline``."""

    scheduler: Any

    @property
    def interrupt(self) -> bool:
        """Whether to stop after this step."""

    def end_step(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        """Progress and callbacks of a step; returns the latents to continue with."""


def sampled(
    pipe: Stepping,
    settings: SamplerSettings,
    noise: Tensor,
    generators: Sequence[torch.Generator],
    input_latents: Tensor | None,
    predict: Callable[[Tensor, Tensor], Tensor],
    joined: Callable[[int, Tensor], Tensor] | None = None,
) -> Tensor:
    """Run the sampling loop.

    Args:
        pipe: pipeline whose scheduler is used.
        settings: steps and start.
        noise: (T, L, h, w), standard normal.
        generators: one per frame, for schedulers that draw noise at each step.
        input_latents: latents (T, L, h, w) of the input frames; required where ``settings.start`` is below 1.
        predict: (latents (T, L, h, w) as the scheduler scales them, t) → the network's prediction of that shape.
        joined: (0, latents before the first step) and (i, latents after the i-th) → latents to continue with.

    Returns:
        Latents (T, L, h, w) after all steps, or after the step at which a callback interrupted the pipeline.
    """
    scheduler = pipe.scheduler
    timesteps = start_timesteps(scheduler, settings.steps, settings.start, noise.device)
    if settings.start == 1:
        latents = noise * float(scheduler.init_noise_sigma)
    else:
        latents = scheduler.add_noise(input_latents, noise, timesteps[:1].expand(len(noise)))
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
    predict_tiles: Callable[[Tensor, Sequence[TileBox]], Tensor],
    conditions: Sequence[Tensor],
    boxes: Sequence[TileBox],
    settings: SamplerSettings,
    latents: Tensor,
) -> Tensor:
    """Prediction for whole latents, tile by tile, with classifier-free guidance: u + guidance · (c − u).

    Args:
        predict_tiles: (condition, n tiles) → the network's predictions (n·T, L, height, width), tile after tile.
        conditions: the condition c, and with guidance the unconditional one u after it.
        boxes: of the tiles.
        settings: guidance, and tiles per batch.
        latents: (T, L, h, w), of the result's shape and device.

    Returns:
        (T, L, h, w) float32.
    """

    def denoise(batch: Sequence[TileBox]) -> Tensor:
        predictions = [predict_tiles(condition, batch) for condition in conditions]
        if len(predictions) == 1:
            return predictions[0]
        conditional, unconditional = predictions
        return unconditional + settings.guidance * (conditional - unconditional)

    return by_latent_tiles(latents.shape, boxes, denoise, settings.tile_batch, latents)


def finished(
    vae: Any, latents: Tensor, frames: Tensor, input_latents: Tensor | None, settings: SamplerSettings, at_once: int = 1
) -> Iterator[Tensor]:
    """Decode latents, and apply ``cancel_autoencoder`` and ``colour``.

    Args:
        vae: the autoencoder.
        latents: (T, L, h, w).
        frames: input frames (T, 3, H, W) in [0, 1], on any device.
        input_latents: their latents, for ``cancel_autoencoder``.
        settings: ``cancel_autoencoder`` and ``colour``.
        at_once: frames in memory at a time; each is decoded by itself.

    Yields:
        Frames (n, 3, H, W) float32, not clipped, n ≤ ``at_once``.
    """
    for first in range(0, len(latents), at_once):
        part = slice(first, first + at_once)
        decoded, inputs = one_by_one(decode, vae, latents[part]), frames[part].to(latents.device).float()
        if settings.cancel_autoencoder and input_latents is not None:
            decoded = decoded + inputs - one_by_one(decode, vae, input_latents[part])
        yield transfer_colour(decoded, inputs) if settings.colour else decoded
