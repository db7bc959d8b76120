"""Overlays of the control network's attention maps (CPGD-Net, Fig. 10)."""

import cv2
import numpy as np
import numpy.typing as npt

from unsmear.evaluation.pictures import Image, Rgb, side_by_side
from unsmear.restore.cpgd import CPGDRestorer
from unsmear.restore.restorer import Clip
from unsmear.video import eight_bit

FULL_HEAT = 3.0
"""Attention, relative to its mean, from which maps are brightest; a constant, so that maps can be compared."""

_SHARE = 0.6  # of the colours in the overlay


def overlay(image: Image, heat: npt.NDArray[np.float32], full: float) -> Rgb:
    """Overlay a map in colours on the grey image: black is 0, bright yellow ``full`` and more.

    Args:
        image: (H, W, 3) uint8 or uint16.
        heat: the map (H, W), non-negative.
        full: value of the brightest colour.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    levels = np.rint(np.clip(heat / max(full, 1e-12), 0, 1) * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(eight_bit(image), cv2.COLOR_RGB2GRAY)[..., None]
    return np.rint(_SHARE * colours + (1 - _SHARE) * grey).astype(np.uint8)


def attention_figure(restorer: CPGDRestorer, clip: Clip, index: int) -> Rgb:
    """Figure of input, hint, received attention without and with priors, and the effect of priors on the gate A.

    Attention is the mean over heads, queries and self-attention layers of the control network at the middle step of the
    sampler. The gate is the distance of A = L_m(V, R) from L_m(0, 0), scaled to its maximum, which is printed.

    Returns:
        Panels in a row, (H', W', 3) uint8 RGB; without gate where the network is not guided.
    """
    maps = restorer.attention(clip, index)
    frame = clip.frames[index]
    height, width = frame.shape[:2]

    def enlarged(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        size = (heat.shape[1] * maps.cell, heat.shape[0] * maps.cell)
        return np.asarray(cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR)[:height, :width], np.float32)

    panels = [eight_bit(frame), eight_bit(maps.hint)]
    labels, details = ["input", "hint"], [f"frame {clip.first + index}", f"t = {maps.timestep}"]
    for heat, label in ((maps.plain, "attention, no priors"), (maps.guided, "attention, with V and R")):
        panels.append(overlay(maps.hint, enlarged(heat.received.numpy()), FULL_HEAT))
        labels.append(label)
        details.append(f"brightest: {FULL_HEAT:g} x mean")
    if maps.guided.gate is not None:
        gate = enlarged(maps.guided.gate.numpy())
        panels.append(overlay(maps.hint, gate, float(gate.max())))
        labels.append("gate: L_m(V, R) - L_m(0, 0)")
        details.append(f"brightest: {gate.max():.3g}")
    return side_by_side(panels, labels, details)
