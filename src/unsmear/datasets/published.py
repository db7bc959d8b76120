"""Contents of the published data sets: clips, frames and test lists, to check whether a copy is complete."""

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
"""Test clips of GoPro (Nah et al., CVPR 2017) and their numbers of frames, as listed in repacked copies (GoPro11)."""

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
    """A published split: ``frames`` is the number of pairs; ``names`` is empty where only the number is known."""

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
    """Whether a sequence has a name like those of GoPro, ``GOPR0384_11_00``."""
    return _GOPRO_NAME.fullmatch(sequence) is not None


def gopro_window(sequence: str) -> int | None:
    """Number N of raw frames averaged per blurred frame, 7 to 13, from a name of GoPro; None for other names.

    Blurred frame k (from 1) of such a sequence is the average of raw frames (k−1)·N+1 … k·N; its target is the middle
    one.
    """
    match = _GOPRO_NAME.fullmatch(sequence)
    return int(match[1]) if match else None


def published_split(family: str, split: str) -> Published | None:
    """Published contents of a split of ``family``; None where they are not known."""
    return next((known for known in PUBLISHED if (known.family, known.split) == (family, split)), None)
