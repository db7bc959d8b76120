"""Evaluation protocols by name. A PSNR needs one of these names: protocols differ by more than methods do.

========================  ============================================================================
``basicsr`` (default)     RGB, rounded to 8 bits, whole frames; mean per clip, then over clips
``basicsr-frame``         as ``basicsr``, mean over all frames
``koehler``               16 pixels cropped, first frame left out, brightness scaled, shifted by whole
                          pixels to match the truth, grey; mean over all frames
``shiftnet``              not rounded, blocks of 48 frames after the first two, SSIM joint over colours;
                          mean over all frames
``bsst``                  rounded, windows of 48 frames overlapping by 4, two frames left out at each end,
                          SSIM joint over colours; mean per window, then over windows
========================  ============================================================================

Each follows the evaluation code of the papers that use it: BasicSR, RVRT and VRT; PVDNet, after the benchmark of Köhler
et al. (2012); Shift-Net; BSSTNet, also used by CPGD-Net.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unsmear.errors import DataLayoutError, UsageError
from unsmear.metrics.fidelity import luma601, psnr_of_levels
from unsmear.metrics.ssim import ssim, ssim_joint

Average = Literal["clips", "frames", "windows"]
Score = Callable[[np.ndarray, np.ndarray], dict[str, float]]

_CROP_PX = 16
_BLOCK = 48
_OVERLAP = 4
_EDGE = 2
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol."""

    name: str
    summary: str
    """Description in one line; printed in tables."""
    average: Average
    """What means are taken over: clips (of means over their frames), frames, or windows."""
    rounded: bool
    """Whether frames are rounded to 8 bits before they are compared."""
    windows: Callable[[int], list[int | None]]
    """Number of frames of a clip → window number of each frame; None leaves a frame out."""
    score: Score
    """PSNR and SSIM of a frame (H, W, 3) in levels 0 … 255 against its truth, by names of the catalogue."""

    def window_of_frames(self, frames: int, clip: str) -> list[int | None]:
        """Window number of each frame of a clip; None for frames that are left out.

        Raises:
            DataLayoutError: the clip is too short for any frame to be scored.
        """
        windows = self.windows(frames)
        if all(window is None for window in windows):
            raise DataLayoutError(
                f"{clip}: {frames} frames are too few for the protocol {self.name} ({self.summary}): "
                "choose `protocol` basicsr"
            )
        return windows


def find_protocol(name: str) -> Protocol:
    """Return the protocol of a name. Raises UsageError for an unknown name."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise UsageError(f"protocol {name!r} is unknown; choose one of {', '.join(PROTOCOLS)}") from None


def _every(frames: int) -> list[int | None]:
    return [0] * frames


def _all_but_first(frames: int) -> list[int | None]:
    return [None, *[0] * (frames - 1)]


def _whole_blocks(frames: int) -> list[int | None]:
    """Shift-Net: two frames at each end are context, and incomplete blocks at the end are left out."""
    blocks = max(frames - 2 * _EDGE, 0) // _BLOCK
    return [i // _BLOCK if 0 <= i < blocks * _BLOCK else None for i in range(-_EDGE, frames - _EDGE)]


def _overlapping(frames: int) -> list[int | None]:
    """BSSTNet: windows of 48 frames, the last one shifted to end with the clip; each frame is scored once."""
    windows: list[int | None] = [None] * frames
    starts = [*range(0, frames - _BLOCK, _BLOCK - _OVERLAP), max(frames - _BLOCK, 0)]
    for number, start in enumerate(starts):
        for i in range(start + _EDGE, min(start + _BLOCK, frames) - _EDGE):
            if windows[i] is None:
                windows[i] = number
    return windows


def _separate(image: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    y, z = luma601(image), luma601(truth)
    return {
        "psnr": psnr_of_levels(image, truth),
        "ssim": ssim(image, truth),
        "psnr_y": psnr_of_levels(y, z),
        "ssim_y": ssim(y, z),
    }


def _joint(image: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    return {"psnr": psnr_of_levels(image, truth), "ssim": ssim_joint(image, truth)}


def _cropped_to_four(image: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    height, width = (side // 4 * 4 for side in image.shape[:2])
    return _joint(image[:height, :width], truth[:height, :width])


def _registered(image: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Compare after matching brightness and position to the truth (Köhler et al.)."""
    inner = slice(_CROP_PX, -_CROP_PX)
    z, x = (np.ascontiguousarray(i[inner, inner], np.float32) for i in (image, truth))
    if not z.size:
        raise ValueError(f"the protocol koehler needs sides of more than {2 * _CROP_PX} pixels, got {image.shape[:2]}")
    energy = float(np.vdot(z, z))
    z = z * np.float32(np.vdot(x, z) / energy if energy else 1)
    dy, dx = _shift(x.mean(2), z.mean(2))
    moved, overlap = np.zeros_like(z), np.zeros(z.shape[:2], np.float32)
    height, width = z.shape[:2]
    target = (slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0)))
    source = (slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0)))
    moved[target], overlap[target] = z[source], 1
    grey, reference = moved @ _GREY, (x * overlap[..., None]) @ _GREY
    return {"psnr": psnr_of_levels(grey, reference), "ssim": ssim(grey, reference)}


def _shift(truth: np.ndarray, image: np.ndarray) -> tuple[int, int]:
    """Shift (down, right) of ``image`` in whole pixels that matches ``truth``: peak of the circular correlation."""
    spectrum = np.fft.rfft2(truth.astype(np.float64)) * np.conj(np.fft.rfft2(image.astype(np.float64)))
    peak = np.unravel_index(int(np.fft.irfft2(spectrum, truth.shape).argmax()), truth.shape)
    dy, dx = (int(p) - n if p > n // 2 else int(p) for p, n in zip(peak, truth.shape, strict=True))
    return dy, dx


_ALL = (
    Protocol(
        "basicsr",
        "RGB, rounded to 8 bits, whole frames; mean per clip, then over clips",
        "clips",
        True,
        _every,
        _separate,
    ),
    Protocol(
        "basicsr-frame",
        "RGB, rounded to 8 bits, whole frames; mean over all frames",
        "frames",
        True,
        _every,
        _separate,
    ),
    Protocol(
        "koehler",
        "16 px cropped, first frame left out, scaled and shifted onto the truth, grey; mean over all frames",
        "frames",
        True,
        _all_but_first,
        _registered,
    ),
    Protocol(
        "shiftnet",
        "not rounded, blocks of 48 frames after the first 2, SSIM over (C, H, W) jointly; mean over all frames",
        "frames",
        False,
        _whole_blocks,
        _cropped_to_four,
    ),
    Protocol(
        "bsst",
        "rounded to 8 bits, windows of 48 frames overlapping by 4, 2 frames left out at each end, SSIM over (C, H, W) "
        "jointly; mean per window, then over windows",
        "windows",
        True,
        _overlapping,
        _joint,
    ),
)

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _ALL}
