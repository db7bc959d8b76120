"""The video diffusion model measured as a user measures it: tables, error maps, and the paper's tables beside ours."""

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from support.clips import moving_frames
from support.tiny_vdm import folder
from unsmear.cli.main import run
from unsmear.evaluation.pictures import error_map
from unsmear.evaluation.results import read_results
from unsmear.metrics import psnr
from unsmear.video import read_image, write_png

SIZE, FRAMES = (58, 42), 12

TABLES = {
    ("GoPro", "1"): {
        "STFAN": ("28.59", "0.86", "0.20"),
        "SRN": ("30.61", "0.90", "0.16"),
        "EDVR": ("31.54", "0.93", "0.10"),
        "PVDNet": ("31.52", "0.92", "0.12"),
        "Deblur-NeRF": ("31.89", "0.93", "0.10"),
        "VDM": ("32.22", "0.95", "0.07"),
    },
    ("DVD", "2"): {
        "STFAN": ("31.24", "0.92", "0.11"),
        "SRN": ("30.53", "0.89", "0.14"),
        "EDVR": ("31.82", "0.92", "0.9"),
        "PVDNet": ("32.31", "0.93", "0.9"),
        "Deblur-NeRF": ("32.29", "0.92", "0.8"),
        "VDM": ("32.59", "0.93", "0.06"),
    },
}
"""PSNR, SSIM and LPIPS of the paper's Tables 1 and 2, read off it by eye."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    made = folder(tmp_path_factory.mktemp("weights") / "vdm")
    (made / "sampling.json").write_text(json.dumps({"steps": 2, "window": 8, "overlap": 2}))
    return made


def pairs(place: Path) -> Path:
    sharp = moving_frames(SIZE, FRAMES + 1, step_px=(2, 0))
    for kind in ("blur", "sharp"):
        (place / "one" / kind).mkdir(parents=True)
    for i in range(FRAMES):
        mean = (sharp[i].astype(int) + sharp[i + 1]) // 2
        write_png(place / "one" / "sharp" / f"{i:06d}.png", sharp[i])
        write_png(place / "one" / "blur" / f"{i:06d}.png", mean.astype(np.uint8))
    return place


def evaluated(data: Path, weights: Path, out: Path) -> list[str]:
    given = ["evaluate", "--data", str(data), "--model", str(weights), "--device", "cpu", "--dtype", "fp32"]
    assert run([*given, "--metrics", "psnr,ssim", "--pictures", "1", "--keep-frames", "-o", str(out)]) == 0
    return (out / "results.md").read_text().split("### ")[1:]


def test_metrics_and_error_maps_are_those_of_the_restored_frames(weights, tmp_path):
    data, out = pairs(tmp_path / "set"), tmp_path / "out"
    evaluated(data, weights, out)
    [result] = read_results(out / "results.json")
    made = sorted((out / "frames" / "basicsr" / "vdm").rglob("*.png"))
    sharp = sorted((data / "one" / "sharp").iterdir())
    scores = [psnr(read_image(a), read_image(b)) for a, b in zip(made, sharp, strict=True)]
    assert (result.method, result.protocol, len(scores)) == ("vdm", "basicsr", FRAMES)
    assert result.mean("psnr") == pytest.approx(np.mean(scores), abs=1e-6) != result.mean("psnr", before=True)

    text = (out / "index.html").read_text()
    shown = json.JSONDecoder().raw_decode(text, text.index('{"images":'))[0]
    [picture] = shown["pictures"]
    [method] = picture["methods"]
    stored = shown["images"][method["error"]["crop"]].partition(",")[2]
    found = cv2.imdecode(np.frombuffer(base64.b64decode(stored), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    wanted = error_map(read_image(made[picture["frame"]]), read_image(sharp[picture["frame"]]))
    assert found.shape == (SIZE[1], SIZE[0], 3) and np.array_equal(found, wanted) and wanted.any()

    before = made[0].read_bytes()
    settings = json.loads((weights / "sampling.json").read_text())
    try:
        (weights / "sampling.json").write_text(json.dumps(settings | {"seed": 1}))
        evaluated(data, weights, out)
    finally:
        (weights / "sampling.json").write_text(json.dumps(settings))
    assert made[0].read_bytes() != before, "the folder's sampling is heard, and what another made is not taken over"


@pytest.mark.parametrize(("dataset", "table"), TABLES)
def test_the_papers_table_is_printed_beside_ours(dataset, table, weights, tmp_path):
    ours, *rest = evaluated(pairs(tmp_path / dataset), weights, tmp_path / "out")
    assert ours.startswith(f"{dataset}, protocol basicsr") and "| vdm | 1 | 12 |" in ours
    found: dict[str, dict[str, str]] = {}
    protocols: dict[str, set[str]] = {}
    for block in rest:
        title, *lines = block.splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        for row in rows[2:]:
            if row[1] == f"VDM, Table {table}":
                found.setdefault(row[0], {}).update(
                    {k: v for k, v in zip(rows[0][2:], row[2:], strict=True) if v != "–"}
                )
                protocols.setdefault(row[0], set()).add(title.rpartition("protocol ")[2])
    heads = ("PSNR ↑ dB", "SSIM ↑", "LPIPS ↓")
    assert found == {name: dict(zip(heads, values, strict=True)) for name, values in TABLES[dataset, table].items()}
    unknown = f"unknown (VDM, Table {table})"
    by_name = {"STFAN": "koehler", "SRN": "koehler", "PVDNet": "koehler", "EDVR": "basicsr"}
    assert protocols == {name: {unknown, by_name.get(name, unknown)} for name in TABLES[dataset, table]}
