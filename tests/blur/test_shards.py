"""Shards: the same bytes each time, checked when opened; sequences drawn from them on a device while training."""

import csv
import hashlib
import json
import runpy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from support.clips import make_clip, moving_frames, texture
from unsmear.blur.camera import CameraRanges, Layer, Shot, render
from unsmear.blur.device_camera import DeviceCamera
from unsmear.blur.light import expose
from unsmear.blur.pack import PackConfig, Sources
from unsmear.blur.shards import ShardSettings, build_shards, open_shards
from unsmear.cli.main import run as command
from unsmear.errors import DataLayoutError, OutputError, UsageError
from unsmear.models.cpfp.network import CPFPConfig
from unsmear.training.config import LoopConfig
from unsmear.training.cpfp import CPFPRecipe, CPFPTraining, start_model
from unsmear.training.loop import train
from unsmear.training.online import OnlineSequences
from unsmear.training.sequences import DataConfig
from unsmear.video import write_png

SMALL = ShardSettings(photo_px=240, clip_px=128)


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """Two photographs, a clip, and what is known of them: one photograph is copyleft."""
    folder = tmp_path_factory.mktemp("material")
    for seed, name in enumerate(("free", "left")):
        (folder / "photos").mkdir(exist_ok=True)
        write_png(folder / "photos" / f"{name}.png", texture((320, 280), seed=seed))
    (folder / "clips").mkdir()
    make_clip(folder / "clips" / "clip.mkv", content=moving_frames((160, 128), 12, step_px=(3, 1)))
    licences = {"photos/free.png": "CC-BY-4.0", "photos/left.png": "CC-BY-SA-4.0", "clips/clip.mkv": "CC0-1.0"}
    with (folder / "listing.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["file", "author", "licence", "source", "sha256"])
        for path, licence in licences.items():
            digest = hashlib.sha256((folder / path).read_bytes()).hexdigest()
            out.writerow([Path(path).name, "somebody", licence, "a test", digest])
    return folder


@pytest.fixture(scope="module")
def shards(material) -> Path:
    build_shards(material / "shards", material / "photos", material / "clips", SMALL, listing=material / "listing.csv")
    return material / "shards"


def test_the_same_material_gives_the_same_bytes(material, shards, tmp_path):
    build_shards(tmp_path / "again", material / "photos", material / "clips", SMALL, listing=material / "listing.csv")
    names = sorted(p.name for p in shards.iterdir())
    assert names == ["clip000.mp4", "manifest.json", "photo000.jpg", "photo001.jpg"]
    assert all((shards / n).read_bytes() == (tmp_path / "again" / n).read_bytes() for n in names)


def test_shards_open_as_what_they_were_made_from(material, shards):
    opened = open_shards(shards)
    assert [max(photo.shape) for photo in opened.photos] == [240, 240]
    assert [(len(clip), clip[0].shape) for clip in opened.clips] == [(12, (102, 128, 3))]
    whole = cv2.cvtColor(cv2.imread(str(material / "photos/free.png")), cv2.COLOR_BGR2RGB)
    near = cv2.resize(whole, opened.photos[0].shape[1::-1], interpolation=cv2.INTER_AREA)
    assert cv2.PSNR(near, opened.photos[0]) > 30
    entry = json.loads((shards / "manifest.json").read_text())["shards"][0]
    assert (entry["source"], entry["author"], entry["licence"]) == ("free.png", "somebody", "CC-BY-4.0")


def test_a_changed_byte_is_named(shards, tmp_path):
    for file in shards.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    changed = bytearray((tmp_path / "clip000.mp4").read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "clip000.mp4").write_bytes(changed)
    with pytest.raises(DataLayoutError, match=r"clip000\.mp4 does not match manifest\.json"):
        open_shards(tmp_path)
    with pytest.raises(DataLayoutError, match="holds no shards"):
        open_shards(tmp_path / "nowhere")


def test_copyleft_can_be_left_out(material, tmp_path, monkeypatch):
    """Also of the pictures that lend dead leaves their colours."""
    lent = []
    monkeypatch.setattr("unsmear.blur.pack.dead_leaves", lambda *given: lent.append(len(given[2])) or given[2][0])
    strict = replace(SMALL, permissive_only=True, leaves=1)
    with pytest.raises(UsageError, match="`listing`"):
        build_shards(tmp_path / "a", material / "photos", None, strict)
    made = build_shards(tmp_path / "a", material / "photos", None, strict, listing=material / "listing.csv")
    assert [shard["source"] for shard in made["shards"]] == ["free.png", "dead leaves, seed 0"]
    assert lent == [1]


def test_a_folder_is_written_whole_or_not_at_all(material, shards, tmp_path):
    with pytest.raises(OutputError, match="more than `most_mb`"):
        build_shards(tmp_path / "big", material / "photos", None, replace(SMALL, most_mb=0.01))
    listing = tmp_path / "short.csv"
    listing.write_text("file,author,licence,sha256\nfree.png,somebody,CC0-1.0,00\n")
    with pytest.raises(DataLayoutError, match="not the file that"):
        build_shards(tmp_path / "big", material / "photos", None, SMALL, listing=listing)
    with pytest.raises(OutputError, match="`overwrite`"):
        build_shards(shards, material / "photos", None, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["short.csv"]


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CLEAN = CameraRanges(size_px=96, frames=3, noise_levels=(0, 0), speed_px=(4, 12))


@pytest.mark.parametrize("device", DEVICES)
def test_the_device_camera_equals_the_cpu_camera(device):
    """Same draws, same geometry, with foreground or without; OpenCV rounds positions to 1/32 pixel."""
    photos = [texture((400, 300), seed=1), texture((300, 500), seed=2)]
    camera = DeviceCamera(photos, device)
    for seed in range(6):
        a, b = render(photos, np.random.default_rng(seed), CLEAN), camera(np.random.default_rng(seed), CLEAN)
        assert (a.duty, a.sharp.shape) == (b.duty, b.sharp.shape)
        for kind in ("sharp", "blurred"):
            assert np.abs(getattr(a, kind).astype(float) - getattr(b, kind)).mean() < 2, f"seed {seed}: {kind}"


@pytest.mark.parametrize("device", DEVICES)
def test_no_exposure_is_sharp(device):
    camera = DeviceCamera([texture((400, 300))], device)
    shot = camera(np.random.default_rng(0), CLEAN, duty=0.0)
    assert np.array_equal(shot.blurred, shot.sharp)


def drawn(device: str, monkeypatch: pytest.MonkeyPatch, travel_px: float, subframes: int, side: int = 64):
    """One frame of a camera that moves ``travel_px`` to the right while it exposes, and the picture that it sees."""
    photo = texture((160, 160), seed=3)
    poses = np.stack([np.eye(3)] * subframes)
    poses[:, 0, 2], poses[:, 1, 2] = 48 + np.linspace(-travel_px / 2, travel_px / 2, subframes), 48
    shot = Shot(1.0, subframes, (Layer(0, 0, 0, 160, 160, poses),))
    monkeypatch.setattr("unsmear.blur.device_camera.draw_shot", lambda *_: shot)
    ranges = CameraRanges(size_px=side, frames=1, noise_levels=(0, 0))
    return DeviceCamera([photo], device)(np.random.default_rng(0), ranges), photo


@pytest.mark.parametrize("device", DEVICES)
def test_a_static_camera_adds_no_blur(device, monkeypatch):
    shot, photo = drawn(device, monkeypatch, travel_px=0, subframes=7)
    assert np.array_equal(shot.blurred, shot.sharp)
    assert np.array_equal(shot.sharp[0], photo[48:112, 48:112])


@pytest.mark.parametrize("device", DEVICES)
def test_a_straight_move_is_a_box_along_it(device, monkeypatch):
    """Whole pixels from sub-frame to sub-frame: the mean in linear light of shifted copies, exactly."""
    shot, photo = drawn(device, monkeypatch, travel_px=8, subframes=9)
    wanted = expose([photo[48:112, 48 + k : 112 + k] for k in range(-4, 5)])
    assert np.abs(shot.blurred[0] - wanted).max() < 0.51
    assert np.array_equal(shot.sharp[0], photo[48:112, 48:112])


@pytest.mark.parametrize("device", DEVICES)
def test_noise_is_as_strong_as_drawn(device):
    noisy = replace(CLEAN, noise_levels=(3, 3), frames=12)
    camera = DeviceCamera([np.full((300, 300, 3), 128, np.uint8)], device)
    spread = camera(np.random.default_rng(1), noisy).blurred.std((1, 2, 3))
    assert np.all((spread < 0.1) | (np.abs(spread - 3) < 0.15)) and 0 < (spread > 1).sum() < 12


DRAW = PackConfig(camera=CameraRanges(speed_px=(3, 8)), photo_share=0.5, interpolated_share=0.5, psnr_range=(5, 60))
TINY = {"channels": 8, "encoder_depth": 1, "body_depth": 1, "decoder_depth": 1, "offset_groups": 2, "line_taps": 0}
DATA = DataConfig(crop_px=64, frames=3, draw=DRAW, workers=1, ahead=1)


def test_a_batch_depends_on_seed_and_step_alone(shards):
    data = replace(DATA, shards=[str(shards)])
    online = OnlineSequences.open(data, seed=5, device="cpu")
    first, second = online.batches(range(2), 2)
    [again] = OnlineSequences.open(replace(data, workers=2, ahead=3), seed=5, device="cpu").batches(range(1, 2), 2)
    for one, other in zip(second, again, strict=True):
        assert {k: (v.shape, str(v.dtype)) for k, v in one.items()} == {
            "blurred": ((3, 64, 64, 3), "uint8"),
            "sharp": ((3, 64, 64, 3), "uint8"),
            "motion": ((3, 2, 8, 8), "float16"),
            "motion_back": ((3, 2, 8, 8), "float16"),
            "residual": ((3, 1, 16, 16), "float16"),
            "reset": ((3,), "bool"),
            "reset_back": ((3,), "bool"),
            "duty": ((1,), "float32"),
        }
        assert all(np.array_equal(one[k], other[k]) for k in one)
    assert not any(np.array_equal(a["sharp"], b["sharp"]) for a in first for b in second)


def test_invalid_settings_are_refused(shards):
    for wrong in ({"crop_px": 100}, {"crop_px": 48}, {"workers": 0}, {"ahead": 0}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))}`? {next(iter(wrong.values()))}: "):
            OnlineSequences(open_shards(shards), replace(DATA, **wrong), seed=0)


def test_errors_of_a_worker_are_raised(shards):
    data = replace(DATA, draw=replace(DRAW, crf=(-9, -9), uncompressed_share=0, photo_share=1))
    sources = Sources(open_shards(shards).photos, [])
    with pytest.raises(OverflowError, match="libx264"):  # it knows no such quality
        next(OnlineSequences(sources, data, seed=0, device="cpu").batches(range(1), 1))


def test_training_from_shards_on_a_cpu(shards, tmp_path):
    """The loop goes on from a checkpoint as if it had never stopped, and tells how long it waited for data."""
    loop = LoopConfig(steps=3, batch=1, checkpoint_every=2, validate_every=100, log_every=1)
    config = CPFPTraining(CPFPConfig(**TINY), replace(DATA, shards=[str(shards)]), loop)

    def run(folder: Path, steps: int, resume: bool = False) -> list[dict]:
        shorter = replace(config, loop=replace(loop, steps=steps))
        network = start_model(shorter)
        train(network, CPFPRecipe(network, shorter), shorter.loop, folder, resume=resume)
        return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines() if "loss" in line]

    whole = run(tmp_path / "whole", 3)
    run(tmp_path / "parts", 2)
    parts = run(tmp_path / "parts", 3, resume=True)
    assert [row["loss"] for row in parts] == pytest.approx([row["loss"] for row in whole], rel=1e-6)
    assert all(0 <= row["waited"] <= 1 for row in whole)
    with pytest.raises(UsageError, match=r"data\.shards stand alone"):
        replace(config.data, packs=["runs/pack"])


def test_the_command_builds_and_the_tool_measures(material, tmp_path, monkeypatch, capsys):
    places = ("--photos", material / "photos", "--clips", material / "clips", "--sources", material / "listing.csv")
    build = ["data", "shards", "-o", tmp_path / "shards", *places, "--photo-px", 240, "--clip-frames", 5]
    assert command([*map(str, build), "--permissive-only"]) == 0
    assert "1 photo, 1 clip, 0." in capsys.readouterr().out
    assert command([*map(str, build)]) == 1
    assert "give --overwrite" in capsys.readouterr().err
    assert command([*map(str, build), "--quality", "0"]) == 2
    assert "--quality 0: expected 1 to 100" in capsys.readouterr().err

    tool = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "measure_shards.py"))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": TINY, "data": {"frames": 3}, "loop": {"batch": 1}}))
    sizes = ("--crop-px", 64, "--workers", 1, "--seconds", 0.1)
    words = ("measure_shards.py", tmp_path / "shards", tmp_path / "c.yaml", "--steps", 2, *sizes)
    monkeypatch.setattr("sys.argv", [*map(str, words)])
    tool["main"]()
    rows = dict(line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[3:])
    assert float(rows["rendered on the device, sequences/s"]) > 0
    assert 0 <= float(rows["of it waiting for data"].rstrip(" %")) <= 100
