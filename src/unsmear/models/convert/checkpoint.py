"""Tensors from a checkpoint of any origin, without running anything that the file may ask for.

Two containers are read: safetensors, and what ``torch.save`` writes (unpickled with ``weights_only=True`` alone).
Both are mapped into memory where their form allows it, so that only what is used is read.
"""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unsmear.errors import WeightsError

WRAPPERS = ("state_dict", "params")
"""Keys under which training frameworks put the weights, beside counters and settings that are not wanted here."""

_BOOKKEEPING = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
"""What Lightning stores beside the weights: read as nothing, so that such files need no trust."""

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_HEADER_LENGTH = 8
_UNKNOWN_GLOBAL = re.compile(r"GLOBAL (\S+)")


class _Nothing:
    """Stands where bookkeeping was stored; takes whatever the pickle says about it and keeps none of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_checkpoint(path: Path | str) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, in the file's own dtypes.

    Weights under ``state_dict`` or ``params`` are unwrapped; what is no tensor (steps, settings) is left out.

    Args:
        path: a safetensors file or one that ``torch.save`` wrote, told apart by what they begin with.

    Raises:
        WeightsError: missing, empty, damaged, another kind of file, without tensors, or a pickle that names
            anything beyond tensors and plain containers; nothing of it is run.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_LENGTH + 1)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): expected a checkpoint") from None
    if not head:
        raise WeightsError(f"{path} is empty: expected a checkpoint; fetch it again")
    if head[_HEADER_LENGTH:] == b"{":
        stored = _read_safetensors(path)
    elif head.startswith((_ZIP, _PICKLE)):
        stored = _read_pickle(path, mmap=head.startswith(_ZIP))
    else:
        raise WeightsError(f"{path} begins like neither a safetensors file nor one of torch.save: give a checkpoint")
    return _tensors(stored, path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _stand_in(name: str) -> Any:
    module, _, own = name.rpartition(".")
    return type(own, (_Nothing,), {"__module__": module})


def _read_pickle(path: Path, mmap: bool) -> Any:
    try:
        with torch.serialization.safe_globals([_stand_in(name) for name in _BOOKKEEPING]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle protocol; what fails is said below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        wanted = _UNKNOWN_GLOBAL.search(str(error))
        if wanted is None:
            raise _damaged(path, error) from None
        raise WeightsError(
            f"{path} is a pickle that asks for {wanted[1].rstrip('.')}: expected tensors alone, and nothing was run; "
            "do not trust the file, or convert it to safetensors with the program that wrote it"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> WeightsError:
    said = (str(error).splitlines() or [""])[0].split(": ")[-1][:80]
    return WeightsError(f"{path} is damaged or cut short ({said or type(error).__name__}): fetch it again")


def _tensors(stored: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(stored, dict) and (inner := next((w for w in WRAPPERS if isinstance(stored.get(w), dict)), None)):
        stored = stored[inner]
    if not isinstance(stored, dict):
        raise WeightsError(f"{path} holds a {type(stored).__name__}: expected tensors by name")
    tensors = {str(key): value for key, value in stored.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors ({len(stored)} other entries): expected a checkpoint")
    return tensors
