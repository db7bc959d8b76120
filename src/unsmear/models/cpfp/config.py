"""Sizes of the stage-1 network."""

from dataclasses import dataclass, field


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
    coarse_deconvolve: list[int] = field(default_factory=list)
    """The same on the frame at half of its size, where many iterations along a long line are cheap. Ours."""
    deep_channels: list[int] = field(default_factory=list)
    """Channels at an eighth of the frame's size, a sixteenth, …; empty for none. Where there are some, features are
    propagated and aligned at an eighth and then pass through a U (``nn.pyramid``). Ours."""
    deep_depths: list[int] = field(default_factory=list)
    """Residual blocks at each of these levels."""
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
