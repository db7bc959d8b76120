"""Closed-form start of the motion-line head: ridge regression of the sharp pixel on taps along the motion.

A linear filter for each knot of motion length and of duty cycle, interpolated between knots, all fitted
at once. It is a baseline of its own and the point from which training starts, instead of from identity,
where untrained deblurring networks linger. Ours.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unsmear.nn.motion_line import DUTIES, LENGTHS_PX, hat_weights, line_motion, taps_along
from unsmear.nn.sampling import pixel_grid, sample


class LineFit:
    """Normal equations, accumulated frame by frame.

    Args:
        taps, reach: as in ``MotionLine``.
    """

    def __init__(self, taps: int, reach: float):
        self.positions = taps_along(taps, reach)
        per_set = len(LENGTHS_PX) * taps
        self.known_xx = np.zeros((len(DUTIES) * per_set,) * 2)
        self.known_xy = np.zeros(len(DUTIES) * per_set)
        self.any_xx = np.zeros((per_set, per_set))
        self.any_xy = np.zeros(per_set)
        self.pixels = 0

    def add(self, blurred: Tensor, sharp: Tensor, line: Tensor, duty: float, stride: int = 3) -> None:
        """Take in one frame.

        Args:
            blurred, sharp: (3, H, W) in [0, 1].
            line: V̄ (2, h, w), frame pixels, on any grid.
            duty: exposure as a fraction of the frame step.
            stride: use every ``stride``-th pixel each way.
        """
        size = blurred.shape[-2:]
        line = F.interpolate(line[None].float(), size, mode="bilinear", align_corners=False)
        grid = pixel_grid(size[0], size[1], blurred)[None]
        pick = (slice(None), slice(8, -8, stride), slice(8, -8, stride))
        x = torch.stack(
            [(sample(blurred[None], grid + a * line, "border")[0] - blurred)[pick] for a in self.positions],
            -1,
        )
        y = (sharp - blurred)[pick]
        hats = hat_weights(torch.linalg.vector_norm(line[0], dim=0), LENGTHS_PX)[pick[1:]]
        design = (hats[None, ..., :, None] * x[..., None, :]).reshape(y.numel(), -1).double().numpy()
        target = y.reshape(-1).double().numpy()
        xx, xy = design.T @ design, design.T @ target
        share = hat_weights(torch.tensor([duty]), DUTIES)[0].double().numpy()
        self.known_xx += np.kron(np.outer(share, share), xx)
        self.known_xy += np.kron(share, xy)
        self.any_xx += xx
        self.any_xy += xy
        self.pixels += len(target)

    def solve(self, ridge: float = 2e-6) -> Tensor:
        """Filters (len(DUTIES) + 1, len(LENGTHS_PX), taps); the last set is for unknown duty.

        Args:
            ridge: penalty on squared weights, times the number of pixel values seen.
        """

        def regress(xx: np.ndarray, xy: np.ndarray) -> np.ndarray:
            return np.linalg.solve(xx + ridge * self.pixels * np.eye(len(xy)), xy)

        weights = np.concatenate([regress(self.known_xx, self.known_xy), regress(self.any_xx, self.any_xy)])
        return torch.from_numpy(weights).float().reshape(-1, len(LENGTHS_PX), len(self.positions))


def fit_line_bank(pack: dict[str, np.ndarray], taps: int, reach: float, sequences: int = 400) -> Tensor:
    """The bank for ``MotionLine`` from the first ``sequences`` rows of a pack."""
    fit = LineFit(taps, reach)
    for i in range(min(sequences, len(pack["duty"]))):
        blurred, sharp = (
            torch.from_numpy(np.array(pack[k][i])).permute(0, 3, 1, 2).float() / 255 for k in ("blurred", "sharp")
        )
        motion, back = (torch.from_numpy(pack[k][i].astype(np.float32)) for k in ("motion", "motion_back"))
        cuts = (torch.from_numpy(np.array(pack[k][i])) for k in ("reset", "reset_back"))
        line = line_motion(motion, back, *cuts)
        for t in range(1, len(blurred) - 1, 2):
            fit.add(blurred[t], sharp[t], line[t], float(pack["duty"][i]))
    return fit.solve()
