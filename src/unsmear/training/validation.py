"""Validation while training: a few whole frames of every clip, scored as a viewer would see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from unsmear.errors import DataLayoutError
from unsmear.metrics import psnr
from unsmear.models.cpfp import PriorTensors
from unsmear.priors import chunk_priors
from unsmear.priors.duty import estimate_duty
from unsmear.restore.tensors import frames_to_tensor, pad_to_multiple, prior_tensors
from unsmear.video.colour import luma_of_rgb
from unsmear.video.images import read_image

_FRAMES = 5


@dataclass(frozen=True)
class ValidationClip:
    """``blurred`` and ``sharp`` uint8 (T, H, W, 3); priors and the estimated duty cycle of the blurred frames."""

    name: str
    blurred: np.ndarray
    sharp: np.ndarray
    priors: PriorTensors

    @classmethod
    def load_all(cls, folder: Path, frames: int = _FRAMES) -> list["ValidationClip"]:
        """The middle ``frames`` of every CLIP/{blur,sharp} below ``folder``, with priors from their neighbours."""
        clips = [cls._load(c, frames) for c in sorted(folder.iterdir()) if (c / "blur").is_dir()]
        if not clips:
            raise DataLayoutError(f"{folder} holds no CLIP/blur and CLIP/sharp: make it with `unsmear data blur`")
        return clips

    @classmethod
    def _load(cls, folder: Path, frames: int) -> "ValidationClip":
        def read(name: str) -> list[np.ndarray]:
            files = sorted((folder / name).glob("*.png"))
            first = max(0, (len(files) - frames - 2) // 2)
            return [read_image(f) for f in files[first : first + frames + 2]]

        blurred, sharp = read("blur"), read("sharp")
        if len(blurred) != len(sharp) or len(blurred) < 3:
            raise DataLayoutError(f"{folder} has {len(blurred)} blurred and {len(sharp)} sharp frames")
        lumas = [luma_of_rgb(f) for f in blurred]
        priors = chunk_priors(lumas, before=None, after=None)
        duty = estimate_duty(lumas, priors)
        keep = slice(1, -1)
        return cls(
            folder.name,
            np.stack(blurred[keep]),
            np.stack(sharp[keep]),
            prior_tensors(priors[keep], -1.0 if duty is None else duty),
        )


@torch.inference_mode()
def restore(model: nn.Module, frames: np.ndarray, priors: PriorTensors) -> np.ndarray:
    """uint8 (T, H, W, 3) → restored uint8, whole frames at once."""
    device = next(model.parameters()).device
    x = pad_to_multiple(frames_to_tensor(frames), 16).to(device)
    out = model(x[None], PriorTensors(*(p.to(device) for p in priors))).frames[0]
    h, w = frames.shape[1:3]
    levels = (out[..., :h, :w].clamp(0, 1) * 255).round().byte()
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def score_clips(model: nn.Module, clips: Sequence[ValidationClip]) -> dict[str, float]:
    """Gain in dB over the blurred input for each clip, their mean as ``score``, and how sharp input fares."""
    scores = {}
    for clip in clips:
        restored = restore(model, clip.blurred, clip.priors)
        gains = [psnr(r, s) - psnr(b, s) for r, b, s in zip(restored, clip.blurred, clip.sharp, strict=True)]
        scores[clip.name] = float(np.mean(gains))
    scores["score"] = float(np.mean(list(scores.values())))
    return {k: round(v, 3) for k, v in scores.items()}
