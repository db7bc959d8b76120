"""Stage 2 of CPGD-Net as a Restorer: stage 1, then generation steered by what it gave and by the priors."""

import hashlib
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unsmear.models.common.schedule import frame_generator, start_timesteps
from unsmear.models.cpgd.attention_maps import Heat, control_heat
from unsmear.models.cpgd.pipeline import Carried, CPGDPipeline, Sampling
from unsmear.restore.restorer import Clip, Restorer, State, memory_errors
from unsmear.restore.tensors import frames_to_levels, levels_to_unit, prior_tensors, tensor_to_frames
from unsmear.restore.tiles import first_latent_tile_px, tiled

WHOLE_CELLS = 200 * 200
"""Latents up to this many cells are denoised in one tile by a compact network; a full-size one takes tiles always."""

CARRIED = ("noise", "detail")
"""What a chunk hands to the next, as ``Carried`` names it."""


class CPGDRestorer(Restorer):
    """Runs stage 1 and a ``CPGDPipeline`` on clips.

    Args:
        first: stage 1; None: the control network is given the blurred frames (Table II, without CPFP).
        pipe: the pipeline with its weights.
        sampling: how it samples; ``tile`` and ``stride`` are set for each clip.
        name: what reports call it.
        device: torch device.
        dtype: of weights and features; latents and frames stay float32.
        fingerprint: identifies the weights.
        prompt: and ``negative_prompt``, for models with a text encoder.
    """

    sampling: Sampling

    def __init__(
        self,
        first: Restorer | None,
        pipe: CPGDPipeline,
        sampling: Sampling,
        name: str,
        device: torch.device,
        dtype: torch.dtype,
        fingerprint: str = "",
        prompt: str = "",
        negative_prompt: str = "",
    ):
        self.on(device, dtype)
        self.pipe = pipe
        pipe.set_progress_bar_config(disable=True)  # the job shows progress
        for part in (pipe.vae, pipe.unet, pipe.control):
            nn.Module.to(part, device=device, dtype=dtype)
            nn.Module.to(part, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.prompts = pipe.embed(prompt), pipe.embed(negative_prompt)
        self._identity = f"{fingerprint} {prompt!r} {negative_prompt!r}"
        self._become(name, first, sampling)

    def _become(self, name: str, first: Restorer | None, sampling: Sampling) -> None:
        self.name, self.first, self.sampling = name, first, sampling
        self.frames_after = first.frames_after if first else 0
        identity = f"{self._identity} {first.fingerprint if first else 'no stage 1'} {sampling}"
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()

    def changed(self, name: str, *, blurred_hint: bool = False, **sampling: Any) -> "CPGDRestorer":
        """The same networks under another name, sampled otherwise, or given the blurred frames in place of stage 1's.

        Raises:
            ValueError: a value out of range.
        """
        other = copy(self)
        other._become(name, None if blurred_hint else self.first, replace(self.sampling, **sampling))
        return other

    def after(self, first: Restorer | None) -> "CPGDRestorer":
        """The same networks behind another stage 1."""
        other = copy(self)
        other._become(self.name, first, self.sampling)
        return other

    def default_tile_px(self, height: int, width: int, frames: int) -> int | None:
        del frames  # one group of frames is in memory at a time, however long the clip
        return first_latent_tile_px(self.pipe, self.sampling.tile, WHOLE_CELLS, height, width)

    @torch.inference_mode()
    def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        sharper, of_first = self._hint(clip, state, tile_px)
        carried = Carried(clip.first, *((state or {}).get(name) for name in CARRIED))
        priors = prior_tensors(clip.priors[: clip.wanted], -1.0)
        frames = levels_to_unit(frames_to_levels(sharper, self.pipe.multiple))
        out = np.empty_like(sharper)
        height, width = sharper.shape[1:3]
        with memory_errors():
            together = self.pipe.group(self.sampling)
            for start in range(0, clip.wanted, together):
                part = slice(start, start + together)
                made = self.pipe(
                    frames[part],
                    _covering(priors.motion[0, part], frames),
                    _covering(priors.residual[0, part], frames),
                    priors.reset[0, part],
                    tiled(self.sampling, frames, tile_px, self.pipe.cell),
                    *self.prompts,
                    carried=carried,
                )
                carried = made.carried
                out[part] = tensor_to_frames(made.frames[..., :height, :width], sharper.dtype, clip.first + start)
        mine = {name: value for name in CARRIED if (value := getattr(carried, name)) is not None}
        return out, mine | {f"first.{name}": value for name, value in of_first.items()}

    def _hint(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        """The hint (wanted, H, W, 3), and what stage 1 hands on."""
        if self.first is None:
            return clip.frames[: clip.wanted], {}
        before = {k.removeprefix("first."): v for k, v in (state or {}).items() if k.startswith("first.")}
        return self.first.restore(clip, before or None, tile_px)

    @torch.inference_mode()
    def attention(self, clip: Clip, index: int) -> "Attended":
        """Attention of the control network in frame ``index`` of a clip, at the middle step (CPGD-Net, Fig. 10).

        The noisy latent there is that of the hint, for what the network would generate is not sampled.
        """
        sharper, _ = self._hint(clip, None, None)
        frames = levels_to_unit(frames_to_levels(sharper[index : index + 1], self.pipe.multiple)).to(self.device)
        given = prior_tensors(clip.priors[index : index + 1], -1.0)
        motion, residual = (_covering(field[0], frames).to(self.device) for field in (given.motion, given.residual))
        priors = self.pipe.control.prior_tensor(motion, F.interpolate(residual, motion.shape[-2:], mode="area"))
        hint, scheduler = self.pipe.encode(frames), self.pipe.scheduler
        steps = start_timesteps(scheduler, self.sampling.steps, self.sampling.start, hint.device)
        t = steps[len(steps) // 2]
        noise = torch.randn(hint.shape, generator=frame_generator(self.sampling.seed, clip.first + index)).to(hint)
        sample = scheduler.scale_model_input(scheduler.add_noise(hint, noise, t[None]), t)
        text = self.prompts[0].to(hint.device)
        sample, text, hint = (x.to(self.pipe.unet.dtype) for x in (sample, text, hint))
        plain, guided = (control_heat(self.pipe.control, sample, t, text, hint, p) for p in (None, priors))
        return Attended(sharper[index], plain, guided, int(t), self.pipe.cell)


class Attended(NamedTuple):
    """Attention maps of one frame."""

    hint: np.ndarray
    """(H, W, 3) as the clip's frames."""
    plain: Heat
    """Without priors."""
    guided: Heat
    timestep: int
    cell: int
    """Frame pixels a cell of the heat, which covers the frame padded to its multiple."""


def _covering(field: Tensor, frames: Tensor) -> Tensor:
    """A prior on cells of 8 or 4 pixels over the frame padded to 16 → over ``frames``, padded to another multiple."""
    cell = 8 if field.shape[1] == 2 else 4
    rows, columns = (-(-side // cell) for side in frames.shape[-2:])
    more = (0, max(columns - field.shape[-1], 0), 0, max(rows - field.shape[-2], 0))
    grown = F.pad(field.float(), more, mode="replicate")
    return grown[..., :rows, :columns]
