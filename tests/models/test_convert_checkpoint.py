"""Reading checkpoints of unknown origin: tensors alone, nothing run, one line for whatever else."""

import os
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unsmear.errors import WeightsError
from unsmear.models.convert.checkpoint import read_checkpoint

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


class Runs:
    """Makes a folder when it is unpickled by a reader that trusts it."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.trace,)


def same(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == WEIGHTS.keys() and all(
        state[k].dtype == v.dtype and torch.equal(state[k], v) for k, v in WEIGHTS.items()
    )


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "stored",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "step": 7, "global_step": 7, "hyper_parameters": {"lr": 1e-4}},
        {"params": WEIGHTS},
        {"state_dict": {"params": WEIGHTS}},
        WEIGHTS | {"epoch": 3},
    ],
    ids=["plain", "lightning", "params", "nested", "counter"],
)
def test_torch_files_are_unwrapped(tmp_path, stored, zipped):
    torch.save(stored, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(tmp_path / "x.ckpt"))


def test_formats_are_recognised_by_their_first_bytes(tmp_path):
    save_file(WEIGHTS, tmp_path / "x.ckpt")
    assert same(read_checkpoint(tmp_path / "x.ckpt"))


def test_lightning_objects_are_replaced_by_placeholders(tmp_path, monkeypatch):
    import numpy as np

    name = "pytorch_lightning.callbacks.model_checkpoint"
    kind = type("ModelCheckpoint", (), {"__module__": name})
    module = types.ModuleType(name)
    module.ModelCheckpoint = kind
    for parent in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, module)
    one = kind()
    one.best = 3
    torch.save({"state_dict": WEIGHTS, "callbacks": {kind: {"best": np.float64(0.5)}, "b": one}}, tmp_path / "x.ckpt")
    monkeypatch.undo()
    assert same(read_checkpoint(tmp_path / "x.ckpt"))


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_code_in_a_pickle_is_not_run(tmp_path, how):
    path, trace = tmp_path / "x.ckpt", tmp_path / "trace"
    stored = {"state_dict": WEIGHTS, "extra": Runs(trace)}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"extra": Runs(trace)}))
    else:
        torch.save(stored, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(WeightsError) as refused:
        read_checkpoint(path)
    assert not trace.exists()
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    if how != "pickle":
        assert "mkdir" in str(refused.value)
        assert "nothing was run" in str(refused.value)
        torch.load(path, weights_only=False)  # the trap is a real one
        assert trace.exists()


def test_damaged_files_give_a_one_line_error(tmp_path):
    save_file({"w": torch.zeros(1000)}, tmp_path / "good.safetensors")
    torch.save({"w": torch.zeros(1000)}, tmp_path / "good.pt")
    for kind in ("safetensors", "pt"):
        whole = (tmp_path / f"good.{kind}").read_bytes()
        for part in (whole[: len(whole) // 2], whole[:40], whole[:-1]):
            (tmp_path / "cut").write_bytes(part)
            with pytest.raises(WeightsError, match="cut is damaged or cut short") as refused:
                read_checkpoint(tmp_path / "cut")
            assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"just some text, and more of it", "begins like neither"),
        (pickle.dumps([1, 2]), "cut short|holds a list"),
    ],
)
def test_other_formats_give_a_one_line_error(tmp_path, content, words):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        read_checkpoint(tmp_path / "x")


def test_missing_files_and_files_without_tensors(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.ckpt cannot be read \(No such file"):
        read_checkpoint(tmp_path / "none.ckpt")
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_checkpoint(tmp_path / "x.pt")
    torch.save(torch.zeros(3), tmp_path / "y.pt")
    with pytest.raises(WeightsError, match="holds a Tensor"):
        read_checkpoint(tmp_path / "y.pt")
