"""``unsmear data restore``: stage 1 is run once over a pack, and phase II knows that it was."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_average import random

from support.clips import texture
from support.tiny_pipeline import folder
from unsmear.blur.camera import CameraRanges
from unsmear.blur.pack import PackConfig, Sources, build_pack, open_pack
from unsmear.blur.shards import ShardSettings, build_shards
from unsmear.cli.main import run
from unsmear.errors import UsageError
from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.loading import load_model
from unsmear.models.zoo import ModelEntry
from unsmear.training.config import LoopConfig
from unsmear.training.control import ControlRecipe
from unsmear.training.cpgd import CPGDTraining
from unsmear.training.images import ImageConfig
from unsmear.training.sequences import DataConfig
from unsmear.video import write_png


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("restored")
    config = PackConfig(sequences=3, camera=CameraRanges(size_px=64, frames=3), psnr_range=(5, 60))
    build_pack(Sources([texture((480, 480))], []), place / "pack", config, workers=1)
    random(0).save_pretrained(place / "first")
    folder(place / "parts")
    words = [str(place / "pack"), "-o", str(place / "made"), "--model", str(place / "first"), "--first", "2"]
    assert run(["data", "restore", *words]) == 0
    return place


def recipe(place: Path, *packs: str, first: str | None = "first", data=None, hybrid: float = 0.0) -> ControlRecipe:
    config = CPGDTraining(
        autoencoder=str(place / "parts" / "vae"),
        prior=str(place / "parts" / "unet"),
        first_stage=first and str(place / first),
        data=data or DataConfig([str(place / p) for p in packs], crop_px=64, frames=3),
        images=ImageConfig(photos=[str(place / "photos")], crop_px=64),
        hybrid=hybrid,
        loop=LoopConfig(batch=2),
    )
    unet = load_model(ModelEntry("unet", place / "parts" / "unet"))
    return ControlRecipe(CPControlNet.beside(unet), unet, config)


def test_the_pack_holds_restored_frames(place):
    given, made = open_pack(place / "pack"), open_pack(place / "made")
    assert len(made["duty"]) == 2
    assert all(np.array_equal(made[k], given[k][:2]) for k in given if k != "blurred")
    assert not np.array_equal(made["blurred"], given["blurred"][:2])


def test_stage_one_is_not_run_again(place):
    known = {open_pack(place / "made")["blurred"][i, t].tobytes() for i in range(2) for t in range(3)}
    chosen = recipe(place, "made")
    for batch in chosen.batches(range(4)):
        for hint in (chosen.hinted(batch).hint * 255).round().byte().permute(0, 2, 3, 1).numpy():
            turns = [np.ascontiguousarray(a) for t in (hint, hint.swapaxes(0, 1)) for a in flips(t)]
            assert any(turn.tobytes() in known for turn in turns)


def test_a_pack_is_not_replaced_without_overwrite(place, capsys):
    assert run(["data", "restore", str(place / "pack"), "-o", str(place / "made"), "--model", "cpfp"]) == 1
    assert "give --overwrite or another folder" in capsys.readouterr().err
    assert run(["data", "restore", str(place / "pack"), "-o", str(place / "pack"), "--overwrite"]) == 1
    assert len(open_pack(place / "pack")["duty"]) == 3


def test_only_a_restored_pack_is_replaced(place, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    words = ["data", "restore", str(place / "pack"), "--model", str(place / "first"), "--first", "1", "--overwrite"]
    assert run([*words, "-o", str(tmp_path)]) == 1
    assert "is no restored pack or data set, so it stays" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert run([*words, "-o", str(tmp_path / "made")]) == run([*words, "-o", str(tmp_path / "made")]) == 0
    assert len(open_pack(tmp_path / "made")["duty"]) == 1


def test_the_control_network_trains_from_shards(place):
    write_png(place / "photos.png", texture((320, 280)))
    (place / "photos").mkdir()
    (place / "photos.png").rename(place / "photos" / "a.png")
    build_shards(place / "shards", place / "photos", None, ShardSettings(photo_px=240))
    draw = PackConfig(camera=CameraRanges(speed_px=(3, 8)), psnr_range=(5, 60))
    data = DataConfig(shards=[str(place / "shards")], draw=draw, crop_px=64, frames=3, workers=1, ahead=1)
    taught = recipe(place, data=data, hybrid=0.5)
    kinds = [bool(taught.hinted(batch).priors.any()) for batch in taught.batches(range(6))]
    [again] = taught.batches(range(5, 6))
    assert set(kinds) == {True, False} and bool(taught.hinted(again).priors.any()) == kinds[-1]


def flips(image: np.ndarray) -> list[np.ndarray]:
    return [image, image[::-1], image[:, ::-1], image[::-1, ::-1]]


def test_packs_must_agree_with_the_first_stage(place):
    with pytest.raises(UsageError, match="by none"):
        recipe(place, "made", "pack")
    with pytest.raises(UsageError, match="expected none, that of first_stage"):
        recipe(place, "made", first=None)
    facts = json.loads((place / "made" / "pack.json").read_text())
    other = place / "other"
    other.mkdir()
    for file in (place / "made").glob("*.npy"):
        (other / file.name).symlink_to(file)
    (other / "pack.json").write_text(json.dumps(facts | {"restored_by": "0" * 64}))
    with pytest.raises(UsageError, match="restored by the model 000000000000"):
        recipe(place, "other")
