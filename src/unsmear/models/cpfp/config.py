"""Sizes of the stage-1 network."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from unsmear.options import Limits, OptionError, check


@dataclass(frozen=True)
class CPFPConfig:
    """Sizes of the network; ``CPFPConfig.preset("paper")`` leaves out what the paper does not have."""

    channels: Annotated[int, Limits(1)] = 32
    encoder_depth: Annotated[int, Limits(0)] = 4
    body_depth: Annotated[int, Limits(0)] = 6
    decoder_depth: Annotated[int, Limits(0)] = 4
    passes: list[Literal["forward", "backward"]] = field(default_factory=lambda: ["forward", "backward"])
    """Directions of the propagation passes, in order; the first must be forward: its state is carried across chunks."""
    order: Literal[1, 2] = 1
    """First- or second-order propagation."""
    offset_groups: Annotated[int, Limits(1)] = 4
    offset_limit: Annotated[float | None, Limits(0, above=True)] = 4.0
    """Bound in feature pixels on learnt offsets; None: no bound, as in the paper."""
    prior_inputs: bool = True
    """Whether the encoder is also conditioned on V, V_back, R and the duty cycle. Ours."""
    line_taps: Annotated[int, Limits(0)] = 17
    """Taps of the motion-line head, 0 for none. Ours."""
    line_reach: Annotated[float, Limits(0, above=True)] = 2.0
    """Extent of the taps to each side, in blur lengths; the exposure itself covers ±0.5."""
    state_limit: Annotated[float | None, Limits(0, above=True)] = 4.0
    """Propagated cells with a value outside ± this are set to zero; None disables it. Ours: far outside the range of
    training (motion of 90 px per frame) the recurrence may diverge."""
    deconvolve: Annotated[list[int], Limits(1)] = field(default_factory=lambda: [3, 6])
    """Numbers of Richardson–Lucy iterations along the motion line. Each result is an input of the encoder and is added
    to the output by a gate predicted for each pixel; empty for none. Ours."""
    neighbours: bool = False
    """Whether the previous and next frames, deconvolved and warped along V, are added where they match. Ours: they may
    hold detail that coding or noise removed from the current frame."""
    line_blocks: Annotated[int, Limits(0)] = 3
    """Decoder blocks that convolve along the motion line, at most ``decoder_depth``. Ours."""
    coarse_deconvolve: Annotated[list[int], Limits(1)] = field(default_factory=list)
    """As ``deconvolve``, at half the resolution, where many iterations along a long line are cheap. Ours."""
    deep_channels: Annotated[list[int], Limits(1)] = field(default_factory=list)
    """Channels at 1/8, 1/16, … of the frame size; empty for none. If given, features are propagated and aligned at 1/8
    and then processed by a U-shaped body (``cpfp.pyramid``). Ours."""
    deep_depths: Annotated[list[int], Limits(0)] = field(default_factory=list)
    """Residual blocks at each of these levels."""
    use_motion: bool = True
    """False: V = V_back = 0 everywhere (the ablation without motion vectors)."""
    use_residual: bool = True
    """False: R = 0 everywhere (the ablation without coding residuals)."""

    def __post_init__(self) -> None:
        check(self)
        if self.passes[:1] != ["forward"]:
            raise OptionError("passes", self.passes, "forward as the first")
        if self.line_taps and self.line_taps % 2 == 0:
            raise OptionError("line_taps", self.line_taps, "0 or an odd number, so that one tap is the pixel itself")
        propagated = self.deep_channels[0] if self.deep_channels else self.channels
        if propagated % self.offset_groups:
            raise OptionError(
                "offset_groups", self.offset_groups, f"a divisor of {propagated}, the channels propagated"
            )
        if len(self.deep_depths) != len(self.deep_channels):
            raise OptionError("deep_depths", self.deep_depths, f"{len(self.deep_channels)} values, as in deep_channels")

    @classmethod
    def preset(cls, name: str) -> "CPFPConfig":
        """Return a named size.

        ``paper``: the network of §III-B without our additions, 31.6 M parameters. The paper states no sizes: 192
        channels, 16 groups of offsets, second order and twice both directions are those of the authors' release, which
        is another network of as many parameters; depths are chosen to match their number. The first
        pass is forward, as processing in chunks requires.

        Raises:
            ValueError: the name is unknown.
        """
        if name != "paper":
            raise ValueError(f"preset {name!r} is unknown; there is: paper")
        return cls(
            channels=192,
            encoder_depth=2,
            body_depth=4,
            decoder_depth=3,
            passes=["forward", "backward"] * 2,
            order=2,
            offset_groups=16,
            offset_limit=None,
            state_limit=None,
            prior_inputs=False,
            line_taps=0,
            deconvolve=[],
            line_blocks=0,
        )
