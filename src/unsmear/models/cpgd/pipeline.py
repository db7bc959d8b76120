"""Stage 2 of CPGD-Net as a diffusers pipeline: frames and their priors in, generated frames out (§III-C, Eq. 5)."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from unsmear.models.common.latents import cell_px, decode, encode, one_by_one, transfer_colour
from unsmear.models.common.prompts import PromptEmbeddings
from unsmear.models.common.schedule import Prediction, carried_noise, frame_generator, start_timesteps
from unsmear.models.common.tiles import TileBox, by_latent_tiles, tile_boxes
from unsmear.models.cpgd.attention import control_priors
from unsmear.models.cpgd.control import CPControlNet
from unsmear.nn.sampling import warp

JOINT_FRAMES = 6
"""Frames that attend to each other with ``joint_time_attention``, as in the authors' release."""


@dataclass(frozen=True)
class Sampling:
    """How frames are generated. Lengths are cells of the latent."""

    steps: int = 50
    guidance: float = 1.0
    """Classifier-free; 1 asks the network once a step."""
    start: float = 1.0
    """From noise at t = T; below 1 from the latent of the given frames with the noise of t = start · T. Ours."""
    seed: int = 0
    tile: int = 64
    stride: int = 32
    tile_batch: int = 1
    colour: bool = True
    """Coarse scales from the given frames, by wavelets."""
    fidelity: float = 0.0
    """0…1, how far each step's clean latent is pulled to that of the given frames; at 1 it is that. Ours."""
    cancel_autoencoder: bool = True
    """Add what the autoencoder alone loses of the given frames, X − D(E(X)). Ours."""
    carry_noise: bool = False
    """Noise moves with the picture from frame to frame, where the residual says that it may. Ours."""
    carry_latent: float = 0.0
    """0…1, how far a step's clean latent is pulled to the previous frame's, moved along V, times 1 − R. Ours."""
    carry_detail: float = 0.0
    """0…1, how much of what was added to a frame is that of the frame before, moved along V, times 1 − R. Ours."""
    still_px: float = 0.0
    """Where the picture moves by less, pixels from frame to frame, less is added in proportion; 0: everywhere the same.
    Ours: what stands still was not blurred by motion, so there is nothing to make up for."""
    guided: bool = True
    """Off: the control network does not hear V and R, which makes it a plain IRControlNet (Table II)."""
    joint_time_attention: bool | None = None
    """None as the control network was configured, else whether frames attend to each other."""

    def __post_init__(self) -> None:
        for name in ("fidelity", "carry_latent", "carry_detail"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} must lie in 0…1")
        if not 0 < self.start <= 1:
            raise ValueError(f"start {self.start} of sampling must lie above 0 and at most at 1, where all is noise")
        if self.still_px < 0:
            raise ValueError(f"still_px {self.still_px} is a length: give 0 (add everywhere) or more")
        if self.steps < 1:
            raise ValueError(f"{self.steps} sampling steps: give at least 1")


@dataclass
class Carried:
    """What the last frame of a group hands to the next one; latents (4, h, w)."""

    frame: int
    """Frames that came before: noise belongs to frames by their number."""
    noise: Tensor | None = None
    latent: Tensor | None = None
    detail: Tensor | None = None
    """(3, H, W), what was added to the frame."""


@dataclass
class Generated:
    frames: Tensor
    """(T, 3, H, W) float32, not clipped."""
    carried: Carried


