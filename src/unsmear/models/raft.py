"""RAFT as a motion source, where torchvision is installed (Teed and Deng, 2020; CPGD-Net, Table III).

torchvision's ``forward`` starts every field from zero. Here its encoders, correlation and update block run in
a loop of ours that may start from the codec's vectors, at the 1/8 scale on which RAFT works, which is also
that of the priors' grid. Weights are torchvision's, or those that RAFT's authors publish (``raft-things.pth``).
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from unsmear.errors import UsageError, WeightsError
from unsmear.priors.flow import flow_to_grid
from unsmear.priors.grid import MotionGrid
from unsmear.video.frame import Frame

_CELL = 8
_SMALLEST_PX = 128  # below, the coarsest correlation level is empty
_NAME = re.compile(r"raft-(\d{1,3})(-warm)?")


class RaftFlow:
    """``raft-N`` and ``raft-N-warm``: N refinement iterations, from zero or from the codec's vectors."""

    def __init__(self, model: torch.nn.Module, iterations: int, *, warm: bool = False, device: str = "cpu") -> None:
        """Wrap a network of torchvision.

        Args:
            model: ``raft_large`` or ``raft_small``.
            iterations: refinement iterations, 1 or more.
            warm: whether to start from the codec's vectors.
            device: where it runs.

        Raises:
            UsageError: fewer than 1 iteration.
        """
        if iterations < 1:
            raise UsageError(f"RAFT with {iterations} iterations predicts nothing; choose 1 or more")
        self.name = f"raft-{iterations}{'-warm' if warm else ''}"
        self.iterations, self.warm, self.device = iterations, warm, torch.device(device)
        self._model: Any = model.to(self.device).eval()
        self._flops: dict[tuple[int, int], float] = {}

    @torch.inference_mode()
    def motion(self, picture: Frame, other: Frame, codec_q: MotionGrid) -> MotionGrid:
        """See :class:`~unsmear.priors.flow.MotionSource`; fields are rounded to quarter pixels."""
        height, width = picture.luma.shape
        start = None
        if self.warm:
            start = torch.from_numpy(codec_q.astype(np.float32) / (4 * _CELL)).permute(2, 0, 1)[None]
        flow = self.flow(self._tensor(picture), self._tensor(other), start)
        return flow_to_grid(flow[0].permute(1, 2, 0).float().cpu().numpy()[:height, :width])

    def flow(self, image: Tensor, other: Tensor, start: Tensor | None = None) -> Tensor:
        """Dense flow.

        Args:
            image: ``(1, 3, H, W)`` in [-1, 1], sides multiples of 8 and at least 128.
            other: the same.
            start: ``(1, 2, h, w)``, in cells of 8 pixels; at most ``H / 8`` by ``W / 8``, repeated at its edges.

        Returns:
            ``(1, 2, H, W)`` in pixels.
        """
        return self._refine(self._model, image, other, start)

    def _refine(self, model: Any, image: Tensor, other: Tensor, start: Tensor | None) -> Tensor:
        features, others = model.feature_encoder(torch.cat([image, other])).chunk(2)
        model.corr_block.build_pyramid(features, others)
        context = model.context_encoder(image)
        hidden_size = model.update_block.hidden_state_size
        hidden, context = torch.tanh(context[:, :hidden_size]), F.relu(context[:, hidden_size:])
        rows, columns = features.shape[-2:]
        y, x = torch.meshgrid(
            torch.arange(rows, device=image.device, dtype=image.dtype),
            torch.arange(columns, device=image.device, dtype=image.dtype),
            indexing="ij",
        )
        home = torch.stack([x, y])[None]
        flow = torch.zeros_like(home) if start is None else _to_size(start.to(home), rows, columns)
        for _ in range(self.iterations):
            correlation = model.corr_block.index_pyramid(centroids_coords=home + flow)
            hidden, change = model.update_block(hidden, context, correlation, flow)
            flow = flow + change
        if model.mask_predictor is None:
            size = (rows * _CELL, columns * _CELL)
            return _CELL * F.interpolate(flow, size=size, mode="bilinear", align_corners=True)
        return _convex_upsampling(flow, model.mask_predictor(hidden))

    def flops(self, height: int, width: int) -> float:
        """Floating-point operations of one field: convolutions and matrix products, 2 per multiplication (PyTorch)."""
        if (height, width) not in self._flops:
            from torch.utils.flop_counter import FlopCounterMode

            image = torch.zeros(1, 3, *_padded_size(height, width), device="meta")  # counted, not computed
            model = copy.deepcopy(self._model).to("meta")
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                self._refine(model, image, image, None)
            self._flops[height, width] = float(counter.get_total_flops())
        return self._flops[height, width]

    def _tensor(self, picture: Frame) -> Tensor:
        rgb: npt.NDArray[Any] = picture.rgb
        scale = 65535 if rgb.dtype == np.uint16 else 255
        image = torch.from_numpy(rgb.astype(np.float32) * np.float32(2 / scale) - 1).permute(2, 0, 1)[None]
        rows, columns = _padded_size(*rgb.shape[:2])
        image = F.pad(image, (0, columns - rgb.shape[1], 0, rows - rgb.shape[0]), mode="replicate")
        return image.to(self.device)


