"""The training loop: killed and resumed equals unbroken, configurations are checked, batches keep their geometry."""

import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from support.clips import moving_frames
from unsmear.blur.camera import CameraRanges
from unsmear.blur.pack import ARRAYS, PackConfig, Sources, build_pack, open_pack
from unsmear.datasets.augment import augment as augment_data
from unsmear.datasets.pairs import PairSet
from unsmear.errors import DataLayoutError, UsageError, WeightsError
from unsmear.metrics.lpips import load_lpips
from unsmear.models.cpfp.network import CPFP, CPFPConfig
from unsmear.priors.archive import PriorArchive
from unsmear.training.batches import open_batches
from unsmear.training.config import LoopConfig, OptimiserConfig, from_mapping, read_config
from unsmear.training.cpfp import CPFPRecipe, CPFPTraining, start_model
from unsmear.training.loop import learning_rate, train
from unsmear.training.losses import LossConfig, psnr_loss
from unsmear.training.sequences import DataConfig, PairSource, augment, mean_blur_px, open_sources
from unsmear.training.validation import ValidationClip, score_clips
from unsmear.video.images import read_image, write_png

CONFIGS = Path(__file__).parents[2] / "configs"

MODEL = CPFPConfig(
    channels=8, encoder_depth=1, body_depth=1, decoder_depth=1, offset_groups=2, line_taps=5, line_blocks=1
)


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (40, 40, 3), np.uint8).repeat(12, 0).repeat(12, 1)
    folder = tmp_path_factory.mktemp("pack")
    camera = CameraRanges(size_px=64, frames=3)
    build_pack(Sources([photo], []), folder, PackConfig(sequences=6, camera=camera, psnr_range=(5, 60)), workers=1)
    return folder


@pytest.fixture
def config(pack) -> CPFPTraining:
    loop = LoopConfig(steps=6, batch=2, checkpoint_every=3, validate_every=100, log_every=1)
    return CPFPTraining(MODEL, DataConfig([str(pack)], crop_px=32, frames=3), loop, loss=LossConfig("psnr"))


def run(config: CPFPTraining, folder: Path, *, resume: bool = False) -> list[dict]:
    model = start_model(config, fit_line=False)
    train(model, CPFPRecipe(model, config), config.loop, folder, resume=resume)
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines() if "loss" in line]


def test_a_resumed_run_equals_an_uninterrupted_one(config, tmp_path):
    whole = run(config, tmp_path / "whole")
    run(replace(config, loop=replace(config.loop, steps=3)), tmp_path / "parts")
    parts = run(config, tmp_path / "parts", resume=True)
    assert [r["loss"] for r in parts] == pytest.approx([r["loss"] for r in whole], rel=1e-6)
    for name in ("model", "ema"):
        a, b = (load_file(tmp_path / w / "last" / f"{name}.safetensors") for w in ("whole", "parts"))
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_training_lowers_the_loss_on_its_own_batches(config, tmp_path):
    longer = replace(config.loop, steps=30, optimiser=OptimiserConfig(lr=2e-3, clip_norm=0.5))
    rows = run(replace(config, loop=longer), tmp_path)
    assert np.mean([r["loss"] for r in rows[-8:]]) < np.mean([r["loss"] for r in rows[:8]])


def test_a_damaged_checkpoint_gives_a_one_line_error(config, tmp_path):
    run(config, tmp_path)
    (tmp_path / "last" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="cannot be resumed"):
        run(config, tmp_path, resume=True)


def test_training_starts_from_a_folder_of_weights(config, tmp_path):
    before = start_model(config, fit_line=False)
    torch.nn.init.constant_(before.to_pixels.weight, 0.5)
    before.save_pretrained(tmp_path)
    started = start_model(replace(config, init=str(tmp_path)))
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in started.state_dict().items())
    assert all(parameter.requires_grad for parameter in started.parameters())
    with pytest.raises(WeightsError, match=r"somebody.model.*expected a folder with config\.json"):
        start_model(replace(config, init="somebody/model"))  # a folder, never a name to be fetched


