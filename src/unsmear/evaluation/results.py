"""Results of an evaluation, from which tables, pages and files are made."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unsmear.errors import DataLayoutError
from unsmear.files import write_whole
from unsmear.metrics.catalogue import METRICS

INPUT = "blurred input"
"""Name of the blurred input in tables."""


@dataclass(frozen=True)
class ClipResult:
    """Metrics of one clip, by the keys of :data:`unsmear.metrics.catalogue.METRICS`."""

    clip: str
    frames: int
    """Number of scored frames; a protocol may leave some out."""
    values: dict[str, float]
    """Metrics of the output."""
    before: dict[str, float] = field(default_factory=dict)
    """Metrics of the blurred input; empty where there is none."""
    seconds_per_frame: float | None = None
    peak_memory_mb: float | None = None
    """Peak memory in MiB."""
    note: str = ""
    windows: int = 1
    """Number of windows of the protocol in the clip."""


@dataclass(frozen=True)
class Result:
    """Results of one method on one data set under one protocol."""

    method: str
    dataset: str
    protocol: str
    """A key of :data:`unsmear.metrics.protocols.PROTOCOLS`."""
    clips: tuple[ClipResult, ...]
    average: str = "clips"
    """``clips``: mean per clip, then over clips. ``frames``: mean over all frames. ``windows``: over all windows."""
    device: str = ""
    dtype: str = ""
    weights_sha256: str = ""
    command: str = ""
    version: str = ""

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that any clip has, in the order of the catalogue."""
        present = {name for clip in self.clips for name in clip.values}
        return [name for name in METRICS if name in present]

    def mean(self, metric: str, *, before: bool = False) -> float | None:
        """Mean over the clips that have the metric, weighted according to the protocol; None where no clip has it."""
        rows = [(clip.before if before else clip.values, self._weight(clip)) for clip in self.clips]
        return _mean([(values[metric], weight) for values, weight in rows if metric in values])

    def mean_gain(self, metric: str) -> float | None:
        """Mean of output minus input over the clips that have both; None where no clip does."""
        return _mean(
            [
                (c.values[metric] - c.before[metric], self._weight(c))
                for c in self.clips
                if metric in c.values and metric in c.before
            ]
        )

    def _weight(self, clip: ClipResult) -> float:
        return {"frames": clip.frames, "windows": clip.windows}.get(self.average, 1)

    @property
    def seconds_per_frame(self) -> float | None:
        """Mean over all frames of the clips that were timed; None for none."""
        return _mean([(c.seconds_per_frame, c.frames) for c in self.clips if c.seconds_per_frame is not None])

    @property
    def peak_memory_mb(self) -> float | None:
        """Maximum over clips, MiB; None for none."""
        return max((c.peak_memory_mb for c in self.clips if c.peak_memory_mb is not None), default=None)

    def input_result(self) -> "Result | None":
        """Result of the blurred input as a method; None where no clip has metrics of its input."""
        clips = tuple(ClipResult(c.clip, c.frames, c.before, windows=c.windows) for c in self.clips if c.before)
        if not clips:
            return None
        return replace(self, method=INPUT, clips=clips, device="", dtype="", weights_sha256="", command="")

    def interval(self, metric: str, *, gain: bool = False, level: float = 0.95) -> tuple[float, float] | None:
        """Bootstrap confidence interval over clips of the mean, or of the mean gain over the input.

        Percentiles of 10,000 resamples from a fixed seed. None for fewer than three clips, or an infinite value.
        """
        rows = [
            (c.values[metric] - c.before[metric] if gain else c.values[metric], self._weight(c))
            for c in self.clips
            if metric in c.values and (not gain or metric in c.before)
        ]
        if len(rows) < 3 or not np.isfinite([value for value, _ in rows]).all():
            return None
        values, weights = (np.array(column, np.float64) for column in zip(*rows, strict=True))
        picks = np.random.default_rng(0).integers(0, len(rows), (10_000, len(rows)))
        means = (values[picks] * weights[picks]).sum(1) / weights[picks].sum(1)
        low, high = np.percentile(means, [50 * (1 - level), 50 * (1 + level)])
        return float(low), float(high)

    def as_dict(self) -> dict[str, Any]:
        """JSON values, including the means and intervals printed in tables."""
        values = asdict(self)
        values["mean"] = {m: self.mean(m) for m in self.metrics}
        values["mean_before"] = {m: v for m in self.metrics if (v := self.mean(m, before=True)) is not None}
        values["interval_95"] = {m: ends for m in self.metrics if (ends := self.interval(m)) is not None}
        return values


def _mean(rows: Sequence[tuple[float, float]]) -> float | None:
    """Weighted mean of (value, weight) pairs; None where there are none."""
    if not rows:
        return None
    values, weights = zip(*rows, strict=True)
    return float(np.average(values, weights=weights))


def write_results(results: Sequence[Result], path: Path) -> None:
    """Write all results to one JSON file."""
    write_whole(path, (json.dumps([r.as_dict() for r in results], indent=2) + "\n").encode())


def read_results(path: Path) -> list[Result]:
    """Read results written by ``write_results``.

    Raises:
        DataLayoutError: the file is missing or has another format.
    """
    try:
        rows = json.loads(path.read_text())
        known = Result.__dataclass_fields__
        return [
            Result(**{k: v for k, v in r.items() if k in known} | {"clips": tuple(ClipResult(**c) for c in r["clips"])})
            for r in rows
        ]
    except (OSError, ValueError, TypeError, KeyError):
        raise DataLayoutError(f"{path} holds no results of `unsmear evaluate`: give its results.json") from None
