"""Stage 1 as a Restorer: a clip in, sharper frames and the carried state out."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import nn

from unsmear.models.cpfp.correction import moving_cells, pinned
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

LARGEST_PART = 0.8
"""Share of the frame up to which only the parts that move are computed."""

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
        height, width = frames.shape[-2:]
        areas = self._areas(priors, clip.wanted, (height, width))
        if not areas:
            return clip.frames[: clip.wanted].copy(), {}
        carried, look = (state.get(name) if state else None for name in ("features", "look"))
        made, last = clip.frames[: clip.wanted].copy(), levels_to_unit(frames[:, clip.wanted - 1])
        whole: list[torch.Tensor] = []
        for area in areas:
            restored, handed_on = self._in_tiles(
                area.cut(frames),
                cut_priors(priors, area),
                clip.wanted,
                samples,
                None if carried is None else area.cut(carried, self.model.cell),
                None if look is None else area.cut(look),
                tile_px,
            )
            for i in range(clip.wanted):  # of the whole area, which tiles do not see
                frame = levels_to_unit(area.cut(frames[:, i]))
                gate = area.cut(self.model.motion_gate(priors, i, (height, width)))
                restored[:, i] = pinned(frame, restored[:, i], gate)
            part = made[:, area.top : area.bottom, area.left : area.right]
            h, w = part.shape[1:3]
            part[:] = flat_kept(part, tensor_to_frames(restored[0, ..., :h, :w], part.dtype, clip.first))
            if area == Tile(0, height, 0, width):
                whole = handed_on
            else:
                whole = whole or self._still_state(handed_on, last)
                for target, values, cell in zip(whole, handed_on, (self.model.cell, 1), strict=False):
                    area.cut(target, cell)[:] = values
        return made, dict(zip(("features", "look"), whole, strict=False))

    def _areas(self, priors: PriorTensors, wanted: int, size: tuple[int, int]) -> list[Tile]:
        """Parts of the frame, apart from each other, within reach of what moves: elsewhere the result is the input."""
        height, width = size
        moves = moving_cells(
            priors.motion[0, :wanted],
            priors.motion_back[0, :wanted],
            priors.reset[0, :wanted],
            priors.reset_back[0, :wanted],
            width,
        )
        cell, step = height // moves.shape[0], self.multiple
        reach = -(-self.overlap_px // cell)
        near = cv2.dilate(moves.numpy().astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
        found: list[Tile] = []
        for left, top, w, h, _ in cv2.connectedComponentsWithStats(near)[2][1:].tolist():
            new = Tile(
                top * cell // step * step,
                min(-(-(top + h) * cell // step) * step, height),
                left * cell // step * step,
                min(-(-(left + w) * cell // step) * step, width),
            )
            while touching := [tile for tile in found if new.meets(tile)]:
                found = [tile for tile in found if tile not in touching]
                new = Tile.around([new, *touching])
            found.append(new)
        if sum((t.bottom - t.top) * (t.right - t.left) for t in found) > LARGEST_PART * height * width:
            return [Tile(0, height, 0, width)]
        return found

    def _still_state(self, handed_on: Sequence[torch.Tensor], last: torch.Tensor) -> list[torch.Tensor]:
        """State of a whole frame in which nothing was computed: no features, and the last frame as it is."""
        features, *looks = handed_on
        height, width = (side // self.model.cell for side in last.shape[-2:])
        state = [features.new_zeros(*features.shape[:-2], height, width)]
        return state + [torch.cat([last, last], 1).to(look.dtype) for look in looks]

    def _in_tiles(
        self,
        frames: torch.Tensor,
        priors: PriorTensors,
        wanted: int,
        samples: int,
        carried: torch.Tensor | None,
        look: torch.Tensor | None,
        tile_px: int | None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Restored frames of a part of the frame, and the state of that part."""
        height, width = frames.shape[-2:]
        rows = (
            tile_rows(height, width, max(tile_px, self.overlap_px + self.multiple), self.overlap_px, self.multiple)
            if tile_px and tile_px < max(height, width)
            else [[Tile(0, height, 0, width)]]
        )

        def process(tile: Tile) -> tuple[torch.Tensor, ...]:
            out = self._run(
                tile.cut(frames),
                cut_priors(priors, tile),
                None if carried is None else tile.cut(carried, self.model.cell),
                wanted,
                samples,
                None if look is None else tile.cut(look),
            )
            return tuple(x.float().cpu() for x in out if x is not None)

        with memory_errors():
            restored, *handed_on = by_tiles(rows, process, (1, self.model.cell, 1)[: 2 + self.model.neighbours])
        return restored, handed_on

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
