"""Stage 2 of CPGD-Net as a diffusers pipeline: from frames and their priors to generated frames (§III-C, Eq. 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from unsmear.models.common.latents import decode, encode, one_by_one
from unsmear.models.common.pipeline import Callback, SamplingPipeline
from unsmear.models.common.prompts import EmptyPrompt, PromptEmbeddings
from unsmear.models.common.public import public
from unsmear.models.common.sampler import SamplerSettings, finished, predicted, sampled
from unsmear.models.common.schedule import Prediction, carried_noise, frame_generator
from unsmear.models.common.tiles import TileBox, tile_boxes
from unsmear.models.common.warp import warp
from unsmear.models.cpgd.control import CPControlNet
from unsmear.options import Limits, Share

JOINT_FRAMES = 6
"""Frames that attend to each other with ``joint_time_attention``, as in the authors' release."""


@dataclass(frozen=True)
class Sampling(SamplerSettings):
    """Sampler settings of stage 2. Lengths are cells of the latent.

    Raises:
        OptionError: a value out of range, or of another type; a ``UsageError`` and a ``ValueError``.
    """

    fidelity: Share = 0.0
    """Weight in [0, 1] of the input frames' latent in the clean latent of each step; at 1 it is that latent. Ours."""
    carry_noise: bool = False
    """Warp the noise along V from frame to frame, where the residual is low. Ours."""
    carry_detail: Share = 0.0
    """Weight in [0, 1] of the previous frame's generated detail, warped along V, times 1 − R. Ours."""
    still_px: Annotated[float, Limits(0, unit="pixels")] = 0.0
    """Motion in pixels per frame below which generated detail is reduced in proportion; 0: none is. Ours: static parts
    have no motion blur to remove."""
    guided: bool = True
    """Whether the control network is conditioned on V and R; if not, it is a plain IRControlNet (Table II)."""
    joint_time_attention: bool | None = None
    """Whether frames attend to each other; None as the control network was configured."""


@dataclass
class Carried:
    """State that is carried from one group of frames to the next."""

    frame: int
    """Number of the next frame; the noise of a frame depends on it."""
    noise: Tensor | None = None
    """Noise (L, h, w) of the last frame's latent."""
    detail: Tensor | None = None
    """Detail (3, H, W) that was added to the last frame."""


@dataclass
class CPGDPipelineOutput(BaseOutput):
    """Generated frames, and the state for the frames that follow."""

    frames: Any
    """By ``output_type``: a tensor (T, 3, H, W) float32, not clipped; an array (T, H, W, 3) in [0, 1]; PIL images. For
    a batch of clips (B, T, …), or lists of images."""
    carried: Carried | None = None
    """None for a batch of clips."""


