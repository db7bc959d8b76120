"""Where the control network looks, over the frame that it looks at (CPGD-Net, Fig. 10)."""

import cv2
import numpy as np
import numpy.typing as npt

from unsmear.evaluation.pictures import Image, Rgb, side_by_side
from unsmear.restore.cpgd import CPGDRestorer
from unsmear.restore.restorer import Clip
from unsmear.video import eight_bit

FULL_HEAT = 3.0
"""Heat is brightest at this many times its mean and above. A constant, so that maps can be compared."""

_SHARE = 0.6


def overlay(image: Image, heat: npt.NDArray[np.float32], full: float) -> Rgb:
    """Heat in colours over the grey image: black is none, bright yellow ``full`` and more.

    Args:
        image: (H, W, 3) uint8 or uint16.
        heat: (H, W), at least 0.
        full: value that is brightest.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    levels = np.rint(np.clip(heat / max(full, 1e-12), 0, 1) * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(eight_bit(image), cv2.COLOR_RGB2GRAY)[..., None]
    return np.rint(_SHARE * colours + (1 - _SHARE) * grey).astype(np.uint8)


def attention_figure(restorer: CPGDRestorer, clip: Clip, index: int) -> Rgb:
    """Input, hint, attention that each place receives without and with priors, and what these do to the gate A.

    Attention is the mean over heads, queries and self-attention layers of the control network, at the sampler's middle
    step; of A = L_m(V, R) the distance from L_m(0, 0) is shown, scaled to its own largest value, which is printed too.

    Returns:
        Panels in a row, (H', W', 3) uint8 RGB; no gate where the network is not guided.
    """
    seen = restorer.attention(clip, index)
    frame = clip.frames[index]
    height, width = frame.shape[:2]

    def grown(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        size = (heat.shape[1] * seen.cell, heat.shape[0] * seen.cell)
        return np.asarray(cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR)[:height, :width], np.float32)

    panels = [eight_bit(frame), eight_bit(seen.hint)]
    labels, details = ["input", "hint"], [f"frame {clip.first + index}", f"t = {seen.timestep}"]
    for heat, label in ((seen.plain, "attention, no priors"), (seen.guided, "attention, with V and R")):
        panels.append(overlay(seen.hint, grown(heat.received.numpy()), FULL_HEAT))
        labels.append(label)
        details.append(f"brightest: {FULL_HEAT:g} x mean")
    if seen.guided.gate is not None:
        gate = grown(seen.guided.gate.numpy())
        panels.append(overlay(seen.hint, gate, float(gate.max())))
        labels.append("gate: L_m(V, R) - L_m(0, 0)")
        details.append(f"brightest: {gate.max():.3g}")
    return side_by_side(panels, labels, details)
