"""unsmear: take the motion blur out of video, guided by the motion that its codec already knows.

>>> import unsmear
>>> unsmear.deblur("in.mp4", "out.mp4")                      # doctest: +SKIP
>>> for frame, prior in unsmear.extract_priors("in.mp4"):    # doctest: +SKIP
...     prior.motion()
>>> restorer = unsmear.load("cpfp", device="cuda")           # doctest: +SKIP
>>> sharp = restorer(unsmear.Clip.of(frames))                # doctest: +SKIP

Importing it sets one environment variable, where it is not set and torch is not loaded yet: ``OMP_WAIT_POLICY`` to
``PASSIVE``. torch's threads then sleep while they wait for work. By default they spin, and on a busy machine take the
cores from the decoder, the encoder and each other: a video takes several times as long. torch reads the variable once,
when it is loaded, so ``import torch`` before ``import unsmear`` keeps what the process had.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from unsmear.models.cpgd.pipeline import CPGDPipeline
    from unsmear.models.vdm.pipeline import VDMPipeline
    from unsmear.priors import Prior
    from unsmear.restore.options import Options, Progress
    from unsmear.restore.report import Report
    from unsmear.restore.restorer import Clip, Restorer
    from unsmear.video import Frame

# Here, because every way to torch through unsmear comes past; in a function, imports of its parts would not.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = [
    "CPGDPipeline",
    "Clip",
    "DamagedVideo",
    "DataLayoutError",
    "Frame",
    "Interrupted",
    "Options",
    "OutputError",
    "Prior",
    "Progress",
    "Report",
    "Restorer",
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

_LATER = {
    "BlurEncoder": "unsmear.models.vdm.conditions",
    "CPControlNet": "unsmear.models.cpgd.control",
    "CPGDPipeline": "unsmear.models.cpgd.pipeline",
    "Clip": "unsmear.restore.restorer",
    "EmptyPrompt": "unsmear.models.common.prompts",
    "Frame": "unsmear.video",
    "ImageTokens": "unsmear.models.vdm.conditions",
    "ModelMixin": "diffusers",  # not ours: from_pretrained looks beside a class for the base that says how to load it
    "Options": "unsmear.restore.options",
    "Prior": "unsmear.priors",
    "Progress": "unsmear.restore.options",
    "Report": "unsmear.restore.report",
    "Restorer": "unsmear.restore.restorer",
    "VDMPipeline": "unsmear.models.vdm.pipeline",
}
"""Modules of types, and of the classes that ``model_index.json`` names; heavy, imported when they are asked for."""


if not TYPE_CHECKING:  # or type checkers would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        globals()[name] = found = getattr(import_module(_LATER[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted(globals().keys() | _LATER.keys())
