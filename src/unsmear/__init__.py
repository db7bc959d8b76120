"""unsmear: take the motion blur out of video, guided by the motion that its codec already knows.

>>> import unsmear
>>> unsmear.deblur("in.mp4", "out.mp4")                      # doctest: +SKIP
>>> for frame, prior in unsmear.extract_priors("in.mp4"):    # doctest: +SKIP
...     prior.motion()
>>> restorer = unsmear.load("cpfp", device="cuda")           # doctest: +SKIP

Importing it sets one environment variable, where it is not set and torch is not loaded yet: ``OMP_WAIT_POLICY`` to
``PASSIVE``. torch's threads then sleep while they wait for work. By default they spin, and on a busy machine take the
cores from the decoder, the encoder and each other: a video takes several times as long. torch reads the variable once,
when it is loaded, so ``import torch`` before ``import unsmear`` keeps what the process had.
"""

import os
import sys

from unsmear.api import deblur, extract_priors, load
from unsmear.errors import (
    DamagedVideo,
    DataLayoutError,
    Interrupted,
    OutputError,
    UnsmearError,
    UnsupportedVideo,
    UsageError,
    WeightsError,
)
from unsmear.version import __version__

MODELS = {
    "CPControlNet": "unsmear.models.cpgd.control",
    "CPGDPipeline": "unsmear.models.cpgd.pipeline",
    "VDMPipeline": "unsmear.models.vdm.pipeline",
    "BlurEncoder": "unsmear.models.vdm.conditions",
    "ImageTokens": "unsmear.models.vdm.conditions",
    "EmptyPrompt": "unsmear.models.common.prompts",
    "ModelMixin": "diffusers",  # not ours: from_pretrained looks beside a class for the base that says how to load it
}
"""Classes of diffusion models, imported when they are asked for; modules that hold them."""


def __getattr__(name: str) -> object:
    if name not in MODELS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(MODELS[name]), name)


# Here, because every way to torch through unsmear comes past; in a function, imports of its parts would not.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = [
    "CPGDPipeline",
    "DamagedVideo",
    "DataLayoutError",
    "Interrupted",
    "OutputError",
    "UnsmearError",
    "UnsupportedVideo",
    "UsageError",
    "VDMPipeline",
    "WeightsError",
    "__version__",
    "deblur",
    "extract_priors",
    "load",
]
