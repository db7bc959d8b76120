"""Image vectors of frames, by the model's own embedding or CLIP's vision tower (VDM §4.1, "CLIP's image encoder")."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unsmear.models.vdm.conditions import ImageTokens

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's own normalisation of pictures in [0, 1]."""


def image_vectors(tokens: ImageTokens, image_encoder: Any, frames: Tensor) -> Tensor:
    """Image vectors (B, width) of frames (B, 3, H, W) in [0, 1].

    Args:
        tokens: whose own embedding is used where it has one.
        image_encoder: ``CLIPVisionModelWithProjection`` of transformers, or None: without either the image counts as
            unknown, and the vectors are zero.
        frames: whole frames; CLIP sees them squeezed to its square, as TF-T2V shows them.
    """
    if tokens.embedding is not None:
        return tokens.embed(frames)
    if image_encoder is None:
        return tokens.unknown(len(frames))
    side = image_encoder.config.image_size
    small = F.interpolate(frames, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    mean, std = (small.new_tensor(values).reshape(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        return image_encoder(((small - mean) / std).to(image_encoder.dtype)).image_embeds.float()
