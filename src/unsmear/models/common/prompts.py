"""Embeddings of prompts as Stable Diffusion 2 reads them, each text once; and the stored one of the empty prompt."""

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
"""Token that follows the end of a prompt: OpenCLIP, which is Stable Diffusion 2's encoder, was trained with 0, also the
id of ``!``. The tokenizer folder of Stable Diffusion 2 says so; that of Stable Diffusion 1 pads with the end of text
(49407), which gives other embeddings. So it is not left to a tokenizer's settings, and CLIP's vocabulary and merges are
all that a tokenizer must bring; a checkpoint file has neither.
"""


@public
class EmptyPrompt(ModelMixin):
    """Component of a pipeline without text encoder: the embedding of the empty prompt, kept in one file.

    diffusers saves a component in a folder of its name; this one is the file of that name beside the folders,
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
        del others  # of networks: shards, variants
        file = Path(save_directory).with_name(EMPTY_PROMPT_FILE)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({file.stem: self.embedding.float().cpu().contiguous().clone()}, file)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **others: Any) -> "EmptyPrompt":  # type: ignore[override]
        """Read the file in ``folder``, a pipeline's."""
        del others
        file = Path(folder) / EMPTY_PROMPT_FILE
        return cls(load_file(file)[file.stem].float())


class PromptEmbeddings:
    """Embeddings of prompts, kept.

    Args:
        text_encoder: transformers' ``CLIPTextModel``; None where there is none.
        tokenizer: CLIP's, of any version.
        width: of embeddings, the denoiser's ``cross_attention_dim``.
        empty: embedding (1, tokens, width) of the empty prompt, for models without a text encoder; None is zeros, on
            which the compact model was trained.

    Raises:
        ValueError: ``empty`` is of another shape.
    """

    def __init__(self, text_encoder: Any, tokenizer: Any, width: int, empty: Tensor | None = None):
        if empty is not None and (empty.ndim != 3 or empty.shape[0] != 1 or empty.shape[2] != width):
            raise ValueError(f"an empty prompt of {tuple(empty.shape)}: expected (1, tokens, {width})")
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self.empty = torch.zeros(1, 1, width) if empty is None else empty
        self.known: dict[str, Tensor] = {}

    def __call__(self, prompt: str) -> Tensor:
        """(1, tokens, width).

        Raises:
            ValueError: a prompt, and no text encoder to read it.
        """
        if self.text_encoder is None:
            if prompt:
                raise ValueError("this model has no text encoder: leave the prompt empty, or give prompt_embeds")
            return self.empty
        if prompt not in self.known:
            self.known[prompt] = read_prompt(self.text_encoder, self.tokenizer, prompt)
        return self.known[prompt]


@torch.inference_mode()
def read_prompt(text_encoder: Any, tokenizer: Any, prompt: str) -> Tensor:
    """Embedding (1, tokens, width) of a prompt, cut or padded with ``PADDING`` to the encoder's length."""
    longest = int(text_encoder.config.max_position_embeddings)
    ids = tokenizer(prompt, truncation=True, max_length=longest).input_ids
    tokens = F.pad(torch.tensor([ids]), (0, longest - len(ids)), value=PADDING)
    return text_encoder(tokens.to(text_encoder.device))[0]
