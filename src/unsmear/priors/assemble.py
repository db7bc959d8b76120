"""Assembly of priors from a forward and a backward codec pass.

A forward step is converted to a :class:`Forward`, which also states whether there is a cut between the two frames. N
priors are assembled from N + 1 of these and the backward steps of the same frames. A step with few predicted blocks or
a large residual is suspect: it is tested for a cut (:mod:`unsmear.priors.cuts`), and if there is none its motion is
searched again (:mod:`unsmear.priors.follow`).
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
    """Motion of a frame to the previous one, its residual, and whether there is a cut between the two.

    ``step`` is set while no motion was found. ``doubtful`` is True where the motion vectors are not reliable, in which
    case those of the backward pass are not reliable either.
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
        """Replace the forward motion, residual and reset of a prior."""
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
    """Motion and residual of a step, and whether it crosses a cut.

    Args:
        step: from frame ``t - 1`` to frame ``t``.
        test: cut test with the available frames.
        t: index of the frame in ``test.lumas``.
        origin: of the step.
        seam: whether the frames belong to two chunks, so that only these two may be used.
        judged_only: keep the coded motion, since only ``reset`` and ``doubtful`` are needed.
    """
    luma = test.lumas[t]
    height, width = luma.shape
    followed = as_coded(step)
    residual = residual_of(step, followed.motion_q, height, width)
    coverage, level = float(step.valid.mean()), float(residual.mean())
    if not is_suspect(coverage, level, luma):
        return Forward(followed.motion_q, followed.valid, residual, reset=False, origin=origin)
    if test(t, coverage, level, alone=seam):
        return cut(height, width, origin)
    doubtful = coverage < SUSPECT_COVERAGE or level > SUSPECT_RESIDUAL
    if doubtful and not judged_only:
        followed = follow(step)
        residual = residual_of(step, followed.motion_q, height, width)
    return Forward(
        followed.motion_q,
        followed.valid,
        residual,
        reset=False,
        origin=origin,
        motion_source=followed.source,
        doubtful=doubtful,
        step=step if followed.source == "none" else None,
    )


def cut(height: int, width: int, origin: str = "reencode") -> Forward:
    """Forward of a frame without a usable predecessor."""
    return Forward(
        *grid_from_vectors(None, height, width),
        np.zeros((height, width), np.uint8),
        reset=True,
        origin=origin,
        motion_source="none",
    )


def backward_of(step: Step, following: Forward) -> Followed:
    """Motion of a step of the reversed frames; ``following`` is the forward step between the same two frames."""
    if following.reset:
        motion_q, valid = np.zeros_like(step.grid), np.zeros_like(step.valid)
        return Followed(motion_q, valid, "none")
    if following.doubtful or step.valid.mean() < SUSPECT_COVERAGE:
        return follow(step)
    return as_coded(step)


def assemble(forwards: Sequence[Forward], backwards: Iterable[Followed]) -> list[Prior]:
    """Assemble the priors of N consecutive frames.

    Args:
        forwards: N + 1, of the frames and of the following one (``cut`` where there is none).
        backwards: N or N - 1, of the frames with a following one, in the order of the frames.
    """
    height, width = forwards[0].residual.shape
    no_motion = Followed(*grid_from_vectors(None, height, width), "none")
    back = [*backwards, no_motion][: len(forwards) - 1]
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
    """Replace missing motion by that of the previous frame, else of the next one."""
    out = list(forwards)
    for t, lender in [*_neighbours(len(out), 1), *_neighbours(len(out), -1)]:
        step = out[t].step
        if step is not None and out[lender].motion_source != "none" and not out[max(t, lender)].reset:
            motion_q = out[lender].motion_q
            residual = residual_of(step, motion_q, *out[t].residual.shape)
            out[t] = replace(out[t], motion_q=motion_q, residual=residual, motion_source="borrowed", step=None)
    return out


def _borrowing_back(backwards: Sequence[Followed], forwards: Sequence[Forward]) -> list[Followed]:
    """Replace missing backward motion by that of the next frame, else of the previous one."""
    out = list(backwards)
    for t, lender in [*_neighbours(len(out), -1), *_neighbours(len(out), 1)]:
        missing = out[t].source == "none" and not forwards[t + 1].reset and not forwards[max(t, lender)].reset
        if missing and out[lender].source != "none":
            out[t] = replace(out[t], motion_q=out[lender].motion_q, source="borrowed")
    return out


def _neighbours(count: int, direction: int) -> list[tuple[int, int]]:
    """Pairs of a frame and its neighbour, ordered so that borrowed motion is passed on to further frames."""
    if direction > 0:
        return [(t, t - 1) for t in range(1, count)]
    return [(t, t + 1) for t in range(count - 2, -1, -1)]
