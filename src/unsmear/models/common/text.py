"""Text encoder and tokenizer beside a model's weights, and the file with the embedding of the empty prompt.

Embedding of prompts needs transformers, the extra ``text``. The empty prompt, which most runs use alone, is embedded
once, when weights are imported, and stored.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unsmear.errors import UsageError, WeightsError
from unsmear.models.common.prompts import read_prompt
from unsmear.models.zoo import EMPTY_PROMPT_FILE

TEXT_PARTS = ("text_encoder", "tokenizer")
"""Folders beside a pipeline's networks, as diffusers names them."""

_TENSOR = Path(EMPTY_PROMPT_FILE).stem


def load_text_encoder(folder: Path) -> tuple[Any, Any]:
    """Load transformers' ``CLIPTextModel``, float32 on the CPU, and ``CLIPTokenizer``; (None, None) without an encoder.

    Raises:
        UsageError: there is a text encoder, and transformers is not installed.
        WeightsError: the tokenizer is missing, or either is damaged.
    """
    encoder, tokenizer = (folder / part for part in TEXT_PARTS)
    if not encoder.is_dir():
        return None, None
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError:
        raise UsageError(
            f"{folder} has a text encoder, which needs the extra 'text': pip install 'unsmear[text]'"
        ) from None
    if not tokenizer.is_dir():
        raise WeightsError(
            f"{folder} has a text encoder but no tokenizer: copy the base model's tokenizer folder there"
        )
    try:
        model, report = CLIPTextModel.from_pretrained(encoder, use_safetensors=True, output_loading_info=True)
        clip_tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
    except Exception as error:  # transformers and tokenizers raise various types
        reason = " ".join(str(error).split())
        raise WeightsError(f"{folder} has a text encoder or tokenizer that cannot be read ({reason[:160]})") from None
    if report["missing_keys"]:
        raise WeightsError(f"{encoder} lacks {min(report['missing_keys'])}: import the base model again")
    return model.float().eval().requires_grad_(False), clip_tokenizer


def empty_prompt(folder: Path, width: int) -> Tensor | None:
    """Embedding (1, tokens, ``width``) of the empty prompt: the stored one, else by the folder's text encoder.

    None where the folder has neither.

    Raises:
        WeightsError: as ``stored_empty_prompt`` and ``load_text_encoder``.
        UsageError: as ``load_text_encoder``.
    """
    stored = stored_empty_prompt(folder, width)
    if stored is not None:
        return stored
    encoder, tokenizer = load_text_encoder(folder)
    if encoder is None:
        return None
    embedding = read_prompt(encoder, tokenizer, "")
    if embedding.shape[2] != width:
        raise WeightsError(
            f"{folder} has a text encoder {embedding.shape[2]} wide, expected {width}, as wide as its denoiser"
        )
    return embedding


def embedded(folder: Path, width: int, texts: Iterable[str]) -> dict[str, Tensor]:
    """Text → embedding (1, tokens, ``width``) of the empty prompt and of ``texts``, by a folder's text encoder.

    Without text encoder and stored prompt, the empty prompt is zeros, as in the training of the compact model.

    Raises:
        UsageError: other texts than the empty one, and no text encoder; or as ``load_text_encoder``.
        WeightsError: as ``empty_prompt``.
    """
    empty, others = empty_prompt(folder, width), sorted(set(texts) - {""})
    found = {"": torch.zeros(1, 1, width) if empty is None else empty.clone()}  # usable in training
    if others:
        encoder, tokenizer = load_text_encoder(folder)
        if encoder is None:
            raise UsageError(f"prompt: {folder} has no text encoder; leave the prompt out, or import one")
        found |= {text: read_prompt(encoder, tokenizer, text).clone() for text in others}
    return found


def stored_empty_prompt(folder: Path, width: int) -> Tensor | None:
    """Embedding (1, tokens, ``width``) float32 in the folder's ``EMPTY_PROMPT_FILE``; None where there is no file.

    Raises:
        WeightsError: the file is damaged, or its tensors have other names or shapes.
    """
    path = folder / EMPTY_PROMPT_FILE
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is no safetensors file ({str(error).splitlines()[0]}): delete it, or import the weights again"
        ) from None
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    shape = shapes.get(_TENSOR, ())
    if len(shapes) != 1 or len(shape) != 3 or shape[0] != 1 or not shape[1] or shape[2] != width:
        found_shapes = ", ".join(f"{name} {size}" for name, size in sorted(shapes.items())) or "nothing"
        raise WeightsError(
            f"{path} holds {found_shapes}: expected {_TENSOR} (1, tokens, {width}) alone, as the denoiser is wide"
        )
    embedding = tensors[_TENSOR].float()
    if not embedding.isfinite().all():
        raise WeightsError(f"{path} holds values that are not finite: delete it, or import the weights again")
    return embedding


def store_empty_prompt(folder: Path) -> str:
    """Embed the empty prompt with a folder's text encoder and tokenizer and write ``EMPTY_PROMPT_FILE``.

    An older file is replaced, and removed where text encoder or tokenizer is missing.

    Returns:
        The reason in one line where writing failed; else an empty string.
    """
    path = folder / EMPTY_PROMPT_FILE
    path.unlink(missing_ok=True)
    if not all((folder / part).is_dir() for part in TEXT_PARTS):
        return ""
    try:
        embedding = read_prompt(*load_text_encoder(folder), "")
    except (UsageError, WeightsError) as error:
        return f"the empty prompt was not stored: {error}"
    partial = folder / f".{EMPTY_PROMPT_FILE}.partial"
    try:
        save_file({_TENSOR: embedding.float().contiguous().clone()}, partial)
        partial.chmod(folder.stat().st_mode & 0o666)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        return (
            f"the empty prompt was not stored: {path} cannot be written ({getattr(error, 'strerror', None) or error})"
        )
    return ""