def make_raft(name: str, weights: Path | None = None, device: str = "cpu") -> RaftFlow:
    """Return ``raft-4``, ``raft-20-warm`` and so on; see :func:`~unsmear.models.motion_sources.find_source`."""
    match = _NAME.fullmatch(name)
    if not match:
        raise UsageError(f"motion source {name!r} is unknown; give raft-N or raft-N-warm, N iterations (raft-20)")
    try:
        from torchvision.models.optical_flow import Raft_Large_Weights, raft_large
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another version of torch
        raise UsageError(
            f"motion source {name} needs torchvision, built for torch {torch.__version__} ({error}); install it"
        ) from None
    if weights is None:
        try:
            model = raft_large(weights=Raft_Large_Weights.DEFAULT, progress=False)
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"torchvision's RAFT weights cannot be fetched ({error}); fetch them once while online"
            ) from error
    else:
        model = raft_large(weights=None, progress=False)
        try:
            model.load_state_dict(_weights(weights), strict=True)
        except Exception as error:  # the loaders raise various types
            why = " ".join(str(error).split())[:160]
            raise WeightsError(
                f"{weights} holds neither torchvision's raft_large nor princeton-vl's raft-things ({why}); give that"
            ) from None
    return RaftFlow(model, int(match[1]), warm=match[2] is not None, device=device)


def _weights(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return renamed(load_file(path))
    return renamed(dict(torch.load(path, map_location="cpu", weights_only=True)))


_RENAMED = (
    (r"^module\.", ""),
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"(_encoder\.)conv1\.", r"\1convnormrelu.0."),
    (r"(_encoder\.)norm1\.", r"\1convnormrelu.1."),
    (r"(_encoder\.)conv2\.", r"\1conv."),
    (r"(\.layer\d\.\d\.)conv(\d)\.", r"\1convnormrelu\2.0."),
    (r"(\.layer\d\.\d\.)norm(\d)\.", r"\1convnormrelu\2.1."),
    (r"\.encoder\.convc(\d)\.", r".motion_encoder.convcorr\1.0."),
    (r"\.encoder\.convf(\d)\.", r".motion_encoder.convflow\1.0."),
    (r"\.encoder\.conv\.", ".motion_encoder.conv.0."),
    (r"\.gru\.conv([zrq])([12])\.", r".recurrent_block.convgru\2.conv\1."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
)
"""Names of princeton-vl's layout → torchvision's."""


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a state dict in the layout of RAFT's authors as torchvision does; other ones are kept.

    That layout contains the norm of a shortcut twice, as ``norm3`` and ``downsample.1``; the former is dropped.
    """
    if not any(key.removeprefix("module.").startswith("fnet.") for key in state):
        return dict(state)
    out = {}
    for key, value in state.items():
        if not re.search(r"\.layer\d\.\d\.norm3\.", key):
            for pattern, name in _RENAMED:
                key = re.sub(pattern, name, key)
            out[key] = value
    return out


def _padded_size(height: int, width: int) -> tuple[int, int]:
    rows, columns = (max(-(-side // _CELL) * _CELL, _SMALLEST_PX) for side in (height, width))
    return rows, columns


def _to_size(flow: Tensor, rows: int, columns: int) -> Tensor:
    flow = flow[..., :rows, :columns]
    return F.pad(flow, (0, columns - flow.shape[-1], 0, rows - flow.shape[-2]), mode="replicate")


def _convex_upsampling(flow: Tensor, mask: Tensor) -> Tensor:
    """Upsample flow by 8 in size and value; each pixel is a weighted mean of 3×3 cells (RAFT, section 3.3)."""
    batch, _, rows, columns = flow.shape
    weights = mask.view(batch, 1, 9, _CELL, _CELL, rows, columns).softmax(2)
    near = F.unfold(_CELL * flow, 3, padding=1).view(batch, 2, 9, 1, 1, rows, columns)
    fine = (weights * near).sum(2).permute(0, 1, 4, 2, 5, 3)
    return fine.reshape(batch, 2, rows * _CELL, columns * _CELL)
