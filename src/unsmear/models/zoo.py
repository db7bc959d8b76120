"""Models by name: where weights are, whether they are whole, and how to load them.

Weights live in folders of ``config.json``, ``diffusion_pytorch_model.safetensors`` and ``card.json``; the
shipped ones in ``unsmear/weights``. Loading is strict: every key must fit, and where the card states a
checksum the file must have it.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from unsmear.errors import UsageError, WeightsError

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "card.json"


@dataclass(frozen=True)
class ModelEntry:
    """A folder of weights."""

    name: str
    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS_FILE

    @property
    def config(self) -> dict[str, Any]:
        """``config.json``. Raises WeightsError where it is missing or no JSON object."""
        return _read_json(self.folder / CONFIG_FILE)

    @property
    def card(self) -> dict[str, Any]:
        """``card.json``: data, licences, steps, figures; empty where there is none."""
        path = self.folder / CARD_FILE
        return _read_json(path) if path.exists() else {}

    @property
    def card_text(self) -> str:
        """The card for people, Markdown; empty where there is none."""
        path = self.folder / "README.md"
        return path.read_text() if path.exists() else ""

    def checksum(self) -> str:
        """SHA-256 of the weights file, hexadecimal."""
        try:
            with self.weights.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise WeightsError(
                f"{self.weights} cannot be read ({error.strerror}): restore the file or reinstall unsmear"
            ) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror}): expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise WeightsError(f"{path} is not a JSON object: restore the file or reinstall unsmear")
    return values


def shipped() -> list[ModelEntry]:
    """The models that come with the package."""
    root = Path(str(files("unsmear"))) / "weights"
    folders = sorted(p.parent for p in root.glob(f"*/{CONFIG_FILE}"))
    return [ModelEntry(folder.name, folder) for folder in folders]


def find(name: str) -> ModelEntry:
    """A shipped model by name, or a folder of weights by path.

    Raises:
        UsageError: neither.
    """
    entries = {entry.name: entry for entry in shipped()}
    if name in entries:
        return entries[name]
    folder = Path(name)
    if folder.is_dir():
        return ModelEntry(folder.resolve().name, folder)
    raise UsageError(f"model {name!r} is neither shipped ({', '.join(entries) or 'none is'}) nor a folder of weights")


def load_model(entry: ModelEntry) -> Any:
    """The network of a folder with its weights, in float32 on the CPU.

    Raises:
        WeightsError: damaged file, wrong checksum, another architecture, or keys that do not fit (named).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from unsmear.models.cpfp import CPFP

    config = entry.config
    kind = config.get("_class_name")
    if kind != "CPFP":
        raise WeightsError(f"{entry.folder / CONFIG_FILE} describes a {kind!r}; known architectures: CPFP")
    stated = entry.card.get("sha256")
    if stated and entry.checksum() != stated:
        raise WeightsError(
            f"{entry.weights} is damaged (its SHA-256 is not the card's {stated[:12]}…): "
            "restore the file or reinstall unsmear"
        )
    try:
        weights = load_file(entry.weights)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{entry.weights} is missing or no safetensors file ({str(error).splitlines()[0]}): "
            "restore the file or reinstall unsmear"
        ) from None
    try:
        model = CPFP.from_config(config)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{entry.folder / CONFIG_FILE} does not describe a CPFP ({error})") from None
    _load_strictly(model, weights, entry)
    return model.eval().requires_grad_(False)


def _load_strictly(model: Any, weights: dict[str, Any], entry: ModelEntry) -> None:
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - weights.keys())
    strange = sorted(weights.keys() - wanted.keys())
    shaped = sorted(k for k in wanted.keys() & weights.keys() if wanted[k].shape != weights[k].shape)
    for what, keys in (("lacks", missing), ("has unknown", strange), ("has the wrong shape for", shaped)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise WeightsError(
                f"{entry.weights} {what} {keys[0]}{more}: it does not belong to {entry.folder / CONFIG_FILE}"
            )
    model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=True)
