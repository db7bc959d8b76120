"""The video diffusion model as a diffusers pipeline: blurred frames in, sharp frames out (VDM §4.1, §5.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from unsmear.models.common.latents import encode
from unsmear.models.common.pipeline import Callback, SamplingPipeline
from unsmear.models.common.public import public
from unsmear.models.common.sampler import SamplerSettings, finished, predicted, sampled
from unsmear.models.common.schedule import frame_generator
from unsmear.models.common.tiles import Span, TileBox, by_windows, fade, mixed_in, shot_spans, tile_boxes, window_spans
from unsmear.models.vdm.conditions import BlurEncoder, ImageTokens, image_vectors
from unsmear.models.vdm.network import CLIP_FRAMES, VDM


@dataclass(frozen=True)
class VDMSampling(SamplerSettings):
    """How frames are generated. Lengths of tiles are cells of the latent, those of windows frames.

    Guidance is with respect to the centre frame's tokens; the paper uses it and names no scale. Colour is ours.

    Raises:
        ValueError: a value out of range.
    """

    window: int = CLIP_FRAMES
    overlap: int = 4
    """Frames that neighbouring windows share."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1 or not 0 <= self.overlap < self.window:
            raise ValueError(
                f"windows of {self.window} frames that share {self.overlap}: expected fewer than their own"
            )


@dataclass
class CarriedFrames:
    """State between pieces of a video: the steps of the last frames of one, which the next piece sees too."""

    frame: int
    """Frames that came before the next piece: noise belongs to frames by their number."""
    path: Tensor | None = None
    """Latents (steps + 1, n, L, h, w) of the n frames from ``frame`` on, before and after each step."""


@dataclass
class VDMPipelineOutput(BaseOutput):
    """Generated frames, and the state for those that follow."""

    frames: Any
    """As ``output_type`` asks: a tensor (wanted, 3, H, W) float32, not clipped; an array (wanted, H, W, 3) in [0, 1];
    PIL pictures. For a batch of clips (B, wanted, …), or lists of pictures."""
    carried: CarriedFrames | None = None
    """None for a batch of clips."""


