"""Validation during training: whole frames in full size, evenly spread over every clip."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import nn

from unsmear.datasets.pairs import PairSet, read_pieces
from unsmear.errors import DataLayoutError
from unsmear.metrics import psnr
from unsmear.models.cpfp.network import PriorTensors
from unsmear.restore.restorer import Clip
from unsmear.restore.tensors import frames_to_levels, prior_tensors

_PIECES = 3
_FRAMES = 3
_IDENTICAL_DB = 60.0


@dataclass(frozen=True)
class ValidationClip:
    """A piece of a clip: input ``frames`` and ``target`` uint8 (T, H, W, 3); priors and duty cycle of the input."""

    name: str
    frames: np.ndarray
    target: np.ndarray
    priors: PriorTensors

    @property
    def already_sharp(self) -> bool:
        """Whether the input is the sharp target itself, to measure how well sharp frames are preserved."""
        return self.frames is self.target

    @classmethod
    def load_all(cls, given: PairSet) -> list["ValidationClip"]:
        """Evenly spread pieces of every pair of clips of a data set, and a sharp version of the middle piece.

        Priors are computed from the frames of a piece and one neighbour on each side.

        Args:
            given: the data set; see ``PairSet.held_out`` for which of its clips.

        Raises:
            DataLayoutError: as ``read_pieces``; a clip of fewer than 3 frames.
        """
        clips: list[ValidationClip] = []
        for _, pieces in groupby(read_pieces(given.held_out(), _spans), lambda piece: piece.name):
            read = list(pieces)
            clips += (cls._piece(piece.name, piece.blurred, piece.sharp[1:-1]) for piece in read)
            middle = read[len(read) // 2]
            clips.append(cls._piece(middle.name, middle.sharp, None))
        return clips

    @classmethod
    def _piece(cls, name: str, frames: np.ndarray, target: np.ndarray | None) -> "ValidationClip":
        inner = frames[1:-1]
        return cls(name, inner, inner if target is None else target, _priors(frames))


def _spans(total: int) -> Iterator[slice]:
    """``_PIECES`` spans of ``_FRAMES`` frames with a neighbour on each side, evenly spread."""
    if total < 3:
        raise DataLayoutError(
            f"a validation clip has {total} frames: expected at least 3, since motion needs neighbours"
        )
    last = max(0, total - _FRAMES - 2)
    for first in sorted({round(last * (i + 0.5) / _PIECES) for i in range(_PIECES)}):
        yield slice(first, first + _FRAMES + 2)


def _priors(frames: np.ndarray) -> PriorTensors:
    clip = Clip.of(frames)
    return prior_tensors(clip.priors[1:-1], -1.0 if clip.duty is None else clip.duty)


@torch.inference_mode()
def restore(model: nn.Module, frames: np.ndarray, priors: PriorTensors) -> np.ndarray:
    """Restore frames uint8 (T, H, W, 3) of one clip, without tiles; the same shape and type."""
    device = next(model.parameters()).device
    x = frames_to_levels(frames, 16).to(device)
    out = model(x[None], PriorTensors(*(p.to(device) for p in priors))).frames[0]
    h, w = frames.shape[1:3]
    levels = (out[..., :h, :w].clamp(0, 1) * 255).round().byte()
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def score_clips(model: nn.Module, clips: Sequence[ValidationClip]) -> dict[str, float]:
    """Validation metrics in dB.

    PSNR gain of each clip over its blurred input, by name, and their mean as ``score``; ``sharp_mean`` and
    ``sharp_least`` are mean and minimum of the PSNR between sharp pieces and their restoration.
    """
    gains: defaultdict[str, list[float]] = defaultdict(list)
    sharp: list[float] = []
    for clip in clips:
        restored = restore(model, clip.frames, clip.priors)
        after = [min(psnr(r, t), _IDENTICAL_DB) for r, t in zip(restored, clip.target, strict=True)]
        if clip.already_sharp:
            sharp.append(float(np.mean(after)))
        else:
            before = [psnr(f, t) for f, t in zip(clip.frames, clip.target, strict=True)]
            gains[clip.name].append(float(np.mean(after) - np.mean(before)))
    figures = {name: float(np.mean(pieces)) for name, pieces in gains.items()}
    figures |= {"score": float(np.mean(list(figures.values())))}
    if sharp:
        figures |= {"sharp_mean": float(np.mean(sharp)), "sharp_least": min(sharp)}
    return {k: round(v, 3) for k, v in figures.items()}
