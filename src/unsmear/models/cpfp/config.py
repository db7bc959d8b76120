"""Sizes of the stage-1 network."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class CPFPConfig:
    """Sizes of the network; ``CPFPConfig.preset("release")`` gives those of the authors' release."""

    channels: int = 32
    encoder_depth: int = 4
    body_depth: int = 6
    decoder_depth: int = 4
    passes: list[str] = field(default_factory=lambda: ["forward", "backward"])
    """Directions of the propagation passes, in order; the first must be forward: its state is carried across chunks."""
    order: int = 1
    """First- or second-order propagation."""
    offset_groups: int = 4
    offset_limit: float | None = 4.0
    """Bound in feature pixels on learnt offsets; None: no bound, as in the paper."""
    prior_inputs: bool = True
    """Whether the encoder is also conditioned on V, V_back, R and the duty cycle. Ours."""
    line_taps: int = 17
    """Taps of the motion-line head, 0 for none. Ours."""
    line_reach: float = 2.0
    """Extent of the taps to each side, in blur lengths; the exposure itself covers ±0.5."""
    state_limit: float | None = 4.0
    """Propagated cells with a value outside ± this are set to zero; None disables it. Ours: far outside the range of
    training (motion of 90 px per frame) the recurrence may diverge."""
    deconvolve: list[int] = field(default_factory=lambda: [3, 6])
    """Numbers of Richardson–Lucy iterations along the motion line. Each result is an input of the encoder and is added
    to the output by a gate predicted for each pixel; empty for none. Ours."""
    neighbours: bool = False
    """Whether the previous and next frames, deconvolved and warped along V, are added where they match. Ours: they may
    hold detail that coding or noise removed from the current frame."""
    line_blocks: int = 3
    """Decoder blocks that convolve along the motion line, at most ``decoder_depth``. Ours."""
    coarse_deconvolve: list[int] = field(default_factory=list)
    """As ``deconvolve``, at half the resolution, where many iterations along a long line are cheap. Ours."""
    deep_channels: list[int] = field(default_factory=list)
    """Channels at 1/8, 1/16, … of the frame size; empty for none. If given, features are propagated and aligned at 1/8
    and then processed by a U-shaped body (``cpfp.pyramid``). Ours."""
    deep_depths: list[int] = field(default_factory=list)
    """Residual blocks at each of these levels."""
    use_motion: bool = True
    """False: V = V_back = 0 everywhere (the ablation without motion vectors)."""
    use_residual: bool = True
    """False: R = 0 everywhere (the ablation without coding residuals)."""

    @classmethod
    def preset(cls, name: str) -> "CPFPConfig":
        """Return a named size.

        ``release``: width, depth and offset bound of the authors' release (31.6 M parameters), without our additions;
        the first pass is forward, as processing in chunks requires.

        Raises:
            ValueError: the name is unknown.
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
