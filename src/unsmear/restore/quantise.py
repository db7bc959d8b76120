"""Post-training quantisation of exported stage-1 graphs: convolutions in int8, calibrated on clips."""

import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from unsmear.errors import UsageError
from unsmear.models.cpfp.export import NEEDS_EXTRA
from unsmear.models.cpfp.exported import ExportedCPFP
from unsmear.models.loading import load_model
from unsmear.models.zoo import ModelEntry
from unsmear.restore.cpfp import CPFPRestorer
from unsmear.restore.inputs import single_input
from unsmear.restore.restorer import Clip
from unsmear.video import open_video

CLIP_FRAMES = 6
"""Frames of each clip, its first ones."""

SIDE_PX = 384
"""The middle of them, at most this wide and high."""


def quantise(entry: ModelEntry, clips: Sequence[Path]) -> None:
    """Replace the graphs of the network's features in a folder by ones whose convolutions compute in int8.

    Weights are of 7 bits in int8, with a scale for each output channel; activations are uint8 with one scale for each
    tensor, from the least and greatest value that occurs when the clips are restored.

    Args:
        entry: exported graphs in float32.
        clips: videos or folders of frames like those that will be restored.

    Raises:
        UsageError: the packages that quantise are not installed; no clip.
        UnsmearError: a clip cannot be read.
    """
    try:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise UsageError(NEEDS_EXTRA) from None
    model: ExportedCPFP = load_model(entry)
    model.start(entry.folder)
    seen = _inputs(model, clips)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, inputs: list[dict[str, np.ndarray]]):
            self.inputs: Iterator[dict[str, np.ndarray]] = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.inputs, None)

    logging.disable(logging.WARNING)  # it logs its own progress
    try:
        with tempfile.TemporaryDirectory(prefix="unsmear-") as scratch:
            for name, inputs in seen.items():
                file, ready = entry.folder / f"{name}.onnx", Path(scratch, f"{name}.onnx")
                quant_pre_process(str(file), str(ready), skip_symbolic_shape=True)
                quantize_static(
                    str(ready),
                    str(file),
                    Reader(inputs),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=["Conv"],
                    per_channel=True,
                    reduce_range=True,  # 7 bits: 8 overflow in processors with AVX2 but without VNNI
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                )
                graph = onnx.load(file)
                unused = [named for named in graph.opset_import if named.domain]
                for named in unused:  # onnxruntime names its own, of which no operator is used
                    graph.opset_import.remove(named)
                onnx.save(graph, file)
    finally:
        logging.disable(logging.NOTSET)


def _inputs(model: ExportedCPFP, clips: Sequence[Path]) -> dict[str, list[dict[str, np.ndarray]]]:
    """Inputs of each graph while the clips are restored."""
    seen: dict[str, list[dict[str, np.ndarray]]] = defaultdict(list)
    model.watch = lambda name, given: seen[name].append({key: np.array(value) for key, value in given.items()})
    try:
        restorer = CPFPRestorer(model, "calibration", torch.device("cpu"), torch.float32)
        for path in clips:
            with open_video(single_input(path)) as reader:
                frames = [_middle(frame.rgb) for frame in islice(reader, CLIP_FRAMES)]
            restorer(Clip.of(frames))
    finally:
        model.watch = None
    return seen


def _middle(picture: np.ndarray) -> np.ndarray:
    top, left = (max(side - SIDE_PX, 0) // 2 for side in picture.shape[:2])
    return picture[top : top + SIDE_PX, left : left + SIDE_PX]
