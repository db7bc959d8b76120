"""Ablation rows that generate: what each changes of the full model, which weights it runs, and where those look."""

from __future__ import annotations

import json
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.clips import moving_frames
from support.command import unsmear
from support.tiny_pipeline import folder
from unsmear.cli.main import run
from unsmear.errors import UsageError
from unsmear.evaluation.ablation import ablation_block, run_ablation
from unsmear.evaluation.attention import FULL_HEAT, attention_figure, overlay
from unsmear.evaluation.results import ClipResult, Result
from unsmear.evaluation.variants import TABLES
from unsmear.restore.cpgd import CPGDRestorer
from unsmear.restore.load import load_restorer
from unsmear.restore.restorer import Clip
from unsmear.video.images import FrameFolderWriter, read_image


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """The gate of this control network is open, as training leaves it: the priors change what comes out."""
    made = folder(tmp_path_factory.mktemp("weights") / "tiny", opened=True)
    (made / "sampling.json").write_text(json.dumps({"steps": 1, "start": 0.5, "colour": False}))
    scheduler = made / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"timestep_spacing": "trailing"}))
    return made


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip.of(moving_frames((96, 64), 4, step_px=(3, 1)))


def opened(name: str) -> CPGDRestorer:
    restorer = load_restorer(name, device="cpu", dtype="fp32")
    assert isinstance(restorer, CPGDRestorer) or name == "cpfp"
    return restorer


def measured(table: str, clip: Clip, models: dict[str, str], **options):
    """Rows of a table, and what the restorer of each makes of the clip."""
    made: dict[str, np.ndarray] = {}

    def evaluate(restorer, row):
        made[row] = restorer.restore(clip, None, None)[0]
        return Result(restorer.name, "set", "basicsr", (ClipResult("a", 5, {"psnr": 30.0}),)), []

    rows = run_ablation(table, opened, evaluate, models=models, **options)
    return {row.variant.key: row for row in rows}, made


def test_table_ii_runs_on_one_folder(weights, clip):
    rows, made = measured("II", clip, {"full": str(weights)})
    assert list(made) == ["without_cpfp", "without_cpc", "ircontrolnet", "full"]
    full = opened(str(weights))
    assert np.array_equal(made["full"], full(clip))
    assert np.array_equal(made["without_cpc"], full.first(clip)), "stage 1 alone is that of the folder"
    seen = Clip(full.first(clip), clip.priors)
    assert np.array_equal(made["full"], full.changed("x", blurred_hint=True)(seen)), (
        "without CPFP, what is given counts"
    )
    assert len({a.tobytes() for a in made.values()}) == 4, "every row changes something"
    assert [key for key, row in rows.items() if row.same_weights] == ["without_cpfp", "ircontrolnet"]
    block = ablation_block("II", list(rows.values()))
    assert [row[0].text.endswith(", same weights") for row in block.rows] == [True, False, True, False]
    assert sum(note.startswith("Same weights: ") for note in block.notes) == 1


def test_without_priors_it_is_the_plain_control_network(weights, clip, tmp_path):
    """The row's own weights, and those of ``full`` unguided, where they only differ by what guides them."""
    plain = shutil.copytree(weights, tmp_path / "plain") / "control"
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps(config | {"guided": False}))
    state = load_file(plain / "diffusion_pytorch_model.safetensors")
    kept = {k: v for k, v in state.items() if ".mask." not in k and ".to_qm." not in k}
    save_file(kept, plain / "diffusion_pytorch_model.safetensors")
    own, made = measured(
        "II", clip, {"full": str(weights), "ircontrolnet": str(plain.parent)}, only=["ircontrolnet", "full"]
    )
    _, shared = measured("II", clip, {"full": str(weights)}, only=["ircontrolnet"])
    assert np.array_equal(made["ircontrolnet"], shared["ircontrolnet"])
    assert not np.array_equal(made["ircontrolnet"], made["full"])
    assert not own["ircontrolnet"].same_weights and own["without_cpc"].reason == "left out"
    with pytest.raises(UsageError, match="guided: true; give one trained with guided: false"):
        measured("II", clip, {"ircontrolnet": str(weights)})


def test_irc_control_net_as_it_comes(weights, clip, tmp_path, tiny_model):
    """A control network of DiffBIR is imported with what guides it at rest: it runs the row as it is.

    Its folder has no stage 1, so it stands behind that of the full model, as in the paper.
    """
    full = shutil.copytree(weights, tmp_path / "full")
    shutil.copytree(tiny_model, full / "cpfp")
    plain = folder(tmp_path / "plain")
    (plain / "sampling.json").write_text((weights / "sampling.json").read_text())
    shutil.copytree(weights / "scheduler", plain / "scheduler", dirs_exist_ok=True)
    models = {"full": str(full), "ircontrolnet": str(plain)}
    rows, made = measured("II", clip, models, only=["ircontrolnet", "full"])
    assert rows["ircontrolnet"].result and not rows["ircontrolnet"].same_weights
    own = opened(str(plain))
    assert own.pipe.control.config["guided"] and own.first.name == "cpfp"
    behind_another = own.after(opened(str(full)).first)
    assert np.array_equal(made["ircontrolnet"], behind_another(clip))
    assert not np.array_equal(made["ircontrolnet"], own(clip)) and not np.array_equal(made["full"], own(clip))
    assert behind_another.fingerprint != own.fingerprint


