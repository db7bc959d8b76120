"""Coding-prior feature propagation: stage 1 of CPGD-Net (§III-B, Fig. 4).

Encoder to a latent grid → passes of coding-prior alignment forward and backward in time → fusion →
decoder with a global residual. The receptive field is bounded, so that frames can be restored in overlapping tiles.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from unsmear.models.common.warp import warp
from unsmear.models.cpfp.alignment import CPFA
from unsmear.models.cpfp.blocks import ResidualBlock, ResidualBody, zero_bias
from unsmear.models.cpfp.config import CPFPConfig
from unsmear.models.cpfp.correction import motion_gate, pinned
from unsmear.models.cpfp.deconvolution import line_samples
from unsmear.models.cpfp.full_size import GRID, INPUT_TAPS, FullSize, Heads, full_size, resized, unit
from unsmear.models.cpfp.motion_line import LineBlock, MotionLine, line_motion
from unsmear.models.cpfp.pyramid import Pyramid, doubled

__all__ = ["CPFP", "GRID", "CPFPConfig", "CPFPOutput", "PriorTensors"]

UNKNOWN_DUTY = 0.7
"""Duty cycle assumed where it is unknown."""

DECONVOLVED = 0.85
"""Initial gate of the deconvolved frame: near the best constant on rendered sequences."""

FROM_NEIGHBOURS = 0.24
"""Initial gate of each deconvolved and warped neighbour: near the best constant on real clips."""

MOTION_INPUT_PX = 16.0
"""Scale of the motion inputs of the encoder, frame pixels."""


class PriorTensors(NamedTuple):
    """Coding priors of a clip, as inputs of networks. Grids may be coarser than the frame.

    Motion is in frame pixels on any grid; networks rescale it.
    """

    motion: Tensor
    """V (B, T, 2, h, w): content at p in frame t was at p + V in frame t−1."""
    motion_back: Tensor
    """(B, T, 2, h, w): content at p in frame t is at p + V_back in frame t+1."""
    residual: Tensor
    """R (B, T, 1, h', w') in [0, 1]."""
    reset: Tensor
    """(B, T) bool, True where frame t has no usable predecessor."""
    reset_back: Tensor
    """(B, T) bool, True where frame t has no usable successor."""
    duty: Tensor
    """(B, T) exposure as a fraction of the frame step in [0, 1]; negative where unknown."""


class CPFPOutput(NamedTuple):
    """Restored frames, and the state for the frames that follow."""

    frames: Tensor
    """(B, T', 3, H, W) restored frames, not clipped; T' = ``output_frames``."""
    state: Tensor
    """State of the first forward pass after frame T'−1: (order, B, C, H/cell, W/cell)."""
    look: Tensor | None
    """Frame T'−1 and its deconvolution, (B, 6, H, W) half precision, an input of the next frame; None where unused."""


class CPFP(ModelMixin, ConfigMixin):
    """Stage-1 network of CPGD-Net. Constructor arguments are the fields of ``CPFPConfig``.

    Raises:
        ValueError: ``passes``, ``order`` or ``line_taps`` are not allowed.
    """

    config_name = "config.json"  # type: ignore[assignment]

    @register_to_config
    def __init__(
        self,
        channels: int = 32,
        encoder_depth: int = 4,
        body_depth: int = 6,
        decoder_depth: int = 4,
        passes: list[str] | None = None,
        order: int = 1,
        offset_groups: int = 4,
        offset_limit: float | None = 4.0,
        prior_inputs: bool = True,
        line_taps: int = 17,
        line_reach: float = 2.0,
        state_limit: float | None = 4.0,
        deconvolve: list[int] | None = None,
        neighbours: bool = False,
        line_blocks: int = 3,
        coarse_deconvolve: list[int] | None = None,
        deep_channels: list[int] | None = None,
        deep_depths: list[int] | None = None,
        use_motion: bool = True,
        use_residual: bool = True,
    ):
        super().__init__()
        self.channels, self.order, self.prior_inputs = channels, order, prior_inputs
        self.use_motion, self.use_residual = use_motion, use_residual
        self.state_limit = state_limit
        self.passes = tuple(passes or ("forward", "backward"))
        if self.passes[0] != "forward" or set(self.passes) - {"forward", "backward"}:
            raise ValueError(f"passes {self.passes} must hold 'forward' and 'backward', 'forward' first")
        if order not in (1, 2):
            raise ValueError(f"order {order} of propagation must be 1 or 2")
        c = channels
        self.deconvolve, self.coarse_deconvolve = tuple(deconvolve or ()), tuple(coarse_deconvolve or ())
        deconvolutions = len(self.deconvolve) + len(self.coarse_deconvolve)
        deep = list(deep_channels or ())
        self.cell = 2 * GRID if deep else GRID
        """Frame pixels per cell of the propagated features, each way."""
        # Input images: the frame, its samples along the motion line, its deconvolutions
        images = 1 + (len(INPUT_TAPS) if prior_inputs else 0) + deconvolutions
        fields = 7 if prior_inputs else 0  # V, V_back, R, duty known, duty
        if deep:
            # 1×1, since a 3×3 convolution of so many inputs would be half of the arithmetic of the network
            self.encoder = ResidualBody(images * 3 * GRID * GRID, c, encoder_depth, kernel=1)
            self.down = nn.Conv2d(c, deep[0], 2, stride=2)
            self.coarse_encoder = ResidualBody(deep[0] + fields, deep[0], encoder_depth)
            self.pyramid = Pyramid(deep, list(deep_depths or ()))
            self.up = nn.Conv2d(deep[0], c, 1)
        else:
            self.encoder = ResidualBody(images * 3 * GRID * GRID + fields, c, encoder_depth)
        self.deep = bool(deep)
        self.multiple = self.cell << max(len(deep) - 1, 0)
        """Preferred multiple of frame and tile sides, frame pixels: a cell of the coarsest level."""
        d = deep[0] if deep else c  # channels of the propagated features
        self.align = nn.ModuleList(CPFA(d, offset_groups, order, offset_limit) for _ in self.passes)
        self.body = nn.ModuleList(ResidualBody((2 + j) * d, d, body_depth) for j in range(len(self.passes)))
        self.fuse = nn.Conv2d((1 + len(self.passes)) * d, d, 1)
        self.decoder = nn.ModuleList(ResidualBlock(c) for _ in range(decoder_depth))
        self.along_line = nn.ModuleList(LineBlock(d) for _ in range(line_blocks))
        self.to_pixels = nn.Conv2d(c, 3 * GRID * GRID, 3, padding=1)
        self.to_pixels.weight.data *= 0.01
        zero_bias(self.to_pixels)
        if deconvolutions:
            self.to_gates = nn.Conv2d(c, deconvolutions * GRID * GRID, 3, padding=1)
            self.to_gates.weight.data *= 0.1
            nn.init.constant_(self.to_gates.bias, DECONVOLVED / deconvolutions)  # type: ignore[arg-type]
        self.neighbours = neighbours
        if neighbours:
            self.to_neighbours = nn.Conv2d(c, 2 * GRID * GRID, 3, padding=1)
            self.to_neighbours.weight.data *= 0.1
            nn.init.constant_(self.to_neighbours.bias, FROM_NEIGHBOURS)  # type: ignore[arg-type]
        self.line = MotionLine(line_taps, line_reach) if line_taps else None
        if line_taps:
            self.to_line = nn.Conv2d(c, line_taps, 3, padding=1)
            self.to_line.weight.data *= 0.1
            zero_bias(self.to_line)

    @property
    def values_per_pixel(self) -> float:
        """Feature values stored per pixel of each frame of a clip, for estimates of memory."""
        stored = self.fuse.out_channels * (2 + 2 * len(self.passes)) / self.cell**2
        return stored + self.channels / GRID**2 if self.deep else stored

    @classmethod
    def build(cls, config: CPFPConfig) -> "CPFP":
        """Return a network of this size with initial weights."""
        return cls(**vars(config))

    def forward(
        self,
        frames: Tensor,
        priors: PriorTensors,
        state: Tensor | None = None,
        output_frames: int | None = None,
        samples: int | None = None,
        look: Tensor | None = None,
        pin: bool = True,
    ) -> CPFPOutput:
        """Restore the first ``output_frames`` frames of a clip; the others are context.

        Args:
            frames: blurred (B, T, 3, H, W); H and W divisible by 4. Float in [0, 1], or levels: uint8, or 16-bit ones
                as int32.
            priors: of the same T frames.
            state: of the first forward pass after the frame before ``frames[0]``; None for zeros.
            output_frames: number of frames to restore; None for all.
            samples: points per motion line in the deconvolution; None: ``line_samples`` of these frames. Tiles of one
                frame must share the value.
            look: ``CPFPOutput.look`` of the frame before ``frames[0]``; None where there is none.
            pin: apply ``correction.pinned``, which preserves the light of wide areas and static parts. False for tiles
                of a frame, to which it is applied after joining.
        """
        b, t, _, height, width = frames.shape
        keep = t if output_frames is None else output_frames
        size = (height // self.cell, width // self.cell)
        grid = self._to_feature_grid(priors, size)

        if samples is None:
            samples = self.line_samples(priors)
        blur = [self._blur(grid, i) for i in range(t)]
        full = full_size(self, frames)(self, frames, grid, blur, samples, look, keep)
        encoded: list[Tensor] = []  # at the resolution of propagation
        fine: list[Tensor] = []  # at 1/4 of the frame size
        for i in range(t):
            features, coarse = self._encode(full, grid, i)
            encoded.append(coarse)
            if i < keep:
                fine.append(features)
        propagated: list[list[Tensor]] = []
        next_state = state
        for j, direction in enumerate(self.passes):
            start = state if j == 0 else None
            passed, reached = self._propagate(j, direction, encoded, propagated, grid, start, keep - 1)
            propagated.append(passed)
            if j == 0:
                next_state = reached
        restored = torch.empty_like(frames[:, :keep], dtype=torch.float32)  # stacking a list takes twice the memory
        for i in range(keep):
            inputs = [encoded[i], *(passed[i] for passed in propagated)]
            corrected = full.corrected(i, self._heads(fine[i], inputs, blur[i], grid.duty[:, i] >= 0))
            if pin:
                corrected = pinned(unit(frames[:, i]), corrected, self.motion_gate(grid, i, (height, width)))
            restored[:, i] = corrected
        assert next_state is not None
        return CPFPOutput(restored, next_state, full.look(keep - 1))

    def _to_feature_grid(self, priors: PriorTensors, size: tuple[int, int]) -> PriorTensors:
        """Resize V, V_back (values stay in frame pixels) and R to the feature grid; apply ablations."""

        def resized(field_: Tensor, mode: str) -> Tensor:
            b, t = field_.shape[:2]
            flat = field_.flatten(0, 1).float()
            if tuple(flat.shape[-2:]) != size:
                options = {"align_corners": False} if mode == "bilinear" else {}
                flat = F.interpolate(flat, size, mode=mode, **options)
            return flat.unflatten(0, (b, t))

        motion, back = (resized(m, "bilinear") for m in (priors.motion, priors.motion_back))
        residual = resized(priors.residual, "area")
        if not self.use_motion:
            motion, back = torch.zeros_like(motion), torch.zeros_like(back)
        if not self.use_residual:
            residual = torch.zeros_like(residual)
        return priors._replace(motion=motion, motion_back=back, residual=residual)

    @staticmethod
    def motion_gate(priors: PriorTensors, i: int, size: tuple[int, int]) -> Tensor:
        """Weight (B, 1, H, W) of the correction of frame i: 0 where there is no motion."""
        p = priors
        return motion_gate(p.motion[:, i], p.motion_back[:, i], p.reset[:, i], p.reset_back[:, i], size)

    def line_samples(self, priors: PriorTensors) -> int:
        """Number of points per motion line in the deconvolution of these frames."""
        if not self.deconvolve and not self.coarse_deconvolve:
            return 1
        blur = torch.stack([self._blur(priors, i) for i in range(priors.motion.shape[1])])
        return line_samples(blur)

    def _encode(self, full: FullSize, grid: PriorTensors, i: int) -> tuple[Tensor, Tensor]:
        """Features of frame i at 1/4 of its size, and those to be propagated."""
        fields = [x.to(self.dtype) for x in self._fields(grid, i)]
        first = self.encoder[0]
        assert isinstance(first, nn.Conv2d)
        return self._encode_rest(full.first(i, first, [] if self.deep else fields), fields)

    def _fields(self, grid: PriorTensors, i: int) -> list[Tensor]:
        """Priors of frame i as inputs of the encoder, (B, ·, h, w) on the grid of propagation; may be none."""
        if not self.prior_inputs:
            return []
        duty = grid.duty[:, i, None, None, None].expand_as(grid.residual[:, i])
        motions = [field[:, i] / MOTION_INPUT_PX for field in (grid.motion, grid.motion_back)]
        return [*motions, grid.residual[:, i], (duty >= 0).float(), duty.clamp(min=0)]

    def _encode_rest(self, x: Tensor, fields: list[Tensor]) -> tuple[Tensor, Tensor]:
        """``_encode`` from the result of the first convolution on."""
        features = nn.Sequential(*list(self.encoder)[1:])(x)
        if not self.deep:
            return features, features
        return features, self.coarse_encoder(torch.cat([self.down(features), *fields], 1))

    @staticmethod
    def _blur(grid: PriorTensors, i: int) -> Tensor:
        """Motion line of the exposure of frame i, duty · V̄ (B, 2, h, w), frame pixels."""
        line = line_motion(grid.motion[:, i], grid.motion_back[:, i], grid.reset[:, i], grid.reset_back[:, i])
        duty = grid.duty[:, i]
        return line * torch.where(duty < 0, UNKNOWN_DUTY, duty)[:, None, None, None]

    def _propagate(
        self,
        j: int,
        direction: str,
        encoded: list[Tensor],
        earlier: list[list[Tensor]],
        grid: PriorTensors,
        start: Tensor | None,
        state_frame: int,
    ) -> tuple[list[Tensor], Tensor]:
        """One pass: features F*_j[t] for every t, and the state after frame ``state_frame`` (order, B, C, h, w).

        Backward passes are masked by the same R[t] as forward ones, the residual of the coding forward in time, as in
        the authors' release. The paper does not say; a residual of the reversed coding is not stored. Ours.
        """
        count, order = len(encoded), self.order
        features: list[Tensor | None] = [None] * count
        zero = torch.zeros_like(encoded[0])
        recent = list(start.to(zero.dtype)) if start is not None else [zero] * order
        forward = direction == "forward"
        motion, cut = (grid.motion, grid.reset) if forward else (grid.motion_back, grid.reset_back)
        step = -1 if forward else 1
        for i in range(count) if forward else range(count - 1, -1, -1):
            open_ = (~cut[:, i]).to(zero.dtype)[:, None, None, None]
            recent = [h * open_ for h in recent]
            neighbour = min(max(i + step, 0), count - 1)
            motions = [motion[:, k] for k in (i, neighbour)[:order]]
            inputs = [encoded[i], *(f[i] for f in earlier)]
            new = self._step(j, inputs, recent, motions, grid.residual[:, i], open_)
            features[i] = new
            recent = [new, *recent][:order]
            if i == state_frame:
                state = torch.stack(recent)
        return features, state  # type: ignore[return-value]  # every entry is filled above

    def _step(
        self,
        j: int,
        inputs: list[Tensor],
        recent: list[Tensor],
        motions: list[Tensor],
        residual: Tensor,
        open_: Tensor,
    ) -> Tensor:
        """Features F*_j of one frame.

        Args:
            j: number of the pass.
            inputs: encoded features of the frame, then those of each earlier pass, (B, C, h, w).
            recent: results of this pass for the neighbours, nearest first, ``order`` of (B, C, h, w); zero at a cut.
            motions: of this frame to its neighbour, and with second order of the neighbour to its own, (B, 2, h, w)
                frame pixels.
            residual: R (B, 1, h, w).
            open_: 0 at a cut, else 1, (B, 1, 1, 1).
        """
        at = [m / self.cell for m in motions]
        if self.order == 2:  # motion to t∓2 is V plus the neighbour's V, sampled where V points
            at = [at[0], at[0] + _follow(at[1], at[0])]
        aligned = self.align[j](recent, at, residual) * open_
        new = aligned + self.body[j](torch.cat([*inputs, aligned], 1))
        if self.state_limit is not None:
            new = torch.where(new.abs().amax(1, keepdim=True) <= self.state_limit, new, torch.zeros_like(new))
        return new

    def _heads(self, fine: Tensor, inputs: list[Tensor], blur: Tensor, known: Tensor) -> Heads:
        """Fusion and decoder of one frame.

        Args:
            fine: features of the frame at 1/4 of its size.
            inputs: encoded features of the frame, then those of each pass.
            blur: motion line of the exposure, frame pixels.
            known: whether the duty cycle is, (B,) bool.
        """
        decoded = self.fuse(torch.cat(inputs, 1))
        if self.deep:
            for block in self.along_line:
                decoded = block(decoded, blur / self.cell)
            decoded = fine + doubled(self.up(self.pyramid(decoded)))
            for block in self.decoder:
                decoded = block(decoded)
        else:
            for k, block in enumerate(self.decoder):
                if k < len(self.along_line):
                    decoded = self.along_line[k](decoded, blur / self.cell)
                decoded = block(decoded)
        filters = None
        if self.line is not None:
            learnt = self.to_line(decoded)
            filters = self.line.bank_weights(resized(blur, learnt.shape[-2:]), known) + learnt.float()
        return Heads(
            self.to_pixels(decoded),
            self.to_gates(decoded) if self.deconvolve or self.coarse_deconvolve else None,
            self.to_neighbours(decoded) if self.neighbours else None,
            filters,
        )


def _follow(motion: Tensor, first: Tensor) -> Tensor:
    """Sample ``motion`` at p + ``first``(p)."""
    return warp(motion, first, "border")
