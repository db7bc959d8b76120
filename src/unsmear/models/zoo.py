"""Folders of weights by name: their configuration, card, parts and checksum.

A folder holds ``config.json``, ``diffusion_pytorch_model.safetensors`` and ``card.json``; the shipped ones are in
``unsmear/weights``. A pipeline is a folder of such folders, one per network, with ``model_index.json``, in the layout
of diffusers.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from unsmear.errors import UsageError, WeightsError
from unsmear.files import read_json, sha256, write_whole

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "card.json"
INDEX_FILE = "model_index.json"
EMPTY_PROMPT_FILE = "empty_prompt.safetensors"
"""Embedding of the empty prompt, stored beside a pipeline's networks."""

PARTS = ("unet", "vae", "control", "blur_encoder", "image_tokens")
"""Networks of a pipeline, by folder name; ``unet`` and ``vae`` are required. CPGD-Net's stage 2 has ``control``, the
video diffusion model the last two."""

STAGE_1 = "cpfp"
"""Folder of stage 1 in that of a pipeline, and name of the shipped one."""

BLURRED_HINT = "none"
"""In place of the checksum of stage 1: the control network was trained on the blurred frames themselves."""

LIBRARY = "unsmear"
"""Library of our classes in ``model_index.json``."""

OURS = ("CPControlNet", "BlurEncoder", "ImageTokens")
"""Components whose library is ``LIBRARY``; those of other classes are diffusers'."""

PIPELINES: dict[str, tuple[str, ...]] = {
    "CPGDPipeline": ("vae", "unet", "control", "scheduler", "text_encoder", "tokenizer", "empty_prompt"),
    "VDMPipeline": ("vae", "unet", "blur_encoder", "image_tokens", "scheduler", "image_encoder"),
}
"""Components of each pipeline class."""

FORMER_NAMES = {"CPCPipeline": "CPGDPipeline"}
"""Class names in folders of earlier versions → current names."""

_OTHERS = {
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
}


@dataclass(frozen=True)
class ModelEntry:
    """A folder of weights."""

    name: str
    folder: Path

    @property
    def weights(self) -> Path:
        """Path of the weights file."""
        return self.folder / WEIGHTS_FILE

    @property
    def kind(self) -> str:
        """Class name of the model in ``model_index.json`` or ``config.json``.

        Pipelines of earlier versions have no index and are recognised by their parts.

        Raises:
            WeightsError: the folder has neither file, or one is not a JSON object.
        """
        if (self.folder / INDEX_FILE).exists():
            return str(self.index.get("_class_name"))
        return self.kind_by_parts or str(self.config.get("_class_name"))

    @property
    def kind_by_parts(self) -> str:
        """Class name of the pipeline whose networks are present; empty where there are none."""
        parts = self.parts
        if (self.folder / CONFIG_FILE).exists() or not parts:
            return ""
        unet = parts.get("unet")
        video = unet is not None and (unet.folder / CONFIG_FILE).exists() and unet.kind == "UNet3DConditionModel"
        return "VDMPipeline" if video else "CPGDPipeline"

    @property
    def index(self) -> dict[str, Any]:
        """``model_index.json`` with current class names; empty where there is none. Raises as ``config`` does."""
        path = self.folder / INDEX_FILE
        return renamed_index(_read_json(path)) if path.exists() else {}

    @property
    def trained(self) -> dict[str, str]:
        """Conditions of a pipeline's training, see ``write_index``; empty where none are stored.

        Raises:
            WeightsError: as ``config``, or the index holds something else in their place.
        """
        stored = self.index.get("trained") or {}
        if not isinstance(stored, dict) or not all(isinstance(value, str) for value in stored.values()):
            raise WeightsError(f"{self.folder / INDEX_FILE}: `trained` is no mapping of texts; restore the file")
        return stored

    @property
    def first_stage(self) -> "ModelEntry | None":
        """Stage 1 of a pipeline: the folder ``STAGE_1`` in its own, else the shipped model.

        None where the control network was trained on the blurred frames themselves.

        Raises:
            WeightsError: it is not the one that the control network was trained with.
        """
        expected = self.trained.get("first_stage")
        if expected == BLURRED_HINT:
            return None
        own = self.folder / STAGE_1
        first = ModelEntry(STAGE_1, own) if own.is_dir() else find(STAGE_1)
        if expected and (found := first.checksum()) != expected:
            raise WeightsError(
                f"{first.folder} is another stage 1 ({found[:12]}…) than the control network in {self.folder} was "
                f"trained with ({expected[:12]}…): put that one into {own}"
            )
        return first

    @property
    def parts(self) -> dict[str, "ModelEntry"]:
        """Networks of a pipeline that are present, by folder name."""
        return {part: ModelEntry(part, self.folder / part) for part in PARTS if (self.folder / part).is_dir()}

    @property
    def config(self) -> dict[str, Any]:
        """``config.json``. Raises WeightsError where it is missing or not a JSON object."""
        return _read_json(self.folder / CONFIG_FILE)

    @property
    def card(self) -> dict[str, Any]:
        """``card.json``: data, licences, steps, figures; empty where there is none."""
        path = self.folder / CARD_FILE
        return _read_json(path) if path.exists() else {}

    @property
    def card_text(self) -> str:
        """Card as Markdown text; empty where there is none."""
        path = self.folder / "README.md"
        return path.read_text() if path.exists() else ""

    def checksum(self) -> str:
        """SHA-256 of the weights file, hexadecimal; for a pipeline, of the checksums of its networks and stored prompt,
        for exported graphs, of theirs.

        Raises:
            WeightsError: a file cannot be read.
        """
        graphs = sorted(self.folder.glob("*.onnx"))
        if graphs:
            return hashlib.sha256("".join(f"{file.name} {_sha256(file)}\n" for file in graphs).encode()).hexdigest()
        if not (self.folder / CONFIG_FILE).exists() and self.parts:
            parts = "".join(f"{part} {entry.checksum()}\n" for part, entry in self.parts.items())
            prompt = self.folder / EMPTY_PROMPT_FILE
            if prompt.exists():
                parts += f"{EMPTY_PROMPT_FILE} {_sha256(prompt)}\n"
            return hashlib.sha256(parts.encode()).hexdigest()
        return _sha256(self.weights)


