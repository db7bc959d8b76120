"""The video diffusion model as a Restorer: clips in, generated clips out, and how the last frames were made."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from unsmear.models.vdm.pipeline import CarriedFrames, VDMPipeline, VDMSampling
from unsmear.restore.restorer import Clip, OutOfMemory, State
from unsmear.restore.tensors import frames_to_levels, tensor_to_frames

WHOLE_CELLS = 128 * 128
"""Latents up to this many cells are denoised in one tile by a compact network; a full-size one takes tiles always."""

FULL_SIZE_CHANNELS = 1000
"""Of the widest level, from which on a network counts as full size."""


class VDMRestorer:
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
        self.device, self.dtype = str(device), str(dtype).removeprefix("torch.")
        for part in (pipe.vae, pipe.unet, pipe.blur_encoder, pipe.image_tokens, pipe.image_encoder):
            if part is not None:
                nn.Module.to(part, device=device, dtype=dtype)
        self.fingerprint = hashlib.sha256(f"{fingerprint} {sampling}".encode()).hexdigest()

    def default_tile_px(self, height: int, width: int, frames: int) -> int | None:
        del frames  # a window is in memory at a time, however long the clip
        cell = self.pipe.cell
        if max(self.pipe.unet.config.block_out_channels) >= FULL_SIZE_CHANNELS:
            return self.sampling.tile * cell
        return None if height * width <= WHOLE_CELLS * cell**2 else int(WHOLE_CELLS**0.5) * cell

    def __call__(self, clip: Clip) -> np.ndarray:
        """Restore a clip by itself → (wanted, H, W, 3)."""
        return self.restore(clip, None, None)[0]

    def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        height, width = clip.frames.shape[1:3]
        levels = frames_to_levels(clip.frames, self.pipe.multiple)
        frames = levels.float() / (255 if levels.dtype == torch.uint8 else 65535)
        carried = CarriedFrames(clip.first, None if state is None else state.get("path"))
        reset = [prior.reset for prior in clip.priors]
        with _memory_errors():
            made = self.pipe(frames, reset, clip.wanted, self._tiled(frames, tile_px), carried)
        out = tensor_to_frames(made.frames[..., :height, :width], clip.frames.dtype)
        return out, {} if made.carried.path is None else {"path": made.carried.path}

    def _tiled(self, frames: Tensor, tile_px: int | None) -> VDMSampling:
        """Tiles of the latent that overlap by half."""
        longest = max(frames.shape[-2:])
        cells = (longest if tile_px is None else min(tile_px, longest)) // self.pipe.cell
        return replace(self.sampling, tile=cells, stride=max(cells // 2, 1))


@contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(str(error)) from None
    except RuntimeError as error:  # the CPU allocator has no class of its own
        if "allocate memory" in str(error):
            raise OutOfMemory(str(error)) from None
        raise
