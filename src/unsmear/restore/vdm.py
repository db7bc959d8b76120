"""The video diffusion model as a Restorer: clips in, generated clips and the steps of the last frames out."""

import hashlib

import numpy as np
import torch
from torch import nn

from unsmear.models.vdm.pipeline import CarriedFrames, VDMPipeline, VDMSampling
from unsmear.restore.restorer import Clip, Restorer, State, memory_errors
from unsmear.restore.tensors import frames_to_levels, levels_to_unit, tensor_to_frames
from unsmear.restore.tiles import first_latent_tile_px, tiled

WHOLE_CELLS = 128 * 128
"""Latents up to this many cells are denoised in one tile by a compact network; a full-size one takes tiles always."""


class VDMRestorer(Restorer):
    """Runs a ``VDMPipeline`` on clips.

    Frames are noisy in the same way however the video is cut up. Pieces that follow each other share ``frames_after``
    frames; the later one goes on from the way in which the earlier one made them.

    Args:
        pipe: the pipeline with its weights.
        sampling: how it samples; ``tile`` and ``stride`` are set for each clip.
        name: what reports call it.
        device: torch device.
        dtype: of weights and features; latents and frames stay float32.
        fingerprint: identifies the weights.
    """

    sampling: VDMSampling

    def __init__(
        self,
        pipe: VDMPipeline,
        sampling: VDMSampling,
        name: str,
        device: torch.device,
        dtype: torch.dtype,
        fingerprint: str = "",
    ):
        self.name, self.frames_after, self.sampling, self.pipe = name, sampling.overlap, sampling, pipe
        self.on(device, dtype)
        pipe.set_progress_bar_config(disable=True)  # the job shows progress
        for part in (pipe.vae, pipe.unet, pipe.blur_encoder, pipe.image_tokens, pipe.image_encoder):
            if part is not None:
                nn.Module.to(part, device=device, dtype=dtype)
        self.fingerprint = hashlib.sha256(f"{fingerprint} {sampling}".encode()).hexdigest()

    def default_tile_px(self, height: int, width: int, frames: int) -> int | None:
        del frames  # a window is in memory at a time, however long the clip
        return first_latent_tile_px(self.pipe, self.sampling.tile, WHOLE_CELLS, height, width)

    def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        height, width = clip.frames.shape[1:3]
        frames = levels_to_unit(frames_to_levels(clip.frames, self.pipe.multiple))
        carried = CarriedFrames(clip.first, None if state is None else state.get("path"))
        reset = [prior.reset for prior in clip.priors]
        with memory_errors():
            made = self.pipe(frames, reset, clip.wanted, tiled(self.sampling, frames, tile_px, self.pipe.cell), carried)
        out = tensor_to_frames(made.frames[..., :height, :width], clip.frames.dtype, clip.first)
        return out, {} if made.carried.path is None else {"path": made.carried.path}
