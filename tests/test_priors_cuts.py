"""Cuts and fast motion: what begins a new shot, what does not, and where motion comes from."""

from __future__ import annotations

from cuts import Reel, calm_and_wild, with_cuts
from unsmear.priors import Prior, stream_priors

SEED = 7
"""Thresholds were chosen on seeds 101 to 106."""


def priors_of(reel: Reel) -> list[Prior]:
    return [prior for _, prior in stream_priors(reel.frames)]


def resets(priors: list[Prior]) -> set[int]:
    return {t for t, prior in enumerate(priors) if prior.reset and t}


def test_fast_motion_and_changes_of_light_are_no_cuts():
    frames, false = 0, []
    for reel in calm_and_wild(SEED):
        assert not reel.cuts
        frames += len(reel.frames)
        false += [(reel.name, t) for t in sorted(resets(priors_of(reel)))]
    assert frames >= 2000
    assert len(false) <= frames / 1000, false


def test_cuts_are_found():
    cuts, missed, frames, false = 0, [], 0, []
    for reel in with_cuts(SEED):
        found = resets(priors_of(reel))
        cuts += len(reel.cuts)
        frames += len(reel.frames) - len(reel.cuts)
        missed += [(reel.name, t) for t in sorted(reel.cuts - found)]
        false += [(reel.name, t) for t in sorted(found - reel.cuts)]
    assert cuts >= 60
    assert len(missed) <= 0.02 * cuts, missed
    assert len(false) <= frames / 1000, false
