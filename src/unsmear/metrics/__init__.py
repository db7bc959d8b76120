"""Quality metrics of NumPy frames."""

from unsmear.metrics.blur import blur_estimate
from unsmear.metrics.fidelity import psnr
from unsmear.metrics.protocols import PROTOCOLS, Protocol, find_protocol
from unsmear.metrics.ssim import ssim, ssim_joint

__all__ = ["PROTOCOLS", "Protocol", "blur_estimate", "find_protocol", "psnr", "ssim", "ssim_joint"]
