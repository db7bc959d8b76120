"""Evaluation: models and baselines on a small data set, outputs against targets, and what is wrong said in one line."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from support.clips import hide_first, make_clip, moving_frames
from support.restorers import Negative
from unsmear.blur.light import expose
from unsmear.cli.main import run
from unsmear.datasets.pairs import find_pairs
from unsmear.errors import DataLayoutError, UsageError
from unsmear.evaluation.evaluate import Evaluator, Settings, compare
from unsmear.evaluation.results import read_results
from unsmear.metrics import psnr
from unsmear.metrics.meter import Measures
from unsmear.metrics.protocols import PROTOCOLS
from unsmear.restore.baselines import BASELINES, find_baseline
from unsmear.restore.restorer import Clip, Restorer, State
from unsmear.video import open_video, read_image, write_png
from unsmear.video.light import quantise

FAST = Settings(metrics=("psnr", "ssim", "warp", "flicker", "blur"), pictures=1)
STEP_PX, SPREAD = 8, 6


def smeared(frames: int = 6, size: tuple[int, int] = (160, 96), seed: int = 0) -> tuple[list, list]:
    """(blurred, sharp) frames of a texture that moves by 8 px a frame and is exposed for 6/8 of the step."""
    fine = moving_frames(size, (frames + 2) * STEP_PX, step_px=(1, 0), seed=seed)
    centres = range(STEP_PX, (frames + 1) * STEP_PX, STEP_PX)
    blurred = [quantise(expose(fine[c - SPREAD // 2 : c + SPREAD // 2 + 1])) for c in centres]
    return blurred, [fine[c] for c in centres]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for seed, name in enumerate(("left", "right")):
        for kind, frames in zip(("blur", "sharp"), smeared(seed=seed), strict=True):
            folder = tmp_path / "set" / name / kind
            folder.mkdir(parents=True)
            for i, frame in enumerate(frames):
                write_png(folder / f"{i:06d}.png", frame)
    return tmp_path / "set"


class Truth(Restorer):
    """Gives back the sharp frames: what a perfect model would do, or all but one wrong level of them."""

    fingerprint = "truth"

    def __init__(self, folder: Path, off: int = 0, name: str = "truth"):
        self.files, self.off, self.name, self.calls = sorted(folder.glob("*.png")), off, name, 0

    def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        self.calls += 1
        frames = np.stack([read_image(f) for f in self.files])[: clip.wanted] + np.uint8(self.off)
        return (frames if clip.frames.dtype == np.uint8 else frames.astype(np.uint16) * 257), {}


def one(dataset: Path, name: str) -> list:
    return [clip for clip in find_pairs(dataset) if name in clip.name]


def test_a_perfect_model_scores_perfectly_and_one_level_off_48_db(dataset: Path, tmp_path: Path) -> None:
    clips = one(dataset, "left")
    assert clips[0].sharp is not None
    right = Evaluator(clips, "set", tmp_path / "out", FAST).run(Truth(clips[0].sharp)).result
    assert right.mean("psnr") == 100
    assert right.mean("ssim") == 1
    assert right.mean("flicker") == 0
    before = right.clips[0].before["psnr"]
    direct = np.mean([psnr(b, s) for b, s in zip(*smeared(), strict=True)])
    assert before == pytest.approx(direct, abs=1e-6)
    off = Evaluator(clips, "set", tmp_path / "out", FAST).run(Truth(clips[0].sharp, 1, "off")).result
    assert off.mean("psnr") == pytest.approx(20 * np.log10(255), abs=1e-4)
    assert off.mean("flicker") == 0  # it is wrong, but steadily


def test_baselines_keep_or_improve_the_input(dataset: Path, tmp_path: Path) -> None:
    results = {
        name: Evaluator(find_pairs(dataset), "set", tmp_path / "out", FAST).run(method).result
        for name in BASELINES
        if (method := find_baseline(name)) is not None
    }
    before = results["identity"].mean("psnr", before=True)
    assert before is not None
    assert results["identity"].mean("psnr") == before
    assert results["identity"].mean_gain("ssim") == 0
    lucy, unsharp = (results[name].mean("psnr") for name in ("richardson-lucy", "unsharp"))
    assert lucy is not None
    assert unsharp is not None
    assert lucy > before + 2  # a long, clean blur is what deconvolution is for
    assert lucy > unsharp + 1


def test_richardson_lucy_leaves_still_frames_alone() -> None:
    still = [cv2.GaussianBlur(moving_frames((160, 96), 1)[0], (0, 0), 1)] * 4
    method = find_baseline("richardson-lucy")
    assert method is not None
    assert np.array_equal(method(Clip.of(still)), np.stack(still))


def test_finished_clips_are_kept_and_others_measured_anew(dataset: Path, tmp_path: Path) -> None:
    clips = one(dataset, "left")
    assert clips[0].sharp is not None
    first = Truth(clips[0].sharp)
    result = Evaluator(clips, "set", tmp_path / "out", FAST).run(first).result
    again = Truth(clips[0].sharp)
    assert Evaluator(clips, "set", tmp_path / "out", FAST).run(again).result == result
    assert (first.calls, again.calls) == (1, 0)
    other = Settings(metrics=("psnr",), pictures=1)
    assert Evaluator(clips, "set", tmp_path / "out", other).run(again).result.metrics == ["psnr"]
    assert again.calls == 1
    write_png(clips[0].sharp / "000000.png", np.zeros((96, 160, 3), np.uint8))  # the data changed
    assert Evaluator(clips, "set", tmp_path / "out", FAST).run(again).result != result


def test_a_bad_clip_gives_a_one_line_error_and_does_not_stop_the_others(dataset: Path, tmp_path: Path) -> None:
    (dataset / "left/sharp/000003.png").unlink()
    found = Evaluator(find_pairs(dataset), "set", tmp_path / "out", FAST).run(find_baseline("identity"))  # type: ignore[arg-type]
    assert [row.clip for row in found.result.clips] == ["right"]
    [(name, error)] = found.failures
    assert name == "left"
    assert "000003 is missing" in str(error)
    assert "\n" not in str(error)
    shutil.rmtree(dataset / "right/sharp")
    with pytest.raises(DataLayoutError, match="000003 is missing"):
        Evaluator(find_pairs(dataset), "set", tmp_path / "out", FAST).run(find_baseline("identity"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: write_png(d / "left/sharp/000002.png", np.zeros((90, 160, 3), np.uint8)), "000002"),
        (lambda d: (d / "left/sharp/000005.png").write_bytes(b"no picture"), "000005"),
        (lambda d: [p.unlink() for p in (d / "left/sharp").glob("*5.png")], "000005 is missing"),
    ],
)
def test_wrong_partners_are_named(dataset: Path, tmp_path: Path, damage, words: str) -> None:  # type: ignore[no-untyped-def]
    damage(dataset)
    with pytest.raises(DataLayoutError, match=words):
        Evaluator(one(dataset, "left"), "set", tmp_path / "out", FAST).run(find_baseline("identity"))  # type: ignore[arg-type]


def test_protocols_leave_out_the_documented_frames(dataset: Path, tmp_path: Path) -> None:
    clips = one(dataset, "left")
    for name, frames in (("basicsr", 6), ("koehler", 5), ("bsst", 2)):
        settings = Settings(name, ("psnr", "ssim"), pictures=0)
        row = Evaluator(clips, "set", tmp_path / "out", settings).run(find_baseline("identity")).result.clips[0]  # type: ignore[arg-type]
        assert row.frames == frames
    with pytest.raises(DataLayoutError, match="6 frames are too few for the protocol shiftnet"):
        Evaluator(clips, "set", tmp_path / "out", Settings("shiftnet", ("psnr",))).run(find_baseline("identity"))  # type: ignore[arg-type]


def test_shiftnet_measures_before_rounding(dataset: Path, tmp_path: Path) -> None:
    """Frames are handed over in 16 bits and come back so; 48 + 4 of them make one block."""

    class Half(Truth):
        def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
            assert clip.frames.dtype == np.uint16
            return clip.frames[: clip.wanted] + np.uint16(128), {}  # half a level

    clip = one(dataset, "left")[0]
    for folder in (clip.source, clip.sharp):
        frame = np.full((96, 160, 3), 100, np.uint8)
        for i in range(52):
            write_png(folder / f"{i:06d}.png", frame)
    settings = Settings("shiftnet", ("psnr",), pictures=0)
    row = Evaluator([clip], "set", tmp_path / "out", settings).run(Half(clip.sharp)).result.clips[0]
    assert row.frames == 48
    assert row.values["psnr"] == pytest.approx(20 * np.log10(255 * 257 / 128), abs=1e-3)


def test_windows_are_averaged_one_by_one() -> None:
    from unsmear.metrics.meter import Meter

    meter = Meter(Measures(("psnr",)), PROTOCOLS["bsst"], ("psnr",))
    for value, window in ((10, 0), (20, 0), (40, 1), (0, None)):
        meter.replay({"psnr": value} if window is not None else {}, window)
    assert meter.means() == {"psnr": 27.5}
    assert (meter.frames, meter.windows) == (3, 2)


def test_an_output_against_its_target(dataset: Path) -> None:
    clip = one(dataset, "left")[0]
    assert clip.sharp is not None
    found = compare(clip.source, clip.sharp, clip.source, FAST)
    assert found.result.mean_gain("psnr") == 0
    assert found.pictures[0].frame == 3
    with pytest.raises(DataLayoutError, match="6 frames"):
        compare(clip.source, clip.sharp, None, Settings("shiftnet"))


def test_outputs_of_another_size_or_length_are_refused(dataset: Path, tmp_path: Path) -> None:
    clip = one(dataset, "left")[0]
    assert clip.sharp is not None
    for frames, size, words in ((5, (160, 96), "ends after 5 frames"), (6, (96, 96), "is 96x96 where .* is 160x96")):
        folder = tmp_path / f"out{frames}"
        folder.mkdir()
        for i, frame in enumerate(moving_frames(size, frames)):
            write_png(folder / f"{i:06d}.png", frame)
        with pytest.raises(DataLayoutError, match=words):
            compare(folder, clip.sharp, None, FAST)


def test_sharp_clips_can_be_restored_too(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(metrics=("psnr",), pictures=0, sharp=True)
    for method, least, most in ((find_baseline("identity"), 100, 100), (find_baseline("unsharp"), 20, 60)):
        assert method is not None
        row = Evaluator(one(dataset, "left"), "set", tmp_path, settings).run(method).result.clips[0]
        assert least <= row.values["kept"] <= most
    monkeypatch.setattr("unsmear.restore.job.restrained", lambda before, after, duty, blur: after)
    upside = Evaluator(one(dataset, "left"), "set", tmp_path, settings).run(Negative()).result.clips[0]
    sharp = np.stack(smeared()[1])
    assert upside.values["kept"] == pytest.approx(np.mean([psnr(255 - f, f) for f in sharp]), abs=1e-6)


def test_metrics_that_need_larger_frames_are_named(dataset: Path, tmp_path: Path) -> None:
    settings = Settings(metrics=("psnr", "niqe"), pictures=0)
    row = Evaluator(one(dataset, "left"), "set", tmp_path, settings).run(find_baseline("identity")).result.clips[0]  # type: ignore[arg-type]
    assert list(row.values) == ["psnr"]
    assert "too small for NIQE" in row.note


def test_unknown_metrics_and_missing_weights() -> None:
    with pytest.raises(UsageError, match="psnr, ssim"):
        Measures(("fid",))
    with pytest.raises(UsageError, match="metric musiq needs its weights, which are not shipped: give musiq_koniq"):
        Measures(("psnr", "musiq"))


def test_the_command_writes_tables_and_a_page(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    options = ["--metrics", "psnr,ssim,lpips", "--pictures", "1", "-o", str(out)]
    assert run(["evaluate", "--data", str(dataset), "--model", "identity", "--model", "unsharp", *options]) == 0
    printed = capsys.readouterr().out
    assert "protocol basicsr" in printed
    assert "| unsharp | 2 |" in printed
    made = {path.name for path in out.iterdir()}
    assert {"results.md", "results.csv", "results.tex", "results.json", "index.html"} <= made
    assert [r.method for r in read_results(out / "results.json")] == ["identity", "unsharp"]
    assert not list((out / "frames").rglob("*.png"))  # measured and gone
    stored = json.loads((out / "clips/basicsr/unsharp/left~blur.json").read_text())
    assert len(stored["frames"]) == 6


def test_without_a_folder_the_command_only_prints(dataset: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["evaluate", "--data", str(dataset), "--model", "identity", "--metrics", "psnr"]) == 0
    printed = capsys.readouterr().out
    assert "| identity | 2 |" in printed
    assert "written" not in printed


def test_the_command_compares_two_folders(dataset: Path, capsys: pytest.CaptureFixture) -> None:
    pair = [str(dataset / "left" / kind) for kind in ("blur", "sharp")]
    assert run(["evaluate", *pair, "--metrics", "psnr", "--protocol", "koehler"]) == 0
    assert "protocol koehler" in capsys.readouterr().out


def test_a_folder_of_videos_is_not_measured_by_the_pictures_beside_them(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    sharp = dataset / "left" / "sharp"
    (tmp_path / "both").mkdir()
    make_clip(tmp_path / "both" / "a.mp4")
    shutil.copy(min(sharp.iterdir()), tmp_path / "both")
    assert run(["evaluate", str(tmp_path / "both"), str(sharp), "--metrics", "psnr"]) == 2
    assert "holds a video, each an input of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["OUT"],
        ["OUT", "TARGET", "--model", "cpfp"],
        ["--model", "cpfp"],
        ["--data", "SET", "-o", "X", "--protocol", "gopro"],
        ["--data", "SET", "-o", "FILE"],
        ["--data", "SET", "-o", "X", "--model", "no-such-model"],
        ["--data", "SET", "-o", "X", "--model", "unsharp", "--model", "unsharp"],
        ["--data", "SET", "-o", "X", "--metrics", "lpips_vgg", "--model", "identity"],
    ],
)
def test_wrong_usage_gives_a_one_line_error(
    arguments: list[str], dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    names = {
        "SET": str(dataset),
        "X": str(tmp_path / "x"),
        "OUT": str(dataset),
        "TARGET": str(dataset),
        "FILE": __file__,
    }
    assert run(["evaluate", *(names.get(a, a) for a in arguments)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("protocol", ["basicsr", "bsst"])
def test_frames_that_an_edit_list_hides_are_not_counted(protocol: str, tmp_path: Path) -> None:
    """The container states 60 frames, players show 50: those are compared, and are what windows are laid over."""
    pictures = moving_frames((96, 64), 60)
    whole = make_clip(tmp_path / "whole.mp4", content=pictures, options={"bf": "0", "crf": "4"})
    hidden = hide_first(whole, tmp_path / "hidden.mp4", 10)
    with open_video(hidden) as reader:
        assert reader.info.frames == 60
        shown = [frame.rgb for frame in reader]
    assert len(shown) == 50
    (tmp_path / "frames").mkdir()
    for i, picture in enumerate(shown):
        write_png(tmp_path / "frames" / f"{i:06d}.png", picture)
    settings = Settings(protocol, metrics=("psnr",), pictures=0)
    expected = compare(tmp_path / "frames", tmp_path / "frames", None, settings).result.clips[0]
    for output, target in ((tmp_path / "frames", hidden), (hidden, tmp_path / "frames")):
        assert compare(output, target, None, settings).result.clips[0].frames == expected.frames > 0
        assert compare(output, target, None, settings).result.mean("psnr") == 100
    with pytest.raises(DataLayoutError, match="ends after 50 frames"):
        compare(tmp_path / "frames", whole, None, settings)


def test_a_clip_that_fails_is_said_once(dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (dataset / "left/sharp/000005.png").write_bytes(b"no picture")
    models = ["--model", "identity", "--model", "unsharp"]
    assert run(["evaluate", "--data", str(dataset), *models, "--metrics", "psnr", "-o", str(tmp_path / "out")]) == 1
    said = capfd.readouterr().err
    assert said.count("000005.png") == 1 and said.count("unsmear:") == 1


def test_figures_of_another_version_are_measured_again(dataset: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    clips = one(dataset, "left")
    assert clips[0].sharp is not None
    method = Truth(clips[0].sharp)
    for calls in (1, 1, 2):
        if calls == 2:
            monkeypatch.setattr("unsmear.restore.resume.__version__", "99.0")
        Evaluator(clips, "set", tmp_path / "out", FAST).run(method)
        assert method.calls == calls
