"""Hostile files through a whole job: each ends in an output that holds what the report says, or in one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.hostile import CLIPS, MORE_CLIPS, assert_mixed, make_clips, make_pictures, run_mutants

SIZE = (64, 48)
MUTANTS, BLOCKS = 5000, 10
RAW = {"native.h264"}  # what is written of it cannot be read again


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    make_clips(folder, {name: clip for name, clip in (CLIPS | MORE_CLIPS).items() if name not in RAW}, SIZE, sound=True)
    make_pictures(folder, SIZE)
    return folder


def test_a_hundred_mutants(seeds, tmp_path):
    assert_mixed(run_mutants("deblur", seeds, tmp_path, 0, 105))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("block", range(BLOCKS))
def test_five_thousand_mutants(seeds, tmp_path, block):
    each = MUTANTS // BLOCKS
    assert_mixed(run_mutants("deblur", seeds, tmp_path, each * block, each * (block + 1)))
