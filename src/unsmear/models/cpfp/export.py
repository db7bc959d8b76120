"""Stage 1 as ONNX graphs of single steps: standard operators alone, any frame size, no Python of ours to run them.

Time and propagation stay with the caller: a graph works on one frame. The card of the exported folder states every
input and output and the order of calls.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unsmear.errors import UsageError
from unsmear.models.cpfp.correction import pinned
from unsmear.models.cpfp.deconvolution import coarse_samples, line_points
from unsmear.models.cpfp.full_size import INPUT_TAPS, AnyDevice, Heads, convolved, packed_weights
from unsmear.models.cpfp.network import CPFP, GRID, PriorTensors

OPSET = 20
"""Of ONNX: the first in which GridSample calls the bilinear mode ``linear``."""

FRAME_MULTIPLE = 16
"""Sides of frames are multiples of this."""

NEEDS_EXTRA = "ONNX graphs need the extra 'onnx': pip install 'unsmear[onnx]'"


_CELLS = (
    "input images, 64 values each: 4x4 pixels by row, column and four channels, the last zero; "
    "the frame, then differences from it: along the motion line, deconvolved"
)


class Port(NamedTuple):
    """An input or output of a graph."""

    name: str
    shape: tuple[int | str, ...]
    """``H`` and ``W`` are the frame's sides; ``H/4`` and so on; ``S`` and ``s``: any number."""
    meaning: str
    dtype: torch.dtype = torch.float32


class Graph(NamedTuple):
    """A graph to be exported."""

    name: str
    run: Callable[[dict[str, Tensor]], tuple[Tensor, ...]]
    inputs: list[Port]
    outputs: list[Port]


def graphs_of(model: CPFP) -> list[Graph]:
    """The graphs of a network, in the order in which they are called."""
    return [_prepare(model), _encode(model), *_propagate(model), _decode(model), _compose(model)]


def feature_graphs(model: CPFP) -> list[str]:
    """Names of those that hold the network's weights; the others work on full-size planes."""
    return ["encode", *(f"propagate_{j}" for j in range(len(model.passes))), "decode"]


def _grid(model: CPFP) -> tuple[str, str]:
    return f"H/{model.cell}", f"W/{model.cell}"


def _propagated(model: CPFP, name: str, meaning: str) -> Port:
    return Port(name, (1, model.fuse.out_channels, *_grid(model)), meaning)


def _frame() -> Port:
    return Port("frame", (1, 3, "H", "W"), "blurred frame, R'G'B' as coded, in [0, 1]")


def _priors() -> list[Port]:
    return [
        Port("motion", (1, 2, "H/8", "W/8"), "(dx, dy) in frame pixels: content at p was at p + V in the frame before"),
        Port("motion_back", (1, 2, "H/8", "W/8"), "the same to the frame after"),
        Port("reset", (1,), "true where no frame before belongs to the shot", torch.bool),
        Port("reset_back", (1,), "true where no frame after does", torch.bool),
    ]


def _images(model: CPFP) -> int:
    return 1 + (len(INPUT_TAPS) if model.prior_inputs else 0) + _deconvolutions(model)


def _deconvolutions(model: CPFP) -> int:
    return len(model.deconvolve) + len(model.coarse_deconvolve)


