"""Stands for transformers' text classes: embeddings that a text encoder's one tensor and the tokens decide."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from safetensors.torch import load_file, save_file

TOKENS, START, END = 8, 40, 41


class CLIPTextModel(torch.nn.Module):
    def __init__(self, scale: torch.Tensor):
        super().__init__()
        self.scale = torch.nn.Parameter(scale)
        self.config, self.device = SimpleNamespace(max_position_embeddings=TOKENS), torch.device("cpu")

    @classmethod
    def from_pretrained(cls, folder: Path, use_safetensors: bool, output_loading_info: bool):
        assert use_safetensors and output_loading_info
        width = json.loads((folder / "config.json").read_text())["hidden_size"]
        state = load_file(folder / "model.safetensors")
        missing = {"scale"} - state.keys()
        return cls(state.get("scale", torch.ones(width))), {"missing_keys": missing}

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.sin((tokens[..., None] + 1) * self.scale),)


class CLIPTokenizer:
    @classmethod
    def from_pretrained(cls, folder: Path) -> "CLIPTokenizer":
        json.loads((folder / "vocab.json").read_text())
        return cls()

    def __call__(self, text: str, truncation: bool, max_length: int) -> SimpleNamespace:
        assert truncation
        return SimpleNamespace(input_ids=[START, *(ord(c) for c in text[: max_length - 2]), END])


def install(monkeypatch) -> None:
    """From now on, ``import transformers`` gives these."""
    module = ModuleType("transformers")
    module.CLIPTextModel, module.CLIPTokenizer = CLIPTextModel, CLIPTokenizer
    monkeypatch.setitem(sys.modules, "transformers", module)


def uninstall(monkeypatch) -> None:
    """From now on, ``import transformers`` fails."""
    monkeypatch.setitem(sys.modules, "transformers", None)


def text_folders(folder: Path, width: int, scale: float = 0.1) -> Path:
    """``text_encoder`` and ``tokenizer`` in a folder."""
    for part in ("text_encoder", "tokenizer"):
        (folder / part).mkdir(parents=True)
    (folder / "text_encoder" / "config.json").write_text(json.dumps({"hidden_size": width}))
    save_file({"scale": scale * torch.arange(1.0, width + 1)}, folder / "text_encoder" / "model.safetensors")
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    return folder


def embedding(text: str, width: int, scale: float = 0.1) -> torch.Tensor:
    """(1, TOKENS, width), what that text encoder makes of a text."""
    ids = [START, *map(ord, text), END]
    tokens = torch.tensor([ids + [0] * (TOKENS - len(ids))])
    return torch.sin((tokens[..., None] + 1) * (scale * torch.arange(1.0, width + 1)))
