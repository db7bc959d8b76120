"""Stage 1 of CPGD-Net's release as a Restorer: pieces of a shot with a little of what surrounds them."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from unsmear.models.cpfp.network import PriorTensors
from unsmear.models.cpfp_released.network import ReleasedCPFP
from unsmear.restore.restorer import Clip, Restorer, State, memory_errors
from unsmear.restore.tensors import frames_to_levels, prior_tensors, tensor_to_frames
from unsmear.restore.tiles import Tile, by_tiles, cut_priors, tile_rows

CONTEXT = 2
"""Frames before and after a piece that are restored with it and dropped: the release's clips share four."""

TILE_PX, OVERLAP_PX, MULTIPLE = 256, 64, 16
"""The release restores patches of 256 pixels, the size it was trained on, that share 64: its channel attention depends
on the size. Sides are padded to multiples of ``MULTIPLE``, so that the priors' grid covers whole macroblocks."""

_FIELDS = PriorTensors._fields


class ReleasedCPFPRestorer(Restorer):
    """Runs a ``ReleasedCPFP`` on clips, a shot at a time.

    Args:
        model: with its weights.
        name: what reports call it.
        device: torch device.
        dtype: of weights and features; frames and sampling positions stay float32.
        fingerprint: identifies the weights.
    """

    def __init__(self, model: ReleasedCPFP, name: str, device: torch.device, dtype: torch.dtype, fingerprint: str = ""):
        self.name, self.frames_after, self.fingerprint = name, CONTEXT, fingerprint
        self.on(device, dtype)
        self.model = nn.Module.to(model, device=device, dtype=dtype).eval()

    def default_tile_px(self, height: int, width: int, frames: int) -> int | None:
        del frames
        return TILE_PX if max(height, width) > TILE_PX else None

    @torch.inference_mode()
    def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        frames, priors = frames_to_levels(clip.frames, MULTIPLE), prior_tensors(clip.priors, -1.0)
        carried = 0
        if state:
            carried = len(state["frames"])
            frames = torch.cat([state["frames"], frames])
            joined = [torch.cat([state[name][None], own], 1) for name, own in zip(_FIELDS, priors, strict=True)]
            priors = PriorTensors(*joined)
        part = slice(carried, carried + clip.wanted)
        height, width = frames.shape[-2:]
        side = max(tile_px or max(height, width), OVERLAP_PX + MULTIPLE)

        def process(tile: Tile) -> tuple[Tensor]:
            return (self._shots(tile.cut(frames), cut_priors(priors, tile))[:, part].cpu(),)

        with memory_errors():
            (restored,) = by_tiles(tile_rows(height, width, side, OVERLAP_PX, MULTIPLE), process, (1,))
        h, w = clip.frames.shape[1:3]
        kept = slice(max(part.stop - CONTEXT, 0), part.stop)
        handed_on = {"frames": frames[kept], **{name: own[0, kept] for name, own in zip(_FIELDS, priors, strict=True)}}
        made = tensor_to_frames(restored[0, ..., :h, :w], clip.frames.dtype, clip.first)
        return made, {name: value.contiguous() for name, value in handed_on.items()}

    def _shots(self, frames: Tensor, priors: PriorTensors) -> Tensor:
        """Restored frames (1, T, 3, h, w) of a tile; each shot is restored by itself."""
        count = len(frames)
        cuts = [0, *(t for t in range(1, count) if bool(priors.reset[0, t])), count]
        device, out = self.model.device, []
        for begin, end in pairwise(cuts):
            own = PriorTensors(*(field[:, begin:end].to(device) for field in priors))
            out.append(self.model(frames[None, begin:end].to(device), own).frames)
        return torch.cat(out, 1)
