"""Training on published layouts: which clips are trained and validated on, what needs priors, what is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from support import tiny_vdm
from support.clips import make_clip, moving_frames
from support.command import unsmear
from unsmear.datasets.augment import augment
from unsmear.datasets.pairs import PairSet
from unsmear.errors import DataLayoutError, UsageError
from unsmear.models.zoo import ModelEntry, write_index
from unsmear.training.batches import open_batches
from unsmear.training.config import from_mapping
from unsmear.training.cpfp import CPFPRecipe, CPFPTraining, start_model
from unsmear.training.sequences import DataConfig, open_sources
from unsmear.training.vdm import prepare
from unsmear.video import write_png

SETS = {
    "GoPro": [
        f"{s}/{n}/{k}" for s, n in (("train", "GOPR1"), ("test", "GOPR2")) for k in ("blur", "blur_gamma", "sharp")
    ],
    "DVD": [f"quantitative_datasets/{n}/{k}" for n in ("IMG_0001", "IMG_0030") for k in ("input", "GT")],
    "BSD": [f"BSD/{s}/{s}1/{k}/RGB" for s in ("train", "valid", "test") for k in ("Blur", "Sharp")],
    "degraded": [f"{n}/{k}" for n in ("one", "two") for k in ("blur", "sharp")],
}
HELD_OUT = {
    "GoPro": ["test/GOPR2/blur", "test/GOPR2/blur_gamma"],
    "DVD": ["quantitative_datasets/IMG_0030/input"],
    "BSD": ["BSD/valid/valid1/Blur/RGB"],
    "degraded": ["one/blur", "two/blur"],
}
TRAINED = {"GoPro": ["train/GOPR1/blur", "train/GOPR1/blur_gamma"], "DVD": ["quantitative_datasets/IMG_0001/input"],
           "BSD": ["BSD/train/train1/Blur/RGB"]}  # fmt: skip
TINY = {"channels": 8, "encoder_depth": 1, "body_depth": 1, "decoder_depth": 1, "offset_groups": 2, "line_taps": 5,
        "line_blocks": 1}  # fmt: skip
LOOP = {"steps": 2, "batch": 1, "checkpoint_every": 1, "validate_every": 1, "log_every": 1, "seed": 0}


def make(top: Path, layout: str) -> Path:
    """A tiny set: every clip another texture, the blurred frames of 3 levels less."""
    for folder in SETS[layout]:
        sharp = folder.split("/")[-1] in ("sharp", "GT") or "/Sharp/" in folder
        clip = sum(map(ord, folder.replace("Sharp", "Blur").replace("sharp", "blur").replace("GT", "input")))
        (top / folder).mkdir(parents=True)
        for i, frame in enumerate(moving_frames((80, 64), 5, seed=clip)):
            name = f"{i:05d}.jpg" if layout == "DVD" else f"{i:06d}.png"
            picture = frame if sharp else frame - np.uint8(3)
            if name.endswith(".jpg"):
                cv2.imwrite(str(top / folder / name), picture[..., ::-1])
            else:
                write_png(top / folder / name, picture)
    return top


def names(clips: list) -> list[str]:
    return [clip.name for clip in clips]


@pytest.mark.parametrize("layout", SETS)
def test_clips_held_out_are_not_those_of_training(tmp_path, layout):
    top = make(tmp_path / "set", layout)
    assert names(PairSet.of(str(top)).held_out()) == HELD_OUT[layout]
    everything = names(PairSet(str(top), "all").held_out())
    assert set(everything) >= {*HELD_OUT[layout], *TRAINED.get(layout, ())}
    if layout in TRAINED:
        assert names(PairSet.of(str(top)).clips("train")) == TRAINED[layout]
        assert names(PairSet(str(top), "train").held_out()) == TRAINED[layout], "what is asked for is taken"
    else:
        with pytest.raises(DataLayoutError, match="its folders name no split"):
            PairSet.of(str(top)).clips("train")
        assert names(PairSet(str(top), "all").clips("train")) == HELD_OUT[layout]


def test_parts_of_a_set_are_chosen_for_each(tmp_path):
    gopro, hq = make(tmp_path / "GoPro", "GoPro"), make(tmp_path / "hq", "degraded")
    for place in (gopro, hq):
        augment(place)
    (tmp_path / "two.txt").write_text("two 5\n")
    mixed = {"pairs": [str(gopro), {"dataset": str(hq), "split": "all", "clip_list": str(tmp_path / "two.txt")}]}
    sources = open_sources(from_mapping(DataConfig, mixed | {"role": "blur"}, "c"))
    assert [names(source.clips) for source in sources] == [["train/GOPR1/blur"], ["two/blur"]]
    own = {"pairs": [{"dataset": str(gopro), "split": "test", "role": "blur_gamma"}], "role": "blur"}
    [source] = open_sources(from_mapping(DataConfig, own, "c"))
    assert names(source.clips) == ["test/GOPR2/blur_gamma"]
    with pytest.raises(DataLayoutError, match="its folders name no split"):
        open_sources(DataConfig(pairs=[str(gopro), str(hq)]))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"pairs": "x"}, "c: data.pairs x: expected a list of texts or a mapping of keys and values"),
        ({"pairs": ["a", 3]}, "c: data.pairs.1 3: expected text or a mapping of keys and values"),
        ({"pairs": [{"dataset": "a", "rolle": "b"}]},
         "c: unknown key 'data.pairs.0.rolle'; known are clip_list, dataset, role, split"),
        ({"pairs": [{"split": "all"}]}, "c: data.pairs.0.dataset is missing: expected text"),
        ({"validation": {"dataset": "a", "split": "half"}},
         "c: data.validation.split half: expected train, valid, test or all or null"),
        ({"validation": 3}, "c: data.validation 3: expected text or a mapping of keys and values or null"),
        ({"pairs": [{"dataset": 3}], "crop_px": "wide"}, "c: data.pairs.0.dataset 3: expected text (and 1 more)"),
    ],
)  # fmt: skip
def test_wrong_sets_are_one_line(data, line):
    with pytest.raises(UsageError) as raised:
        from_mapping(CPFPTraining, {"data": data}, "c")
    assert str(raised.value) == line


def written(folder: Path, values: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "c.yaml").write_text(yaml.safe_dump(values))
    return folder / "c.yaml"


@pytest.mark.parametrize("layout", ["DVD", "BSD"])
def test_a_set_is_trained_and_validated_on_by_itself(tmp_path, layout):
    top = make(tmp_path / layout, layout)
    augment(top)
    data = {"pairs": [str(top)], "validation": str(top), "crop_px": 32, "frames": 3}
    config = written(tmp_path, {"model": TINY, "data": data, "loop": LOOP, "loss": {"name": "psnr"}})
    done = unsmear("train", "cpfp", config, "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    validated = [row["validation"] for row in rows if "validation" in row]
    sequence = {"DVD": "IMG_0030", "BSD": "valid1"}[layout]
    assert len(validated) == 2 and set(validated[0]) == {sequence, "score", "sharp_mean", "sharp_least"}


def test_sets_of_one_folder_are_told_apart(tmp_path):
    top = make(tmp_path / "GoPro", "GoPro")
    augment(top)
    values = {
        "model": TINY,
        "data": {"pairs": [str(top)], "validation": {"dataset": str(top), "role": "blur"}, "crop_px": 32, "frames": 3},
        "more_validation": [{"dataset": str(top), "split": "train", "role": "blur"}],
    }
    config = from_mapping(CPFPTraining, values, "c")
    recipe = CPFPRecipe(start_model(config, fit_line=False), config)
    assert {name: {clip.name for clip in clips} for name, clips in recipe.clips.items()} == {
        "GoPro-blur": {"GOPR2"},
        "GoPro-train-blur": {"GOPR1"},
    }


def test_without_validation_the_last_average_is_left(tmp_path):
    top = make(tmp_path / "DVD", "DVD")
    augment(top)
    data = {"pairs": [str(top)], "crop_px": 32, "frames": 3}
    loop = {**LOOP, "steps": 3, "validate_every": 2, "optimiser": {"lr": 0.01}}
    values = {"model": TINY, "data": data, "loop": loop, "loss": {"name": "psnr"}}
    done = unsmear("train", "cpfp", written(tmp_path, values), "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    best = load_file(tmp_path / "run" / "best" / "diffusion_pytorch_model.safetensors")
    last = load_file(tmp_path / "run" / "last" / "ema.safetensors")
    assert best.keys() == last.keys() and all(torch.equal(best[k], last[k]) for k in last)
    source = make_clip(tmp_path / "a.mp4", frames=9)
    given = unsmear("deblur", source, "-o", tmp_path / "o.mp4", "--model", tmp_path / "run" / "best", "--device", "cpu")
    assert given.exit_code == 0 and (tmp_path / "o.mp4").exists(), given.output


def test_the_video_model_needs_no_priors(tmp_path):
    top = make(tmp_path / "GoPro", "GoPro")
    start = tiny_vdm.folder(tmp_path / "start")
    data = {"pairs": [str(top)], "role": "blur", "validation": str(top), "crop_px": 64, "frames": 3}
    job = prepare(written(tmp_path, {"init": str(start), "data": data, "loop": LOOP}), False)
    batch = next(job.recipe.batches(range(1)))
    assert batch.sharp.shape == batch.blurred.shape == (1, 3, 3, 64, 64)
    assert torch.equal(batch.sharp.int() - batch.blurred.int(), torch.full_like(batch.sharp, 3, dtype=torch.int32))
    assert len(job.recipe.validation) == 2
    with pytest.raises(DataLayoutError, match="has no priors beside it; run `unsmear data augment` first"):
        open_batches(DataConfig(pairs=[str(top)], role="blur"), 0, 1)
    augment(top)
    with_priors = next(prepare(written(tmp_path, {"init": str(start), "data": data, "loop": LOOP}), False)
                       .recipe.batches(range(1)))  # fmt: skip
    assert torch.equal(with_priors.sharp, batch.sharp), "priors change nothing of what is drawn"


def test_a_trained_video_model_samples_as_the_one_that_it_began_from(tmp_path):
    top, start = make(tmp_path / "GoPro", "GoPro"), tiny_vdm.folder(tmp_path / "start")
    write_index(start, {"guidance": 9.0, "cancel_autoencoder": False})
    schedule = start / "scheduler" / "scheduler_config.json"
    stated = json.loads(schedule.read_text()) | {"timestep_spacing": "linspace", "rescale_betas_zero_snr": True}
    schedule.write_text(json.dumps(stated))
    data = {"pairs": [str(top)], "role": "blur", "crop_px": 64, "frames": 3}
    loop = {**LOOP, "steps": 1}
    done = unsmear(
        "train", "vdm", written(tmp_path, {"init": str(start), "data": data, "loop": loop}), "-o", tmp_path / "run"
    )
    assert done.exit_code == 0, done.output
    left = ModelEntry("best", tmp_path / "run" / "best")
    assert left.kind == "VDMPipeline" and left.index["sampling"] == {"guidance": 9.0, "cancel_autoencoder": False}
    kept = json.loads((left.folder / "scheduler" / "scheduler_config.json").read_text())
    assert (kept["timestep_spacing"], kept["prediction_type"]) == ("linspace", "v_prediction")
