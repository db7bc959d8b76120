"""Models by name: where weights are, and whether they are whole.

Weights live in folders of ``config.json``, ``diffusion_pytorch_model.safetensors`` and ``card.json``; the shipped ones
in ``unsmear/weights``. A pipeline is a folder of such folders, one a network, as diffusers lays them out.
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
EMPTY_PROMPT_FILE = "empty_prompt.safetensors"
"""Beside a pipeline's networks: the embedding of the empty prompt, read once by a text encoder."""

PARTS = ("unet", "vae", "control", "blur_encoder", "image_tokens")
"""Networks of a pipeline, by their folders; ``unet`` and ``vae`` must be there. CPGD-Net's stage 2 has ``control``, the
video diffusion model the last two."""

VIDEO_UNET = "UNet3DConditionModel"


@dataclass(frozen=True)
class ModelEntry:
    """A folder of weights."""

    name: str
    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS_FILE

    @property
    def is_pipeline(self) -> bool:
        return not (self.folder / CONFIG_FILE).exists() and any((self.folder / part).is_dir() for part in PARTS)

    @property
    def is_video_pipeline(self) -> bool:
        """Whether it is a video diffusion model's: its denoiser sees whole clips."""
        unet = self.folder / "unet" / CONFIG_FILE
        return self.is_pipeline and unet.exists() and _read_json(unet).get("_class_name") == VIDEO_UNET

    @property
    def parts(self) -> dict[str, "ModelEntry"]:
        """The networks of a pipeline that are there."""
        return {part: ModelEntry(part, self.folder / part) for part in PARTS if (self.folder / part).is_dir()}

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
        """SHA-256 of the weights file, hexadecimal; of a pipeline, of the checksums of networks and stored prompt."""
        if self.is_pipeline:
            told = "".join(f"{part} {entry.checksum()}\n" for part, entry in self.parts.items())
            prompt = self.folder / EMPTY_PROMPT_FILE
            if prompt.exists():
                told += f"{EMPTY_PROMPT_FILE} {_sha256(prompt)}\n"
            return hashlib.sha256(told.encode()).hexdigest()
        return _sha256(self.weights)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): restore the file or reinstall unsmear") from None


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
    folders = sorted(p.parent for p in root.glob(f"*/{CARD_FILE}"))
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
