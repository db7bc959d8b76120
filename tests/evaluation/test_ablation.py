"""Ablation tables: which rows are measured, with which motion, and what stands beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from support.clips import moving_frames
from unsmear.cli.main import run
from unsmear.errors import UsageError
from unsmear.evaluation.ablation import ablation_block, ablation_figure, run_ablation
from unsmear.evaluation.motion import MovedRestorer, motion_cost
from unsmear.evaluation.pictures import Picture
from unsmear.evaluation.published import ablation_rows
from unsmear.evaluation.results import ClipResult, Result
from unsmear.evaluation.variants import TABLES, find_table
from unsmear.models import zoo
from unsmear.models.cpfp.network import CPFP, CPFPConfig
from unsmear.priors.flow import CodecMotion, DisFlow, NoMotion
from unsmear.restore.load import load_restorer
from unsmear.restore.restorer import Clip, Restorer
from unsmear.video.images import FrameFolderWriter


class Echo(Restorer):
    """A restorer that gives back what it gets and remembers the priors."""

    def __init__(self, name: str = "echo"):
        self.name, self.seen = name, []

    def restore(self, clip, state, tile_px):
        assert state is None or state == {"own": state["own"]}  # nothing of the wrapper's
        self.seen += clip.priors
        return clip.frames[: clip.wanted].copy(), {"own": 1}


NO_GENERATOR = "needs a model that generates (`unsmear train cpgd`, `unsmear models import`): give full=DIR as `models`"


@pytest.fixture
def none_shipped(monkeypatch):
    """As where no model that generates comes with the package."""
    some = [entry for entry in zoo.shipped() if entry.kind not in zoo.PIPELINES]
    monkeypatch.setattr(zoo, "shipped", lambda: some)


def clip_of(frames: list[np.ndarray], wanted: int | None = None) -> Clip:
    return Clip.of(frames, 0.5, output_frames=wanted)


@pytest.fixture(scope="module")
def moving() -> Clip:
    return clip_of(moving_frames((128, 96), 6, step_px=(3, 1)))


def test_the_codec_as_source_changes_nothing(moving: Clip, tiny_model: Path):
    plain = load_restorer(str(tiny_model), device="cpu", dtype="fp32")
    wanted, _ = plain.restore(moving, None, None)
    found, _ = MovedRestorer(plain, CodecMotion()).restore(moving, None, None)
    assert np.array_equal(found, wanted)


def test_the_network_sees_the_motion_of_the_source(moving: Clip):
    echo = Echo()
    MovedRestorer(echo, DisFlow()).restore(moving, None, None)
    for prior in echo.seen[1:]:
        assert np.median(prior.motion(), axis=(1, 2)) == pytest.approx([-3, -1], abs=0.3)
    for prior in echo.seen[:-1]:
        assert np.median(prior.motion_back(), axis=(1, 2)) == pytest.approx([3, 1], abs=0.3)
    assert echo.seen[0].reset and not echo.seen[0].motion_q.any()
    still = Echo()
    MovedRestorer(still, NoMotion()).restore(moving, None, None)
    assert not any(prior.motion_q.any() or prior.motion_back_q.any() for prior in still.seen)


def test_motion_is_continuous_across_chunks(moving: Clip):
    whole, parts = Echo(), Echo()
    MovedRestorer(whole, DisFlow()).restore(moving, None, None)
    moved, state = MovedRestorer(parts, DisFlow()), None
    for start in (0, 3):
        chunk = slice(start, start + 3)
        out, state = moved.restore(Clip(moving.frames[chunk], moving.priors[chunk], 0.5), state, None)
    assert np.array_equal(out, moving.frames[3:])
    assert len(parts.seen) == 6
    for a, b in zip(whole.seen, parts.seen, strict=True):
        assert np.array_equal(a.motion_q, b.motion_q)


def test_motion_of_16_bit_frames_is_continuous_across_chunks(moving: Clip):
    deep = Clip(moving.frames.astype(np.uint16) * 257, moving.priors, 0.5, 3)
    eight, sixteen = Echo(), Echo()
    for echo, clip in ((eight, Clip(moving.frames, moving.priors, 0.5, 3)), (sixteen, deep)):
        moved = MovedRestorer(echo, DisFlow())
        _, state = moved.restore(clip, None, None)
        moved.restore(Clip(clip.frames[3:], clip.priors[3:], 0.5), state, None)
    for a, b in zip(eight.seen, sixteen.seen, strict=True):
        assert np.array_equal(a.motion_q, b.motion_q)


def test_the_residual_can_be_left_out(moving: Clip):
    echo = Echo()
    MovedRestorer(echo, CodecMotion(), residual=False).restore(moving, None, None)
    assert any(prior.residual.any() for prior in moving.priors)
    assert not any(prior.residual.any() for prior in echo.seen)
    assert all(np.array_equal(a.motion_q, b.motion_q) for a, b in zip(echo.seen, moving.priors, strict=True))


def test_cost_of_motion_sources(moving: Clip):
    codec, flow, none = (motion_cost(source, moving.frames) for source in (CodecMotion(), DisFlow(), NoMotion()))
    assert (codec.fields, flow.fields) == (10, 3)
    assert codec.seconds > 0 and flow.seconds > 0
    assert codec.flops == none.flops == 0
    assert flow.flops == 3 * DisFlow().flops(96, 128) > 0
    with pytest.raises(ValueError, match="two frames"):
        motion_cost(CodecMotion(), moving.frames[:1])


def scored(psnr: float):
    """An evaluation that gives every row its figure, and one picture."""
    calls: list[tuple[str, str]] = []

    def evaluate(restorer, row):
        calls.append((restorer.name, row))
        value = psnr + len(calls)
        clips = tuple(ClipResult(c, 5, {"psnr": value, "niqe": 9.0 - len(calls)}) for c in "abc")
        image = np.full((40, 60, 3), 40 * len(calls), np.uint8)
        pictures = [Picture("a", 2, restorer.name, np.zeros_like(image), image, np.full_like(image, 255))]
        return Result(restorer.name, "set", "basicsr", clips), pictures

    return evaluate, calls


def test_rows_are_measured_where_their_parts_exist(none_shipped):
    evaluate, calls = scored(30)
    rows = {row.variant.key: row for row in run_ablation("II", lambda name: Echo(name), evaluate)}
    assert calls == [("cpfp-without_cpc", "without_cpc")]
    assert [key for key, row in rows.items() if row.result] == ["without_cpc"]
    assert rows["full"].reason == rows["without_cpfp"].reason == NO_GENERATOR
    assert " ".join(ablation_block("II", list(rows.values())).notes).count("data set not stated") == 1
    assert rows["full"].paper == {"niqe": "3.5133", "musiq": "61.135"}


def test_table_iii_takes_its_motion_from_each_source(moving: Clip):
    evaluate, calls = scored(30)
    rows = run_ablation("iii", lambda name: Echo(name), evaluate, sample=moving.frames)
    assert [row for _, row in calls] == ["mv", "dis", "none", "zero_crs"]
    by_key = {row.variant.key: row for row in rows}
    assert "trained without coding residuals" in by_key["without_crs"].reason
    assert {by_key[k].reason for k in ("raft-4", "raft-4-warm", "raft-20")} == {
        "needs RAFT's weights: give them as `raft`"
    }
    assert (by_key["dis"].cost.source, by_key["dis"].cost_size) == ("dis", (128, 96))
    block = ablation_block("III", rows)
    column = dict(zip(block.columns, zip(*block.rows, strict=True), strict=True))
    assert [c.text for c in column["PSNR ↑ dB"]] == ["–", "31.00", "–", "–", "–", "32.00", "33.00", "34.00"]
    assert [c.best for c in column["NIQE ↓"]] == [False] * 7 + [True]
    assert [c.text for c in column["NIQE in the paper"]][:3] == ["5.1102", "4.8102", "5.0054"]
    assert [c.text for c in column["in the paper"]] == ["–", "0", "307", "307", "908", "–", "–", "–"]
    assert [c.text for c in column["ours"]] == ["not available", "measured"] + 3 * ["not available"] + 3 * ["measured"]
    reasons = [note for note in block.notes if note.startswith("Not available")]
    assert len(reasons) == 2
    assert reasons[1].startswith(
        "Not available: RAFT, 4 iterations; RAFT, 4 iterations from MVs; RAFT, 20 iterations ("
    )
    assert any("128x96" in note for note in block.notes)


def test_a_row_can_use_its_own_model(tmp_path: Path):
    for name, reads in (("with", True), ("without", False)):
        config = CPFPConfig(channels=8, encoder_depth=1, body_depth=1, decoder_depth=1, line_blocks=0, offset_groups=2)
        CPFP(**vars(config) | {"use_residual": reads}).save_pretrained(tmp_path / name)
    evaluate, calls = scored(30)
    own = {"without_crs": str(tmp_path / "without"), "mv": "base"}
    rows = run_ablation("III", lambda name: Echo(Path(name).name), evaluate, models=own)
    assert [name for name, _ in calls][:3] == ["without-without_crs", "base-mv", "base-dis"]
    assert rows[0].result is not None
    with pytest.raises(UsageError, match="use_residual"):
        run_ablation("III", Echo, evaluate, models={"without_crs": str(tmp_path / "with")})
    with pytest.raises(UsageError, match="no such row"):
        run_ablation("III", Echo, evaluate, models={"full": "x"})


def test_every_row_of_the_paper_is_a_row():
    for table in ("II", "III", "IV"):
        variants = TABLES[table]
        keys = [v.key for v in variants]
        assert [row.method for row in ablation_rows(table)] == [k for k in keys if k not in ("dis", "none", "zero_crs")]
    assert [find_table(name) for name in ("1", "2", "iii", "IV", "Options")] == ["I", "II", "III", "IV", "options"]
    with pytest.raises(UsageError, match="'V' is unknown"):
        find_table("V")
    for dataset in ("GoPro", "DVD"):
        compared = {row.method for row in ablation_rows("I", dataset)}
        assert compared == {v.published or v.key for v in TABLES["I"] if v.key != "without_cpc"}


@pytest.mark.parametrize(
    ("dataset", "printed", "musiq"),
    [
        ("/data/GOPRO_Large", "29.20 31.67 32.62 34.16 34.81 34.92 35.88 35.98 – 26.80", "60.630"),
        ("DVD/test", "31.87 32.30 33.05 33.79 34.27 34.30 34.69 34.95 – 26.80", "61.135"),
        ("elsewhere", "", ""),
    ],
)
def test_table_i_has_the_papers_figures_and_ours(none_shipped, dataset, printed, musiq):
    evaluate, calls = scored(30)
    rows = run_ablation("I", Echo, evaluate, dataset=dataset)
    assert [row for _, row in calls] == ["without_cpc"]
    reasons = {row.variant.key: row.reason for row in rows}
    assert reasons["RVRT"] == "another method: `unsmear evaluate OUTPUT TARGET` measures its frames"
    assert reasons["full"] == NO_GENERATOR and not reasons["without_cpc"]
    block = ablation_block("I", rows)
    column = dict(zip(block.columns, zip(*block.rows, strict=True), strict=True))
    if not printed:
        assert not any("in the paper" in name for name in column) and "says neither" in block.notes[-1]
        return
    assert " ".join(cell.text for cell in column["PSNR in the paper"]) == printed
    assert column["MUSIQ in the paper"][-1].text == musiq
    told = next(note for note in block.notes if "no column can be compared downwards" in note)
    assert "SSIM, PSNR by basicsr (VRT, RVRT)" in told and "SSIM, PSNR by shiftnet (Shift-Net)" in told
    with pytest.raises(UsageError, match="`models` RVRT=x: another method"):
        run_ablation("I", Echo, evaluate, models={"RVRT": "x"})


def test_the_figure_holds_input_rows_and_truth(moving: Clip):
    evaluate, _ = scored(30)
    rows = run_ablation("III", Echo, evaluate)
    figure = ablation_figure(rows, (30, 20))
    assert figure.shape[1] == 6 * 30 + 5 * 4
    middle = figure[figure.shape[0] // 2 - 3, 15 :: 30 + 4].tolist()
    assert [p[0] for p in middle] == [0, 40, 80, 120, 160, 255]
    assert ablation_figure([row for row in rows if not row.pictures]) is None


def test_the_command_writes_table_and_pictures(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]):
    sharp = moving_frames((96, 64), 10, step_px=(2, 0))
    for part, frames in (("sharp", sharp), ("blur", [*sharp[1:], sharp[-1]])):
        (tmp_path / "set" / "one" / part).mkdir(parents=True)
        writer = FrameFolderWriter(tmp_path / "set" / "one" / part)
        for i, frame in enumerate(frames):
            writer.write(i, frame)
    out = tmp_path / "out"
    command = ["ablate", "III", "--data", str(tmp_path / "set"), "-o", str(out), "--metrics", "psnr,ssim"]
    command += ["--model", f"mv={tiny_model}", "--device", "cpu", "--dtype", "fp32"]
    assert run(command) == 0
    printed = capsys.readouterr().out
    assert "### CPGD-Net, Table III: on set, protocol basicsr" in printed
    assert "4.8102" in printed
    rows = json.loads((out / "ablation-III.json").read_text())
    measured = {row["row"]: row["result"]["mean"]["psnr"] for row in rows if row["result"]}
    assert set(measured) == {"mv", "dis", "none", "zero_crs"}
    assert len(set(measured.values())) == 4  # every change reaches the network
    for suffix in (".md", ".tex", ".png", ".html"):
        assert (out / f"ablation-III{suffix}").stat().st_size > 100


def test_a_table_without_results_still_shows_the_paper(none_shipped):
    rows = run_ablation("IV", Echo, scored(30)[0])
    block = ablation_block("IV", rows)
    assert block.columns == ("row", "ours", "NIQE in the paper", "MUSIQ in the paper")
    assert [[c.text for c in row[2:]] for row in block.rows] == [["3.5661", "55.1294"], ["3.5133", "61.135"]]
    assert block.title == "CPGD-Net, Table IV: nothing measured"
    assert NO_GENERATOR in block.notes[1] and "`unsmear train cpgd CONFIG hybrid=0`" in block.notes[0]


def test_wrong_arguments_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["ablate", "VII", "--data", str(tmp_path), "-o", str(tmp_path)]) == 2
    assert "choose one of I, II, III, IV, options" in capsys.readouterr().err
    assert run(["ablate", "II", "--data", str(tmp_path), "-o", str(tmp_path), "--model", "cpfp"]) == 2
    assert "ROW=DIR" in capsys.readouterr().err
