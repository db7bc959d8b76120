"""Stage 1 as CPGD-Net's authors released it: their network, which differs from the paper's in most parts.

Written anew from the facts of the published layout; the released weights fit (``unsmear models import``). Encoder to
1/4 of the frame's size → four passes of second-order alignment, backward first → transformer over windows of two frames
→ decoder that shifts channels between frames → global residual. Layers that the release creates and never uses are
left out.

Channel attention averages over the whole map, and residuals are scaled between their least and largest value in the
clip, so a result depends on the size of the piece: the release restores 48 frames of 256×256 pixels at a time.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from unsmear.models.common.warp import warp
from unsmear.models.cpfp.network import GRID, PriorTensors, unit
from unsmear.models.cpfp_released.alignment import Neighbour, ReleasedAlignment
from unsmear.models.cpfp_released.attention import Size, WindowGroup
from unsmear.models.cpfp_released.blocks import SHIFTED_UNIT, SLOPE, AttendedBlock, GatedBlock, ShiftBlock, plain
from unsmear.models.cpgd.attention import RELEASED_RESIDUAL

PASSES = ("backward", "forward", "backward", "forward")

LEAST_RANGE, LEAST_RESIDUAL = 0.0025, 0.002
"""Added to the range of the residuals of a clip, and to the map that is scaled by it."""

FUSION_GROUPS = 3


class ReleasedOutput(NamedTuple):
    """Restored frames."""

    frames: Tensor
    """(B, T, 3, H, W), not clipped."""


class ReleasedCPFP(ModelMixin, ConfigMixin):
    """Stage-1 network of the authors' release; the defaults are its sizes.

    Args:
        channels: features at 1/4 of the frame's size; a multiple of 3, of ``heads``, and half of one of
            ``offset_groups``.
        shallow: features at 1/1 and 1/2; a multiple of 16.
        heads: of the transformer.
        window: of the transformer: frames, and rows and columns at 1/4.
        offset_groups: groups of channels with separate offsets, half of them for each of two neighbouring frames.
        offset_limit: bound on learnt offsets, feature pixels.

    Raises:
        ValueError: sizes that do not divide as they must.
    """

    config_name = "config.json"  # type: ignore[assignment]

    @register_to_config
    def __init__(
        self,
        channels: int = 192,
        shallow: int = 64,
        heads: int = 6,
        window: Size = (2, 8, 8),
        offset_groups: int = 16,
        offset_limit: float = 5.0,
    ):
        super().__init__()
        if channels % FUSION_GROUPS or channels % heads or 2 * channels % offset_groups or offset_groups % 2:
            raise ValueError(
                f"channels {channels}: expected a multiple of {FUSION_GROUPS} and of heads ({heads}), and half of one "
                f"of offset_groups ({offset_groups}), an even number"
            )
        if shallow % SHIFTED_UNIT:
            raise ValueError(f"shallow {shallow}: expected a multiple of {SHIFTED_UNIT}")
        c, s = channels, shallow

        def act() -> nn.Module:
            return nn.LeakyReLU(SLOPE)

        self.at_full = nn.Sequential(plain(3, s), act(), AttendedBlock(s))
        self.at_half = nn.Sequential(plain(s, s, stride=2), act(), AttendedBlock(s), AttendedBlock(s))
        self.at_quarter = nn.Sequential(plain(s, c, stride=2), act(), AttendedBlock(c), AttendedBlock(c))
        self.align = nn.ModuleList(ReleasedAlignment(c, offset_groups, offset_limit) for _ in PASSES)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d((2 + j) * c, c, 3, padding=1), act(), GatedBlock(c, 3)) for j in range(len(PASSES))
        )
        self.fuse = nn.Conv2d((1 + len(PASSES)) * c, c, 3, padding=1, groups=FUSION_GROUPS)
        self.norm_in, self.norm_out = nn.LayerNorm(c), nn.LayerNorm(c)
        size: Size = (window[0], window[1], window[2])
        self.transformer = nn.Sequential(WindowGroup(c, heads, size), WindowGroup(c, heads, size))
        self.refine = nn.Sequential(GatedBlock(c, 5, c), GatedBlock(c, 5))
        self.up_half, self.skip_half = plain(c, s, 1), AttendedBlock(s)
        self.decoder = nn.Sequential(ShiftBlock(s), ShiftBlock(s))
        self.up_full = nn.Conv2d(s, 4 * s, 3, padding=1)
        self.join_full, self.skip_full = plain(s, s), AttendedBlock(s)
        self.last = nn.Sequential(AttendedBlock(s), plain(s, 3))

    @property
    def values_per_pixel(self) -> float:
        """Feature values stored per pixel of each frame of a clip, for estimates of memory."""
        c, s = self.config["channels"], self.config["shallow"]
        return float((2 + len(PASSES)) * c / GRID**2 + s / 4 + 4 * s)

    def forward(self, frames: Tensor, priors: PriorTensors) -> ReleasedOutput:
        """Restore all frames of a clip.

        Args:
            frames: blurred (B, T, 3, H, W), one shot; H and W divisible by 4. Float in [0, 1], or levels, as ``CPFP``.
            priors: as of ``CPFP``; ``reset`` says which frames have no residual. Those are given that of the next
                frame, moved back, as the release does for the first of a clip. In place of the release's backward
                motion (RAFT, four iterations from the negated vectors) V_back is used.
        """
        size = (frames.shape[-2] // GRID, frames.shape[-1] // GRID)
        dtype = self.fuse.weight.dtype
        motion, back = (_resized(m, size) / GRID for m in (priors.motion, priors.motion_back))
        residual = self._residual_map(_resized(priors.residual, size), back, priors.reset)
        x = unit(frames)
        full, half, quarter = self._encode(x.flatten(0, 1).to(dtype))
        count = frames.shape[:2]
        passed = [list(quarter.unflatten(0, count).unbind(1))]
        for j, direction in enumerate(PASSES):
            along, against = (motion, back) if direction == "forward" else (back, motion)
            passed.append(self._propagate(j, direction, passed, along, against, residual))
        fused = self.fuse(torch.cat([torch.stack(p, 1).flatten(0, 1) for p in passed], 1))
        tokens = self.norm_in(fused.permute(0, 2, 3, 1)).unflatten(0, count)
        fused = self.norm_out(self.transformer(tokens)).flatten(0, 1).permute(0, 3, 1, 2)
        fused = self.refine(torch.cat([fused, torch.zeros_like(fused)], 1))  # of its two inputs the release uses one
        up = F.interpolate(fused, scale_factor=2, mode="bilinear", align_corners=False)
        decoded = self.decoder((self.up_half(up) + self.skip_half(half)).unflatten(0, count)).flatten(0, 1)
        shallow = F.leaky_relu(F.pixel_shuffle(self.up_full(decoded), 2), SLOPE)
        change = self.last(self.join_full(shallow) + self.skip_full(full))
        return ReleasedOutput(x + change.unflatten(0, count).float())

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        full = self.at_full(x)
        half = self.at_half(full)
        return full, half, self.at_quarter(half)

    @staticmethod
    def _residual_map(residual: Tensor, back: Tensor, reset: Tensor) -> Tensor:
        """R (B, T, 1, h, w) in the release's units, scaled between its least and largest value in each clip."""
        maps = list((residual * RELEASED_RESIDUAL).unbind(1))
        for t, (here, after) in enumerate(pairwise(maps)):
            maps[t] = torch.where(reset[:, t, None, None, None], warp(after, back[:, t]), here)
        stacked = torch.stack(maps, 1)
        least, most = stacked.amin((1, 2, 3, 4), keepdim=True), stacked.amax((1, 2, 3, 4), keepdim=True)
        return (stacked - least) / (most - least + LEAST_RANGE) + LEAST_RESIDUAL

    def _propagate(
        self, j: int, direction: str, passed: list[list[Tensor]], along: Tensor, against: Tensor, residual: Tensor
    ) -> list[Tensor]:
        """One pass → features of every frame. ``along``: motion to the frame before in the pass; ``against``: back."""
        count = len(passed[0])
        order = list(range(count) if direction == "forward" else reversed(range(count)))
        made: dict[int, Tensor] = {}
        aligned = torch.zeros_like(passed[0][0])
        for k, t in enumerate(order):
            if k:
                near = order[k - 1]
                to_near, from_near = along[:, t], against[:, near]
                first = Neighbour(made[near], to_near, from_near, residual[:, near])
                second = Neighbour.none(aligned)
                if k > 1:
                    far = order[k - 2]
                    to_far = to_near + warp(along[:, near], to_near)
                    from_far = from_near + warp(against[:, far], from_near)
                    second = Neighbour(made[far], to_far, from_far, residual[:, far])
                aligned = self.align[j](passed[-1][t], residual[:, t], first, second)
            made[t] = aligned + self.body[j](torch.cat([*(p[t] for p in passed), aligned], 1))
        return [made[t] for t in range(count)]


def _resized(field: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, T, C, h, w) float32 on the feature grid, bilinear."""
    flat = field.flatten(0, 1).float()
    if tuple(flat.shape[-2:]) != size:
        flat = F.interpolate(flat, size, mode="bilinear", align_corners=False)
    return flat.unflatten(0, field.shape[:2])
