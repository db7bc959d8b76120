"""tools/restored_pack.py: stage 1 is run once over a pack, and phase II knows that it was."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clips import texture
from test_average import random
from tiny_pipeline import folder
from unsmear.data.camera import CameraRanges
from unsmear.data.pack import PackConfig, Sources, build_pack, open_pack
from unsmear.errors import UsageError
from unsmear.models.loading import load as load_model
from unsmear.models.zoo import ModelEntry
from unsmear.training.config import LoopConfig
from unsmear.training.control import ControlRecipe
from unsmear.training.cpgd import CPGDTraining
from unsmear.training.sequences import DataConfig

TOOL = Path(__file__).parents[1] / "tools" / "restored_pack.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("restored")
    config = PackConfig(sequences=3, camera=CameraRanges(size_px=64, frames=3), psnr_range=(5, 60))
    build_pack(Sources([texture((480, 480))], []), place / "pack", config, workers=1)
    random(0).save_pretrained(place / "first")
    folder(place / "parts")
    command = [str(place / "pack"), "-o", str(place / "made"), "--model", str(place / "first"), "--first", "2"]
    subprocess.run([sys.executable, str(TOOL), *command], check=True, capture_output=True, text=True)
    return place


def recipe(place: Path, *packs: str, first: str | None = "first") -> ControlRecipe:
    config = CPGDTraining(
        autoencoder=str(place / "parts" / "vae"),
        prior=str(place / "parts" / "unet"),
        first_stage=first and str(place / first),
        data=DataConfig([str(place / p) for p in packs], crop_px=64, frames=3),
        loop=LoopConfig(batch=2),
    )
    unet = load_model(ModelEntry("unet", place / "parts" / "unet"))
    return ControlRecipe(torch.nn.Identity(), unet, config)


def test_the_pack_holds_restored_frames(place):
    given, made = open_pack(place / "pack"), open_pack(place / "made")
    assert len(made["duty"]) == 2
    assert all(np.array_equal(made[k], given[k][:2]) for k in given if k != "blurred")
    assert not np.array_equal(made["blurred"], given["blurred"][:2])


def test_stage_one_is_not_run_again(place):
    known = {open_pack(place / "made")["blurred"][i, t].tobytes() for i in range(2) for t in range(3)}
    chosen = recipe(place, "made")
    for batch in chosen.batches(range(4)):
        for hint in (batch.hint * 255).round().byte().permute(0, 2, 3, 1).numpy():
            turns = [np.ascontiguousarray(a) for t in (hint, hint.swapaxes(0, 1)) for a in flips(t)]
            assert any(turn.tobytes() in known for turn in turns)


def flips(image: np.ndarray) -> list[np.ndarray]:
    return [image, image[::-1], image[:, ::-1], image[::-1, ::-1]]


def test_packs_must_agree_with_the_first_stage(place):
    with pytest.raises(UsageError, match="by none"):
        recipe(place, "made", "pack")
    with pytest.raises(UsageError, match="expected none as first_stage says"):
        recipe(place, "made", first=None)
    told = json.loads((place / "made" / "pack.json").read_text())
    other = place / "other"
    other.mkdir()
    for file in (place / "made").glob("*.npy"):
        (other / file.name).symlink_to(file)
    (other / "pack.json").write_text(json.dumps(told | {"restored_by": "0" * 64}))
    with pytest.raises(UsageError, match="restored by the model 000000000000"):
        recipe(place, "other")
