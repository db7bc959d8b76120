"""Hostile files: thousands of mutants of real ones end in priors or in one clear line, never in a crash or a hang."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.hostile import CLIPS, assert_mixed, make_clips, run_mutants


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    make_clips(folder, CLIPS, (80, 48))
    return folder


def check(lines: list[str]) -> None:
    assert_mixed(lines)
    assert not [line for line in lines if " error " in line and "Error: " not in line and "Video: " not in line]


def test_two_hundred_mutants(seeds, tmp_path):
    check(run_mutants("priors", seeds, tmp_path, 0, 204))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("block", range(10))
def test_six_thousand_mutants(seeds, tmp_path, block):
    check(run_mutants("priors", seeds, tmp_path, 600 * block, 600 * (block + 1)))
