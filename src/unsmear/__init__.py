"""unsmear: take the motion blur out of video, guided by the motion that its codec already knows.

>>> import unsmear
>>> unsmear.deblur("in.mp4", "out.mp4")                      # doctest: +SKIP
>>> for frame, prior in unsmear.extract_priors("in.mp4"):    # doctest: +SKIP
...     prior.motion()
>>> restorer = unsmear.load("cpfp", device="cuda")           # doctest: +SKIP
"""

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

__version__ = "0.1.0"

__all__ = [
    "DamagedVideo",
    "DataLayoutError",
    "Interrupted",
    "OutputError",
    "UnsmearError",
    "UnsupportedVideo",
    "UsageError",
    "WeightsError",
    "__version__",
    "deblur",
    "extract_priors",
    "load",
]
