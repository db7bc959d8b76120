"""Former name of ``unsmear.models.cpgd`` and ``unsmear.models.common``; kept for one release."""

import sys
import warnings
from importlib import import_module

RENAMED = {
    "attention": "cpgd.attention",
    "colour": "common.latents",
    "control": "cpgd.control",
    "heat": "cpgd.attention_maps",
    "latent_tiles": "common.tiles",
    "noise": "common.schedule",
    "pipeline": "cpgd.pipeline",
    "prompts": "common.prompts",
    "steering": "common.schedule",
}

warnings.warn(
    "unsmear.models.cpc is unsmear.models.cpgd now, and its library unsmear.models.common: import from there",
    DeprecationWarning,
    stacklevel=2,
)
for _old, _new in RENAMED.items():
    sys.modules[f"{__name__}.{_old}"] = globals()[_old] = import_module(f"unsmear.models.{_new}")
