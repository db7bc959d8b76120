"""ONNX graphs of stage 1: equal to torch at any size, on their own and as an engine; int8; what is refused."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from support.clips import make_clip, moving_frames
from support.command import unsmear
from unsmear.models.cpfp.deconvolution import line_points
from unsmear.models.cpfp.full_size import unit
from unsmear.models.cpfp.network import CPFP, CPFPConfig, PriorTensors
from unsmear.models.loading import load_model
from unsmear.models.zoo import ModelEntry
from unsmear.restore.load import load_restorer
from unsmear.restore.quantise import quantise
from unsmear.restore.restorer import Clip
from unsmear.restore.tensors import prior_tensors

onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")

SMALL = {"encoder_depth": 1, "body_depth": 1, "decoder_depth": 1, "offset_groups": 2, "neighbours": True}


def saved(folder: Path, **sizes) -> Path:
    """A small network whose every part has an effect."""
    torch.manual_seed(3)
    model = CPFP.build(CPFPConfig(channels=8, **SMALL, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("export") / "tiny", line_taps=5, line_blocks=1, deconvolve=[2])


@pytest.fixture(scope="module")
def exported(weights) -> Path:
    folder = weights.parent / "onnx"
    assert unsmear("models", "export", weights, "-o", folder).exit_code == 0
    return folder


def clip(width: int, height: int, frames: int = 5, wanted: int = 3) -> Clip:
    return Clip.of(moving_frames((width, height), frames, step_px=(5, 2)), output_frames=wanted)


def close(made: np.ndarray, expected: np.ndarray) -> bool:
    return float((np.abs(made.astype(int) - expected) <= 1).mean()) >= 0.9999


def test_as_an_engine_at_two_sizes_and_from_chunk_to_chunk(weights, exported):
    torch_one = load_restorer(str(weights), device="cpu", dtype="fp32")
    onnx_one = load_restorer(str(exported), engine="onnx")
    assert (onnx_one.device, onnx_one.dtype) == ("onnx cpu", "float32") and onnx_one.fingerprint
    for width, height in ((96, 64), (136, 72)):
        given = clip(width, height)
        expected, state = torch_one.restore(given, None, None)
        made, handed_on = onnx_one.restore(given, None, None)
        assert close(made, expected) and not close(made, given.frames[:3])
        assert close(onnx_one.restore(given, handed_on, None)[0], torch_one.restore(given, state, None)[0])


def alone(folder: Path, frames: np.ndarray, p: PriorTensors, points: torch.Tensor) -> np.ndarray:
    """A chunk by the graphs alone, in the order that their card gives."""
    sessions = {file.stem: ort.InferenceSession(str(file)) for file in folder.glob("*.onnx")}

    def run(name: str, given: dict) -> dict:
        session = sessions[name]
        outputs = [port.name for port in session.get_outputs()]
        made = session.run(outputs, {port.name: given[port.name] for port in session.get_inputs()})
        return dict(zip(outputs, made, strict=True))

    count, known = len(frames), []
    for t in range(count):
        given = {"frame": frames[t : t + 1], "points": points.numpy(), "coarse_points": points.numpy()}
        given |= {name: getattr(p, name)[:, t].numpy() for name in PriorTensors._fields}
        given |= run("prepare", given)
        known.append(given | run("encode", given) | {"known": given["duty"] >= 0})
    for j, order in ((0, range(count)), (1, range(count - 1, -1, -1))):
        recent = np.zeros_like(known[0]["encoded"])[None]
        back = "_back" if j else ""
        for t in order:
            is_open = np.float32(not known[t]["reset" + back][0])
            step = {"recent": recent * is_open, "open": is_open.reshape(1, 1, 1, 1)}
            made = run(f"propagate_{j}", known[t] | step | {"motion_grid": known[t][f"motion{back}_grid"]})
            known[t] |= made
            recent = made[f"features_{j}"][None]
    restored = []
    for t in range(count):
        given = known[t] | run("decode", known[t])
        sides = {"look_before": known[max(t - 1, 0)]["look"], "look_after": known[min(t + 1, count - 1)]["look"]}
        restored.append(run("compose", given | sides)["restored"])
    return np.concatenate(restored)


@pytest.mark.parametrize("deep", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["flat", "deep"])
def test_the_graphs_alone_restore_a_chunk(deep, exported, weights, tmp_path):
    if deep:
        levels = {"deep_channels": [8, 12], "deep_depths": [1, 1], "coarse_deconvolve": [2], "deconvolve": []}
        weights = saved(tmp_path / "deep", line_taps=0, line_blocks=1, **levels)
        exported = tmp_path / "onnx"
        assert unsmear("models", "export", weights, "-o", exported).exit_code == 0
    given = clip(96, 64, frames=3)
    p = prior_tensors(given.priors, 0.6)
    frames = torch.from_numpy(given.frames.transpose(0, 3, 1, 2).copy())[None]
    model = load_model(ModelEntry("tiny", weights))
    samples = 3  # so many at half the size, too
    with torch.inference_mode():
        expected = model(frames, p, samples=samples).frames[0].numpy()
    made = alone(exported, unit(frames)[0].numpy(), p, line_points(samples))
    assert float((np.abs(made - expected) <= 1 / 255).mean()) >= 0.9999
    assert np.abs(made - unit(frames)[0].numpy()).max() > 0.05


def test_int8_is_close(exported, tmp_path):
    calibration = make_clip(tmp_path / "a.mp4", frames=6)
    folder = tmp_path / "int8"
    shutil.copytree(exported, folder)
    (folder / "card.json").write_text(json.dumps({"dtype": "int8"}))  # without the checksum of what was there
    quantise(ModelEntry("int8", folder), [calibration])
    for file in folder.glob("*.onnx"):
        graph = onnx.load(file)
        assert {node.domain for node in graph.graph.node} == {named.domain for named in graph.opset_import} == {""}
        quantised = any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
        assert quantised == (file.stem not in ("prepare", "compose"))
    int8, float32 = (load_restorer(str(path)) for path in (folder, exported))
    assert int8.dtype == "int8" and int8.fingerprint != float32.fingerprint
    given = clip(96, 64)
    apart = np.abs(int8(given).astype(int) - float32(given))
    assert 0 < apart.mean() < 0.5


@pytest.mark.slow
def test_int8_by_the_command_line(weights, tmp_path):
    calibration, folder = make_clip(tmp_path / "a.mp4", frames=6), tmp_path / "int8"
    assert unsmear("models", "export", weights, "-o", folder, "--int8", calibration).exit_code == 0
    shown = unsmear("models", folder)
    assert "(as its card says)" in shown.stdout and "compute in int8" in shown.stdout


def test_the_command_line_runs_them(exported, tmp_path):
    source = make_clip(tmp_path / "a.mp4", frames=9)
    report = tmp_path / "report.json"
    answer = unsmear("deblur", source, "-o", tmp_path / "b.mp4", "--model", exported, "--report", report)
    assert answer.exit_code == 0, answer.stderr
    assert json.loads(report.read_text())[0]["device"] == "onnx cpu"


def test_what_is_refused_in_one_line(weights, exported, tmp_path, monkeypatch):
    there = unsmear("models", "export", weights, "-o", exported)
    assert there.exit_code == 1 and "exists: give --overwrite or another folder" in there.complaint
    (tmp_path / "mine.txt").write_text("")
    foreign = unsmear("models", "export", weights, "-o", tmp_path, "--overwrite")
    assert foreign.exit_code == 1 and "is no folder of ONNX graphs" in foreign.complaint
    other = unsmear("models", "export", "cpgd", "-o", tmp_path / "x")
    assert other.exit_code == 2 and "expected stage 1" in other.complaint

    source = make_clip(tmp_path / "a.mp4", frames=2)

    def refused(*options: object) -> str:
        answer = unsmear("deblur", source, "-o", tmp_path / "b.mp4", *options)
        assert answer.exit_code in (1, 2) and not (tmp_path / "b.mp4").exists()
        return answer.complaint

    assert "`unsmear models export cpfp -o DIR`" in refused("--engine", "onnx")
    assert "holds ONNX graphs alone" in refused("--engine", "torch", "--model", exported)
    assert "expected auto, torch or onnx" in refused("--engine", "mlx")
    assert "--dtype bf16" in refused("--dtype", "bf16", "--model", exported)
    assert "--device coreml: this onnxruntime has" in refused("--device", "coreml", "--model", exported)

    damaged = tmp_path / "damaged"
    shutil.copytree(exported, damaged)
    (damaged / "encode.onnx").write_bytes(b"no graph")
    assert f"{damaged} is damaged" in refused("--model", damaged)
    (damaged / "card.json").unlink()
    assert "encode.onnx is missing or damaged" in refused("--model", damaged)

    for package in ("onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'unsmear[onnx]'" in refused("--model", exported)
    missing = unsmear("models", "export", weights, "-o", tmp_path / "x")
    assert missing.exit_code == 2 and "pip install 'unsmear[onnx]'" in missing.complaint
    assert not (tmp_path / "x").exists()
