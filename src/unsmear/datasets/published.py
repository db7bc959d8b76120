"""Contents of the published data sets: clips, frames and test lists, to tell whether a copy of one is whole."""

import re
from dataclasses import dataclass

GOPRO_TEST = {
    "GOPR0384_11_00": 100,
    "GOPR0384_11_05": 100,
    "GOPR0385_11_01": 100,
    "GOPR0396_11_00": 100,
    "GOPR0410_11_00": 134,
    "GOPR0854_11_00": 100,
    "GOPR0862_11_00": 77,
    "GOPR0868_11_00": 100,
    "GOPR0869_11_00": 100,
    "GOPR0871_11_00": 100,
    "GOPR0881_11_01": 100,
}
"""Test clips of GoPro (Nah et al., CVPR 2017), with their frames, as its repacked copies list them (GoPro11)."""

DVD_TEST = (
    "720p_240fps_2",
    *("IMG_0003", "IMG_0021", "IMG_0030", "IMG_0031", "IMG_0032"),
    *("IMG_0033", "IMG_0037", "IMG_0039", "IMG_0049"),
)
"""Test clips of DVD (Su et al., CVPR 2017): the authors' answer in issue 2 of shuochsu/DeepVideoDeblurring, which
later work follows (CDVD-TSP, DVD10).
"""

_GOPRO_NAME = re.compile(r"GOPR\d{4}_(\d{2})_\d{2}")


@dataclass(frozen=True)
class Published:
    """A split as it was published: ``frames`` counts pairs; ``names`` is empty where only the number is known."""

    family: str
    split: str
    clips: int
    frames: int
    names: tuple[str, ...] = ()


PUBLISHED = (
    Published("GoPro", "train", 22, 2103),
    Published("GoPro", "test", 11, 1111, tuple(GOPRO_TEST)),
    Published("DVD", "train", 61, 5708),
    Published("DVD", "test", 10, 1000, DVD_TEST),
)


def is_gopro_name(sequence: str) -> bool:
    """Whether a sequence is called as those of GoPro are, ``GOPR0384_11_00``."""
    return _GOPRO_NAME.fullmatch(sequence) is not None


def gopro_window(sequence: str) -> int | None:
    """How many raw frames were averaged to a blurred one: the middle number of GoPro's names, 7 to 13.

    Blurred frame k (from 1) of such a sequence is made of the raw frames (k−1)·N+1 … k·N, its target the middle one.
    None for other names.
    """
    found = _GOPRO_NAME.fullmatch(sequence)
    return int(found[1]) if found else None


def published_split(family: str, split: str) -> Published | None:
    """The published numbers of one split of ``family``, None where they are not known."""
    return next((known for known in PUBLISHED if (known.family, known.split) == (family, split)), None)