def test_each_option_is_changed_by_itself(weights, clip):
    quick = [v.key for v in TABLES["options"] if v.key not in ("steps-10", "steps-50")]
    rows, made = measured("options", clip, {"full": str(weights)}, only=quick)
    own = {"shared_query", "prior_width-1"}
    same = {
        "start-0.5",
        "steps-1",
        "colour-off",
        "fidelity-0.0",
        "carry_noise-off",
        "carry_detail-0.0",
        "still_px-0.0",
    }
    same |= {"cancel_autoencoder-on", "joint_time_attention-off"}
    assert {key for key, row in rows.items() if row.reason == "same as `full`"} == same
    assert all(rows[key].reason.startswith("needs a control network trained with") for key in own)
    assert set(made) == set(quick) - own - same
    alike = [(a, b) for a, b in combinations(made, 2) if np.array_equal(made[a], made[b])]
    assert not alike, "every change reaches the frames"
    assert {key for key, row in rows.items() if row.same_weights and row.result} == {
        "without_cpfp",
        "ircontrolnet",
        "joint_time_attention-on",
    }
    block = ablation_block("options", list(rows.values()))
    assert block.title == "CPGD-Net, options of stage 2 (ours): on set, protocol basicsr"
    assert not any("paper" in note or "paper" in head for note, head in zip(block.notes, block.columns, strict=False))


def test_rows_equal_to_the_full_model_are_not_measured_again(clip, tmp_path):
    shared = folder(tmp_path / "shared", shared_query=True)
    rows, made = measured("options", clip, {"full": str(shared)}, only=["shared_query", "prior_width-1"])
    assert not made and rows["shared_query"].reason == "same as `full`"
    assert rows["prior_width-1"].reason.startswith("needs a control network trained with prior_width: 1")
    assert rows["full"].reason == "left out"


def test_invalid_rows_and_models_are_refused(weights, clip, tmp_path):
    with pytest.raises(UsageError, match=r"`only` ful: .* has no such row"):
        measured("II", clip, {"full": str(weights)}, only=["ful"])
    with pytest.raises(UsageError, match="no model that generates"):
        measured("II", clip, {"full": "cpfp"})
    rows, _ = measured("IV", clip, {"full": str(weights)}, only=["without_extra_data"])
    assert rows["without_extra_data"].reason.startswith("needs a control network trained without additional data")
    rows, made = measured("IV", clip, {"full": str(weights), "without_extra_data": str(weights)})
    assert set(made) == {"without_extra_data", "full"} and not rows["without_extra_data"].same_weights


def test_a_changed_model_is_continuous_across_windows(weights, clip):
    """Without stage 1 the state is that of the sampler alone."""
    changed = opened(str(weights)).changed("x", blurred_hint=True, carry_noise=True)
    assert changed.frames_after == 0
    whole, _ = changed.restore(clip, None, None)
    first, state = changed.restore(Clip(clip.frames[:3], clip.priors[:3]), None, None)
    rest, _ = changed.restore(Clip(clip.frames[3:], clip.priors[3:], first=3), state, None)
    assert np.array_equal(np.concatenate([first, rest]), whole) and not any("first" in name for name in state)


