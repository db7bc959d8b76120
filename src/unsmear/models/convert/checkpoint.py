"""Safe reading of tensors from checkpoints of any origin; no code in a file is run.

Two formats are read: safetensors, and that of ``torch.save`` (unpickled with ``weights_only=True``). Both are
memory-mapped where possible, so that only the tensors that are used are read.
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
"""Keys under which training frameworks store the weights, beside counters and settings that are not used here."""

_BOOKKEEPING = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
"""Classes of objects that Lightning stores beside the weights; they are replaced by placeholders, never imported."""

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_HEADER_LENGTH = 8
_UNKNOWN_GLOBAL = re.compile(r"GLOBAL (\S+)")


class _Placeholder:
    """Placeholder for an object of ``_BOOKKEEPING``; discards its arguments and state."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_checkpoint(path: Path | str) -> dict[str, Tensor]:
    """Read tensors by name, on the CPU, in the dtypes of the file.

    Weights under ``state_dict`` or ``params`` are unwrapped; other values (steps, settings) are left out.

    Args:
        path: a safetensors file or one written by ``torch.save``, distinguished by their first bytes.

    Raises:
        WeightsError: missing, empty, damaged, of another format, without tensors, or a pickle that refers to anything
            but tensors and plain containers; none of it is run.
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
    return type(own, (_Placeholder,), {"__module__": module})


def _read_pickle(path: Path, mmap: bool) -> Any:
    try:
        with torch.serialization.safe_globals([_stand_in(name) for name in _BOOKKEEPING]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle protocol; failures are raised below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        name = _UNKNOWN_GLOBAL.search(str(error))
        if name is None:
            raise _damaged(path, error) from None
        raise WeightsError(
            f"{path} is a pickle that refers to {name[1].rstrip('.')}: expected tensors only, and nothing was run; "
            "do not trust the file, or convert it to safetensors with the program that wrote it"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = (str(error).splitlines() or [""])[0].split(": ")[-1][:80]
    return WeightsError(f"{path} is damaged or cut short ({reason or type(error).__name__}): fetch it again")


def _tensors(stored: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(stored, dict) and (inner := next((w for w in WRAPPERS if isinstance(stored.get(w), dict)), None)):
        stored = stored[inner]
    if not isinstance(stored, dict):
        raise WeightsError(f"{path} holds a {type(stored).__name__}: expected tensors by name")
    tensors = {str(key): value for key, value in stored.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors ({len(stored)} other entries): expected a checkpoint")
    return tensors