def test_learning_rate_warms_up_and_falls():
    rates = [learning_rate(s, 100, OptimiserConfig(lr=1.0, warmup_steps=10, decay_from=50)) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[49] == 1.0
    assert all(a >= b for a, b in pairwise(rates[50:])) and rates[-1] < 0.01


def test_the_network_at_full_size_takes_a_training_step(pack, tmp_path):
    changes = ["data.pairs=[]", f"data.packs=[{pack}]", "data.validation=null", "data.crop_px=32", "data.frames=3"]
    changes += ["loop.steps=1", "loop.batch=1", "loop.accumulate=1", "loop.precision='no'", "loop.ema=0.0"]
    config = read_config(CPFPTraining, CONFIGS / "cpfp-paper.yaml", changes)
    model = start_model(config)
    before = model.to_pixels.weight.detach().clone()
    train(model, CPFPRecipe(model, config), config.loop, tmp_path)
    assert (model.to_pixels.weight != before).any()


def test_unknown_presets_are_refused():
    with pytest.raises(UsageError, match=r"x: model\.preset: preset 'pap' is unknown"):
        from_mapping(CPFPTraining, {"model": {"preset": "pap"}}, "x")


def test_unknown_losses_and_missing_packs_are_refused(config):
    model = start_model(config, fit_line=False)
    with pytest.raises(UsageError, match="`name` l7: expected l1, charbonnier or psnr"):
        LossConfig("l7")
    with pytest.raises(UsageError, match=r"data\.packs and data\.pairs are empty"):
        CPFPRecipe(model, replace(config, data=DataConfig()))
    with pytest.raises(DataLayoutError, match="not a finished pack"):
        CPFPRecipe(model, replace(config, data=DataConfig(["nowhere"])))


def test_augmented_motion_still_maps_one_frame_to_the_next():
    """A pattern that moves by V keeps doing so after every flip and transposition."""
    t, s, v = 3, 64, np.array([3, -2])
    rng = np.random.default_rng(1)
    base = rng.integers(0, 255, (s + 32, s + 32, 3), np.uint8)
    frames = np.stack([base[16 + i * v[1] : 16 + i * v[1] + s, 16 + i * v[0] : 16 + i * v[0] + s] for i in range(t)])
    pack = {
        "blurred": frames[None],
        "sharp": frames[None],
        "motion": np.broadcast_to(v[:, None, None], (1, t, 2, 8, 8)).astype(np.float16),
        "motion_back": np.broadcast_to(-v[:, None, None], (1, t, 2, 8, 8)).astype(np.float16),
        "residual": np.zeros((1, t, 1, 16, 16), np.float16),
        "reset": np.zeros((1, t), bool),
        "reset_back": np.zeros((1, t), bool),
        "duty": np.array([0.5], np.float32),
        "duty_fitted": np.array([0.55], np.float32),
        "duty_estimated": np.array([0.6], np.float32),
    }
    assert set(pack) == set(ARRAYS)
    for seed in range(16):
        out = augment(pack, 0, np.random.default_rng(seed), DataConfig(crop_px=48, frames=3))
        dx, dy = (int(c) for c in out["motion"][1, :, 0, 0])
        previous, now = out["blurred"][0].astype(int), out["blurred"][1].astype(int)
        inner = now[8:-8, 8:-8]
        source = previous[8 + dy : 8 + dy + inner.shape[0], 8 + dx : 8 + dx + inner.shape[1]]
        assert np.array_equal(inner, source), f"seed {seed}: motion ({dx}, {dy}) does not join the frames"


def test_duty_cycles_that_the_network_is_conditioned_on(pack):
    """Of a sharp sequence a modest duty cycle and never the truth; else estimates, near truths or nothing."""
    arrays = dict(open_pack(pack)) | {"duty_estimated": np.full(6, 0.9, np.float32)}
    conditions, shares = {}, DataConfig(crop_px=16, duty_estimated=0.25, duty_unknown=0.15)
    for true in (0.05, 0.4):
        arrays["duty"] = np.full(6, 0.3 if true == 0.4 else true, np.float32)
        arrays["duty_fitted"] = np.full(6, 0.4, np.float32)
        draws = [augment(arrays, 0, np.random.default_rng(i), shares)["duty"] for i in range(300)]
        conditions[true] = np.array(draws)
    sharp = conditions[0.05][conditions[0.05] != -1]
    assert sharp.max() <= 0.25 and 0.1 < sharp.mean() < 0.15
    near = conditions[0.4][(conditions[0.4] != -1) & (conditions[0.4] != np.float32(0.9))]
    assert abs(near.mean() - 0.4) < 0.03 and 0.04 < near.std() < 0.12
    assert 0.05 < (conditions[0.4] == -1).mean() < 0.25
    arrays["duty_fitted"] = np.full(6, 0.1, np.float32)  # blurred, but not along its motion vectors
    draws = [augment(arrays, 0, np.random.default_rng(i), shares)["duty"] for i in range(50)]
    assert set(np.concatenate(draws)) == {np.float32(-1), np.float32(0.9)}


def test_validation_scores_blurred_and_sharp_clips_apart(tmp_path):
    """The identity gains nothing and keeps what is sharp."""
    rng = np.random.default_rng(2)
    for kind in ("blur", "sharp"):
        (tmp_path / "clip" / kind).mkdir(parents=True)
        for i in range(4):
            write_png(tmp_path / "clip" / kind / f"{i:06d}.png", rng.integers(0, 255, (32, 48, 3), np.uint8))
    model = CPFP.build(MODEL)
    for parameter in model.parameters():
        parameter.data.zero_()
    scores = score_clips(model, ValidationClip.load_all(PairSet(str(tmp_path))))
    assert scores == {"clip": 0.0, "score": 0.0, "sharp_mean": 60.0, "sharp_least": 60.0}


def test_several_validation_sets_have_equal_weight(pack, tmp_path):
    rng = np.random.default_rng(2)
    for name, noise in (("calm", 2), ("strong", 8)):
        sharp = np.stack(moving_frames((64, 48), 5, step_px=(2, 1)))
        blur = np.clip(sharp + rng.integers(-noise, noise, sharp.shape), 0, 255)
        for kind, frames in (("sharp", sharp), ("blur", blur)):
            (tmp_path / name / "clip" / kind).mkdir(parents=True)
            for i, frame in enumerate(frames):
                write_png(tmp_path / name / "clip" / kind / f"{i:06d}.png", frame.astype(np.uint8))
    data = DataConfig(packs=[str(pack)], validation=str(tmp_path / "calm"))
    config = CPFPTraining(model=MODEL, data=data, more_validation=[str(tmp_path / "strong")])
    model = CPFP.build(MODEL)
    found = CPFPRecipe(model, config).validate(model)
    assert {"calm/score", "strong/score", "strong/sharp_mean"} <= found.keys()
    assert found["calm/score"] != found["strong/score"]
    assert found["score"] == pytest.approx((found["calm/score"] + found["strong/score"]) / 2, abs=1e-3)


def test_validation_pieces_are_spread_over_the_clip(tmp_path):
    for kind, level in (("blur", 0), ("sharp", 100)):
        (tmp_path / "clip" / kind).mkdir(parents=True)
        for i in range(40):
            write_png(tmp_path / "clip" / kind / f"{i:06d}.png", np.full((32, 48, 3), level + i, np.uint8))
    clips = ValidationClip.load_all(PairSet(str(tmp_path)))
    levels = [clip.frames[:, 0, 0, 0].tolist() for clip in clips if not clip.already_sharp]
    assert len(levels) == 3 and all(np.diff(piece).tolist() == [1, 1] for piece in levels)
    assert [piece[1] * 3 // 40 for piece in levels] == [0, 1, 2]
    assert all((clip.target - clip.frames == 100).all() for clip in clips if not clip.already_sharp)
    assert sum(clip.already_sharp for clip in clips) == 1


def test_psnr_loss_weights_samples_equally():
    sharp = torch.zeros(2, 1, 3, 8, 8)
    far, near = sharp + 0.4, sharp + 0.05
    halved = psnr_loss(far / 2, sharp) - psnr_loss(far, sharp), psnr_loss(near / 2, sharp) - psnr_loss(near, sharp)
    assert halved[0] == pytest.approx(halved[1].item(), rel=0.25)


def test_terms_are_added_to_a_loss_by_their_weights():
    generator = torch.Generator().manual_seed(0)
    sharp = torch.rand(1, 2, 3, 64, 64, generator=generator)
    restored = (sharp + 0.1 * torch.randn(sharp.shape, generator=generator)).requires_grad_()
    plain = LossConfig("l1")(restored, sharp)
    perceptual = LossConfig("l1", perceptual=1.0)(restored, sharp)
    distance = load_lpips()(restored[0].clamp(0, 1) * 2 - 1, sharp[0] * 2 - 1).mean()
    assert (perceptual - plain).item() == pytest.approx(distance.item(), rel=1e-4)
    perceptual.backward()
    assert restored.grad is not None and restored.grad.abs().sum() > 0


def test_batches_of_a_seed_are_unchanged(tmp_path):
    """The numbers of a step belong to its seed, whatever becomes of the code."""
    rng = np.random.default_rng(5)
    shapes = {"blurred": (3, 64, 64, 3), "sharp": (3, 64, 64, 3), "motion": (3, 2, 8, 8), "motion_back": (3, 2, 8, 8)}
    shapes |= {"residual": (3, 1, 16, 16), "reset": (3,), "reset_back": (3,)}
    for name in ARRAYS:
        numbers = rng.integers(0, 256, (4, *shapes.get(name, ())))
        kinds = {"blurred": np.uint8, "sharp": np.uint8, "reset": bool, "reset_back": bool}
        values = numbers if name in kinds else numbers / 256
        np.save(tmp_path / f"{name}.npy", values.astype(kinds.get(name, np.float32)))
    (tmp_path / "pack.json").write_text("{}")
    batches = open_batches(DataConfig([str(tmp_path)], crop_px=32, frames=2), seed=3, count=4)
    digest = hashlib.sha256()
    for batch in batches.at([5, 900]):
        for tensor in (batch.blurred, batch.sharp, *batch.priors):
            digest.update(tensor.contiguous().numpy().tobytes())
    assert digest.hexdigest()[:16] == "37d136d73c78fff9"
    [alone] = batches.at([900])
    assert torch.equal(alone.sharp, batch.sharp)


def test_sequences_are_drawn_within_the_range_of_blur(pack):
    blur = np.sort(mean_blur_px(open_pack(pack)))
    middle = float(blur[2] + blur[3]) / 2
    [short], [long] = (open_sources(DataConfig([str(pack)], blur_px=r)) for r in ((0, middle), (middle, 1e3)))
    assert len(short) == len(long) == 3
    assert not set(short.rows) & set(long.rows)
    with pytest.raises(DataLayoutError, match="no sequence has a blur of 1000 to 2000 pixels"):
        open_sources(DataConfig([str(pack)], blur_px=(1000, 2000)))


def test_the_line_bank_is_fitted_without_deconvolution_only(config, pack):
    assert not start_model(config).line.bank.any()  # deconvolution starts in its place
    model = start_model(replace(config, model=replace(MODEL, deconvolve=[])))
    assert model.line.bank.abs().max() > 0.01
    assert len(open_pack(pack)["duty"]) == 6


@pytest.fixture
def gopro(tmp_path) -> Path:
    """Two clips of five 72×64 frames as GoPro lays them out, with priors beside them."""
    for seed, name in enumerate(("GOPR1", "GOPR2")):
        for kind, shift in (("blur", 0), ("sharp", 1)):
            for i, frame in enumerate(moving_frames((72, 64), 5, seed=seed + 10 * shift)):
                folder = tmp_path / "train" / name / kind
                folder.mkdir(parents=True, exist_ok=True)
                write_png(folder / f"{i:06d}.png", frame)
    made = augment_data(tmp_path)
    assert len(made.made) == 2
    return tmp_path


def test_stored_priors_of_data_sets_are_used_for_training(gopro, config, tmp_path, monkeypatch):
    monkeypatch.setattr("unsmear.priors.chunk_priors", None)  # whoever computed priors here would fall over
    data = DataConfig(pairs=[str(gopro)], crop_px=48, frames=3, duty_unknown=1.0)
    rows = run(replace(config, data=data), tmp_path / "run")
    assert len(rows) == 6
    assert all(np.isfinite(r["loss"]) for r in rows)


def test_sequences_of_a_data_set_are_crops_of_its_files(gopro):
    [source] = open_sources(DataConfig(pairs=[str(gopro)]))
    assert isinstance(source, PairSource)
    assert len(source) == 10
    wanted = DataConfig(crop_px=48, frames=3, duty_unknown=1.0)
    whole = {k: [read_image(gopro / "train/GOPR2" / k / f"{i:06d}.png") for i in range(5)] for k in ("blur", "sharp")}
    with PriorArchive(next(gopro.glob("train/GOPR2/blur*.npz"))) as archive:
        motion = [archive[i].motion() for i in range(5)]
    for seed in range(8):
        got = source.sample(9, np.random.default_rng(seed), wanted)  # the last frame: the last three are taken
        assert got["duty"] == -1
        found = [
            (k, flips, y, x)
            for flips in np.ndindex(2, 2, 2)
            for y in (0, 16)
            for x in (0, 16)
            for k in ("blur",)
            if np.array_equal(got["blurred"], _turn(np.stack(whole[k][2:])[:, y : y + 48, x : x + 48], flips))
        ]
        [(_, flips, y, x)] = found
        assert np.array_equal(got["sharp"], _turn(np.stack(whole["sharp"][2:])[:, y : y + 48, x : x + 48], flips))
        cells = np.stack(motion[2:])[..., y // 8 : y // 8 + 6, x // 8 : x // 8 + 6]
        lengths = np.linalg.norm(cells.astype(np.float32), axis=1)
        turned = np.linalg.norm(got["motion"].astype(np.float32), axis=1)
        assert np.allclose(turned, _turn(lengths[..., None], flips)[..., 0], atol=0.02)


def _turn(frames: np.ndarray, flips: tuple) -> np.ndarray:
    """(T, H, W, C) flipped up, flipped left, transposed, as the three flags say."""
    if flips[0]:
        frames = frames[:, ::-1]
    if flips[1]:
        frames = frames[:, :, ::-1]
    return frames.swapaxes(1, 2) if flips[2] else frames


def test_data_sets_without_priors_or_partners_give_a_one_line_error(gopro):
    next(gopro.glob("train/GOPR1/blur*.npz")).unlink()
    with pytest.raises(DataLayoutError, match="run `unsmear data augment` first"):
        open_sources(DataConfig(pairs=[str(gopro)]))
    (gopro / "train/GOPR2/sharp/000004.png").unlink()
    augment_data(gopro)
    with pytest.raises(DataLayoutError, match="has another number of frames"):
        open_sources(DataConfig(pairs=[str(gopro)]))
    with pytest.raises(DataLayoutError, match="valid"):
        open_sources(DataConfig(pairs=[str(gopro)], split="valid"))