@public
class VDMPipeline(SamplingPipeline):
    """3D UNet, conditions and autoencoder, with a scheduler.

    Args:
        vae: ``AutoencoderKL``, ``AutoencoderDC`` or ``AutoencoderTiny``.
        unet: ``UNet3DConditionModel``.
        blur_encoder, image_tokens: its conditions.
        scheduler: any of diffusers'.
        image_encoder: ``CLIPVisionModelWithProjection`` for a model without an embedding of its own; without, the image
            counts as unknown.
        sampling: fields of ``VDMSampling``, the defaults of calls.

    Raises:
        ValueError: ``sampling`` has unknown fields or values out of range.
    """

    model_cpu_offload_seq = "image_encoder->image_tokens->blur_encoder->unet->vae"  # type: ignore[assignment]
    _optional_components = ["image_encoder"]  # noqa: RUF012  # diffusers' own protocol
    settings_class = VDMSampling

    def __init__(
        self,
        vae: Any,
        unet: Any,
        blur_encoder: BlurEncoder,
        image_tokens: ImageTokens,
        scheduler: Any,
        image_encoder: Any = None,
        sampling: dict[str, Any] | None = None,
    ):
        super().__init__(
            sampling,
            vae=vae,
            unet=unet,
            blur_encoder=blur_encoder,
            image_tokens=image_tokens,
            scheduler=scheduler,
            image_encoder=image_encoder,
        )

    @property
    def model(self) -> VDM:
        """The parts that learn, joined."""
        return VDM(self.unet, self.blur_encoder, self.image_tokens)

    @torch.inference_mode()
    def __call__(
        self,
        frames: Any,
        reset: Sequence[Any] | None = None,
        wanted: int | None = None,
        options: VDMSampling | None = None,
        carried: CarriedFrames | None = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:
        """Generate frames, shot by shot; what happens in one shot has no part in another.

        A clip has no B; in a batch every clip is sampled as if it were alone, from its first frame on.

        Args:
            frames: ([B,] T, 3, H, W) in [0, 1], consecutive, blurred; also lists of PIL pictures (of such lists for a
                batch) or arrays ([B,] T, H, W, 3). Sides are multiples of ``multiple``.
            reset: ([B,] T) True where a frame begins a shot; None for one shot.
            wanted: the first so many frames are generated, those after them are looked at; None for all.
            options: of the sampler; None for the folder's own.
            carried: of the frames before; None at the start, and for a batch. A new shot at the first frame takes
                nothing from it.
            num_inference_steps, guidance_scale: in place of those in ``options``.
            generator: of the seed, one for all clips or one a clip; None for the seed in ``options``.
            output_type: of frames: ``pt``, ``np`` or ``pil``.
            return_dict: whether to return a ``VDMPipelineOutput``; else a tuple of its fields.
            callback_on_step_end: called after every step with the pipeline, the step's number within its shot, t, and
                the tensors that ``callback_on_step_end_tensor_inputs`` names (``latents``); what it returns takes
                their place. If it sets ``pipeline._interrupt``, the shot at hand is decoded as it is and the shots
                after it are returned as they were given.

        Returns:
            ``VDMPipelineOutput``, or a tuple.

        Raises:
            ValueError: sides that do not fit, options out of range, or unknown types and names.
        """
        clips, single = self.clips(frames)
        if carried is not None and not single:
            raise ValueError("carried is for a single clip: call the pipeline once a clip")
        settings = self.settings(options, len(clips), num_inference_steps, guidance_scale, generator)
        count = clips.shape[1]
        wanted = count if wanted is None else wanted
        every: Sequence[Any] = [None] * len(clips) if reset is None else ([reset] if single else reset)
        cuts = [[False] * count if flags is None else [bool(new) for new in flags] for flags in every]
        shots = [[span for span in shot_spans(flags) if span[0] < wanted] for flags in cuts]
        made, last = [], carried
        with self.stepping(
            sum(map(len, shots)) * settings[0].steps,
            settings[0].steps,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
            output_type,
        ):
            for clip, own, flags, spans in zip(clips, settings, cuts, shots, strict=True):
                before = carried or CarriedFrames(0)
                path = None if flags[0] else before.path
                generated, tail = self._clip(clip, spans, wanted, own, before.frame, path)
                made.append(generated)
                last = CarriedFrames(before.frame + wanted, tail)
        out = self.delivered(torch.stack(made), single, output_type)
        last = last if single else None
        return VDMPipelineOutput(out, last) if return_dict else (out, last)

    def _clip(
        self,
        frames: Tensor,
        shots: Sequence[Span],
        wanted: int,
        options: VDMSampling,
        number: int,
        path: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        out, tail = [], None
        for first, end in shots:
            if self.interrupt:
                out.append(frames[first:wanted].cpu().float())
                break
            shot = _Shot(self, frames[first:end], number + first, options)
            latents, tail = shot.sample(path if first == 0 else None, min(wanted, end) - first)
            out += [frame.cpu() for frame in shot.finish(latents)]
        return torch.cat(out), None if self.interrupt else tail


class _Shot:
    """Frames of one shot, and what each step of theirs needs."""

    def __init__(self, pipe: VDMPipeline, frames: Tensor, first: int, options: VDMSampling):
        self.pipe, self.options, self.first, self.frames = pipe, options, first, frames
        self.model, self.device = pipe.model, pipe._execution_device
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
        """Latents (wanted, L, h, w), and those of the frames after them before and after each step."""
        generators = [frame_generator(self.options.seed, self.first + i) for i in range(len(self.frames))]
        shape = (self.pipe.unet.config.out_channels, *self.projected.shape[-2:])
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(self.device)
        steps: list[Tensor] = []

        def joined(step: int, latents: Tensor) -> Tensor:
            if step and path is not None:
                latents = _joined(path[step].to(latents), latents)
            steps.append(latents)
            return latents

        latents = sampled(self.pipe, self.options, noise, generators, self.latents, self._predict, joined)
        tail = torch.stack([step[wanted:].cpu() for step in steps]) if wanted < len(latents) else None
        return latents[:wanted], tail

    def _predict(self, latents: Tensor, t: Tensor) -> Tensor:
        """The prediction for latents (T, L, h, w), window by window and tile by tile."""

        def denoise(span: Span) -> Tensor:
            part = latents[slice(*span)]

            def ask(tokens: Tensor, boxes: Sequence[TileBox]) -> Tensor:
                return self._ask(part, t, tokens, span, boxes)

            return predicted(ask, self.tokens[span], self.boxes, self.options, part)

        return by_windows(self.spans, denoise, latents)

    def _ask(self, latents: Tensor, t: Tensor, tokens: Tensor, span: Span, boxes: Sequence[TileBox]) -> Tensor:
        dtype, projected = self.pipe.unet.dtype, self.projected[slice(*span)]

        def cut(field: Tensor) -> Tensor:
            return torch.stack([field[..., a:b, c:d] for a, b, c, d in boxes]).to(dtype)

        context = tokens.to(dtype).expand(len(boxes), -1, -1)
        return self.model.denoise(cut(latents), t, context, cut(projected)).flatten(0, 1)

    def finish(self, latents: Tensor) -> Any:
        """Frames (1, 3, H, W) of the first latents, one by one."""
        return finished(self.pipe.vae, latents, self.frames[: len(latents)], self.latents, self.options)


def _joined(before: Tensor, latents: Tensor) -> Tensor:
    """Latents whose first frames come out of those that an earlier piece ended with, by a cross-fade."""
    shared = min(len(before), len(latents))
    share = fade((0, shared), shared, 0, latents)
    return torch.cat([mixed_in(before[:shared], latents[:shared], share), latents[shared:]])
