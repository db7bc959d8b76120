"""The card of exported graphs: every input and output, the order of calls, and what the graphs cannot do."""

import torch

from unsmear.models.cpfp.deconvolution import MOST_SAMPLES, SPACING_PX
from unsmear.models.cpfp.export import FRAME_MULTIPLE, OPSET, Graph, Port, feature_graphs, graphs_of
from unsmear.models.cpfp.network import CPFP, UNKNOWN_DUTY

_CHUNK = (
    "A chunk is N frames to restore and up to four more after them, as context. The priors of a frame (motion, "
    "residual, resets) are those that `unsmear priors` writes: from the file's own coding, or a re-encode.\n"
)

_TYPES = {torch.float32: "float32", torch.half: "float16", torch.bool: "bool"}


def card(model: CPFP, name: str, fingerprint: str, int8: bool) -> str:
    """Markdown for the ``README.md`` of an exported folder.

    Args:
        model: that was exported.
        name, fingerprint: of its folder, and the SHA-256 of its weights.
        int8: whether convolutions compute in int8.
    """
    numbers = (
        "Convolutions compute in int8 (weights a scale for each output channel, activations uint8), stored as "
        "QuantizeLinear and DequantizeLinear; everything else is float32."
        if int8
        else "Weights and arithmetic are float32."
    )
    run = ", ".join(f"`{graph}`" for graph in feature_graphs(model))
    about = f"""# {name}, exported

Stage 1 of unsmear as ONNX graphs of single steps: opset {OPSET}, standard operators alone. {numbers}
Weights of SHA-256 {fingerprint}.

    unsmear deblur IN.mp4 --engine onnx --model THIS_FOLDER

unsmear itself runs {run} and processes full-size planes with OpenCV; `prepare` and `compose` do that for
other programs.

Tensors are NCHW, `cells` alone NHWC, of one frame. H and W, the sides of the frame, are multiples of
{FRAME_MULTIPLE} and at least {2 * FRAME_MULTIPLE} (repeat the last row and column, and cut the result); they may
differ from call to call. Motion is (dx, dy) in pixels of the frame on every grid.
"""
    parts = [about, *(_graph(graph) for graph in graphs_of(model)), _order(model), _limits(model)]
    return "\n".join(parts)


def _graph(graph: Graph) -> str:
    return f"## {graph.name}.onnx\n\n{_table('input', graph.inputs)}\n{_table('output', graph.outputs)}"


def _table(head: str, ports: list[Port]) -> str:
    rows = [f"| `{p.name}` | {_TYPES[p.dtype]} | ({', '.join(map(str, p.shape))}) | {p.meaning} |" for p in ports]
    return "\n".join([f"| {head} | type | shape | meaning |", "|---|---|---|---|", *rows, ""])


def _order(model: CPFP) -> str:
    last = len(model.passes) - 1
    lines = [
        "## Order of calls\n",
        _CHUNK,
        "1. `prepare`, then `encode`, for every frame.",
    ]
    for j, direction in enumerate(model.passes):
        frames = "from the first frame to the last" if direction == "forward" else "from the last frame to the first"
        begin = (
            "`recent` begins as what the chunk before left after its N-th frame, or zeros"
            if j == 0
            else "`recent` begins as zeros"
        )
        lines.append(f"{j + 2}. `propagate_{j}`, {frames}; {begin}. Where `open` is 0, `recent` is zeros.")
    lines += [
        f"{last + 3}. `decode`, then `compose`, for each of the N frames.",
        f"{last + 4}. Clip `restored` to [0, 1]. Kept for the next chunk: `recent` of pass 0 after frame N"
        + (", and its `look`.\n" if model.neighbours else ".\n"),
    ]
    if model.deconvolve or model.coarse_deconvolve:
        lines.append(
            "The line of the exposure is (motion_back - motion) / 2 times the duty cycle, motion_back alone where "
            "reset is true, -motion alone where reset_back is; an unknown duty cycle counts as "
            f"{UNKNOWN_DUTY}. With L the 99th percentile of its length in pixels over all cells and frames of a chunk, "
            f"S = 2 max(1, ceil(L / {2 * SPACING_PX})) + 1, at most {MOST_SAMPLES}. `points` are S positions, evenly "
            "from -0.5 to 0.5.\n"
        )
    if model.coarse_deconvolve:
        lines.append(
            f"`coarse_points` are s positions, evenly from -0.5 to 0.5: s = max(3, 2 floor(S / 4) + 1), or "
            f"{MOST_SAMPLES} where S is.\n"
        )
    return "\n".join(lines)


def _limits(model: CPFP) -> str:
    neighbour = (
        "- Restore a frame before the next one is known: `compose` needs the `look` of both neighbours, except at a "
        "reset.\n"
        if model.neighbours
        else ""
    )
    return (
        "## What the graphs cannot do\n\n"
        "- Read video, or find motion, residual, cuts and the duty cycle: these are inputs.\n"
        "- Batches: one frame a call.\n"
        "- Tiles: `compose` keeps the light of wide areas and needs the whole frame. The other graphs may be run on "
        "overlapping tiles.\n"
        f"{neighbour}"
        "- Leave flat areas as they are by unsmear's last step, which follows on 8-bit levels.\n"
        "- Training.\n"
    )