def test_changed_models_have_different_names_and_fingerprints(weights):
    full = opened(str(weights))
    others = [full.changed("a", guided=False), full.changed("b", blurred_hint=True), full.changed("c", steps=2)]
    assert len({full.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert full.changed("d").fingerprint == full.fingerprint and full.sampling.guided
    with pytest.raises(ValueError, match="fidelity"):
        full.changed("e", fidelity=3.0)


def test_attention_maps_have_mean_one_and_react_to_priors(weights, clip):
    restorer = opened(str(weights))
    seen = restorer.attention(clip, 2)
    cells = tuple(-(-side // restorer.pipe.multiple) * restorer.pipe.multiple // seen.cell for side in (64, 96))
    for heat in (seen.plain, seen.guided):
        assert heat.received.shape == cells and heat.received.mean() == pytest.approx(1, abs=1e-4)
    assert seen.plain.gate is None and seen.guided.gate.shape == cells and seen.guided.gate.min() >= 0
    assert not torch.equal(seen.plain.received, seen.guided.received)
    still = restorer.attention(Clip(clip.frames, [p.empty(64, 96) for p in clip.priors]), 2)
    assert not still.guided.gate.any() and seen.guided.gate.max() > 0, "where nothing moves, nothing opens"
    assert np.array_equal(seen.hint, restorer.first(clip)[2])


def test_the_attention_figure(weights, clip):
    figure = attention_figure(opened(str(weights)), clip, 2)
    assert figure.shape == (64 + 2 * 20, 5 * 96 + 4 * 4, 3) and figure.dtype == np.uint8
    panels = [figure[20:-20, i * 100 : i * 100 + 96] for i in range(5)]
    assert np.array_equal(panels[0], clip.frames[2])
    assert len({panel.tobytes() for panel in panels}) == 5
    grey = np.full((8, 8, 3), 100, np.uint8)
    ramp = np.linspace(0, 2 * FULL_HEAT, 8, dtype=np.float32)[None].repeat(8, 0)
    light = overlay(grey, ramp, FULL_HEAT).astype(int).sum(2)[0]
    assert (np.diff(light) >= 0).all() and light[0] < light[3] < light[-1] and light[-1] == light[-2]


@pytest.fixture
def pairs(tmp_path) -> Path:
    sharp = moving_frames((96, 64), 10, step_px=(2, 0))
    for part, frames in (("sharp", sharp), ("blur", [*sharp[1:], sharp[-1]])):
        (tmp_path / "set" / "one" / part).mkdir(parents=True)
        writer = FrameFolderWriter(tmp_path / "set" / "one" / part)
        for i, frame in enumerate(frames):
            writer.write(i, frame)
    return tmp_path / "set"


def test_sampling_is_chosen_on_the_command_line(weights, pairs, tmp_path):
    quick = ["--metrics", "psnr", "--dtype", "fp32", "--device", "cpu", "--data", pairs, "--pictures", 0]

    def psnr(name: str, *chosen: object) -> float:
        answer = unsmear("evaluate", *quick, "-o", tmp_path / "out", *chosen)
        assert answer.exit_code == 0, answer.output
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        return {result["method"]: result["mean"]["psnr"] for result in results}[name]

    model = ["--model", weights, "--model", "identity"]
    plain, seeded = psnr("tiny", *model), psnr("tiny", *model, "--seed", 5)
    assert len({plain, seeded, psnr("tiny", *model, "--steps", 2)}) == 3
    assert psnr("tiny", *model) == plain, "figures of other settings are not taken over"
    nothing = unsmear("evaluate", *quick, "--model", "identity", "--model", "cpfp", "--steps", 2)
    assert nothing.exit_code == 2 and nothing.complaint.startswith("unsmear: --steps: identity, cpfp does not sample")
    rows = ["ablate", "II", *quick[:-2], "--model", f"full={weights}", "--rows", "full", "-o", tmp_path / "rows"]
    found = []
    for chosen in ([], ["--seed", 5]):
        answer = unsmear(*rows, *chosen)
        assert answer.exit_code == 0, answer.output
        table = json.loads((tmp_path / "rows" / "ablation-II.json").read_text())
        found += [row["result"]["mean"]["psnr"] for row in table if row["result"]]
    assert found == [plain, seeded]
    nothing = unsmear("ablate", "III", *quick[:-2], "--seed", 5)
    assert nothing.exit_code == 2 and nothing.complaint == "unsmear: --seed: no row of table III samples; leave it out"


def test_prompts_reach_the_models_that_read_them(weights, pairs, tmp_path):
    quick = ["--data", pairs, "--model", weights, "--metrics", "psnr", "--device", "cpu"]
    for command in (["evaluate", *quick], ["deblur", pairs / "one" / "blur", "--model", weights, "--device", "cpu"]):
        asked = unsmear(*command, "--prompt", "a street")
        assert asked.exit_code == 2 and "prompt: tiny has no text encoder" in asked.complaint
        without = unsmear(*command, "--negative-prompt", "blur", "--guidance", 2)
        assert without.exit_code == 2 and "negative_prompt: tiny has no text encoder" in without.complaint


def test_the_command_writes_where_it_looks(weights, pairs, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["ablate", "II", "--data", str(pairs), "-o", str(out), "--metrics", "psnr", "--dtype", "fp32"]
    command += ["--device", "cpu", "--model", f"full={weights}", "--rows", "ircontrolnet,full"]
    assert run(command) == 0
    printed = capsys.readouterr().out
    assert "ablation-II.attention.png" in printed
    assert "with IRControlNet (stage 2 without priors), same weights" in printed
    rows = {row["row"]: row for row in json.loads((out / "ablation-II.json").read_text())}
    assert {key for key, row in rows.items() if row["result"]} == {"ircontrolnet", "full"}
    assert rows["ircontrolnet"]["same_weights"] and rows["without_cpc"]["reason"] == "left out"
    assert read_image(out / "ablation-II.attention.png").shape == (104, 496, 3)
