"""Coding-prior feature propagation: stage 1 of CPGD-Net (§III-B, Fig. 4).

Encoder to a latent grid → passes of coding-prior alignment forward and backward in time → fusion →
decoder with a global residual. Nothing in it looks at a whole frame, so a tile sees what the whole sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from unsmear.nn.blocks import CoarseLevel, DetailLevel, ResidualBlock, ResidualBody, zero_bias
from unsmear.nn.cpfa import CPFA
from unsmear.nn.deconvolution import line_samples, richardson_lucy
from unsmear.nn.motion_line import LineBlock, MotionLine, line_motion
from unsmear.nn.sampling import pixel_grid, sample, warp

GRID = 4
"""Frame pixels a feature pixel, each way."""

UNKNOWN_DUTY = 0.7
"""Taken for the duty cycle where it is unknown."""

INPUT_TAPS = (-1.0, -0.5, 0.5, 1.0)
"""Where along its own blur the encoder reads each frame besides the pixel itself; ±0.5 are the ends."""

DECONVOLVED = 0.85
"""Share of what deconvolution changes that a fresh network takes: near the best constant on rendered sequences."""

FROM_NEIGHBOURS, TRUSTED_ERROR = 0.24, 0.035
"""Share of what each neighbour, deconvolved and moved along V, differs by that a fresh network takes, and the mean
difference of the blurred frames (of 1) at which it is trusted to the e-th part: near the best constants on real clips.
"""

MOTION_INPUT_PX = 16.0
"""Motion is divided by this where the encoder reads it; frame pixels."""


class PriorTensors(NamedTuple):
    """Coding priors of a clip as the networks read them. Grids may be coarser than the frame.

    Values stay in frame pixels whatever the grid; networks resize them.
    """

    motion: Tensor
    """V (B, T, 2, h, w): content at p in frame t was at p + V in frame t−1."""
    motion_back: Tensor
    """(B, T, 2, h, w): content at p in frame t is at p + V_back in frame t+1."""
    residual: Tensor
    """R (B, T, 1, h', w') in [0, 1]."""
    reset: Tensor
    """(B, T) bool: nothing to take from t−1."""
    reset_back: Tensor
    """(B, T) bool: nothing to take from t+1."""
    duty: Tensor
    """(B, T) exposure as a fraction of the frame step in [0, 1]; negative where unknown."""


class CPFPOutput(NamedTuple):
    frames: Tensor
    """(B, T', 3, H, W) restored frames, not clipped; T' = ``output_frames``."""
    state: Tensor
    """What the first forward pass hands on after frame T'−1: (order, B, C, H/4, W/4)."""
    look: Tensor | None
    """Frame T'−1 and its deconvolution, (B, 6, H, W) half precision, for the frame after it; None where unused."""


@dataclass(frozen=True)
class CPFPConfig:
    """Sizes of the network; ``CPFPConfig.preset("release")`` has the width of the authors' release."""

    channels: int = 32
    encoder_depth: int = 4
    body_depth: int = 6
    decoder_depth: int = 4
    passes: list[str] = field(default_factory=lambda: ["forward", "backward"])
    """Order of propagation; the first must be forward, its state is carried from chunk to chunk."""
    order: int = 1
    """First- or second-order propagation."""
    offset_groups: int = 4
    offset_limit: float | None = 4.0
    """Bound in feature pixels on learnt offsets; None is the paper's reading."""
    prior_inputs: bool = True
    """Give V, V_back and R (and the duty cycle) to the encoder too. Ours."""
    line_taps: int = 17
    """Taps of the motion-line head, 0 for none. Ours."""
    line_reach: float = 2.0
    """They cover this many times the blur to each side; the exposure itself covers half of it."""
    state_limit: float | None = 4.0
    """Cells of a propagated feature that leave ± this are dropped, None for never. Ours: far outside of what it was
    trained on (motion of 90 px a frame) a recurrent network may begin to amplify what it hands on to itself."""
    deconvolve: list[int] = field(default_factory=lambda: [3, 6])
    """Iterations of Richardson–Lucy along the motion line after which the network is shown the frame, and may take of
    it what it likes pixel by pixel; empty for none. Ours."""
    neighbours: bool = False
    """Offer the frames before and after too, deconvolved and moved along V where they fit. Ours: what coding or noise
    took from one frame another one may still have."""
    line_blocks: int = 3
    """Decoder blocks that convolve along the motion line, at most ``decoder_depth``. Ours."""
    coarse_blocks: int = 0
    """Residual blocks at half the feature resolution in the decoder, which see twice as far; 0 for none. Ours."""
    detail_blocks: int = 0
    """Residual blocks at half of the frame's resolution that have the last word; 0 for none. Ours."""
    detail_channels: int = 24
    use_motion: bool = True
    """False: V = V_back = 0 everywhere (the ablation without motion vectors)."""
    use_residual: bool = True
    """False: R = 0 everywhere (the ablation without coding residuals)."""

    @classmethod
    def preset(cls, name: str) -> "CPFPConfig":
        """A named size. ``release``: the width, the depth and the bound on offsets of the authors' release (31.6 M
        parameters), none of our additions; it runs forward first, which chunks of a video need.

        Raises:
            ValueError: another name.
        """
        if name != "release":
            raise ValueError(f"preset {name!r} is unknown; there is: release")
        return cls(
            channels=192,
            encoder_depth=2,
            body_depth=4,
            decoder_depth=3,
            passes=["forward", "backward"] * 2,
            order=2,
            offset_groups=16,
            offset_limit=5.0,
            state_limit=None,
            prior_inputs=False,
            line_taps=0,
            deconvolve=[],
            line_blocks=0,
        )


class CPFP(ModelMixin, ConfigMixin):
    """The network. Constructor arguments are the fields of ``CPFPConfig``."""

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
        coarse_blocks: int = 0,
        detail_blocks: int = 0,
        detail_channels: int = 24,
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
        self.deconvolve = tuple(deconvolve or ())
        # V, V_back, R, duty known, duty; the frame read at the taps along its line; and the frame deconvolved
        extra = 7 + len(INPUT_TAPS) * 3 * GRID * GRID if prior_inputs else 0
        extra += len(self.deconvolve) * 3 * GRID * GRID
        self.encoder = ResidualBody(3 * GRID * GRID + extra, c, encoder_depth)
        self.align = nn.ModuleList(CPFA(c, offset_groups, order, offset_limit) for _ in self.passes)
        self.body = nn.ModuleList(ResidualBody((2 + j) * c, c, body_depth) for j in range(len(self.passes)))
        self.fuse = nn.Conv2d((1 + len(self.passes)) * c, c, 1)
        self.coarse = CoarseLevel(c, coarse_blocks) if coarse_blocks else None
        self.decoder = nn.ModuleList(ResidualBlock(c) for _ in range(decoder_depth))
        self.along_line = nn.ModuleList(LineBlock(c) for _ in range(line_blocks))
        self.to_pixels = nn.Conv2d(c, 3 * GRID * GRID, 3, padding=1)
        self.to_pixels.weight.data *= 0.01
        zero_bias(self.to_pixels)
        if self.deconvolve:
            self.to_gates = nn.Conv2d(c, len(self.deconvolve) * GRID * GRID, 3, padding=1)
            self.to_gates.weight.data *= 0.1
            nn.init.constant_(self.to_gates.bias, DECONVOLVED / len(self.deconvolve))  # type: ignore[arg-type]
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
        shown = 2 + len(self.deconvolve) + 2 * neighbours  # the frame, its restoration so far, and what was offered
        self.detail = DetailLevel(c, shown, detail_channels, detail_blocks) if detail_blocks else None

    @classmethod
    def build(cls, config: CPFPConfig) -> "CPFP":
        """A network of this size with start values."""
        return cls(**vars(config))

    @property
    def later_forward_passes(self) -> bool:
        """Whether a forward pass depends on a backward one, so that a chunk needs frames before it too."""
        return "forward" in self.passes[1:]

    def forward(
        self,
        frames: Tensor,
        priors: PriorTensors,
        state: Tensor | None = None,
        output_frames: int | None = None,
        samples: int | None = None,
        look: Tensor | None = None,
    ) -> CPFPOutput:
        """Restore the first ``output_frames`` frames of a clip; the rest is looked at only.

        Args:
            frames: blurred (B, T, 3, H, W); H and W divisible by 4. Float in [0, 1], or levels: uint8, or 16-bit ones
                as int32.
            priors: of the same T frames.
            state: of the first forward pass after the frame before ``frames[0]``; None for zeros.
            output_frames: how many frames to restore, default all.
            samples: points of a motion line that deconvolution averages; None takes what these frames need. Tiles
                of one frame must have the same.
            look: of the frame before ``frames[0]``, as ``CPFPOutput.look``; None where there is none.
        """
        b, t, _, height, width = frames.shape
        keep = t if output_frames is None else output_frames
        size = (height // GRID, width // GRID)
        dtype = self.to_pixels.weight.dtype
        grid = self._to_feature_grid(priors, size)

        if samples is None:
            samples = self.line_samples(priors)
        undone: list[list[Tensor]] = []
        looks = [look]  # of the frames from −1 on
        encoded = []
        for i in range(t):
            frame = _unit(frames[:, i])
            tried = self._deconvolved(frame, grid, i, samples)
            encoded.append(self._encode(frame, grid, i, tried, dtype))
            if i < keep:
                undone.append([x.half() for x in tried])  # all of them wait for the decoder
            if self.neighbours and i <= keep:
                looks.append(torch.cat([frame, frame + tried[-1] if tried else frame], 1).half())
        looks += [None] * (keep + 2 - len(looks))
        propagated: list[list[Tensor]] = []
        handed_on = state
        for j, direction in enumerate(self.passes):
            start = state if j == 0 else None
            features, reached = self._propagate(j, direction, encoded, propagated, grid, start, keep - 1)
            propagated.append(features)
            if j == 0:
                handed_on = reached
        restored = torch.empty_like(frames[:, :keep], dtype=torch.float32)  # a list to stack takes twice as much
        for i in range(keep):
            offered = self._offered(looks[i : i + 3], grid, i) if self.neighbours else []
            restored[:, i] = self._decode(i, _unit(frames[:, i]), undone[i], offered, encoded, propagated, grid)
            undone[i], looks[i] = [], None
        assert handed_on is not None
        return CPFPOutput(restored, handed_on, looks[keep])

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

    def line_samples(self, priors: PriorTensors) -> int:
        """Points of a motion line that deconvolution should average over these frames."""
        if not self.deconvolve:
            return 1
        blur = torch.stack([self._blur(priors, i) for i in range(priors.motion.shape[1])])
        return line_samples(blur)

    def _deconvolved(self, frame: Tensor, grid: PriorTensors, i: int, samples: int) -> list[Tensor]:
        """What deconvolution along its line makes of a frame, less the frame, after each number of iterations."""
        if not self.deconvolve:
            return []
        return [x - frame for x in richardson_lucy(frame, self._blur(grid, i), samples, self.deconvolve)]

    @staticmethod
    def _offered(looks: Sequence[Tensor | None], grid: PriorTensors, i: int) -> list[Tensor]:
        """What the frames before and after i, deconvolved and moved along V, say otherwise than frame i does where the
        blurred frames agree: two of (B, 3, H, W), zero where there is none. ``looks``: of i − 1, i and i + 1."""
        before, here, after = looks
        assert here is not None
        own = here.float()
        out = []
        for look, motion, cut in ((before, grid.motion, grid.reset), (after, grid.motion_back, grid.reset_back)):
            if look is None:
                out.append(torch.zeros_like(own[:, 3:]))
                continue
            field_ = F.interpolate(motion[:, i], own.shape[-2:], mode="bilinear", align_corners=False)
            moved = warp(look.float(), field_, "border")
            error = (moved[:, :3] - own[:, :3]).abs().mean(1, keepdim=True)
            error = F.avg_pool2d(error, 5, 1, 2, count_include_pad=False)
            trust = torch.exp(-((error / TRUSTED_ERROR) ** 2)) * (~cut[:, i, None, None, None])
            out.append(trust * (moved[:, 3:] - own[:, 3:]))
        return out

    def _encode(self, frame: Tensor, grid: PriorTensors, i: int, undone: list[Tensor], dtype: torch.dtype) -> Tensor:
        """Features (B, C, h, w) of frame i."""
        read = [F.pixel_unshuffle(frame.to(dtype), GRID)]
        if self.prior_inputs:
            duty = grid.duty[:, i, None, None, None].expand_as(grid.residual[:, i])
            fields = (
                *(F.pixel_unshuffle(x, GRID) for x in self._along_line(frame, grid, i)),
                grid.motion[:, i] / MOTION_INPUT_PX,
                grid.motion_back[:, i] / MOTION_INPUT_PX,
                grid.residual[:, i],
                (duty >= 0).float(),
                duty.clamp(min=0),
            )
            read += [x.to(dtype) for x in fields]
        read += [F.pixel_unshuffle(x.to(dtype), GRID) for x in undone]
        x = torch.cat(read, 1)
        if dtype == torch.bfloat16:
            x = x.contiguous(memory_format=torch.channels_last)
        return self.encoder(x)

    def _along_line(self, frame: Tensor, grid: PriorTensors, i: int) -> list[Tensor]:
        """How the frame differs at ``INPUT_TAPS`` along the line that its exposure covered."""
        size = frame.shape[-2:]
        blur = F.interpolate(self._blur(grid, i), size, mode="bilinear", align_corners=False)
        here = pixel_grid(size[0], size[1], blur)
        return [sample(frame, here + a * blur, "border") - frame for a in INPUT_TAPS]

    @staticmethod
    def _blur(grid: PriorTensors, i: int) -> Tensor:
        """duty · V̄ (B, 2, h, w): the line that the exposure of frame i covered, frame pixels."""
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
        handed_on: int,
    ) -> tuple[list[Tensor], Tensor]:
        """One pass: features F*_j[t] for every t, and the state after frame ``handed_on`` (order, B, C, h, w)."""
        count, order = len(encoded), self.order
        features: list[Tensor | None] = [None] * count
        zero = torch.zeros_like(encoded[0])
        held = list(start.to(zero.dtype)) if start is not None else [zero] * order
        forward = direction == "forward"
        motion, cut = (grid.motion, grid.reset) if forward else (grid.motion_back, grid.reset_back)
        step = -1 if forward else 1
        for i in range(count) if forward else range(count - 1, -1, -1):
            open_ = (~cut[:, i]).to(zero.dtype)[:, None, None, None]
            held = [h * open_ for h in held]
            motions = [motion[:, i] / GRID]
            if order == 2:
                # Motion to t∓2 is V followed by the neighbour's own V.
                neighbour = min(max(i + step, 0), count - 1)
                motions.append(motions[0] + _follow(motion[:, neighbour] / GRID, motions[0]))
            aligned = self.align[j](held, motions, grid.residual[:, i]) * open_
            inputs = [encoded[i], *(f[i] for f in earlier), aligned]
            new = aligned + self.body[j](torch.cat(inputs, 1))
            if self.state_limit is not None:
                new = torch.where(new.abs().amax(1, keepdim=True) <= self.state_limit, new, zero)
            features[i] = new
            held = [new, *held][:order]
            if i == handed_on:
                state = torch.stack(held)
        return features, state  # type: ignore[return-value]  # every entry is filled above

    def _decode(
        self,
        i: int,
        frame: Tensor,
        undone: list[Tensor],
        offered: list[Tensor],
        encoded: list[Tensor],
        propagated: list[list[Tensor]],
        grid: PriorTensors,
    ) -> Tensor:
        """Fusion, decoder and global residual: frame t restored, (B, 3, H, W) float32."""
        fused = self.fuse(torch.cat([encoded[i], *(p[i] for p in propagated)], 1))
        blur = self._blur(grid, i)
        decoded = fused if self.coarse is None else self.coarse(fused)
        for k, block in enumerate(self.decoder):
            if k < len(self.along_line):
                decoded = self.along_line[k](decoded, blur / GRID)
            decoded = block(decoded)
        out = frame + F.pixel_shuffle(self.to_pixels(decoded).float(), GRID)
        if undone:
            gates = F.pixel_shuffle(self.to_gates(decoded).float(), GRID)
            for k, difference in enumerate(undone):
                out = out + gates[:, k : k + 1] * difference.float()
        if offered:
            gates = F.pixel_shuffle(self.to_neighbours(decoded).float(), GRID)
            for k, difference in enumerate(offered):
                out = out + gates[:, k : k + 1] * difference
        if self.line is not None:
            weights = self.line.bank_weights(blur, grid.duty[:, i] >= 0) + self.to_line(decoded).float()
            out = out + self.line(frame, blur, weights)
        if self.detail is not None:
            out = out + self.detail(decoded, [frame, out - frame, *undone, *offered])
        return out


def _unit(frame: Tensor) -> Tensor:
    """Floats as float32, levels (uint8, or 16 bits in int32) as float32 in [0, 1]."""
    if frame.is_floating_point():
        return frame.float()
    return frame.float() / (255 if frame.dtype == torch.uint8 else 65535)


def _follow(motion: Tensor, first: Tensor) -> Tensor:
    """``motion`` read at p + ``first``(p)."""
    return warp(motion, first, "border")