@public
class CPGDPipeline(SamplingPipeline):
    """Frozen latent diffusion model, controlled by a ``CPControlNet``.

    Args:
        vae: ``AutoencoderKL``, ``AutoencoderDC`` or ``AutoencoderTiny``.
        unet: ``UNet2DConditionModel``.
        control: the control network.
        scheduler: any of diffusers'.
        text_encoder, tokenizer: CLIP; without them the prompt is empty, or given as ``prompt_embeds``.
        empty_prompt: ``EmptyPrompt`` or its embedding (1, tokens, ``cross_attention_dim``), used where there is no text
            encoder; None for zeros.
        sampling: fields of ``Sampling``, the defaults of calls.
        trained: conditions of the training (``zoo.write_index``); its ``prompt`` is the default of calls.

    Raises:
        ValueError: ``empty_prompt`` has another shape, or ``sampling`` has unknown fields or values out of range.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"  # type: ignore[assignment]  # control stays beside the UNet
    _optional_components = ["text_encoder", "tokenizer", "empty_prompt"]  # noqa: RUF012  # diffusers' own protocol
    settings_class = Sampling

    def __init__(
        self,
        vae: Any,
        unet: Any,
        control: CPControlNet,
        scheduler: Any,
        text_encoder: Any = None,
        tokenizer: Any = None,
        empty_prompt: Any = None,
        sampling: dict[str, Any] | None = None,
        trained: dict[str, str] | None = None,
    ):
        stored = EmptyPrompt(empty_prompt) if isinstance(empty_prompt, Tensor) else empty_prompt
        super().__init__(
            sampling,
            vae=vae,
            unet=unet,
            control=control,
            scheduler=scheduler,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            empty_prompt=stored,
        )
        self.register_to_config(trained=dict(trained) if trained else None)
        empty = None if stored is None else stored.embedding
        self.embeddings = PromptEmbeddings(text_encoder, tokenizer, unet.config.cross_attention_dim, empty)

    @property
    def prompt(self) -> str:
        """Prompt of calls that give none: that of the training, else the empty one."""
        return (self.config.get("trained") or {}).get("prompt", "")

    def group(self, options: Sampling) -> int:
        """Number of frames that are sampled together."""
        joint = options.joint_time_attention
        return JOINT_FRAMES if (self.control.config["joint_time_attention"] if joint is None else joint) else 1

    def embed(self, prompt: str = "") -> Tensor:
        """Embedding of a prompt (1, tokens, ``cross_attention_dim``), cached.

        Raises:
            ValueError: the prompt is not empty, and there is no text encoder.
        """
        return self.embeddings(prompt)

    def encode(self, frames: Tensor) -> Tensor:
        """Latents (T, L, h, w) float32 of frames (T, 3, H, W) in [0, 1]: the posterior's mode, scaled."""
        return encode(self.vae, frames)

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (T, 3, H, W) float32 of latents (T, L, h, w), decoded one by one to save memory."""
        return one_by_one(decode, self.vae, latents)

    @torch.inference_mode()
    def __call__(
        self,
        frames: Any,
        motion: Tensor,
        residual: Tensor,
        reset: Tensor | None = None,
        options: Sampling | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        carried: Carried | None = None,
        *,
        prompt: str | None = None,
        negative_prompt: str = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:
        """Generate frames.

        A single clip has no B. The clips of a batch are sampled independently, each from its first frame on.

        Args:
            frames: ([B,] T, 3, H, W) in [0, 1], consecutive, of stage 1 or blurred; also lists of PIL images (for a
                batch, of such lists) or arrays ([B,] T, H, W, 3). Sides are multiples of ``multiple``.
            motion: V ([B,] T, 2, h, w), frame pixels, on any grid.
            residual: R ([B,] T, 1, h, w) in [0, 1].
            reset: ([B,] T) bool, True where a frame has no usable predecessor; None for none.
            options: sampler settings; None for the folder's.
            prompt_embeds, negative_prompt_embeds: (1, tokens, width); None for those of the prompts.
            carried: state after the previous frames; None at the start, and for a batch.
            prompt, negative_prompt: texts, for models with a text encoder; None for ``self.prompt``.
            num_inference_steps, guidance_scale: override those in ``options``.
            generator: draws the seed; one for all clips or one per clip. None for the seed in ``options``.
            output_type: type of the frames: ``pt``, ``np`` or ``pil``.
            return_dict: whether to return a ``CPGDPipelineOutput``; else a tuple of its fields.
            callback_on_step_end: called after every step with the pipeline, the number of the step within its group of
                frames, t, and the tensors named in ``callback_on_step_end_tensor_inputs`` (``latents``); tensors that
                it returns replace them. If it sets ``pipeline._interrupt``, the current group is decoded as it is
                and the later frames are returned unchanged.

        Returns:
            ``CPGDPipelineOutput``, or a tuple.

        Raises:
            ValueError: sides that do not fit, options out of range, or unknown types and names.
        """
        clips, single = self.clips(frames)
        if carried is not None and not single:
            raise ValueError("carried is for a single clip: call the pipeline once a clip")
        settings = self.settings(options, len(clips), num_inference_steps, guidance_scale, generator)
        prompts = [self.embed(self.prompt if prompt is None else prompt) if prompt_embeds is None else prompt_embeds]
        if settings[0].guidance != 1:
            prompts.append(self.embed(negative_prompt) if negative_prompt_embeds is None else negative_prompt_embeds)
        if reset is None:
            reset = torch.zeros(motion.shape[: motion.ndim - 3], dtype=torch.bool)
        priors = [field[None] if single else field for field in (motion, residual, reset)]
        groups = len(clips) * -(-clips.shape[1] // self.group(settings[0]))
        outputs, last = [], carried
        with self.stepping(
            groups * settings[0].steps,
            settings[0].steps,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
            output_type,
        ):
            for i, own in enumerate(settings):
                fields = [field[i] for field in priors]
                generated, last = self._clip(clips[i], fields, own, prompts, carried or Carried(0))
                outputs.append(generated)
        out = self.delivered(torch.stack(outputs), single, output_type)
        last = last if single else None
        return CPGDPipelineOutput(out, last) if return_dict else (out, last)

    def _clip(
        self,
        frames: Tensor,
        priors: Sequence[Tensor],
        options: Sampling,
        prompts: Sequence[Tensor],
        carried: Carried,
    ) -> tuple[Tensor, Carried]:
        out = []
        together = self.group(options)
        for first in range(0, len(frames), together):
            if self.interrupt:
                out.append(frames[first:].cpu().float())
                break
            part = slice(first, first + together)
            motion, residual, reset = (field[part] for field in priors)
            group = _Group(self, frames[part], motion, residual, reset, options, prompts)
            generated, carried = group.sample(carried)
            out.append(generated)
        return torch.cat(out), carried


CPCPipeline = CPGDPipeline
"""Former name, kept for one release."""


class _Group:
    """A group of frames that are sampled together, with their conditions."""

    def __init__(
        self,
        pipe: CPGDPipeline,
        frames: Tensor,
        motion: Tensor,
        residual: Tensor,
        reset: Tensor,
        options: Sampling,
        prompts: Sequence[Tensor],
    ):
        device, self.pipe, self.options = pipe._execution_device, pipe, options
        self.frames = frames.to(device).float()
        self.hint = pipe.encode(self.frames)
        size = (self.hint.shape[-2], self.hint.shape[-1])
        self.priors = pipe.control.prior_tensor(
            motion.to(device).float(), _resized(residual.to(device), motion.shape[-2:]), len(frames), size
        )
        self.motion = _resized(motion.to(device).float(), size) / pipe.cell
        self.trust = (1 - _resized(residual.to(device).float(), size)) * (~reset.to(device)).float()[
            :, None, None, None
        ]
        self.prompts = [p.to(device) for p in prompts]
        side = min(options.tile, max(size))
        self.boxes = tile_boxes(size[0], size[1], side, min(options.stride, side))

    def sample(self, carried: Carried) -> tuple[Tensor, Carried]:
        """Frames (T, 3, H, W) on the CPU, and the state for the next group."""
        generators = [frame_generator(self.options.seed, carried.frame + i) for i in range(len(self.frames))]
        noise = self._noise(generators, carried)
        latents = sampled(self.pipe, self.options, noise, generators, self.hint, self._predict)
        (generated,) = finished(self.pipe.vae, latents, self.frames, self.hint, self.options, len(latents))
        detail = self._along_motion(generated - self.frames, carried.detail)
        last = Carried(
            carried.frame + len(generated),
            noise[-1].cpu() if self.options.carry_noise else None,
            detail[-1].cpu() if self.options.carry_detail else None,
        )
        return (self.frames + self._moving() * detail).cpu(), last

    def _moving(self) -> Tensor:
        """Weight (T, 1, H, W), or (), of the detail by the length of the motion."""
        if not self.options.still_px:
            return self.frames.new_ones(())
        length = _resized(self.motion, self.frames.shape[-2:]).norm(dim=1, keepdim=True) * self.pipe.cell
        return (length / self.options.still_px).clamp(max=1)

    def _along_motion(self, detail: Tensor, before: Tensor | None) -> Tensor:
        """Blend ``detail`` (T, 3, H, W) with that of the previous frame, by ``carry_detail``."""
        if not self.options.carry_detail:
            return detail
        size, out = detail.shape[-2:], []
        for new, motion, trust in zip(detail, self.motion, self.trust, strict=True):
            if before is not None:
                along = _resized(motion[None], size) * self.pipe.cell
                moved = warp(before[None].to(new), along, "border")[0]
                new = new + self.options.carry_detail * _resized(trust[None], size)[0] * (moved - new)
            before = new
            out.append(new)
        return torch.stack(out)

    def _noise(self, generators: Sequence[torch.Generator], carried: Carried) -> Tensor:
        fresh = torch.stack([torch.randn(self.hint.shape[1:], generator=generator) for generator in generators])
        if not self.options.carry_noise:
            return fresh.to(self.hint)
        before, out = carried.noise, []
        for new, motion, trust in zip(fresh, self.motion.cpu(), self.trust.cpu(), strict=True):
            before = new if before is None else carried_noise(before, new, motion, trust[0] > 0.5)
            out.append(before)
        return torch.stack(out).to(self.hint)

    def _predict(self, latents: Tensor, t: Tensor) -> Tensor:
        """Prediction for latents (T, L, h, w), with ``fidelity`` applied to its clean latent."""

        def predict_tiles(prompt: Tensor, boxes: Sequence[TileBox]) -> Tensor:
            return self._predict_tiles(latents, t, prompt, boxes)

        prediction = predicted(predict_tiles, self.prompts, self.boxes, self.options, latents)
        if not self.options.fidelity:
            return prediction
        step = Prediction(self.pipe.scheduler, t)
        clean = step.clean(latents, prediction)
        return step.of_clean(latents, clean + self.options.fidelity * (self.hint - clean))

    def _predict_tiles(self, latents: Tensor, t: Tensor, prompt: Tensor, boxes: Sequence[TileBox]) -> Tensor:
        pipe, dtype = self.pipe, self.pipe.unet.dtype

        def cut(field: Tensor) -> Tensor:
            return torch.cat([field[..., a:b, c:d] for a, b, c, d in boxes]).to(dtype)

        sample, hint = cut(latents), cut(self.hint)
        priors = self._priors(latents.shape, boxes) if self.options.guided else None
        text = prompt.to(dtype).expand(len(sample), -1, -1)
        joint = self.options.joint_time_attention
        down, mid = pipe.control(
            sample, t, text, hint, priors, frames=len(latents), joint_time_attention=joint, return_dict=False
        )
        return pipe.unet(
            sample, t, text, down_block_additional_residuals=down, mid_block_additional_residual=mid, return_dict=False
        )[0]

    def _priors(self, shape: Sequence[int], boxes: Sequence[TileBox]) -> Tensor:
        """Priors of tiles, on the grid of the priors."""
        y, x = (self.priors.shape[k] / shape[k] for k in (-2, -1))
        return torch.cat(
            [self.priors[..., round(a * y) : round(b * y), round(c * x) : round(d * x)] for a, b, c, d in boxes]
        )


def _resized(field: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(field.shape[-2:]) == tuple(size):
        return field
    if field.shape[-2] >= size[0] and field.shape[-1] >= size[1]:
        return F.interpolate(field, tuple(size), mode="area")
    return F.interpolate(field, tuple(size), mode="bilinear", align_corners=False)
