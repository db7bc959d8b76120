"""Video diffusion model as a diffusers pipeline: from blurred to sharp frames (VDM §4.1, §5.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

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
from unsmear.options import Limits, OptionError


@dataclass(frozen=True)
class VDMSampling(SamplerSettings):
    """Sampler settings. Lengths of tiles are cells of the latent, those of windows are frames.

    Guidance is with respect to the tokens of the centre frame; the paper does not state its scale. Colour is ours.

    Raises:
        OptionError: a value out of range, or of another type; a ``UsageError`` and a ``ValueError``.
    """

    window: Annotated[int, Limits(1)] = CLIP_FRAMES
    """Frames per window."""
    overlap: Annotated[int, Limits(0)] = 4
    """Frames shared by neighbouring windows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap >= self.window:
            raise OptionError("overlap", self.overlap, f"less than `window`, {self.window}")


@dataclass
class CarriedFrames:
    """State that is carried between pieces of a video: latents of the frames shared by both, at every step."""

    frame: int
    """Number of the first frame of the next piece; the noise of a frame depends on its number."""
    path: Tensor | None = None
    """Latents (steps + 1, n, L, h, w) of the n frames from ``frame`` on, before and after each step."""


@dataclass
class VDMPipelineOutput(BaseOutput):
    """Generated frames, and the state for the frames that follow."""

    frames: Any
    """By ``output_type``: a tensor (wanted, 3, H, W) float32, not clipped; an array (wanted, H, W, 3) in [0, 1]; PIL
    images. For a batch of clips (B, wanted, …), or lists of images."""
    carried: CarriedFrames | None = None
    """None for a batch of clips."""


@public
class VDMPipeline(SamplingPipeline):
    """3D UNet, conditions and autoencoder, with a scheduler.

    Args:
        vae: ``AutoencoderKL``, ``AutoencoderDC`` or ``AutoencoderTiny``.
        unet: ``UNet3DConditionModel``.
        blur_encoder, image_tokens: encoders of its conditions.
        scheduler: any of diffusers'.
        image_encoder: ``CLIPVisionModelWithProjection`` for a model without a frame embedding of its own; without
            either the model is not conditioned on the centre frame.
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
        """The trained parts as one module."""
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
        """Generate frames; shots are sampled independently.

        A single clip has no B. The clips of a batch are sampled independently, each from its first frame on.

        Args:
            frames: ([B,] T, 3, H, W) in [0, 1], consecutive, blurred; also lists of PIL images (for a batch, of such
                lists) or arrays ([B,] T, H, W, 3). Sides are multiples of ``multiple``.
            reset: ([B,] T) True where a frame begins a shot; None for one shot.
            wanted: number of frames to generate, from the first on; the others are context. None for all.
            options: sampler settings; None for the folder's.
            carried: state after the previous frames; None at the start, and for a batch. It is not used where the
                first frame begins a shot.
            num_inference_steps, guidance_scale: override those in ``options``.
            generator: draws the seed; one for all clips or one per clip. None for the seed in ``options``.
            output_type: type of the frames: ``pt``, ``np`` or ``pil``.
            return_dict: whether to return a ``VDMPipelineOutput``; else a tuple of its fields.
            callback_on_step_end: called after every step with the pipeline, the number of the step within its shot, t,
                and the tensors named in ``callback_on_step_end_tensor_inputs`` (``latents``); tensors that it returns
                replace them. If it sets ``pipeline._interrupt``, the current shot is decoded as it is and the later
                ones are returned unchanged.

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
        outputs, last = [], carried
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
                outputs.append(generated)
                last = CarriedFrames(before.frame + wanted, tail)
        out = self.delivered(torch.stack(outputs), single, output_type)
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
    """Frames of one shot, with their conditions, windows and tiles."""

    def __init__(self, pipe: VDMPipeline, frames: Tensor, first: int, options: VDMSampling):
        self.pipe, self.options, self.first, self.frames = pipe, options, first, frames
        self.model, self.device = pipe.model, pipe._execution_device
        inputs = [frame.to(self.device).float() for frame in frames]
        self.projected = torch.cat([pipe.blur_encoder(frame[None, None])[0] for frame in inputs])
        keeps_latents = options.start < 1 or options.cancel_autoencoder
        self.latents = torch.cat([encode(pipe.vae, frame[None]) for frame in inputs]) if keeps_latents else None
        self.spans = window_spans(len(frames), options.window, options.overlap)
        self.tokens = {span: self._tokens(inputs[(span[0] + span[1]) // 2]) for span in self.spans}
        size = self.projected.shape[-2:]
        side = min(options.tile, max(size))
        self.boxes = tile_boxes(size[0], size[1], side, min(options.stride, side))

    def _tokens(self, centre: Tensor) -> list[Tensor]:
        """Tokens of a window's centre frame (3, H, W); with guidance, the unconditional ones after them."""
        tokens = self.pipe.image_tokens
        conditional = tokens(image_vectors(tokens, self.pipe.image_encoder, centre[None]))
        return [conditional] if self.options.guidance == 1 else [conditional, tokens(tokens.unknown(1))]

    def sample(self, path: Tensor | None, wanted: int) -> tuple[Tensor, Tensor | None]:
        """Latents (wanted, L, h, w), and those (steps + 1, n, L, h, w) of the later frames before and after each step.

        ``path``: such latents from the previous piece, for the first frames.
        """
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
        """Prediction for latents (T, L, h, w), by windows and tiles."""

        def denoise(span: Span) -> Tensor:
            part = latents[slice(*span)]

            def predict_tiles(tokens: Tensor, boxes: Sequence[TileBox]) -> Tensor:
                return self._predict_tiles(part, t, tokens, span, boxes)

            return predicted(predict_tiles, self.tokens[span], self.boxes, self.options, part)

        return by_windows(self.spans, denoise, latents)

    def _predict_tiles(
        self, latents: Tensor, t: Tensor, tokens: Tensor, span: Span, boxes: Sequence[TileBox]
    ) -> Tensor:
        dtype, projected = self.pipe.unet.dtype, self.projected[slice(*span)]

        def cut(field: Tensor) -> Tensor:
            return torch.stack([field[..., a:b, c:d] for a, b, c, d in boxes]).to(dtype)

        context = tokens.to(dtype).expand(len(boxes), -1, -1)
        return self.model.denoise(cut(latents), t, context, cut(projected)).flatten(0, 1)

    def finish(self, latents: Tensor) -> Any:
        """Decode latents of the first frames; yields frames (1, 3, H, W)."""
        return finished(self.pipe.vae, latents, self.frames[: len(latents)], self.latents, self.options)


def _joined(before: Tensor, latents: Tensor) -> Tensor:
    """Cross-fade the first latents with those of the same frames from the previous piece, ``before``."""
    shared = min(len(before), len(latents))
    share = fade((0, shared), shared, 0, latents)
    return torch.cat([mixed_in(before[:shared], latents[:shared], share), latents[shared:]])
