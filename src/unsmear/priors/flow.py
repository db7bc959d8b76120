"""Motion sources: the codec, or optical flow instead, for comparisons (CPGD-Net, Table III).

A source computes the motion from one frame to another on the grid of the priors. It can replace the forward motion,
the backward motion or both; residual and resets remain those of the codec. The sources in this module need only
OpenCV; optical flow by a network is in :mod:`unsmear.models.raft`.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from unsmear.errors import UsageError
from unsmear.priors.grid import MotionGrid
from unsmear.priors.prior import FoundBy, Prior
from unsmear.video import Frame

SOURCES = ("mv", "dis", "none")
"""Names that :func:`make_source` accepts."""

_CELL = 8


class MotionSource(Protocol):
    """Source of motion between two frames.

    Attributes:
        name: name in reports and on the command line.
    """

    name: str

    def motion(self, picture: Frame, other: Frame, codec_q: MotionGrid) -> MotionGrid:
        """Motion from ``picture`` to ``other``.

        Args:
            picture: the frame of the grid.
            other: the previous or next frame.
            codec_q: motion of the codec, ``(gh, gw, 2)`` int16 in quarter pixels.

        Returns:
            ``(gh, gw, 2)`` int16, quarter pixels.
        """

    def flops(self, height: int, width: int) -> float:
        """Arithmetic operations per motion field at this size; 0 for the codec's motion."""


class CodecMotion:
    """``mv``: the codec's own vectors."""

    name = "mv"

    def motion(self, picture: Frame, other: Frame, codec_q: MotionGrid) -> MotionGrid:
        return codec_q

    def flops(self, height: int, width: int) -> float:
        """0: the integer search of the encoder is only counted as time, as in the paper."""
        return 0.0


class NoMotion:
    """``none``: zero motion."""

    name = "none"

    def motion(self, picture: Frame, other: Frame, codec_q: MotionGrid) -> MotionGrid:
        return np.zeros_like(codec_q)

    def flops(self, height: int, width: int) -> float:
        return 0.0


class DisFlow:
    """``dis``: dense inverse search (Kroeger et al., 2016; OpenCV's implementation) on luma."""

    name = "dis"
    _PRESETS = {  # noqa: RUF012
        "fast": (cv2.DISOPTICAL_FLOW_PRESET_FAST, 2, 16, 4, 5),
        "medium": (cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, 1, 25, 3, 5),
    }

    def __init__(self, preset: str = "medium") -> None:
        """Choose ``"fast"`` or ``"medium"``. Raises UsageError for anything else."""
        if preset not in self._PRESETS:
            raise UsageError(f"DIS preset {preset!r} is unknown; choose one of {', '.join(self._PRESETS)}")
        self._preset = preset
        self._flow = cv2.DISOpticalFlow.create(self._PRESETS[preset][0])

    def motion(self, picture: Frame, other: Frame, codec_q: MotionGrid) -> MotionGrid:
        luma, target = picture.luma, other.luma
        if min(luma.shape) < 16:  # too small for its pyramid
            return np.zeros_like(codec_q)
        return flow_to_grid(np.asarray(self._flow.calc(luma, target, None), np.float32))  # type: ignore[call-overload]

    def flops(self, height: int, width: int) -> float:
        """Estimate from the algorithm: on each level from the finest used one up, 8×8 patches every ``stride`` pixels
        with ``iterations`` descents of about 10 operations per sample, and refinement of about 200 per pixel and pass.
        """
        _, finest, iterations, stride, passes = self._PRESETS[self._preset]
        pixels = sum(height * width / 4**level for level in range(finest, 8))
        return pixels * (64 * 10 * iterations / stride**2 + 200 * passes)


def make_source(name: str) -> MotionSource:
    """Return the source of a name. Raises UsageError for an unknown name."""
    if name == "mv":
        return CodecMotion()
    if name == "dis":
        return DisFlow()
    if name == "none":
        return NoMotion()
    raise UsageError(f"motion source {name!r} is unknown; choose one of {', '.join(SOURCES)}")


