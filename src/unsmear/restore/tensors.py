"""NumPy frames and priors ⇄ the tensors that networks read."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from unsmear.errors import WeightsError
from unsmear.models.cpfp.network import PriorTensors
from unsmear.priors import Prior

RESIDUAL_CELL = 4
"""R is averaged over cells of 4×4 pixels, the grid on which networks read it."""


def frames_to_levels(frames: np.ndarray, multiple: int) -> Tensor:
    """(T, H, W, 3) uint8 or uint16 → (T, 3, H', W') uint8 or int32, sides padded by repeating the last row and column.

    A quarter of the memory of float32; networks take a frame at a time to [0, 1].
    """
    height, width = frames.shape[1:3]
    padded = np.pad(frames, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)), mode="edge")
    if padded.dtype == np.uint16:
        padded = padded.astype(np.int32)  # torch has no arithmetic on uint16
    return torch.from_numpy(np.ascontiguousarray(padded.transpose(0, 3, 1, 2)))


def levels_to_unit(levels: Tensor) -> Tensor:
    """uint8 or int32 levels of ``frames_to_levels`` → float32 in [0, 1]."""
    return levels.float() / (255 if levels.dtype == torch.uint8 else 65535)


def tensor_to_frames(frames: Tensor, dtype: np.dtype, first: int = 0) -> np.ndarray:
    """(T, 3, H, W) → (T, H, W, 3) of ``dtype``, clipped and rounded to nearest.

    Args:
        frames: what a network made, in [0, 1] or near it.
        dtype: uint8 or uint16, whose full range is used.
        first: number of the first frame in its video.

    Raises:
        WeightsError: a value is not finite: no picture follows from it.
    """
    top = np.iinfo(dtype).max
    out = np.empty((frames.shape[0], *frames.shape[2:], 3), dtype)
    for number, (place, frame) in enumerate(zip(out, frames, strict=True), first):  # one by one, for memory
        if not all(bound.isfinite() for bound in torch.aminmax(frame)):  # a tenth of the time of isfinite(frame)
            raise WeightsError(
                f"frame {number}: values of the network are not finite; try `dtype` fp32, other weights or options"
            )
        place[:] = frame.float().clamp(0, 1).mul(top).round().permute(1, 2, 0).cpu().numpy()
    return out


def prior_tensors(priors: Sequence[Prior], duty: float | Sequence[float], multiple: int = 16) -> PriorTensors:
    """Priors of T frames → tensors with a batch of one, on grids that cover the frame padded to ``multiple``.

    Args:
        priors: of consecutive frames.
        duty: exposure as a fraction of the frame step, one number or one a frame; negative if unknown.
        multiple: of 16; sides of the grids are padded by repeating the last row and column.
    """
    rows, columns = (-(-side * 8 // multiple) * multiple // 8 for side in priors[0].motion_q.shape[:2])
    more = tuple(n - side for n, side in zip((rows, columns), priors[0].motion_q.shape[:2], strict=True))
    padding = ((0, 0), (0, more[0]), (0, more[1]))
    cells = (columns * 8 // RESIDUAL_CELL, rows * 8 // RESIDUAL_CELL)
    residual = []
    for prior in priors:
        h, w = prior.residual.shape
        padded = cv2.copyMakeBorder(prior.residual01(), 0, rows * 8 - h, 0, columns * 8 - w, cv2.BORDER_REPLICATE)
        residual.append(cv2.resize(padded, cells, interpolation=cv2.INTER_AREA))
    duties = torch.as_tensor(duty, dtype=torch.float32).expand(len(priors))
    return PriorTensors(
        torch.from_numpy(np.stack([np.pad(p.motion(), padding, "edge") for p in priors]))[None],
        torch.from_numpy(np.stack([np.pad(p.motion_back(), padding, "edge") for p in priors]))[None],
        torch.from_numpy(np.stack(residual))[None, :, None],
        torch.tensor([[p.reset for p in priors]]),
        torch.tensor([[p.reset_back for p in priors]]),
        duties[None],
    )