def _sha256(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): restore the file or reinstall unsmear") from None


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, f"expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}", WeightsError)


def renamed_index(index: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``model_index.json`` with current class names, and our modules replaced by the library."""

    def renamed(value: Any) -> Any:
        if isinstance(value, list | tuple) and value and str(value[0]).startswith(f"{LIBRARY}."):
            return [LIBRARY, *value[1:]]
        return value

    name = index.get("_class_name")
    current = {key: renamed(value) for key, value in index.items()}
    return current | {"_class_name": FORMER_NAMES.get(name, name)} if isinstance(name, str) else current


def write_index(
    folder: Path, sampling: Mapping[str, Any] | None = None, trained: Mapping[str, str] | None = None
) -> None:
    """Write ``model_index.json`` of a pipeline: its class, [library, class] of each component, sampler defaults.

    Args:
        folder: folder with the components.
        sampling: sampler defaults, fields of the pipeline's settings; None keeps those of an existing index.
        trained: conditions that the control network was trained on: ``first_stage``, the checksum of stage 1 or
            ``BLURRED_HINT``, and ``prompt``, used where none is given. None keeps those of an existing index.

    Raises:
        WeightsError: the folder holds no networks of a pipeline, or a damaged configuration.
        OutputError: it cannot be written.
    """
    entry = ModelEntry(folder.name, folder)
    kind = entry.kind_by_parts
    if not kind:
        raise WeightsError(f"{folder} holds no pipeline: expected folders such as {', '.join(PARTS[:3])}")
    kept = {"sampling": entry.index.get("sampling") if sampling is None else dict(sampling)}
    if conditions := entry.trained if trained is None else dict(trained):
        kept["trained"] = conditions
    index: dict[str, Any] = {"_class_name": kind, "_diffusers_version": version("diffusers")}
    index |= {name: _component(entry, name) for name in PIPELINES[kind]} | kept
    write_whole(folder / INDEX_FILE, (json.dumps(index, indent=2) + "\n").encode())


def _component(entry: ModelEntry, name: str) -> list[str | None]:
    """[library, class] of a component, [None, None] where it is missing."""
    folder = entry.folder / name
    if name == "empty_prompt":
        return [LIBRARY, "EmptyPrompt"] if (entry.folder / EMPTY_PROMPT_FILE).exists() else [None, None]
    if not folder.is_dir():
        return [None, None]
    if name in _OTHERS:
        return list(_OTHERS[name])
    config = _read_json(folder / ("scheduler_config.json" if name == "scheduler" else CONFIG_FILE))
    kind = str(config.get("_class_name"))
    return [LIBRARY if kind in OURS else "diffusers", kind]


def shipped() -> list[ModelEntry]:
    """Models that come with the package, by name."""
    root = Path(str(files("unsmear"))) / "weights"
    folders = sorted(p.parent for p in root.glob(f"*/{CARD_FILE}"))
    return [ModelEntry(folder.name, folder) for folder in folders]


def find(name: str) -> ModelEntry:
    """Find a shipped model by name, or a folder of weights by path.

    Raises:
        UsageError: there is neither.
    """
    entries = {entry.name: entry for entry in shipped()}
    if name in entries:
        return entries[name]
    folder = Path(name)
    if folder.is_dir():
        return ModelEntry(folder.resolve().name, folder)
    raise UsageError(f"model {name!r} is neither shipped ({', '.join(entries) or 'none is'}) nor a folder of weights")
