"""Tables of results against answers known beforehand."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest

from unsmear.evaluation.formats import CSV_COLUMNS, csv_text, escape_latex, latex, markdown
from unsmear.evaluation.published import ablation_rows, known_dataset, published_figures, published_rows
from unsmear.evaluation.results import ClipResult, Result, read_results, write_results
from unsmear.evaluation.tables import clip_blocks, overall_blocks, published_blocks
from unsmear.metrics.catalogue import METRICS
from unsmear.metrics.protocols import PROTOCOLS


def result(method: str, psnr: dict[str, float], *, dataset: str = "mine", protocol: str = "basicsr", **more) -> Result:
    frames = more.pop("frames", (1, 2, 3, 4, 5))
    before = more.pop("before", dict.fromkeys(psnr, 29.0))
    clips = tuple(
        ClipResult(clip, count, {"psnr": p}, {"psnr": before[clip]} if clip in before else {})
        for (clip, p), count in zip(psnr.items(), frames, strict=False)
    )
    return Result(method, dataset, protocol, clips, **more)


def cells(block, column: str) -> list[str]:
    at = block.columns.index(column)
    return [row[at].text for row in block.rows]


def best(block, column: str) -> list[bool]:
    at = block.columns.index(column)
    return [row[at].best for row in block.rows]


def test_means_are_weighted_as_the_protocol_says():
    clips = (ClipResult("a", 1, {"psnr": 30.0}, windows=3), ClipResult("b", 3, {"psnr": 34.0}, windows=1))
    means = {average: Result("m", "d", "p", clips, average).mean("psnr") for average in ("clips", "frames", "windows")}
    assert means == {"clips": 32.0, "frames": 33.0, "windows": 31.0}
    assert Result("m", "d", "p", clips).mean("ssim") is None


def test_the_interval_contains_the_mean_and_is_a_point_for_equal_clips():
    same = result("m", dict.fromkeys("abcde", 30.0))
    assert same.interval("psnr") == (30.0, 30.0)
    assert same.interval("psnr", gain=True) == (1.0, 1.0)
    # 0 or 1, thirty clips each: the mean of a resample has the deviation of a binomial share, 0.0645.
    coin = result("m", {str(i): float(i % 2) for i in range(60)}, frames=[1] * 60)
    low, high = coin.interval("psnr")
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.0645, 0.5 + 1.96 * 0.0645), abs=0.02)
    assert result("m", {"a": 1.0, "b": 2.0}).interval("psnr") is None
    assert result("m", {"a": 1.0, "b": 2.0, "c": np.inf}).interval("psnr") is None


def test_the_interval_of_a_gain_is_paired():
    inputs = {"a": 20.0, "b": 30.0, "c": 40.0}
    gained = result("m", {clip: value + 0.5 for clip, value in inputs.items()}, before=inputs)
    assert gained.interval("psnr", gain=True) == (0.5, 0.5)
    assert gained.mean_gain("psnr") == 0.5
    low, high = gained.interval("psnr")
    assert high - low > 10


def test_different_protocols_and_data_sets_never_share_a_ranking():
    results = [
        result("one", {"a": 30.0}),
        result("two", {"a": 31.0}),
        result("three", {"a": 99.0}, protocol="shiftnet"),
        result("four", {"a": 98.0}, dataset="other"),
        result("five", {"a": 97.0}, average="frames"),
    ]
    blocks = overall_blocks(results)
    assert [[m for m in cells(b, "method") if m != "blurred input"] for b in blocks] == [
        ["one", "two"],
        ["three"],
        ["four"],
        ["five"],
    ]
    assert [b.title for b in blocks[:2]] == ["mine, protocol basicsr", "mine, protocol shiftnet"]
    assert best(blocks[0], "PSNR ↑ dB") == [False, False, True]
    own_way = result("x", {"a": 1.0}, protocol="shiftnet", average="frames")
    assert PROTOCOLS["shiftnet"].summary in markdown([own_way])


def test_the_blurred_input_is_the_first_row_and_can_be_best():
    block = overall_blocks([result("worse", {"a": 28.0}), result("worst", {"a": 20.0})])[0]
    assert cells(block, "method") == ["blurred input", "worse", "worst"]
    assert cells(block, "PSNR ↑ dB") == ["29.00", "28.00", "20.00"]
    assert best(block, "PSNR ↑ dB") == [True, False, False]
    assert cells(block, "PSNR gain dB") == ["–", "−1.00", "−9.00"]


def test_lower_is_better_where_the_catalogue_says_so():
    def niqe(method: str, value: float) -> Result:
        return Result(method, "d", "p", (ClipResult("a", 1, {"niqe": value, "psnr": value}),))

    block = overall_blocks([niqe("low", 3.0), niqe("high", 5.0), niqe("tied", 3.0004)])[0]
    assert best(block, "NIQE ↓") == [True, False, True]
    assert best(block, "PSNR ↑ dB") == [False, True, False]


@pytest.mark.parametrize(
    "other",
    [
        result("two", {"a": 31.0, "b": 31.0}),
        result("two", {"a": 31.0}, frames=(2,)),
        result("two", {"a": 31.0}, before={"a": 29.5}),
    ],
    ids=["clips", "frames", "inputs"],
)
def test_nothing_is_bold_where_methods_were_scored_on_different_frames(other: Result):
    block = overall_blocks([result("one", {"a": 30.0}), other])[0]
    assert not any(cell.best for row in block.rows for cell in row)
    assert any("do not compare" in note for note in block.notes)


def test_costs_are_over_all_frames_and_the_worst_clip():
    clips = (
        ClipResult("a", 1, {"psnr": 1.0}, seconds_per_frame=1.0, peak_memory_mb=100),
        ClipResult("b", 3, {"psnr": 1.0}, seconds_per_frame=2.0, peak_memory_mb=300),
    )
    block = overall_blocks([Result("m", "d", "p", clips, device="cpu", dtype="bfloat16")])[0]
    assert cells(block, "s a frame ↓") == ["1.750"]
    assert cells(block, "peak MiB ↓") == ["300"]
    assert (cells(block, "device"), cells(block, "dtype")) == (["cpu"], ["bfloat16"])


def test_clips_show_input_beside_output():
    block = clip_blocks([result("m", {"a": 30.0, "b": 28.0})])[0]
    assert cells(block, "PSNR input") == ["29.00", "29.00"]
    assert best(block, "PSNR ↑ dB") == [True, False]
    assert best(block, "PSNR input") == [False, True]


def test_markdown_keeps_its_columns():
    text = markdown([result("a|b", {"x|y": 30.0}), result("c", {"x|y": 31.0})])
    assert "### mine, protocol basicsr" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1
    assert "| **31.00** |" in text


def test_latex_escapes_and_balances():
    text = latex([result("my_net 50% {x} #1 & co^2 ~ \\end [", {"clip_1": 30.0, "b": 1.0, "c": 2.0}, dataset="GoPro")])
    assert r"my\_net 50\% \{x\} \#1 \& co\textasciicircum{}2 \textasciitilde{} \textbackslash{}end {[}" in text
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.isascii()
    tables = re.findall(r"\\begin{tabular}{(\w+)}(.*?)\\end{tabular}", text, re.S)
    assert len(tables) == text.count(r"\begin{table}") == text.count(r"\end{table}") > 3
    for spec, body in tables:
        rows = [line for line in body.splitlines() if line.strip().endswith("\\\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(spec)}
        assert body.count(r"\toprule") == body.count(r"\midrule") == body.count(r"\bottomrule") == 1
    commands = set(re.findall(r"\\([a-zA-Z]+)", text))
    known = "begin end centering caption resizebox ifdim width linewidth else fi toprule midrule bottomrule scriptsize"
    assert commands <= set(known.split()) | {"textbf", "uparrow", "downarrow", "usepackage"} | {
        c for c in commands if c.startswith("text")
    }
    assert escape_latex("é\n−∞") == r"? $-$$\infty$"


def test_csv_holds_every_figure_in_full():
    exact = 30.123456789
    text = csv_text([result("m", {"a": exact, "b": exact, "c": exact}, dataset="GoPro", device="cpu")])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == CSV_COLUMNS
    overall = [r for r in rows if r["kind"] == "overall"]
    assert [(r["metric"], float(r["value"]), float(r["input"]), r["low_95"]) for r in overall] == [
        ("psnr", exact, 29.0, str(exact))
    ]
    assert [r["clip"] for r in rows if r["kind"] == "clip"] == ["a", "b", "c"]
    shift = [r for r in rows if r["kind"] == "published" and r["method"] == "Shift-Net" and r["metric"] == "psnr"]
    assert [(r["value"], r["protocol"], r["source"]) for r in shift] == [("35.88", "shiftnet", "CPGD-Net, Table I")]


def test_results_survive_writing_and_reading(tmp_path):
    results = [result("m", {"a": 30.0, "b": 31.0}, average="windows"), result("n", {"a": 1.0}, protocol="bsst")]
    write_results(results, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results


# Read off the papers' tables by eye, apart from the data file.
SPOT = [
    ("VDM", "1", "GoPro", "VDM", "psnr", "32.22", "unknown"),
    ("VDM", "1", "GoPro", "Deblur-NeRF", "lpips", "0.10", "unknown"),
    ("VDM", "1", "GoPro", "PVDNet", "ssim", "0.92", "koehler"),
    ("VDM", "2", "DVD", "STFAN", "psnr", "31.24", "koehler"),
    ("VDM", "2", "DVD", "EDVR", "lpips", "0.9", "unknown"),
    ("CPGD-Net", "I", "GoPro", "PVDNet", "psnr", "29.20", "unknown"),
    ("CPGD-Net", "I", "GoPro", "RVRT", "ssim", "0.9738", "basicsr"),
    ("CPGD-Net", "I", "GoPro", "DSTNet", "psnr", "34.16", "basicsr-frame"),
    ("CPGD-Net", "I", "GoPro", "CPGD-Net", "musiq", "60.630", "bsst"),
    ("CPGD-Net", "I", "DVD", "BSSTNet", "psnr", "34.95", "bsst"),
    ("CPGD-Net", "I", "DVD", "Shift-Net", "musiq", "50.098", "unknown"),
    ("CPGD-Net", "I", "DVD", "CPGD-Net", "ssim", "0.7809", "bsst"),
    ("CPGD-Net", "I", "DVD", "TSP", "niqe", "5.193", "unknown"),
    ("CPGD-Net", "II", "DVD", "ircontrolnet", "musiq", "56.5850", "bsst"),
    ("CPGD-Net", "III", "DVD", "raft-4-warm", "niqe", "4.8096", "bsst"),
    ("CPGD-Net", "III", "DVD", "raft-20", "gflops", "908", "bsst"),
    ("CPGD-Net", "IV", "DVD", "without_extra_data", "musiq", "55.1294", "bsst"),
]


@pytest.mark.parametrize("wanted", SPOT, ids=lambda w: "-".join(w[:5]))
def test_published_figures_are_the_papers(wanted):
    found = [f for f in published_figures() if (f.paper, f.table, f.dataset, f.method, f.metric) == wanted[:5]]
    assert [(f.printed, f.protocol) for f in found] == [wanted[5:]]


def test_published_tables_are_complete():
    counts: dict[tuple[str, str], int] = {}
    for f in published_figures():
        counts[f.paper, f.table] = counts.get((f.paper, f.table), 0) + 1
        assert f.metric in {*METRICS, "gflops"}
        assert f.protocol in {*PROTOCOLS, "unknown"}
    assert counts == {
        ("VDM", "1"): 18,
        ("VDM", "2"): 18,
        ("CPGD-Net", "I"): 90,
        ("CPGD-Net", "II"): 8,
        ("CPGD-Net", "III"): 14,
        ("CPGD-Net", "IV"): 4,
    }


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("GOPRO_Large/test", "GoPro"),
        ("/data/gopro", "GoPro"),
        ("DVD", "DVD"),
        ("DeepVideoDeblurring_Dataset/quantitative_datasets", "DVD"),
        ("BSD_3ms24ms", None),
        ("my dvds", None),
    ],
)
def test_published_data_sets_are_recognised_by_name(name, known):
    assert known_dataset(name) == known
    assert {row.dataset for row in published_rows(name)} == ({known} if known else set())


def test_published_rows_are_kept_apart_by_protocol_and_unranked():
    blocks = published_blocks([result("m", {"a": 30.0}, dataset="GoPro")])
    by_title = {b.title: b for b in blocks}
    assert len(by_title) == len(blocks) == 7
    assert cells(by_title["Published on GoPro, protocol bsst"], "method") == ["BSSTNet", "CPGD-Net"]
    assert cells(by_title["Published on GoPro, protocol shiftnet"], "PSNR ↑ dB") == ["35.88"]
    assert any("one may be a copy" in note for note in by_title["Published on GoPro, protocol bsst"].notes)
    assert not any(cell.best for b in blocks for row in b.rows for cell in row)
    assert published_blocks([result("m", {"a": 30.0}, dataset="mine")]) == []


def test_ablations_are_not_among_the_comparisons():
    assert {row.table for row in published_rows("DVD")} == {"2", "I"}
    assert [row.method for row in ablation_rows("II")] == ["without_cpfp", "without_cpc", "ircontrolnet", "full"]
    assert ablation_rows("III")[0].printed == {"niqe": "5.1102", "musiq": "53.9717"}
    assert ablation_rows("I") == []
