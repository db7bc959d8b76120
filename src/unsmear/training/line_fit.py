"""Closed-form initialisation of the motion-line head: ridge regression of the sharp pixel on taps along the motion.

One linear filter per blur length of the bank, interpolated between lengths, all fitted jointly. Training that starts
from these filters avoids the slow start of deblurring networks near the identity. Ours.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unsmear.models.common.warp import pixel_grid, sample
from unsmear.models.cpfp.motion_line import LENGTHS_PX, hat_weights, line_motion, stretched, taps_along


class LineFit:
    """Normal equations of the regression, accumulated frame by frame.

    Args:
        taps, reach: as in ``MotionLine``.
    """

    def __init__(self, taps: int, reach: float):
        self.positions = taps_along(taps, reach)
        size = len(LENGTHS_PX) * taps
        self.xx, self.xy = np.zeros((size, size)), np.zeros(size)
        self.pixels = 0

    def add(self, blurred: Tensor, sharp: Tensor, blur: Tensor, stride: int = 3) -> None:
        """Add one frame.

        Args:
            blurred, sharp: (3, H, W) in [0, 1].
            blur: duty · V̄ (2, h, w), frame pixels, on any grid.
            stride: use every ``stride``-th pixel of each axis.
        """
        size = blurred.shape[-2:]
        line = F.interpolate(stretched(blur[None].float()), size, mode="bilinear", align_corners=False)
        length = torch.linalg.vector_norm(blur[None].float(), dim=1, keepdim=True)
        length = F.interpolate(length, size, mode="bilinear", align_corners=False)[0, 0]
        grid = pixel_grid(size[0], size[1], blurred)[None]
        pick = (slice(None), slice(8, -8, stride), slice(8, -8, stride))
        x = torch.stack(
            [(sample(blurred[None], grid + a * line, "border")[0] - blurred)[pick] for a in self.positions],
            -1,
        )
        y = (sharp - blurred)[pick]
        hats = hat_weights(length, LENGTHS_PX)[pick[1:]]
        design = (hats[None, ..., :, None] * x[..., None, :]).reshape(y.numel(), -1).double().numpy()
        target = y.reshape(-1).double().numpy()
        self.xx += design.T @ design
        self.xy += design.T @ target
        self.pixels += len(target)

    def solve(self, ridge: float = 2e-6) -> Tensor:
        """Filters (len(LENGTHS_PX), taps).

        Args:
            ridge: penalty on squared weights, per pixel value.
        """
        weights = np.linalg.solve(self.xx + ridge * self.pixels * np.eye(len(self.xy)), self.xy)
        return torch.from_numpy(weights).float().reshape(len(LENGTHS_PX), len(self.positions))


def fit_line_bank(
    pack: dict[str, np.ndarray], taps: int, reach: float, unknown_duty: float, sequences: int = 400
) -> Tensor:
    """Fit the bank (2, len(LENGTHS_PX), taps) of ``MotionLine`` to the first ``sequences`` rows of a pack.

    The first half is fitted with the true duty cycle, the second one with ``unknown_duty``.
    """
    known, unknown = LineFit(taps, reach), LineFit(taps, reach)
    for i in range(min(sequences, len(pack["duty"]))):
        blurred, sharp = (
            torch.from_numpy(np.array(pack[k][i])).permute(0, 3, 1, 2).float() / 255 for k in ("blurred", "sharp")
        )
        motion, back = (torch.from_numpy(pack[k][i].astype(np.float32)) for k in ("motion", "motion_back"))
        cuts = (torch.from_numpy(np.array(pack[k][i])) for k in ("reset", "reset_back"))
        line = line_motion(motion, back, *cuts)
        for t in range(1, len(blurred) - 1, 2):
            known.add(blurred[t], sharp[t], line[t] * float(pack["duty"][i]))
            unknown.add(blurred[t], sharp[t], line[t] * unknown_duty)
    return torch.stack([known.solve(), unknown.solve()])
