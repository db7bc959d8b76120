"""Prompt embeddings of Stable Diffusion 2, cached, and the stored embedding of the empty prompt."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file, save_file
from torch import Tensor

from unsmear.models.common.public import public
from unsmear.models.zoo import EMPTY_PROMPT_FILE

PADDING = 0
"""Padding token. OpenCLIP, the text encoder of Stable Diffusion 2, was trained with 0 (also the id of ``!``), as in the
tokenizer folder of Stable Diffusion 2; that of Stable Diffusion 1 pads with the end-of-text token (49407), which gives
other embeddings. The token is therefore fixed here, and of a tokenizer only CLIP's vocabulary and merges are used,
which a checkpoint file lacks.
"""


@public
class EmptyPrompt(ModelMixin):
    """Component of a pipeline without text encoder: the embedding of the empty prompt, stored in one file.

    diffusers saves a component in a folder of its name; this one is a file beside the folders,
    ``empty_prompt.safetensors``, as ``unsmear models import`` writes it.

    Args:
        embedding: (1, tokens, width) float32.
    """

    def __init__(self, embedding: Tensor):
        super().__init__()
        self.register_buffer("embedding", embedding)
        self.embedding: Tensor

    def save_pretrained(self, save_directory: str | Path, **others: Any) -> None:  # type: ignore[override]
        """Write the file beside ``save_directory``."""
        del others  # options of networks: shards, variants
        file = Path(save_directory).with_name(EMPTY_PROMPT_FILE)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({file.stem: self.embedding.float().cpu().contiguous().clone()}, file)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **others: Any) -> "EmptyPrompt":  # type: ignore[override]
        """Read the file in ``folder``, that of a pipeline."""
        del others
        file = Path(folder) / EMPTY_PROMPT_FILE
        return cls(load_file(file)[file.stem].float())


class PromptEmbeddings:
    """Cached embeddings of prompts.

    Args:
        text_encoder: transformers' ``CLIPTextModel``; None where there is none.
        tokenizer: CLIP's tokenizer, of any version.
        width: width of embeddings, the denoiser's ``cross_attention_dim``.
        empty: embedding (1, tokens, width) of the empty prompt, for models without a text encoder; None for zeros, as
            in the training of the compact model.

    Raises:
        ValueError: ``empty`` has another shape.
    """

    def __init__(self, text_encoder: Any, tokenizer: Any, width: int, empty: Tensor | None = None):
        if empty is not None and (empty.ndim != 3 or empty.shape[0] != 1 or empty.shape[2] != width):
            raise ValueError(f"an empty prompt of {tuple(empty.shape)}: expected (1, tokens, {width})")
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self.empty = torch.zeros(1, 1, width) if empty is None else empty
        self._cache: dict[str, Tensor] = {}

    def __call__(self, prompt: str) -> Tensor:
        """Embedding (1, tokens, width) of a prompt.

        Raises:
            ValueError: the prompt is not empty, and there is no text encoder.
        """
        if self.text_encoder is None:
            if prompt:
                raise ValueError("this model has no text encoder: leave the prompt empty, or give prompt_embeds")
            return self.empty
        if prompt not in self._cache:
            self._cache[prompt] = read_prompt(self.text_encoder, self.tokenizer, prompt)
        return self._cache[prompt]


@torch.inference_mode()
def read_prompt(text_encoder: Any, tokenizer: Any, prompt: str) -> Tensor:
    """Embedding (1, tokens, width) of a prompt, truncated or padded with ``PADDING`` to the encoder's length."""
    longest = int(text_encoder.config.max_position_embeddings)
    ids = tokenizer(prompt, truncation=True, max_length=longest).input_ids
    tokens = F.pad(torch.tensor([ids]), (0, longest - len(ids)), value=PADDING)
    return text_encoder(tokens.to(text_encoder.device))[0]
