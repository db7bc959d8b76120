"""Metrics of one clip, accumulated frame by frame; memory does not depend on its length."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from unsmear.errors import UsageError
from unsmear.metrics.blur import blur_estimate
from unsmear.metrics.catalogue import METRICS
from unsmear.metrics.fidelity import levels
from unsmear.metrics.lpips import LEAST_PX, LPIPS, frame_tensor, load_lpips
from unsmear.metrics.musiq import MUSIQ, load_musiq
from unsmear.metrics.niqe import BLOCK_PX, niqe
from unsmear.metrics.protocols import Protocol
from unsmear.metrics.ssim import SSIM_LEAST_PX
from unsmear.metrics.temporal import FLOW_LEAST_PX, align
from unsmear.video.colour import luma_of_rgb

DEFAULT_METRICS = ("psnr", "ssim", "psnr_y", "ssim_y", "lpips", "niqe", "warp", "tlpips", "flicker", "blur")
"""All metrics that need no weights or packages beyond those of unsmear."""

_OVER_TIME = ("warp", "tlpips", "flicker")

Features = list[torch.Tensor]


class Measures:
    """A selection of metrics, with their networks loaded once.

    Args:
        names: keys of :data:`unsmear.metrics.catalogue.METRICS`.
        lpips_vgg: weights of the metric ``lpips_vgg``.
        device: torch device of the networks.
        musiq: weights of the metric ``musiq``.

    Raises:
        UsageError: an unknown metric; MUSIQ or VGG without its weights.
        WeightsError: weights that do not fit.
    """

    def __init__(
        self, names: Sequence[str], lpips_vgg: Path | None = None, device: str = "cpu", musiq: Path | None = None
    ):
        known = [name for name in METRICS if name != "kept"]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UsageError(f"metric {unknown[0]!r} is unknown; choose of {', '.join(known)}")
        self.names, self.device = tuple(name for name in METRICS if name in names), device
        self.alex: LPIPS | None = None
        self.vgg: LPIPS | None = None
        if {"lpips", "tlpips"} & set(names):
            self.alex = load_lpips("alex").to(device)
        if "lpips_vgg" in names:
            self.vgg = load_lpips("vgg", lpips_vgg).to(device)
        self.musiq: MUSIQ | None = load_musiq(musiq).to(device) if "musiq" in names else None

    def possible(self, height: int, width: int) -> tuple[tuple[str, ...], str]:
        """Metrics that are defined for frames of this size, in pixels, and a note on the others."""
        least = {
            "niqe": 2 * BLOCK_PX,
            "lpips": LEAST_PX["alex"],
            "tlpips": LEAST_PX["alex"],
            "ssim": SSIM_LEAST_PX,
            "ssim_y": SSIM_LEAST_PX,
            "warp": FLOW_LEAST_PX,
            "flicker": FLOW_LEAST_PX,
        }
        undefined = [name for name in self.names if min(height, width) < least.get(name, 0)]
        note = f"too small for {', '.join(METRICS[n].label for n in undefined)}" if undefined else ""
        return tuple(name for name in self.names if name not in undefined), note


@dataclass
class _Previous:
    """Images and features of the previous frame, for the temporal metrics."""

    image: np.ndarray
    truth: np.ndarray
    features: Features | None
    truth_features: Features | None


@dataclass
class Meter:
    """Scores frames of one clip against their ground truth under one protocol."""

    measures: Measures
    protocol: Protocol
    names: tuple[str, ...]
    """Metrics to compute, from ``Measures.possible``."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """Values of each frame by metric; empty for frames that the protocol leaves out."""
    _windows: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    _previous: _Previous | None = None

    def add(self, image: np.ndarray, truth: np.ndarray, window: int | None) -> None:
        """Score the next frame.

        Args:
            image, truth: (H, W, 3) RGB, uint8 or uint16.
            window: number of the frame's window in the protocol; None leaves it out, and the next frame then has no
                temporal metrics.

        Raises:
            ValueError: shapes or types that the metrics do not accept.
        """
        if window is None:
            self.rows.append({})
            self._previous = None
            return
        self._count(self._measure(image, truth), window)

    def replay(self, row: dict[str, float], window: int | None) -> None:
        """Add the next frame by values measured earlier."""
        if window is None:
            self.rows.append({})
        else:
            self._count(row, window)

    def _count(self, row: dict[str, float], window: int) -> None:
        self.rows.append(row)
        of_window = self._windows.setdefault(window, {})
        for name, value in row.items():
            of_window.setdefault(name, []).append(value)

    @torch.inference_mode()
    def _measure(self, image: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        names, z = set(self.names), levels(truth, rounded=True)
        y = levels(image, rounded=self.protocol.rounded)
        row = {k: v for k, v in self.protocol.score(y, z).items() if k in names}
        y = levels(image, rounded=True)
        features = truth_features = None
        if self.measures.alex is not None and names & {"lpips", "tlpips"}:
            features, truth_features = (self._features(self.measures.alex, i) for i in (y, z))
            if "lpips" in names:
                row["lpips"] = float(self.measures.alex.distance(features, truth_features))
        if self.measures.vgg is not None:
            vgg = self.measures.vgg
            row["lpips_vgg"] = float(vgg.distance(self._features(vgg, y), self._features(vgg, z)))
        if "niqe" in names and (value := niqe(y)) == value:
            row["niqe"] = value
        if self.measures.musiq is not None:
            unit = torch.from_numpy(y / np.float32(255)).permute(2, 0, 1)[None]
            row["musiq"] = float(self.measures.musiq(unit.to(self.measures.device)))
        if "blur" in names:
            row["blur"] = blur_estimate(luma_of_rgb(y.astype(np.uint8)))
        now = _Previous(y, z, features, truth_features)
        if self._previous is not None and names & set(_OVER_TIME):
            row |= {k: v for k, v in self._over_time(now, self._previous).items() if k in names}
        self._previous = now
        return row

    def _features(self, model: LPIPS, image: np.ndarray) -> Features:
        return model.features(frame_tensor(image, self.measures.device))

    def _over_time(self, now: _Previous, before: _Previous) -> dict[str, float]:
        """Warping error along the motion of the truth, warping error of the error image, and tLPIPS."""
        alignment = align(now.truth, before.truth)
        out = {}
        if alignment.visible.any():
            out["warp"] = alignment.difference(now.image, before.image)
            out["flicker"] = alignment.difference(now.image - now.truth, before.image - before.truth)
        alex = self.measures.alex
        if alex and now.features and before.features and now.truth_features and before.truth_features:
            change = float(alex.distance(now.features, before.features))
            out["tlpips"] = abs(change - float(alex.distance(now.truth_features, before.truth_features)))
        return out

    @property
    def frames(self) -> int:
        """Number of scored frames."""
        return sum(1 for row in self.rows if row)

    @property
    def windows(self) -> int:
        """Number of scored windows."""
        return len(self._windows)

    def means(self) -> dict[str, float]:
        """Mean of each metric over frames; under protocols with windows, per window and then over windows."""
        if self.protocol.average == "windows":
            groups = [[float(np.mean(w[n])) for w in self._windows.values() if n in w] for n in self.names]
        else:
            groups = [[v for w in self._windows.values() for v in w.get(n, ())] for n in self.names]
        return {name: float(np.mean(values)) for name, values in zip(self.names, groups, strict=True) if values}