def _prepare(model: CPFP) -> Graph:
    def run(given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        raw = PriorTensors(
            given["motion"][:, None],
            given["motion_back"][:, None],
            given["residual"][:, None],
            given["reset"][:, None],
            given["reset_back"][:, None],
            given["duty"][:, None],
        )
        frame = given["frame"]
        size = frame.shape[-2] // model.cell, frame.shape[-1] // model.cell
        grid = model._to_feature_grid(raw, size)
        blur = model._blur(grid, 0)
        full = AnyDevice(model, frame[:, None], grid, [blur], 1, None, 1)
        full.points, full.coarse_points = given.get("points"), given.get("coarse_points")
        made = {
            "cells": full.cells(0).flatten(3),
            "motion": grid.motion[:, 0],
            "motion_back": grid.motion_back[:, 0],
            "residual": grid.residual[:, 0],
            "blur": blur,
        }
        fields = model._fields(grid, 0)
        made["fields"] = torch.cat(fields, 1) if fields else frame
        made["differences"] = torch.cat(full.deconvolved[0], 1) if full.deconvolved[0] else frame
        made["look"] = full.looks[0] if model.neighbours else frame  # type: ignore[assignment]
        return tuple(made[_plain(port.name)] for port in outputs)

    inputs = [_frame(), *_priors()]
    inputs += [
        Port("residual", (1, 1, "H/4", "W/4"), "coding residual R in [0, 1]"),
        Port("duty", (1,), "exposure as a share of the frame step in [0, 1]; negative where unknown"),
    ]
    if model.deconvolve:
        inputs.append(Port("points", ("S",), "positions on the motion line, see below"))
    if model.coarse_deconvolve:
        inputs.append(Port("coarse_points", ("s",), "positions on the motion line at half the size, see below"))
    outputs = [
        Port("cells", (1, "H/4", "W/4", _images(model) * GRID * GRID * 4), _CELLS),
        Port("motion_grid", (1, 2, *_grid(model)), "motion on the grid of the features, frame pixels"),
        Port("motion_back_grid", (1, 2, *_grid(model)), "the same, back"),
        Port("residual_grid", (1, 1, *_grid(model)), "residual on that grid"),
        Port("blur", (1, 2, *_grid(model)), "line of the exposure, (dx, dy) in frame pixels"),
    ]
    if model.prior_inputs:
        outputs.append(Port("fields", (1, 7, *_grid(model)), "priors as inputs of the encoder"))
    if _deconvolutions(model):
        shape = (1, 3 * _deconvolutions(model), "H", "W")
        outputs.append(Port("differences", shape, "deconvolved minus blurred frame", torch.half))
    if model.neighbours:
        outputs.append(Port("look", (1, 6, "H", "W"), "frame, and deconvolved frame", torch.half))
    return Graph("prepare", run, inputs, outputs)


def _plain(name: str) -> str:
    return name.removesuffix("_grid")


def _encode(model: CPFP) -> Graph:
    first = model.encoder[0]
    assert isinstance(first, nn.Conv2d)
    weights = packed_weights(first, _deconvolutions(model))

    def run(given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        fields = [given["fields"]] if model.prior_inputs else []
        x = convolved(given["cells"][..., None, :], weights, first, [] if model.deep else fields)
        features, coarse = model._encode_rest(x, fields)
        return (coarse, features) if model.deep else (coarse,)

    prepared = {port.name: port for port in _prepare(model).outputs}
    inputs = [prepared[name] for name in ("cells", "fields") if name in prepared]
    outputs = [_propagated(model, "encoded", "features to be propagated")]
    if model.deep:
        outputs.append(Port("fine", (1, model.channels, "H/4", "W/4"), "features for the decoder"))
    return Graph("encode", run, inputs, outputs)


def _propagate(model: CPFP) -> Iterator[Graph]:
    for j, direction in enumerate(model.passes):
        names = ["encoded", *(f"features_{k}" for k in range(j))]

        def run(given: dict[str, Tensor], j: int = j, names: list[str] = names) -> tuple[Tensor, ...]:
            motions = [given[name] for name in ("motion_grid", "next_motion_grid")[: model.order]]
            recent = list(given["recent"].unbind(0))
            inputs = [given[name] for name in names]
            return (model._step(j, inputs, recent, motions, given["residual_grid"], given["open"]),)

        back = "" if direction == "forward" else "_back"
        side = "before" if direction == "forward" else "after"
        inputs = [
            _propagated(model, name, f"of this frame, of {'encode' if k == 0 else f'pass {k - 1}'}")
            for k, name in enumerate(names)
        ]
        inputs += [
            Port(
                "recent",
                (model.order, *_propagated(model, "", "").shape),
                f"features_{j} of the {'frame' if model.order == 1 else 'two frames'} {side}, nearest first; "
                "zeros where there is none or a cut lies between",
            ),
            Port("motion_grid", (1, 2, *_grid(model)), f"motion{back}_grid of this frame, frame pixels"),
        ]
        if model.order == 2:
            meaning = f"motion{back}_grid of the frame {side}, of this one where there is none"
            inputs.append(Port("next_motion_grid", (1, 2, *_grid(model)), meaning))
        inputs += [
            Port("residual_grid", (1, 1, *_grid(model)), "of this frame"),
            Port("open", (1, 1, 1, 1), f"0 where reset{back} is true, else 1"),
        ]
        outputs = [_propagated(model, f"features_{j}", f"of this frame, pass {j}, {direction}")]
        yield Graph(f"propagate_{j}", run, inputs, outputs)


def _decode(model: CPFP) -> Graph:
    names = ["encoded", *(f"features_{k}" for k in range(len(model.passes)))]

    def run(given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        inputs = [given[name] for name in names]
        fine = given.get("fine", given["encoded"])
        blur, known = given.get("blur", fine), given.get("known", fine)  # where they are no inputs, nothing reads them
        heads = model._heads(fine, inputs, blur, known)
        return tuple(x for x in heads if x is not None)

    inputs = [_propagated(model, name, "of this frame") for name in names]
    inputs.append(Port("blur", (1, 2, *_grid(model)), "of this frame, of prepare"))
    inputs.append(Port("known", (1,), "whether the exposure of the frame is known: duty >= 0", torch.bool))
    if model.deep:
        inputs.append(Port("fine", (1, model.channels, "H/4", "W/4"), "of this frame, of encode"))
    if model.line is None and not len(model.along_line):
        inputs = [port for port in inputs if port.name != "blur"]
    if model.line is None:
        inputs = [port for port in inputs if port.name != "known"]
    return Graph("decode", run, inputs, _heads(model))


def _heads(model: CPFP) -> list[Port]:
    cells = ("H/4", "W/4")
    heads = [Port("pixels", (1, 48, *cells), "correction of 4x4 pixels of three channels a cell")]
    if _deconvolutions(model):
        heads.append(Port("gates", (1, 16 * _deconvolutions(model), *cells), "weights of the deconvolved frames"))
    if model.neighbours:
        heads.append(Port("neighbours", (1, 32, *cells), "weights of the neighbours"))
    if model.line is not None:
        heads.append(Port("filters", (1, len(model.line.positions), *cells), "filters along the motion line"))
    return heads


def _compose(model: CPFP) -> Graph:
    def run(given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        frame = given["frame"]
        one = PriorTensors(
            given["motion"],
            given["motion_back"],
            given["motion"],
            given["reset"],
            given["reset_back"],
            given["motion"],
        )
        clip = PriorTensors(*(field[:, None].expand(-1, 2, *field.shape[1:]) for field in one))  # frames 0 and 1
        size = frame.shape[-2] // model.cell, frame.shape[-1] // model.cell
        motion, back = (
            nn.functional.interpolate(x, size, mode="bilinear", align_corners=False) * model.use_motion
            for x in (one.motion, one.motion_back)
        )
        grid = clip._replace(
            motion=motion[:, None].expand(-1, 2, -1, -1, -1), motion_back=back[:, None].expand(-1, 2, -1, -1, -1)
        )
        blur = given.get("blur", motion)
        full = AnyDevice(model, frame[:, None].expand(-1, 2, -1, -1, -1), grid, [blur, blur], 1, None, 0)
        if _deconvolutions(model):
            full.deconvolved[1] = list(given["differences"].split(3, 1))
        if model.neighbours:
            full.looks = {0: given["look_before"], 1: given["look"], 2: given["look_after"]}
        heads = Heads(*(given.get(name) for name in Heads._fields))  # type: ignore[arg-type]
        corrected = full.corrected(1, heads)
        gate = model.motion_gate(clip, 1, (frame.shape[-2], frame.shape[-1]))
        return (pinned(frame, corrected, gate),)

    inputs = [_frame(), *_priors(), *_heads(model)]
    if model.line is not None:
        inputs.append(Port("blur", (1, 2, *_grid(model)), "of this frame, of prepare"))
    if _deconvolutions(model):
        shape = (1, 3 * _deconvolutions(model), "H", "W")
        inputs.append(Port("differences", shape, "of this frame, of prepare", torch.half))
    if model.neighbours:
        look = (1, 6, "H", "W")
        inputs += [
            Port("look_before", look, "look of the frame before; of this one where reset is true", torch.half),
            Port("look", look, "of this frame, of prepare", torch.half),
            Port("look_after", look, "look of the frame after; of this one where reset_back is true", torch.half),
        ]
    return Graph(
        "compose", run, inputs, [Port("restored", (1, 3, "H", "W"), "restored frame, near [0, 1], not clipped")]
    )


class _Module(nn.Module):
    """What ``torch.onnx.export`` traces; the network is a part of it, so that weights become initialisers."""

    def __init__(self, model: CPFP, graph: Graph):
        super().__init__()
        self.model, self.graph = model, graph

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return self.graph.run(given)


def example(ports: list[Port], height: int, width: int, samples: int = 3) -> dict[str, Tensor]:
    """Inputs of these shapes for a frame of this size."""
    generator = torch.Generator().manual_seed(0)
    sides = {"H": height, "W": width}
    out = {}
    for port in ports:
        if port.name.endswith("points"):
            out[port.name] = line_points(samples if port.name == "points" else coarse_samples(samples))
            continue
        shape = [n if isinstance(n, int) else sides[n[0]] // int(n[2:] or 1) for n in port.shape]
        values = torch.rand(shape, generator=generator)
        out[port.name] = values > 0.5 if port.dtype == torch.bool else values.to(port.dtype)
    return out


def write_graphs(model: CPFP, folder: Path) -> None:
    """Write every graph of a network (float32, on the CPU) to ``folder`` as ``NAME.onnx``.

    Raises:
        UsageError: the packages that export are not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError(NEEDS_EXTRA) from None
    model = model.float().eval().requires_grad_(False)
    rows, columns = torch.export.Dim("rows", min=2), torch.export.Dim("columns", min=2)  # of macroblocks
    points = {"S": torch.export.Dim("S", min=3), "s": torch.export.Dim("s", min=3)}

    def dimension(text: str) -> Any:
        if text in points:
            return points[text]
        return (rows if text[0] == "H" else columns) * (FRAME_MULTIPLE // int(text[2:] or 1))

    for graph in graphs_of(model):
        given = example(graph.inputs, 48, 80, 5)
        shapes = {
            port.name: {axis: dimension(n) for axis, n in enumerate(port.shape) if isinstance(n, str)}
            for port in graph.inputs
        }
        with _quiet(), torch.enable_grad():
            program = torch.onnx.export(
                _Module(model, graph),
                kwargs={"given": given},
                dynamo=True,
                opset_version=OPSET,
                input_names=[port.name for port in graph.inputs],
                output_names=[port.name for port in graph.outputs],
                dynamic_shapes={"given": {name: shapes[name] for name in given}},
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
        for node in proto.graph.node:
            del node.metadata_props[:]  # lines of our source, as long as the graph itself
        for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
            del value.metadata_props[:]
        onnx.save(proto, folder / f"{graph.name}.onnx")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
