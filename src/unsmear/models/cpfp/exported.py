"""Stage 1 from exported ONNX graphs, run by onnxruntime. Full-size planes are processed as they are without graphs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unsmear.errors import UsageError, WeightsError
from unsmear.models.cpfp.export import NEEDS_EXTRA, feature_graphs
from unsmear.models.cpfp.full_size import FullSize, Heads
from unsmear.models.cpfp.network import CPFP, PriorTensors

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""Execution providers of onnxruntime by the name of the device."""


class ExportedCPFP(CPFP):
    """A ``CPFP`` whose features are computed by ONNX graphs; made by ``from_config``, to be ``start``-ed.

    Its own parameters are not used.
    """

    watch: Callable[[str, dict[str, np.ndarray]], None] | None = None
    """Called with the name and inputs of every graph before it runs."""

    def start(self, folder: Path, device: str = "cpu") -> tuple[str, str]:
        """Load the graphs → key of ``PROVIDERS`` that runs them, and name and version of what does.

        Args:
            folder: that ``export.write_graphs`` filled.
            device: key of ``PROVIDERS``, or ``auto``: ``cuda`` where it is present, else ``cpu``.

        Raises:
            UsageError: onnxruntime is not installed, or lacks that provider.
            WeightsError: a graph is missing or damaged.
        """
        try:
            import onnxruntime as ort
        except ImportError:
            raise UsageError(NEEDS_EXTRA) from None
        present = [name for name, provider in PROVIDERS.items() if provider in ort.get_available_providers()]
        chosen = ("cuda" if "cuda" in present else "cpu") if device == "auto" else device
        if chosen not in present:
            raise UsageError(f"`device` {device}: this onnxruntime has auto, {', '.join(present)}; choose one of these")
        providers = list(dict.fromkeys([PROVIDERS[chosen], PROVIDERS["cpu"]]))
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3
        self._sessions: dict[str, Any] = {}
        for name in feature_graphs(self):
            file = folder / f"{name}.onnx"
            try:
                session = ort.InferenceSession(str(file), settings, providers=providers)
            except Exception as error:  # onnxruntime's own classes derive from no common one
                why = str(error).strip().splitlines() or ["no reason given"]
                raise WeightsError(f"{file} is missing or damaged ({why[0]}): export the model again") from None
            if PROVIDERS[chosen] not in session.get_providers():
                raise UsageError(f"`device` {device}: onnxruntime cannot start {PROVIDERS[chosen]}; choose cpu")
            self._sessions[name] = session
        return chosen, f"onnxruntime {ort.__version__}"

    def _run(self, name: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of a graph by name."""
        session = self._sessions[name]
        arrays = {port.name: given[port.name].numpy() for port in session.get_inputs()}
        if self.watch is not None:
            self.watch(name, arrays)
        made = session.run(None, arrays)
        return {port.name: torch.from_numpy(array) for port, array in zip(session.get_outputs(), made, strict=True)}

    def _encode(self, full: FullSize, grid: PriorTensors, i: int) -> tuple[Tensor, Tensor]:
        fields = self._fields(grid, i)
        given = {"cells": full.cells(i).flatten(3)} | ({"fields": torch.cat(fields, 1)} if fields else {})
        made = self._run("encode", given)
        return made.get("fine", made["encoded"]), made["encoded"]

    def _step(
        self,
        j: int,
        inputs: list[Tensor],
        recent: list[Tensor],
        motions: list[Tensor],
        residual: Tensor,
        open_: Tensor,
    ) -> Tensor:
        given = _named(inputs) | dict(zip(("motion_grid", "next_motion_grid"), motions, strict=False))
        given |= {"recent": torch.stack(recent), "residual_grid": residual, "open": open_}
        return self._run(f"propagate_{j}", given)[f"features_{j}"]

    def _heads(self, fine: Tensor, inputs: list[Tensor], blur: Tensor, known: Tensor) -> Heads:
        made = self._run("decode", _named(inputs) | {"fine": fine, "blur": blur, "known": known})
        return Heads(*(made.get(name) for name in Heads._fields))  # type: ignore[arg-type]


def _named(inputs: list[Tensor]) -> dict[str, Tensor]:
    return {"encoded" if k == 0 else f"features_{k - 1}": x for k, x in enumerate(inputs)}
