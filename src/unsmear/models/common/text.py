"""Text encoder and tokenizer beside a model's weights, and the file with the embedding of the empty prompt.

Reading prompts needs transformers, the extra ``text``. The empty prompt, which is all that most runs ask for, is read
once, when weights are imported, and stored.
"""

from pathlib import Path
from typing import Any

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
    """transformers' ``CLIPTextModel`` in float32 on the CPU and ``CLIPTokenizer``; (None, None) where there is none.

    Raises:
        UsageError: there is a text encoder, and transformers is not installed.
        WeightsError: a text encoder without tokenizer, or either is damaged.
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
        words = CLIPTokenizer.from_pretrained(tokenizer)
    except Exception as error:  # transformers and tokenizers raise all kinds
        said = " ".join(str(error).split())
        raise WeightsError(f"{folder} has a text encoder or tokenizer that cannot be read ({said[:160]})") from None
    if report["missing_keys"]:
        raise WeightsError(f"{encoder} lacks {min(report['missing_keys'])}: import the base model again")
    return model.float().eval().requires_grad_(False), words


def empty_prompt(folder: Path, width: int) -> Tensor | None:
    """Embedding (1, tokens, ``width``) of the empty prompt: the stored one, else read by the folder's text encoder.

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
    read = read_prompt(encoder, tokenizer, "")
    if read.shape[2] != width:
        raise WeightsError(
            f"{folder} has a text encoder {read.shape[2]} wide, expected {width}, as wide as its denoiser"
        )
    return read


def stored_empty_prompt(folder: Path, width: int) -> Tensor | None:
    """The embedding (1, tokens, ``width``) float32 in the folder's ``EMPTY_PROMPT_FILE``; None where there is no file.

    Raises:
        WeightsError: the file is damaged or holds something else.
    """
    path = folder / EMPTY_PROMPT_FILE
    if not path.exists():
        return None
    try:
        held = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is no safetensors file ({str(error).splitlines()[0]}): delete it, or import the weights again"
        ) from None
    shapes = {name: tuple(value.shape) for name, value in held.items()}
    shape = shapes.get(_TENSOR, ())
    if len(shapes) != 1 or len(shape) != 3 or shape[0] != 1 or not shape[1] or shape[2] != width:
        found_shapes = ", ".join(f"{name} {size}" for name, size in sorted(shapes.items())) or "nothing"
        raise WeightsError(
            f"{path} holds {found_shapes}: expected {_TENSOR} (1, tokens, {width}) alone, as the denoiser is wide"
        )
    found = held[_TENSOR].float()
    if not found.isfinite().all():
        raise WeightsError(f"{path} holds values that are not finite: delete it, or import the weights again")
    return found


def store_empty_prompt(folder: Path) -> str:
    """Write ``EMPTY_PROMPT_FILE`` of the text encoder and tokenizer in a folder, in place of an older one.

    Without these two nothing is written.

    Returns:
        Why it was not written although both are there, one line; else nothing.
    """
    path = folder / EMPTY_PROMPT_FILE
    path.unlink(missing_ok=True)
    if not all((folder / part).is_dir() for part in TEXT_PARTS):
        return ""
    try:
        made = read_prompt(*load_text_encoder(folder), "")
    except (UsageError, WeightsError) as error:
        return f"the empty prompt was not stored: {error}"
    partial = folder / f".{EMPTY_PROMPT_FILE}.partial"
    try:
        save_file({_TENSOR: made.float().contiguous().clone()}, partial)
        partial.chmod(folder.stat().st_mode & 0o666)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        return (
            f"the empty prompt was not stored: {path} cannot be written ({getattr(error, 'strerror', None) or error})"
        )
    return ""
