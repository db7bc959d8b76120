"""Measures of quality. NumPy in, numbers out."""

from unsmear.metrics.fidelity import psnr

__all__ = ["psnr"]
