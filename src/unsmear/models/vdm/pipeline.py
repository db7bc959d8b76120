"""The video diffusion model as a diffusers pipeline: blurred frames in, sharp frames out (VDM §4.1, §5.2)."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from unsmear.models.common.latents import cell_px, decode, encode, transfer_colour
from unsmear.models.common.schedule import frame_generator, start_timesteps
from unsmear.models.common.tiles import (
    Span,
    TileBox,
    by_latent_tiles,
    by_windows,
    fade,
    mixed_in,
    shot_spans,
    tile_boxes,
    window_spans,
)
from unsmear.models.vdm.conditions import BlurEncoder, ImageTokens
from unsmear.models.vdm.image_vector import image_vectors
from unsmear.models.vdm.network import CLIP_FRAMES, VDM


@dataclass(frozen=True)
class VDMSampling:
    """How frames are generated. Lengths of tiles are cells of the latent, those of windows frames."""

    steps: int = 50
    guidance: float = 1.0
    """Classifier-free, with respect to the centre frame's tokens; 1 asks the network once a step. The paper uses
    guidance and names no scale."""
    start: float = 1.0
    """From noise at t = T; below 1 from the latent of the blurred frames with the noise of t = start · T. Ours."""
    seed: int = 0
    window: int = CLIP_FRAMES
    overlap: int = 4
    """Frames that neighbouring windows share."""
    tile: int = 64
    stride: int = 32
    tile_batch: int = 1
    colour: bool = True
    """Coarse scales from the blurred frames, by wavelets. Ours."""
    cancel_autoencoder: bool = True
    """Add what the autoencoder alone loses of the blurred frames, x − D(E(x)). Ours."""

    def __post_init__(self) -> None:
        if not 0 < self.start <= 1:
            raise ValueError(f"start {self.start} of sampling must lie above 0 and at most at 1, where all is noise")
        if self.steps < 1:
            raise ValueError(f"{self.steps} sampling steps: give at least 1")
        if self.window < 1 or not 0 <= self.overlap < self.window:
            raise ValueError(
                f"windows of {self.window} frames that share {self.overlap}: expected fewer than their own"
            )


@dataclass
class CarriedFrames:
    """What a piece of a video hands to the next one: how its last frames, which both see, went through the steps."""

    frame: int
    """Frames that came before the next piece: noise belongs to frames by their number."""
    path: Tensor | None = None
    """Latents (steps + 1, n, L, h, w) of the n frames from ``frame`` on, before and after each step."""


@dataclass
class GeneratedFrames:
    frames: Tensor
    """(wanted, 3, H, W) float32, not clipped."""
    carried: CarriedFrames


class VDMPipeline(DiffusionPipeline):
    """3D UNet, conditions and autoencoder, with a scheduler.

    Args:
        vae: ``AutoencoderKL``, ``AutoencoderDC`` or ``AutoencoderTiny``.
        unet: ``UNet3DConditionModel``.
        blur_encoder, image_tokens: its conditions.
        scheduler: any of diffusers'.
        image_encoder: ``CLIPVisionModelWithProjection`` for a model without an embedding of its own; without, the image
            counts as unknown.
    """

    model_cpu_offload_seq = "image_encoder->image_tokens->blur_encoder->unet->vae"  # type: ignore[assignment]
    _optional_components = ["image_encoder"]  # noqa: RUF012  # diffusers' own protocol

    def __init__(
        self,
        vae: Any,
        unet: Any,
        blur_encoder: BlurEncoder,
        image_tokens: ImageTokens,
        scheduler: Any,
        image_encoder: Any = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            unet=unet,
            blur_encoder=blur_encoder,
            image_tokens=image_tokens,
            scheduler=scheduler,
            image_encoder=image_encoder,
        )

    @property
    def cell(self) -> int:
        """Frame pixels a latent cell, each way."""
        return cell_px(self.vae)

    @property
    def multiple(self) -> int:
        """Sides of frames must be multiples of this."""
        return self.cell * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @torch.inference_mode()
    def __call__(
        self,
        frames: Tensor,
        reset: Sequence[bool] | None = None,
        wanted: int | None = None,
        options: VDMSampling | None = None,
        carried: CarriedFrames | None = None,
    ) -> GeneratedFrames:
        """Generate frames, shot by shot; what happens in one shot has no part in another.

        Args:
            frames: (T, 3, H, W) in [0, 1], consecutive, blurred; sides are multiples of ``multiple``.
            reset: (T,) True where a frame begins a shot; None for one shot.
            wanted: the first so many frames are generated, those after them are looked at; None for all.
            options: of the sampler.
            carried: of the frames before; None at the start. A new shot at the first frame takes nothing from it.

        Raises:
            ValueError: sides that do not fit, or options out of range.
        """
        options = options or VDMSampling()
        if frames.shape[-2] % self.multiple or frames.shape[-1] % self.multiple:
            raise ValueError(f"frames of {tuple(frames.shape[-2:])} pixels: sides must be multiples of {self.multiple}")
        wanted = len(frames) if wanted is None else wanted
        cuts = [False] * len(frames) if reset is None else [bool(new) for new in reset]
        carried = carried or CarriedFrames(0)
        path = None if cuts[0] else carried.path
        out, tail = [], None
        for first, end in shot_spans(cuts):
            if first >= wanted:
                break
            shot = _Shot(self, frames[first:end], carried.frame + first, options)
            latents, tail = shot.sample(path if first == 0 else None, min(wanted, end) - first)
            out.append(shot.finish(latents))
        return GeneratedFrames(torch.cat(out), CarriedFrames(carried.frame + wanted, tail))


class _Shot:
    """Frames of one shot, and what each step of theirs needs."""

    def __init__(self, pipe: VDMPipeline, frames: Tensor, first: int, options: VDMSampling):
        self.pipe, self.options, self.first, self.frames = pipe, options, first, frames
        self.model = VDM(pipe.unet, pipe.blur_encoder, pipe.image_tokens)
        self.device = pipe.unet.device
        given = [frame.to(self.device).float() for frame in frames]
        self.projected = torch.cat([pipe.blur_encoder(frame[None, None])[0] for frame in given])
        keeps_latents = options.start < 1 or options.cancel_autoencoder
        self.latents = torch.cat([encode(pipe.vae, frame[None]) for frame in given]) if keeps_latents else None
        self.spans = window_spans(len(frames), options.window, options.overlap)
        self.tokens = {span: self._tokens(given[(span[0] + span[1]) // 2]) for span in self.spans}
        size = self.projected.shape[-2:]
        side = min(options.tile, max(size))
        self.boxes = tile_boxes(size[0], size[1], side, min(options.stride, side))

    def _tokens(self, centre: Tensor) -> list[Tensor]:
        """Of a window's centre frame (3, H, W); with guidance also those of no image."""
        tokens = self.pipe.image_tokens
        known = tokens(image_vectors(tokens, self.pipe.image_encoder, centre[None]))
        return [known] if self.options.guidance == 1 else [known, tokens(tokens.unknown(1))]

    def sample(self, path: Tensor | None, wanted: int) -> tuple[Tensor, Tensor | None]:
        """Latents (wanted, L, h, w), and the way of those after them through the steps."""
        scheduler, options = self.pipe.scheduler, self.options
        sources = [frame_generator(options.seed, self.first + i) for i in range(len(self.frames))]
        channels, size = self.pipe.unet.config.out_channels, self.projected.shape[-2:]
        noise = torch.stack([torch.randn((channels, *size), generator=source) for source in sources]).to(self.device)
        timesteps = start_timesteps(scheduler, options.steps, options.start, self.device)
        if options.start == 1:
            latents = noise * float(scheduler.init_noise_sigma)
        else:
            latents = scheduler.add_noise(self.latents, noise, timesteps[:1].expand(len(noise)))
        known = inspect.signature(scheduler.step).parameters
        extra: dict[str, Any] = {"generator": sources} if "generator" in known else {}
        way = [latents]
        for i, t in enumerate(timesteps):
            given = scheduler.scale_model_input(latents, t)
            latents = scheduler.step(self._predict(given, t), t, latents, **extra).prev_sample
            if path is not None:
                latents = _joined(path[i + 1].to(latents), latents)
            way.append(latents)
        tail = torch.stack([step[wanted:].cpu() for step in way]) if wanted < len(latents) else None
        return latents[:wanted], tail

    def _predict(self, latents: Tensor, t: Tensor) -> Tensor:
        """The network's prediction (T, L, h, w), with guidance, window by window and tile by tile."""

        def denoise(span: Span) -> Tensor:
            part = latents[slice(*span)]

            def tiles(boxes: Sequence[TileBox]) -> Tensor:
                answers = [self._ask(part, t, tokens, span, boxes) for tokens in self.tokens[span]]
                if len(answers) == 1:
                    return answers[0]
                wanted, unwanted = answers
                return unwanted + self.options.guidance * (wanted - unwanted)

            return by_latent_tiles(part.shape, self.boxes, tiles, self.options.tile_batch, part)

        return by_windows(self.spans, denoise, latents)

    def _ask(self, latents: Tensor, t: Tensor, tokens: Tensor, span: Span, boxes: Sequence[TileBox]) -> Tensor:
        dtype, projected = self.pipe.unet.dtype, self.projected[slice(*span)]

        def cut(field: Tensor) -> Tensor:
            return torch.stack([field[..., a:b, c:d] for a, b, c, d in boxes]).to(dtype)

        told = tokens.to(dtype).expand(len(boxes), -1, -1)
        return self.model.denoise(cut(latents), t, told, cut(projected)).flatten(0, 1)

    def finish(self, latents: Tensor) -> Tensor:
        """Frames (T, 3, H, W) of the first latents, on the CPU; one by one for memory."""
        out = []
        for i, latent in enumerate(latents):
            made, given = decode(self.pipe.vae, latent[None]), self.frames[i : i + 1].to(self.device).float()
            if self.options.cancel_autoencoder and self.latents is not None:
                made = made + given - decode(self.pipe.vae, self.latents[i : i + 1])
            out.append((transfer_colour(made, given) if self.options.colour else made).cpu())
        return torch.cat(out)


def _joined(before: Tensor, latents: Tensor) -> Tensor:
    """Latents whose first frames come out of those that an earlier piece ended with, by a cross-fade."""
    shared = min(len(before), len(latents))
    share = fade((0, shared), shared, 0, latents)
    return torch.cat([mixed_in(before[:shared], latents[:shared], share), latents[shared:]])
