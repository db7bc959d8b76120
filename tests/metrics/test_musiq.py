"""MUSIQ against the paper's network written down once more, plainly, on random weights; and files that are not its."""

from __future__ import annotations

import json
from math import ceil, erf
from pathlib import Path

import numpy as np
import pytest
import torch

from support.clips import moving_frames
from support.command import unsmear
from unsmear.errors import WeightsError
from unsmear.metrics.musiq import LONGER_SIDES, MUSIQ, load_musiq
from unsmear.video import write_png

Weights = dict[str, np.ndarray]
SMALL = {"width": 24, "layers": 2, "heads": 3, "hidden": 40}


def shaken(**sizes: int) -> MUSIQ:
    torch.manual_seed(0)
    model = MUSIQ(**sizes).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return model


# The network of Ke et al. (2021), section 3 and the authors' release, with loops and NumPy in double precision.


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """(H, W, C) with standardised kernels; TensorFlow's SAME."""
    kernel = kernel - kernel.mean((1, 2, 3), keepdims=True)
    kernel = kernel / (kernel.std((1, 2, 3), ddof=1, keepdims=True) + 1e-5)
    side = kernel.shape[-1]
    out = np.empty((ceil(x.shape[0] / stride), ceil(x.shape[1] / stride), len(kernel)))
    pads = [max((n - 1) * stride + side - size, 0) for n, size in zip(out.shape, x.shape, strict=False)][:2]
    x = np.pad(x, [(pads[0] // 2, pads[0] - pads[0] // 2), (pads[1] // 2, pads[1] - pads[1] // 2), (0, 0)])
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            seen = x[i * stride : i * stride + side, j * stride : j * stride + side]
            out[i, j] = np.einsum("yxc,ocyx->o", seen, kernel)
    return out


def group_normed(x: np.ndarray, w: Weights, name: str, eps: float) -> np.ndarray:
    groups = x.reshape(*x.shape[:2], 32, -1)
    groups = (groups - groups.mean((0, 1, 3), keepdims=True)) / np.sqrt(groups.var((0, 1, 3), keepdims=True) + eps)
    return groups.reshape(x.shape) * w[f"{name}.weight"] + w[f"{name}.bias"]


def dense(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_normed(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def stem(patch: np.ndarray, w: Weights) -> np.ndarray:
    x = np.maximum(group_normed(convolved(patch, w["conv_root.weight"], 2), w, "gn_root", 1e-6), 0)
    x = np.pad(x, [(0, 1), (0, 1), (0, 0)])
    x = np.stack([[x[i : i + 3, j : j + 3].max((0, 1)) for j in range(0, 16, 2)] for i in range(0, 16, 2)])
    y = x
    for n in (1, 2, 3):
        y = group_normed(convolved(y, w[f"block1.conv{n}.weight"], 1), w, f"block1.gn{n}", 1e-4)
        y = np.maximum(y, 0) if n < 3 else y
    shortcut = group_normed(convolved(x, w["block1.conv_proj.weight"], 1), w, "block1.gn_proj", 1e-4)
    return np.maximum(y + shortcut, 0).ravel()


def shrunk(image: np.ndarray, side: int | None) -> np.ndarray:
    if side is None:
        return image
    size = [round(length * side / max(image.shape[:2])) for length in image.shape[:2]]
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(tensor, size, mode="bicubic")[0].permute(1, 2, 0).numpy()


def written_down(image: np.ndarray, w: Weights, layers: int, heads: int, **_: int) -> float:
    """Score of (H, W, 3) in [0, 1]."""
    tokens = [w["transformer_encoder.cls"][0, 0]]
    for scale, side in enumerate((*LONGER_SIDES, None)):
        sized = shrunk(2 * image - 1, side)
        rows, columns = (ceil(length / 32) for length in sized.shape[:2])
        pads = [(32 * n - size) for n, size in zip((rows, columns), sized.shape, strict=False)]
        sized = np.pad(sized, [(p // 2, p - p // 2) for p in pads] + [(0, 0)])
        for i in range(rows):
            for j in range(columns):
                token = dense(stem(sized[32 * i : 32 * i + 32, 32 * j : 32 * j + 32], w), w, "embedding")
                place = 10 * int(10 * i / rows) + int(10 * j / columns)
                token = token + w["transformer_encoder.posembed_input.position_emb"][0, place]
                tokens.append(token + w["transformer_encoder.scaleembed_input.scale_emb"][scale])
    x = np.stack(tokens)
    for n in range(layers):
        block = f"transformer_encoder.transformer.encoderblock_{n}"
        normed = layer_normed(x, w, f"{block}.norm1")
        q, k, v = (dense(normed, w, f"{block}.attention.{name}") for name in ("query", "key", "value"))
        joined = []
        for head in np.split(np.arange(x.shape[1]), heads):
            scores = q[:, head] @ k[:, head].T / np.sqrt(len(head))
            scores = np.exp(scores - scores.max(1, keepdims=True))
            joined.append(scores / scores.sum(1, keepdims=True) @ v[:, head])
        x = x + dense(np.concatenate(joined, 1), w, f"{block}.attention.out")
        hidden = dense(layer_normed(x, w, f"{block}.norm2"), w, f"{block}.mlp.fc1")
        hidden = hidden * (1 + np.vectorize(erf)(hidden / np.sqrt(2))) / 2
        x = x + dense(hidden, w, f"{block}.mlp.fc2")
    return dense(layer_normed(x[0], w, "transformer_encoder.encoder_norm"), w, "head").item()


@pytest.mark.parametrize("size", [(40, 70), (65, 33)])
def test_it_is_the_published_network(size):
    model = shaken(**SMALL)
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    image = np.random.default_rng(0).random((*size, 3))
    found = model.double()(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert float(found) == pytest.approx(written_down(image, weights, **SMALL), abs=1e-6)


def test_the_full_network_has_the_published_size():
    assert sum(p.numel() for p in MUSIQ().parameters()) == 27_125_825


# Weights.


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """As IQA-PyTorch's files hold them."""
    path = tmp_path_factory.mktemp("musiq") / "musiq_koniq_ckpt-e95806b9.pth"
    torch.save({"params": shaken().state_dict()}, path)
    return path


def test_files_that_are_not_its_are_one_line(weights, tmp_path):
    state = torch.load(weights)["params"]
    del state["head.bias"]
    torch.save(state, tmp_path / "lacks.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    torch.save(MUSIQ(**SMALL), tmp_path / "pickle.pth")
    (tmp_path / "text.pth").write_text("weights")
    (tmp_path / "empty.pth").touch()
    for name in ("lacks", "tensor", "pickle", "text", "empty", "missing"):
        with pytest.raises(WeightsError, match=f"{name}.pth does not hold MUSIQ .*: give musiq_koniq") as raised:
            load_musiq(tmp_path / f"{name}.pth")
        assert "\n" not in str(raised.value)


def test_its_weights_add_a_column(weights, tmp_path):
    for kind, frames in (("blur", 0), ("sharp", 1)):
        (tmp_path / "set" / "one" / kind).mkdir(parents=True)
        for i, frame in enumerate(moving_frames((48, 40), 2, seed=frames)):
            write_png(tmp_path / "set" / "one" / kind / f"{i:06d}.png", frame)
    out = tmp_path / "out"
    command = ["evaluate", "--data", tmp_path / "set", "--model", "identity", "--pictures", 0, "-o", out]
    answer = unsmear(*command, "--musiq", weights)
    assert answer.exit_code == 0 and "MUSIQ ↑" in answer.stdout, answer.output
    [result] = json.loads((out / "results.json").read_text())
    frames = moving_frames((48, 40), 2, seed=0)
    model = load_musiq(weights)
    scores = [float(model(torch.from_numpy(f / np.float32(255)).permute(2, 0, 1)[None])) for f in frames]
    assert result["mean"]["musiq"] == pytest.approx(np.mean(scores), abs=1e-4)
    missing = unsmear(*command, "--metrics", "musiq")
    assert missing.exit_code == 2 and "give musiq_koniq_ckpt-e95806b9.pth as --musiq" in missing.complaint