def flow_to_grid(flow: npt.NDArray[np.float32]) -> MotionGrid:
    """Average dense flow ``(H, W, 2)`` in pixels over the cells of the grid: ``(gh, gw, 2)`` int16 quarter pixels.

    Raises ValueError for values that are not finite.
    """
    height, width = flow.shape[:2]
    if not np.isfinite(flow).all():
        raise ValueError("the flow holds values that are not finite")
    padded = np.pad(flow, ((0, -height % 16), (0, -width % 16), (0, 0)), mode="edge")
    gh, gw = padded.shape[0] // _CELL, padded.shape[1] // _CELL
    mean = padded.reshape(gh, _CELL, gw, _CELL, 2).mean((1, 3))
    return np.rint(mean * 4).clip(-32768, 32767).astype(np.int16)


@dataclass
class Cost:
    """Accumulated cost of the motion fields of one source."""

    source: str
    fields: int = 0
    seconds: float = 0.0
    flops: float = 0.0

    def as_dict(self) -> dict[str, float | str]:
        """Fields of a report: seconds and 10⁹ operations per field."""
        each = max(self.fields, 1)
        return {
            "source": self.source,
            "fields": self.fields,
            "seconds_a_field": round(self.seconds / each, 6),
            "gflops_a_field": round(self.flops / each / 1e9, 3),
        }


@dataclass
class ReplacedMotion:
    """Replacement of the motion in priors by that of other sources.

    Attributes:
        forward: source of ``motion_q``.
        backward: source of ``motion_back_q``.
        costs: costs of both, accumulated by :meth:`of`. The codec's work is not included; it is in ``seconds`` of
            :class:`~unsmear.priors.streams.PriorStream`.
    """

    forward: MotionSource
    backward: MotionSource
    costs: tuple[Cost, Cost] = field(init=False)

    def __post_init__(self) -> None:
        self.costs = (Cost(self.forward.name), Cost(self.backward.name))

    def of(self, pairs: Iterable[tuple[Frame, Prior]]) -> Iterator[tuple[Frame, Prior]]:
        """Replace the motion of a stream of frames and priors, with a delay of one frame. Resets keep zero motion."""
        past: Frame | None = None
        held: tuple[Frame, Prior] | None = None
        for pair in pairs:
            if held is not None:
                yield held[0], self._replaced(held[1], past, held[0], pair[0])
                past = held[0]
            held = pair
        if held is not None:
            yield held[0], self._replaced(held[1], past, held[0], None)

    def _replaced(self, prior: Prior, past: Frame | None, now: Frame, future: Frame | None) -> Prior:
        if past is not None and not prior.reset and self.forward.name != "mv":
            motion_q = self._field(self.forward, self.costs[0], now, past, prior.motion_q)
            prior = replace(
                prior, motion_q=motion_q, valid=np.ones_like(prior.valid), motion_source=_found_by(self.forward)
            )
        if future is not None and not prior.reset_back and self.backward.name != "mv":
            motion_back_q = self._field(self.backward, self.costs[1], now, future, prior.motion_back_q)
            prior = replace(
                prior,
                motion_back_q=motion_back_q,
                valid_back=np.ones_like(prior.valid_back),
                motion_back_source=_found_by(self.backward),
            )
        return prior

    @staticmethod
    def _field(source: MotionSource, cost: Cost, picture: Frame, other: Frame, codec_q: MotionGrid) -> MotionGrid:
        begin = time.perf_counter()
        grid = source.motion(picture, other, codec_q)
        cost.seconds += time.perf_counter() - begin
        cost.fields += 1
        cost.flops += source.flops(*picture.luma.shape)
        return grid


def _found_by(source: MotionSource) -> FoundBy:
    return "none" if isinstance(source, NoMotion) else "flow"
