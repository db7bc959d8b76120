"""Assembling priors from two passes of a codec, forward and backward.

A step forward in time becomes a :class:`Forward`, which also says whether there is a cut between the two frames. N + 1
of these and the backward steps of the same frames make N priors. A step whose few predicted blocks or large residual
make it suspect is looked at more closely: is it a cut (:mod:`unsmear.priors.cuts`), and if not, what moved
(:mod:`unsmear.priors.follow`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from unsmear.priors.cuts import SUSPECT_COVERAGE, SUSPECT_RESIDUAL, CutTest, is_suspect
from unsmear.priors.follow import Followed, as_coded, follow, residual_of
from unsmear.priors.grid import Mask, MotionGrid, grid_from_vectors
from unsmear.priors.prior import FoundBy, Prior
from unsmear.priors.steps import Luma, Step


@dataclass(frozen=True)
class Forward:
    """A frame's motion from the one before it, its residual, and whether there is a cut between the two.

    ``step`` is there as long as no motion was found, and ``doubtful`` says that the codec could not follow, so that it
    is no use to trust it backward either.
    """

    motion_q: MotionGrid
    valid: Mask
    residual: Luma
    reset: bool
    origin: str
    motion_source: FoundBy = "codec"
    doubtful: bool = False
    step: Step | None = None

    def put_into(self, prior: Prior) -> Prior:
        """The prior with this for its past."""
        return replace(
            prior,
            motion_q=self.motion_q,
            valid=self.valid,
            residual=self.residual,
            reset=self.reset,
            origin=self.origin,
            motion_source=self.motion_source,
        )


def forward_of(
    step: Step, test: CutTest, t: int, origin: str = "reencode", *, seam: bool = False, judged_only: bool = False
) -> Forward:
    """A step's motion and residual, and whether it crosses a cut.

    Args:
        step: from frame ``t - 1`` to frame ``t``.
        test: of the frames at hand.
        t: number of the frame among those of ``test``.
        origin: of the step.
        seam: the frames are those of two chunks, and nothing but the two of them may count.
        judged_only: leave the motion as coded, as only ``reset`` and ``doubtful`` are asked for.
    """
    luma = test.lumas[t]
    height, width = luma.shape
    found = as_coded(step)
    residual = residual_of(step, found.motion_q, height, width)
    coverage, level = float(step.valid.mean()), float(residual.mean())
    if not is_suspect(coverage, level, luma):
        return Forward(found.motion_q, found.valid, residual, reset=False, origin=origin)
    if test(t, coverage, level, alone=seam):
        return cut(height, width, origin)
    doubtful = coverage < SUSPECT_COVERAGE or level > SUSPECT_RESIDUAL
    if doubtful and not judged_only:
        found = follow(step)
        residual = residual_of(step, found.motion_q, height, width)
    return Forward(
        found.motion_q,
        found.valid,
        residual,
        reset=False,
        origin=origin,
        motion_source=found.source,
        doubtful=doubtful,
        step=step if found.source == "none" else None,
    )


def cut(height: int, width: int, origin: str = "reencode") -> Forward:
    """A frame that has no past."""
    return Forward(
        *grid_from_vectors(None, height, width),
        np.zeros((height, width), np.uint8),
        reset=True,
        origin=origin,
        motion_source="none",
    )


def backward_of(step: Step, following: Forward) -> Followed:
    """Motion of a step of the reversed frames; ``following`` is the step between the same two frames, forward."""
    if following.reset:
        motion_q, valid = np.zeros_like(step.grid), np.zeros_like(step.valid)
        return Followed(motion_q, valid, "none")
    if following.doubtful or step.valid.mean() < SUSPECT_COVERAGE:
        return follow(step)
    return as_coded(step)


def assemble(forwards: Sequence[Forward], backwards: Iterable[Followed]) -> list[Prior]:
    """The priors of N consecutive frames.

    Args:
        forwards: N + 1, those of the frames and of the one after them (a cut where there is none).
        backwards: of the frames that have one after them, N or N - 1, in the order of the frames.
    """
    height, width = forwards[0].residual.shape
    nothing = Followed(*grid_from_vectors(None, height, width), "none")
    back = [*backwards, nothing][: len(forwards) - 1]
    return [
        Prior(
            motion_q=forward.motion_q,
            motion_back_q=motion_back.motion_q,
            valid=forward.valid,
            valid_back=motion_back.valid,
            residual=forward.residual,
            reset=forward.reset,
            reset_back=following.reset,
            origin=forward.origin,
            motion_source=forward.motion_source,
            motion_back_source=motion_back.source,
        )
        for (forward, following), motion_back in zip(
            pairwise([*_borrowing(forwards[:-1]), forwards[-1]]), _borrowing_back(back, forwards), strict=True
        )
    ]


def _borrowing(forwards: Sequence[Forward]) -> list[Forward]:
    """The same, with a neighbour's motion where none was found: of the frame before, else of the one after."""
    out = list(forwards)
    for t, lender in [*_neighbours(len(out), 1), *_neighbours(len(out), -1)]:
        step = out[t].step
        if step is not None and out[lender].motion_source != "none" and not out[max(t, lender)].reset:
            motion_q = out[lender].motion_q
            residual = residual_of(step, motion_q, *out[t].residual.shape)
            out[t] = replace(out[t], motion_q=motion_q, residual=residual, motion_source="borrowed", step=None)
    return out


def _borrowing_back(backwards: Sequence[Followed], forwards: Sequence[Forward]) -> list[Followed]:
    """The same for the motion to the frame after: of the frame after, else of the one before."""
    out = list(backwards)
    for t, lender in [*_neighbours(len(out), -1), *_neighbours(len(out), 1)]:
        wanting = out[t].source == "none" and not forwards[t + 1].reset and not forwards[max(t, lender)].reset
        if wanting and out[lender].source != "none":
            out[t] = replace(out[t], motion_q=out[lender].motion_q, source="borrowed")
    return out


def _neighbours(count: int, way: int) -> list[tuple[int, int]]:
    """Pairs of a frame and its neighbour, so ordered that what a frame has borrowed is lent on to the next."""
    if way > 0:
        return [(t, t - 1) for t in range(1, count)]
    return [(t, t + 1) for t in range(count - 2, -1, -1)]
