"""Dead leaves: reproducible, with edges, in the colours of what they are given, and good to train from."""

from pathlib import Path

import cv2
import numpy as np

from support.clips import texture
from unsmear.blur.leaves import dead_leaves
from unsmear.blur.pack import load_sources, open_pack
from unsmear.cli.main import run


def test_the_same_seed_gives_the_same_leaves() -> None:
    one, again, other = (dead_leaves((96, 128), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one.shape == (96, 128, 3)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_leaves_have_edges_of_every_size() -> None:
    """The spectrum falls like a photograph's, about as the square of the frequency, and not like noise's."""
    power = np.zeros((128, 128))
    for seed in range(3):
        grey = cv2.cvtColor(dead_leaves((128, 128), np.random.default_rng(seed)), cv2.COLOR_RGB2GRAY)
        window = np.hanning(128)[:, None] * np.hanning(128)
        power += np.abs(np.fft.fftshift(np.fft.fft2((grey - grey.mean()) * window))) ** 2
    y, x = np.mgrid[-64:64, -64:64]
    radius = np.hypot(x, y)
    rings = [power[(radius >= r) & (radius < 2 * r)].mean() for r in (4, 8, 16)]
    slopes = np.diff(np.log2(rings))
    assert (slopes < -0.8).all()
    assert (slopes > -4).all()


def test_colours_come_from_the_photographs() -> None:
    green = np.zeros((40, 40, 3), np.uint8)
    green[..., 1] = texture((40, 40))[..., 1]
    leaves = dead_leaves((64, 64), np.random.default_rng(0), [green])
    assert leaves[..., 1].mean() > 40
    assert leaves[..., [0, 2]].max() == 0


def test_packs_can_be_made_of_leaves_alone(tmp_path: Path) -> None:
    assert len(load_sources(None, None, leaves=2, seed=5).photos) == 2
    given = ["--leaves", "2", "--sequences", "2", "--size", "64", "--frames", "3", "--workers", "1"]
    assert run(["data", "pack", "-o", str(tmp_path / "p"), *given]) == 0
    assert open_pack(tmp_path / "p")["sharp"].shape == (2, 3, 64, 64, 3)
    assert run(["data", "pack", "-o", str(tmp_path / "q")]) == 2
