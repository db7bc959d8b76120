"""Training configurations: values by YAML 1.2, files on files, and one line for whatever is wrong."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from unsmear.errors import UsageError
from unsmear.models.cpfp.network import CPFPConfig
from unsmear.training.autoencoder import AutoencoderTraining
from unsmear.training.config import LoopConfig, changed, from_mapping, read_config, read_yaml
from unsmear.training.cpfp import CPFPTraining
from unsmear.training.cpgd import CPGDTraining
from unsmear.training.vdm import VDMTraining

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS = {
    "autoencoder": AutoencoderTraining,
    "cpfp": CPFPTraining,
    "cpgd": CPGDTraining,
    "vdm": VDMTraining,
}


def written(folder: Path, text: str, name: str = "c.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    "name", [p.name for p in CONFIGS.glob("*.yaml") if p.stem.partition("-")[0] in KINDS and p.stem != "cpfp-study"]
)
def test_every_configuration_of_ours_is_read(name):
    if name == "vdm-compact-base.yaml":
        assert read_yaml(CONFIGS / name)["loop"]["optimiser"]["weight_decay"] == 1e-3
        return
    read_config(KINDS[name.split("-")[0].removesuffix(".yaml")], CONFIGS / name)


def test_shipped_configurations_merge_with_their_base():
    read = read_config(VDMTraining, CONFIGS / "vdm-compact-late.yaml")
    assert (read.stage, read.latest, read.coherence, read.temporal_dropout) == ("all", 100, 0.1, 0.0)
    assert (read.loop.steps, read.loop.batch, read.loop.checkpoint_every) == (1100, 4, 100)
    assert (read.loop.optimiser.lr, read.loop.optimiser.weight_decay, read.loop.optimiser.decay_from) == (
        5e-4,
        1e-3,
        400,
    )
    assert read.data.packs == ["runs/packF", "runs/packG", "runs/packH", "runs/packI"]
    deep = read_config(CPFPTraining, CONFIGS / "cpfp-deep.yaml")
    assert (deep.model.channels, deep.model.offset_limit, deep.loop.optimiser.warmup_steps) == (48, 4.0, 300)


def test_every_row_of_the_study_is_a_configuration():
    study = read_yaml(CONFIGS / "cpfp-study.yaml")
    for name, changes in study.pop("rows").items():
        changes.pop("after", None)
        from_mapping(CPFPTraining, changed(study, changes), name)


def test_values_follow_yaml_1_2(tmp_path):
    text = "loop: {optimiser: {lr: 1e-4, betas: [0, 0.9]}, steps: 010, channels_last: true}\ninit: no\n"
    read = read_config(CPFPTraining, written(tmp_path, text))
    assert read.loop.optimiser.lr == 1e-4 and read.loop.optimiser.betas == (0.0, 0.9)
    assert (read.loop.steps, read.loop.channels_last, read.init) == (10, True, "no")
    assert read.loop.batch == LoopConfig.batch


WRONG = {
    "loop: {steps: many}": "loop.steps many: expected a whole number",
    "loop: {channels_last: nein}": "loop.channels_last nein: expected true or false",
    "loop: {channels_last: yes}": "loop.channels_last yes: expected true or false",
    "loop: {optimiser: {lr: fast}}": "loop.optimiser.lr fast: expected a number",
    "loop: {optimiser: {lr: -1}}": "loop.optimiser.lr -1: expected 0 or more",
    "loop: {optimiser: {betas: [0.9]}}": "loop.optimiser.betas [0.9]: expected a list of 2 numbers",
    "loop: {optimiser: {name: sgd}}": "loop.optimiser.name sgd: expected adam or adamw",
    "loop: {steps: 0}": "loop.steps 0: expected 1 or more",
    "loop: {steps: 1.5}": "loop.steps 1.5: expected a whole number",
    "loop: {steps: '10'}": "loop.steps '10': expected a whole number",
    "loop: {steps: 1e3}": "loop.steps 1000.0: expected a whole number",
    "loop: {steps: true}": "loop.steps true: expected a whole number",
    "loop: {optimiser: {betas: [0.9, 1]}}": "loop.optimiser.betas 0.9 1: expected 0 to below 1",
    "loop: {stepz: 3}": "unknown key 'loop.stepz'; known are accumulate, batch,",
    "loop: 3": "loop 3: expected a mapping of keys and values",
    "data: {packs: a}": "data.packs a: expected a list of texts",
    "data: {packs: [3]}": "data.packs [3]: expected a list of texts",
    "data: {crop_px: 100}": "data.crop_px 100: expected a multiple of 16",
    "data: {split: half}": "data.split half: expected train, valid or test or null",
    "data: {blur_px: [3, 1]}": "data.blur_px 3 1: expected 0 <= MIN <= MAX",
    "data: {packs: [a], shards: [b]}": "data.shards stand alone",
    "loss: {name: l7, perceptual: x}": "loss.name l7: expected l1, charbonnier or psnr (and 1 more)",
    "model: {channels: }": "model.channels null: expected a whole number",
    "model: {preset: paper, channels: wide}": "model.channels wide: expected a whole number",
    "loop: {steps: 3, steps: 4}": "is not valid YAML: the key 'steps' stands twice",
    "loop: &a {steps: *a}": "is not valid YAML: found unconstructable recursive node",
    "loop: &a [*a]": "is not valid YAML: found unconstructable recursive node",
    "init: !!binary aGVsbG8=": "is not valid YAML: could not determine a constructor for the tag",
    "init: !!timestamp 2020-01-01": "is not valid YAML: could not determine a constructor for the tag",
    "loop: !!set {steps}": "is not valid YAML: could not determine a constructor for the tag",
    "model: {channels: 0}": "model.channels 0: expected 1 or more",
    "model: {channels: 30}": "model.offset_groups 4: expected a divisor of 30",
    "model: {order: 3}": "model.order 3: expected 1 or 2",
    "model: {passes: []}": "model.passes []: expected forward as the first",
    "model: {passes: [backward]}": "model.passes ['backward']: expected forward as the first",
    "model: {passes: [up]}": "model.passes ['up']: expected a list of forward or backward",
    "model: {line_taps: 4}": "model.line_taps 4: expected 0 or an odd number",
    "model: {deconvolve: [3, 0]}": "model.deconvolve [3, 0]: expected 1 or more",
    "model: {deep_channels: [32, 64], deep_depths: [1]}": "model.deep_depths [1]: expected 2 values",
    "- a": "expected a mapping at the top level",
    "base: 3": "base 3: expected the name of a file",
    "base: other.yaml": "other.yaml does not exist, which c.yaml names as its base",
    "base: c.yaml": "c.yaml: is its own base, by way of c.yaml",
}


@pytest.mark.parametrize("text", WRONG)
def test_invalid_configurations_give_a_one_line_error(text, tmp_path):
    with pytest.raises(UsageError, match=re.escape(WRONG[text])) as caught:
        read_config(CPFPTraining, written(tmp_path, text))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


NO_NETWORK = {
    ("autoencoder", "model.channels=[]"): "model.channels : expected at least 2 of 1 or more",
    ("autoencoder", "model.channels=[33, 33]"): "model.blocks 0 2 2 2: expected 2 values",
    ("autoencoder", "model.latent_channels=0"): "model.latent_channels 0: expected 1 or more",
    ("autoencoder", "model.channels=[33, 33, 33, 33]"): "`model`: no network has these sizes",
    ("cpgd", "unet.channels=[30, 30]"): "unet.channels 30 30: expected at least 2 of a multiple of 32",
    ("cpgd", "unet.head_px=0"): "unet.head_px 0: expected 1 or more",
    ("cpgd", "control.prior_width=0"): "control.prior_width 0: expected 1 or layer or null",
    ("vdm", "compact.channels=[]"): "compact.channels : expected at least 1 of a multiple of 32",
    ("vdm", "compact.head_px=0"): "compact.head_px 0: expected 1 or more",
    ("vdm", "compact.embedding_channels=[]"): "compact.embedding_channels : expected at least 1 of 1 or more",
}


@pytest.mark.parametrize(("name", "change"), NO_NETWORK)
def test_sizes_of_which_no_network_is_made_give_a_one_line_error(name, change, tmp_path):
    stage = {"cpgd": "stage: prior\n", "vdm": "stage: pretrain\n"}.get(name, "")
    text = stage + ("" if name == "autoencoder" else "autoencoder: a\n") + "{}\n" * (name == "autoencoder")
    with pytest.raises(UsageError, match=re.escape(NO_NETWORK[name, change])) as caught:
        training = read_config(KINDS[name], written(tmp_path, text), [change])
        training.start()
    assert "\n" not in str(caught.value)


def test_bases_are_merged_key_by_key(tmp_path):
    (tmp_path / "deep").mkdir()
    written(tmp_path, "loop: {steps: 5, optimiser: {lr: 0.1, warmup_steps: 3}}\ndata: {packs: [a, b]}\n", "root.yaml")
    written(tmp_path / "deep", "base: ../root.yaml\nloop: {batch: 2}\ndata: {packs: [c]}\n", "middle.yaml")
    read = read_config(
        CPFPTraining,
        written(tmp_path, "base: deep/middle.yaml\nloop: {optimiser: {lr: 1e-3}}\nmodel: {preset: paper}"),
    )
    assert (read.loop.steps, read.loop.batch, read.data.packs) == (5, 2, ["c"])
    assert (read.loop.optimiser.lr, read.loop.optimiser.warmup_steps) == (1e-3, 3)
    assert read.model == CPFPConfig.preset("paper")


def test_changes_replace_what_the_file_holds(tmp_path):
    path = written(tmp_path, "loop: {steps: 5, batch: 2}\nmodel: {preset: paper}\n")
    plain = read_config(CPFPTraining, path)
    given = ("loop.steps=7", "loop.optimiser.lr=2e-3", "data.packs=[a, b]", "model.channels=64", "init=x=y")
    read = read_config(CPFPTraining, path, given)
    assert read.model == replace(plain.model, channels=64)
    assert (read.loop.steps, read.loop.batch, read.loop.optimiser.lr) == (7, 2, 2e-3)
    assert (read.data.packs, read.init) == (["a", "b"], "x=y")
    for wrong, line in (
        ("loop.steps", "loop.steps: expected KEY=VALUE"),
        ("loop..steps=3", "expected KEY=VALUE"),
        ("loop.steps.more=3", "loop.steps is 5, which has no keys below it"),
        ("loop.steps=[1", "loop.steps=[1 is not valid YAML"),
        ("loop.step=1", "unknown key 'loop.step'"),
    ):
        with pytest.raises(UsageError, match=re.escape(line)):
            read_config(CPFPTraining, path, (wrong,))
