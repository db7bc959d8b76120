"""The shipped model on footage as people have it: it helps or leaves alone, and never harms."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from unsmear import load
from unsmear.blur.pairset import upright_frames
from unsmear.metrics import psnr
from unsmear.restore.restorer import Clip
from unsmear.restore.sharpness import restrained
from unsmear.video import open_video

ROOT = Path(__file__).parents[1]


def _tool():
    spec = importlib.util.spec_from_file_location("footage", ROOT / "tools" / "footage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


footage = _tool()


@pytest.fixture(scope="module")
def sharp():
    """Twelve frames of the example, 320×192."""
    with open_video(ROOT / "examples" / "handheld.sharp.mp4") as reader:
        return list(upright_frames(reader, 24))


@pytest.fixture(scope="module")
def restorer():
    return load("cpfp", device="cpu", dtype="fp32")


def restored(restorer, frames):
    clip = Clip.of(frames)
    return restrained(clip.frames, restorer(clip), clip.duty)


@pytest.mark.parametrize("variant", list(footage.VARIANTS))
def test_no_variant_gets_worse(sharp, restorer, variant):
    frames = sharp if variant == "huge-motion" else sharp[6:14]
    blurred, wanted = footage.VARIANTS[variant](frames)
    out = restored(restorer, blurred)
    before, after = ([psnr(a, w) for a, w in zip(x, wanted, strict=True)] for x in (blurred, out))
    assert np.mean(after) > np.mean(before) - 0.1
    assert all(a > b - 0.5 for a, b in zip(after, before, strict=True))


def test_what_needs_nothing_is_left_alone(sharp, restorer):
    """A tripod shot, and a moving one that was filmed sharp."""
    blurred, _ = footage.still(sharp[6:14])
    assert psnr(np.stack(blurred), restored(restorer, blurred)) > 40
    moving, _ = footage.encoded((sharp[6:14], []), 18)
    assert psnr(np.stack(moving), restored(restorer, moving)) > 36
