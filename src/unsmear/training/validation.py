"""Validation while training: whole frames from all over every clip, scored as a viewer would see them."""

from collections import defaultdict
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

_PIECES = 3
_FRAMES = 3
_IDENTICAL_DB = 60.0


@dataclass(frozen=True)
class ValidationClip:
    """A piece of a clip: ``given`` and ``wanted`` uint8 (T, H, W, 3); the former's priors and duty cycle."""

    name: str
    given: np.ndarray
    wanted: np.ndarray
    priors: PriorTensors

    @property
    def already_sharp(self) -> bool:
        """Whether there is nothing to do: it measures the harm done to sharp input."""
        return self.given is self.wanted

    @classmethod
    def load_all(cls, folder: Path) -> list["ValidationClip"]:
        """Evenly spread pieces of every CLIP/{blur,sharp} below ``folder``, and the middle one's sharp frames again.

        Priors come from a piece's frames and one neighbour on each side.

        Raises:
            DataLayoutError: there are none, or the frames are too few or unpaired.
        """
        clips = [c for f in sorted(folder.iterdir()) if (f / "blur").is_dir() for c in cls._load(f)]
        if not clips:
            raise DataLayoutError(f"{folder} holds no CLIP/blur and CLIP/sharp: make it with `unsmear data blur`")
        return clips

    @classmethod
    def _load(cls, folder: Path) -> list["ValidationClip"]:
        blurred, sharp = (sorted((folder / name).glob("*.png")) for name in ("blur", "sharp"))
        if len(blurred) != len(sharp) or len(blurred) < 3:
            raise DataLayoutError(f"{folder} has {len(blurred)} blurred and {len(sharp)} sharp frames")
        last = max(0, len(blurred) - _FRAMES - 2)
        firsts = sorted({round(last * (i + 0.5) / _PIECES) for i in range(_PIECES)})
        pieces = [cls._piece(blurred[i : i + _FRAMES + 2], sharp[i : i + _FRAMES + 2]) for i in firsts]
        middle = firsts[len(firsts) // 2]
        return [*pieces, cls._sharp_piece(sharp[middle : middle + _FRAMES + 2])]

    @classmethod
    def _piece(cls, blurred: Sequence[Path], sharp: Sequence[Path]) -> "ValidationClip":
        frames = [read_image(f) for f in blurred]
        wanted = np.stack([read_image(f) for f in sharp[1:-1]])
        return cls(_name(blurred), np.stack(frames[1:-1]), wanted, _priors(frames))

    @classmethod
    def _sharp_piece(cls, sharp: Sequence[Path]) -> "ValidationClip":
        frames = [read_image(f) for f in sharp]
        wanted = np.stack(frames[1:-1])
        return cls(_name(sharp), wanted, wanted, _priors(frames))


def _name(files: Sequence[Path]) -> str:
    return files[0].parent.parent.name


def _priors(frames: Sequence[np.ndarray]) -> PriorTensors:
    lumas = [luma_of_rgb(f) for f in frames]
    priors = chunk_priors(lumas, before=None, after=None)
    duty = estimate_duty(lumas, priors)
    return prior_tensors(priors[1:-1], -1.0 if duty is None else duty)


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
    between sharp pieces and what the model makes of them.
    """
    gains: defaultdict[str, list[float]] = defaultdict(list)
    sharp: list[float] = []
    for clip in clips:
        restored = restore(model, clip.given, clip.priors)
        after = [min(psnr(r, w), _IDENTICAL_DB) for r, w in zip(restored, clip.wanted, strict=True)]
        if clip.already_sharp:
            sharp.append(float(np.mean(after)))
        else:
            before = [psnr(g, w) for g, w in zip(clip.given, clip.wanted, strict=True)]
            gains[clip.name].append(float(np.mean(after) - np.mean(before)))
    figures = {name: float(np.mean(pieces)) for name, pieces in gains.items()}
    figures |= {"score": float(np.mean(list(figures.values())))}
    if sharp:
        figures |= {"sharp_mean": float(np.mean(sharp)), "sharp_least": min(sharp)}
    return {k: round(v, 3) for k, v in figures.items()}
