"""Stage 1 as a Restorer: a clip in, sharper frames and the carried state out."""

import numpy as np
import torch
from torch import nn

from unsmear.models.cpfp.correction import pinned
from unsmear.models.cpfp.network import CPFP, CPFPOutput, PriorTensors
from unsmear.restore.restorer import Clip, Restorer, State, memory_errors
from unsmear.restore.sharpness import flat_kept
from unsmear.restore.tensors import frames_to_levels, levels_to_unit, prior_tensors, tensor_to_frames
from unsmear.restore.tiles import Tile, by_tiles, cut_priors, tile_rows

MULTIPLE = 16
"""Sides are padded to this: the grid of the priors covers whole macroblocks. Twice as much where the network has levels
below an eighth of the frame's size: tiles then begin on a cell of the coarsest level."""

LOOK_AHEAD = 4
"""L: frames after a chunk from which its backward passes start."""

OVERLAP_PX, DEEP_OVERLAP_PX = 96, 192
"""Shared by neighbouring tiles; the second with levels below an eighth."""

MAX_CLIP_VALUES = 1_200_000_000
"""Feature values (frames × channels × cells × passes) that a clip may hold before it is tiled."""


class CPFPRestorer(Restorer):
    """Runs a ``CPFP`` network on clips.

    Args:
        model: with its weights.
        name: what reports call it.
        device: torch device.
        dtype: of weights and features; frames and sampling positions stay float32.
        fingerprint: identifies the weights.
    """

    def __init__(self, model: CPFP, name: str, device: torch.device, dtype: torch.dtype, fingerprint: str = ""):
        self.name, self.frames_after, self.fingerprint = name, LOOK_AHEAD, fingerprint
        self.on(device, dtype)
        self.model = nn.Module.to(model, device=device, dtype=dtype).eval()
        self.multiple = max(MULTIPLE, model.multiple)
        self.overlap_px = DEEP_OVERLAP_PX if model.multiple > MULTIPLE else OVERLAP_PX
        nn.Module.to(self.model, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def default_tile_px(self, height: int, width: int, frames: int) -> int | None:
        per_pixel = frames * self.model.values_per_pixel
        if per_pixel * height * width <= MAX_CLIP_VALUES:
            return None
        side = int((MAX_CLIP_VALUES / per_pixel) ** 0.5)
        return max(side // self.multiple * self.multiple, self.overlap_px + 4 * self.multiple)

    @torch.inference_mode()
    def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        frames = frames_to_levels(clip.frames, self.multiple)[None]
        priors = prior_tensors(clip.priors, -1.0 if clip.duty is None else clip.duty, self.multiple)
        samples = self.model.line_samples(priors)  # of the whole frame: tiles must agree
        carried, look = (state.get(name) if state else None for name in ("features", "look"))
        height, width = frames.shape[-2:]
        whole = Tile(0, height, 0, width)
        rows = (
            tile_rows(height, width, max(tile_px, self.overlap_px + self.multiple), self.overlap_px, self.multiple)
            if tile_px and tile_px < max(height, width)
            else [[whole]]
        )

        def process(tile: Tile) -> tuple[torch.Tensor, ...]:
            out = self._run(
                tile.cut(frames),
                cut_priors(priors, tile),
                None if carried is None else tile.cut(carried, self.model.cell),
                clip.wanted,
                samples,
                None if look is None else tile.cut(look),
            )
            return tuple(x.float().cpu() for x in out if x is not None)

        with memory_errors():
            restored, *handed_on = by_tiles(rows, process, (1, self.model.cell, 1)[: 2 + self.model.neighbours])
        for i in range(clip.wanted):  # of whole frames, which tiles do not see
            frame = levels_to_unit(frames[:, i])
            restored[:, i] = pinned(frame, restored[:, i], self.model.motion_gate(priors, i, (height, width)))
        h, w = clip.frames.shape[1:3]
        made = tensor_to_frames(restored[0, ..., :h, :w], clip.frames.dtype, clip.first)
        return flat_kept(clip.frames[: clip.wanted], made), dict(zip(("features", "look"), handed_on, strict=False))

    def _run(
        self,
        frames: torch.Tensor,
        priors: PriorTensors,
        state: torch.Tensor | None,
        wanted: int,
        samples: int,
        look: torch.Tensor | None,
    ) -> CPFPOutput:
        device = self.model.device
        return self.model(
            frames.to(device),
            PriorTensors(*(p.to(device) for p in priors)),
            None if state is None else state.to(device),
            wanted,
            samples,
            None if look is None else look.to(device),
            pin=False,
        )