class CPGDPipeline(DiffusionPipeline):
    """Frozen latent diffusion model, steered by a ``CPControlNet``.

    Args:
        vae: ``AutoencoderKL``, ``AutoencoderDC`` or ``AutoencoderTiny``.
        unet: ``UNet2DConditionModel``.
        control: the control network.
        scheduler: any of diffusers'.
        text_encoder, tokenizer: CLIP; without them the prompt is empty, or what ``prompt_embeds`` gives.
        empty_prompt: its embedding (1, tokens, ``cross_attention_dim``) where there is no text encoder; None is zeros.

    Raises:
        ValueError: ``empty_prompt`` is of another shape.
    """

    model_cpu_offload_seq = "text_encoder->control->unet->vae"  # type: ignore[assignment]
    _optional_components = ["text_encoder", "tokenizer"]  # noqa: RUF012  # diffusers' own protocol

    def __init__(
        self,
        vae: Any,
        unet: Any,
        control: CPControlNet,
        scheduler: Any,
        text_encoder: Any = None,
        tokenizer: Any = None,
        empty_prompt: Tensor | None = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae, unet=unet, control=control, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer
        )
        self.embeddings = PromptEmbeddings(text_encoder, tokenizer, unet.config.cross_attention_dim, empty_prompt)

    @property
    def cell(self) -> int:
        """Frame pixels a latent cell, each way."""
        return cell_px(self.vae)

    @property
    def multiple(self) -> int:
        """Sides of frames must be multiples of this."""
        return self.cell * 2 ** (len(self.unet.config.block_out_channels) - 1)

    def group(self, options: Sampling) -> int:
        """Frames that are sampled together."""
        wanted = options.joint_time_attention
        return JOINT_FRAMES if (self.control.config["joint_time_attention"] if wanted is None else wanted) else 1

    def embed(self, prompt: str = "") -> Tensor:
        """Embedding of a prompt (1, tokens, ``cross_attention_dim``), computed once a text.

        Raises:
            ValueError: a prompt, and no text encoder to read it.
        """
        return self.embeddings(prompt)

    def encode(self, frames: Tensor) -> Tensor:
        """Latents (T, 4, h, w) float32 of frames (T, 3, H, W) in [0, 1]: the posterior's mode, scaled."""
        return encode(self.vae, frames)

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (T, 3, H, W) float32 of latents (T, 4, h, w), one by one for memory."""
        return one_by_one(decode, self.vae, latents)

    @torch.inference_mode()
    def __call__(
        self,
        frames: Tensor,
        motion: Tensor,
        residual: Tensor,
        reset: Tensor | None = None,
        options: Sampling | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        carried: Carried | None = None,
    ) -> Generated:
        """Generate frames.

        Args:
            frames: (T, 3, H, W) in [0, 1], consecutive, of stage 1 or blurred; sides are multiples of ``multiple``.
            motion: V (T, 2, h, w), frame pixels, on any grid.
            residual: R (T, 1, h, w) in [0, 1].
            reset: (T,) bool, True where there is nothing to take from the frame before.
            options: of the sampler.
            prompt_embeds, negative_prompt_embeds: (1, tokens, width); None for the empty prompt's.
            carried: of the frames before; None at the start.

        Raises:
            ValueError: sides that do not fit, or options out of range.
        """
        options = options or Sampling()
        if frames.shape[-2] % self.multiple or frames.shape[-1] % self.multiple:
            raise ValueError(f"frames of {tuple(frames.shape[-2:])} pixels: sides must be multiples of {self.multiple}")
        if reset is None:
            reset = torch.zeros(len(frames), dtype=torch.bool)
        prompts = [self.embed() if prompt_embeds is None else prompt_embeds]
        if options.guidance != 1:
            prompts.append(self.embed() if negative_prompt_embeds is None else negative_prompt_embeds)
        carried = carried or Carried(0)
        out = []
        together = self.group(options)
        for first in range(0, len(frames), together):
            part = slice(first, first + together)
            group = _Group(self, frames[part], motion[part], residual[part], reset[part], options, prompts)
            generated, carried = group.sample(carried)
            out.append(generated)
        return Generated(torch.cat(out), carried)


CPCPipeline = CPGDPipeline
"""Its former name, kept for one release."""


class _Group:
    """Frames that are sampled together, and what each step of theirs needs."""

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
        device, self.pipe, self.options = pipe.unet.device, pipe, options
        self.frames = frames.to(device).float()
        self.hint = pipe.encode(self.frames)
        size = self.hint.shape[-2:]
        self.priors = control_priors(motion.to(device).float(), _resized(residual.to(device), motion.shape[-2:]))
        self.motion = _resized(motion.to(device).float(), size) / pipe.cell
        self.trust = (1 - _resized(residual.to(device).float(), size)) * (~reset.to(device)).float()[
            :, None, None, None
        ]
        self.prompts = [p.to(device) for p in prompts]
        side = min(options.tile, max(size))
        self.boxes = tile_boxes(size[0], size[1], side, min(options.stride, side))

    def sample(self, carried: Carried) -> tuple[Tensor, Carried]:
        pipe, options = self.pipe, self.options
        sources = [frame_generator(options.seed, carried.frame + i) for i in range(len(self.frames))]
        timesteps = start_timesteps(pipe.scheduler, options.steps, options.start, self.hint.device)
        noise = self._noise(sources, carried)
        if options.start == 1:
            latents = noise * float(pipe.scheduler.init_noise_sigma)
        else:
            latents = pipe.scheduler.add_noise(self.hint, noise, timesteps[:1].expand(len(noise)))
        known = inspect.signature(pipe.scheduler.step).parameters
        extra: dict[str, Any] = {"generator": sources} if "generator" in known else {}
        for t in timesteps:
            given = pipe.scheduler.scale_model_input(latents, t)
            predicted = self._predict(given, t)
            if options.fidelity or options.carry_latent:
                predicted = self._steer(predicted, given, t, carried.latent)
            latents = pipe.scheduler.step(predicted, t, latents, **extra).prev_sample
        made = pipe.decode(latents)
        if options.cancel_autoencoder:
            made = made + self.frames - pipe.decode(self.hint)
        if options.colour:
            made = transfer_colour(made, self.frames)
        detail = self._along_motion(made - self.frames, carried.detail)
        handed = detail[-1].cpu() if options.carry_detail else None
        last = Carried(carried.frame + len(made), noise[-1].cpu(), latents[-1].cpu(), handed)
        return (self.frames + self._moving() * detail).cpu(), last

    def _moving(self) -> Tensor:
        """(T, 1, H, W), or (), how much of the detail is added where the picture moves as it does."""
        if not self.options.still_px:
            return self.frames.new_ones(())
        length = _resized(self.motion, self.frames.shape[-2:]).norm(dim=1, keepdim=True) * self.pipe.cell
        return (length / self.options.still_px).clamp(max=1)

    def _along_motion(self, detail: Tensor, before: Tensor | None) -> Tensor:
        """``detail`` (T, 3, H, W), with the share of the frame before that ``carry_detail`` asks for."""
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

    def _noise(self, sources: Sequence[torch.Generator], carried: Carried) -> Tensor:
        fresh = torch.stack([torch.randn(self.hint.shape[1:], generator=source) for source in sources])
        if not self.options.carry_noise:
            return fresh.to(self.hint)
        before, out = carried.noise, []
        for new, motion, trust in zip(fresh, self.motion.cpu(), self.trust.cpu(), strict=True):
            before = new if before is None else carried_noise(before, new, motion, trust[0] > 0.5)
            out.append(before)
        return torch.stack(out).to(self.hint)

    def _predict(self, latents: Tensor, t: Tensor) -> Tensor:
        """The network's prediction for the whole latents (T, 4, h, w), with guidance, tile by tile."""

        def denoise(boxes: Sequence[TileBox]) -> Tensor:
            answers = [self._ask(latents, t, prompt, boxes) for prompt in self.prompts]
            if len(answers) == 1:
                return answers[0]
            wanted, unwanted = answers
            return unwanted + self.options.guidance * (wanted - unwanted)

        return by_latent_tiles(latents.shape, self.boxes, denoise, self.options.tile_batch, latents)

    def _ask(self, latents: Tensor, t: Tensor, prompt: Tensor, boxes: Sequence[TileBox]) -> Tensor:
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
        """The priors of tiles, on their own grid."""
        y, x = (self.priors.shape[k] / shape[k] for k in (-2, -1))
        return torch.cat(
            [self.priors[..., round(a * y) : round(b * y), round(c * x) : round(d * x)] for a, b, c, d in boxes]
        )

    def _steer(self, predicted: Tensor, sample: Tensor, t: Tensor, before: Tensor | None) -> Tensor:
        step = Prediction(self.pipe.scheduler, t)
        clean = step.clean(sample, predicted)
        if self.options.carry_latent and before is not None:
            moved = warp(before[None].to(clean), self.motion[:1], "border")
            share = self.options.carry_latent * self.trust[:1]
            clean = torch.cat([clean[:1] + share * (moved - clean[:1]), clean[1:]])
        if self.options.fidelity:
            clean = clean + self.options.fidelity * (self.hint - clean)
        return step.of_clean(sample, clean)


def _resized(field: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(field.shape[-2:]) == tuple(size):
        return field
    if field.shape[-2] >= size[0] and field.shape[-1] >= size[1]:
        return F.interpolate(field, tuple(size), mode="area")
    return F.interpolate(field, tuple(size), mode="bilinear", align_corners=False)
