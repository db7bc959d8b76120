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
from unsmear.restore.tensors import frames_to_levels, prior_tensors
from unsmear.video.colour import luma_of_rgb
from unsmear.video.images import read_image

_FRAMES = 5
_IDENTICAL_DB = 60.0


@dataclass(frozen=True)
class ValidationClip:
    """``given`` and ``wanted`` uint8 (T, H, W, 3); priors and the estimated duty cycle of the given frames."""

    name: str
    given: np.ndarray
    wanted: np.ndarray
    priors: PriorTensors

    @property
    def already_sharp(self) -> bool:
        """Whether there is nothing to do: it measures the harm done to sharp input."""
        return self.given is self.wanted

    @classmethod
    def load_all(cls, folder: Path, frames: int = _FRAMES) -> list["ValidationClip"]:
        """The middle ``frames`` of every CLIP/{blur,sharp} below ``folder``: blurred to sharp, and sharp to itself.

        Priors come from the frames and one neighbour on each side.
        """
        clips = [c for f in sorted(folder.iterdir()) if (f / "blur").is_dir() for c in cls._load(f, frames)]
        if not clips:
            raise DataLayoutError(f"{folder} holds no CLIP/blur and CLIP/sharp: make it with `unsmear data blur`")
        return clips

    @classmethod
    def _load(cls, folder: Path, frames: int) -> list["ValidationClip"]:
        def read(name: str) -> list[np.ndarray]:
            files = sorted((folder / name).glob("*.png"))
            first = max(0, (len(files) - frames - 2) // 2)
            return [read_image(f) for f in files[first : first + frames + 2]]

        blurred, sharp = read("blur"), read("sharp")
        if len(blurred) != len(sharp) or len(blurred) < 3:
            raise DataLayoutError(f"{folder} has {len(blurred)} blurred and {len(sharp)} sharp frames")
        inner = slice(1, -1)
        wanted = np.stack(sharp[inner])
        return [
            cls(folder.name, np.stack(blurred[inner]), wanted, _priors(blurred, inner)),
            cls(folder.name, wanted, wanted, _priors(sharp, inner)),
        ]


def _priors(frames: Sequence[np.ndarray], keep: slice) -> PriorTensors:
    lumas = [luma_of_rgb(f) for f in frames]
    priors = chunk_priors(lumas, before=None, after=None)
    duty = estimate_duty(lumas, priors)
    return prior_tensors(priors[keep], -1.0 if duty is None else duty)


@torch.inference_mode()
def restore(model: nn.Module, frames: np.ndarray, priors: PriorTensors) -> np.ndarray:
    """uint8 (T, H, W, 3) → restored uint8, whole frames at once."""
    device = next(model.parameters()).device
    x = frames_to_levels(frames, 16).to(device)
    out = model(x[None], PriorTensors(*(p.to(device) for p in priors))).frames[0]
    h, w = frames.shape[1:3]
    levels = (out[..., :h, :w].clamp(0, 1) * 255).round().byte()
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def score_clips(model: nn.Module, clips: Sequence[ValidationClip]) -> dict[str, float]:
    """Figures in dB.

    Each clip's gain over its blurred input, their mean as ``score``; ``sharp_mean`` and ``sharp_least`` are the PSNR
    between sharp clips and what the model makes of them.
    """
    gains: dict[str, float] = {}
    sharp: list[float] = []
    for clip in clips:
        restored = restore(model, clip.given, clip.priors)
        after = [min(psnr(r, w), _IDENTICAL_DB) for r, w in zip(restored, clip.wanted, strict=True)]
        if clip.already_sharp:
            sharp.append(float(np.mean(after)))
        else:
            before = [psnr(g, w) for g, w in zip(clip.given, clip.wanted, strict=True)]
            gains[clip.name] = float(np.mean(after) - np.mean(before))
    figures = gains | {"score": float(np.mean(list(gains.values())))}
    if sharp:
        figures |= {"sharp_mean": float(np.mean(sharp)), "sharp_least": min(sharp)}
    return {k: round(v, 3) for k, v in figures.items()}
