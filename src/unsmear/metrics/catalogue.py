"""Catalogue of metrics: name, label, rounding, unit and direction."""

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """Name, label, rounding, unit and direction of a metric."""

    name: str
    """Key in results, CSV and JSON."""
    label: str
    """Name in tables."""
    better: Better
    """Whether higher or lower values are better."""
    decimals: int
    """Decimals printed, and compared for the best value."""
    unit: str = ""


_ALL = (
    Metric("psnr", "PSNR", "higher", 2, "dB"),
    Metric("ssim", "SSIM", "higher", 4),
    Metric("psnr_y", "PSNR (Y)", "higher", 2, "dB"),
    Metric("ssim_y", "SSIM (Y)", "higher", 4),
    Metric("lpips", "LPIPS", "lower", 4),
    Metric("lpips_vgg", "LPIPS (VGG)", "lower", 4),
    Metric("niqe", "NIQE", "lower", 3),
    Metric("musiq", "MUSIQ", "higher", 2),
    Metric("warp", "warping error", "lower", 3, "levels"),
    Metric("tlpips", "tLPIPS", "lower", 4),
    Metric("flicker", "flicker", "lower", 3, "levels"),
    Metric("blur", "blur", "lower", 4),
    Metric("kept", "sharp input kept", "higher", 1, "dB"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
