"""The command line: what it writes, what it says, and how it leaves."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import unsmear
from support.clips import make_clip, moving_frames
from unsmear.cli.choices import seconds
from unsmear.cli.deblur import progress_words
from unsmear.cli.main import run
from unsmear.models.zoo import WEIGHTS_FILE
from unsmear.restore.options import Progress
from unsmear.video import open_video, write_png

REPORT_FIELDS = {
    *("input", "output", "model", "frames", "width", "height", "seconds", "frames_per_second", "peak_memory_mb"),
    *("device", "dtype", "blur_before", "blur_after", "motion_median_px", "motion_coverage", "scene_cuts"),
    *(
        "prior_origin",
        "note",
        "version",
        "damage",
        "weights_sha256",
        "options",
        "blur_per_second",
        "frames_without_motion",
    ),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where a test's files lie."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def clip(folder) -> Path:
    return make_clip(folder / "a.mp4", frames=10)


@pytest.fixture
def deblur(tiny_model, capfd):
    """Run ``unsmear deblur`` with the small model → (exit status, lines on stdout, lines on stderr)."""

    def call(*arguments: object, model: Path | str = tiny_model) -> tuple[int, list[str], list[str]]:
        fixed = ["--model", str(model), "--device", "cpu", "--dtype", "fp32", "--window", "8"]
        status = run(["deblur", *fixed, *map(str, arguments)])
        said = capfd.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()

    return call


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def numbered(frames: range) -> list[str]:
    return [f"{i:06d}.png" for i in frames]


# --- what it writes ---------------------------------------------------------------------------------------------


def test_default_output_and_summary(deblur, clip, folder):
    status, out, err = deblur(clip)
    assert (status, err) == (0, [])
    assert len(out) == 1
    assert "a.deblurred.mp4: 10 frames of 96x64" in out[0]
    assert listing(folder) == ["a.deblurred.mp4", "a.mp4"]


def test_quiet_says_nothing(clip, tiny_model):
    command = [sys.executable, "-m", "unsmear", "deblur", str(clip), "--model", str(tiny_model), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("made", [False, True], ids=["new", "there"])
def test_slash_means_a_folder(made, deblur, clip, folder):
    if made:
        (folder / "x.d").mkdir()
        (folder / "x.d" / "notes.txt").write_text("mine")
    assert deblur(clip, "-o", f"{folder}/x.d/")[0] == 0
    assert listing(folder / "x.d") == ["a.deblurred.mp4"] + ["notes.txt"] * made
    status, _, err = deblur(clip, "-o", f"{folder}/x.d/")
    assert status == 1
    assert "x.d/a.deblurred.mp4 exists already" in err[0]


@pytest.mark.parametrize("name", ["there", "new"])
def test_a_name_without_an_ending_is_a_folder(name, deblur, clip, folder):
    (folder / "there").mkdir()
    assert deblur(clip, "-o", folder / name)[0] == 0
    assert listing(folder / name) == ["a.deblurred.mp4"]


def test_folder_of_frames_into_a_folder(deblur, folder):
    (folder / "shots").mkdir()
    for i, picture in enumerate(moving_frames(frames=9)):
        write_png(folder / "shots" / f"shot{i}.png", picture)
    for output in ("x.d/", "y", "z.d/"):
        (folder / "z.d").mkdir(exist_ok=True)
        assert deblur(folder / "shots", "-o", f"{folder}/{output}")[0] == 0
        assert listing(folder / output) == numbered(range(9))


def test_frames_replace_only_frames(deblur, clip, folder):
    deblur(clip, "-o", f"{folder}/x/", "--frames")
    (folder / "x" / "notes.txt").write_text("mine")
    status, _, err = deblur(clip, "-o", f"{folder}/x/", "--frames")
    assert status == 1
    assert "exists already" in err[0]
    assert deblur(clip, "-o", f"{folder}/x/", "--frames", "--overwrite", "--start", 0.2)[0] == 0
    assert sorted(p.name for p in (folder / "x").iterdir()) == [*numbered(range(5, 10)), "notes.txt"]


def test_frames_option(deblur, clip, folder):
    assert deblur(clip, "--frames")[0] == 0
    assert sorted(p.name for p in (folder / "a.deblurred").iterdir()) == numbered(range(10))


def test_current_folder_as_output(deblur, clip, folder, monkeypatch):
    (folder / "work").mkdir()
    monkeypatch.chdir(folder / "work")
    assert deblur(clip, "-o", ".")[0] == 0
    assert listing(folder / "work") == ["a.deblurred.mp4"]
    assert deblur(clip, "-o", ".", "--frames")[0] == 0
    assert listing(folder / "work") == [*numbered(range(10)), "a.deblurred.mp4"]


def test_image_into_a_folder(deblur, folder):
    write_png(folder / "p.png", moving_frames(frames=1)[0])
    for output in ("out/", "plain"):
        status, out, err = deblur(folder / "p.png", "-o", f"{folder}/{output}")
        assert (status, err) == (0, [])
        assert out[-1].strip() == "single picture: there is no motion to go by; give the video"
        assert listing(folder / output) == ["p.deblurred.png"]


def test_folder_of_videos_and_images_gives_the_videos(deblur, clip, folder, caplog):
    """As cameras leave it. What is skipped is said, and nothing has failed."""
    (folder / "holiday").mkdir()
    for name in ("b.mp4", "c.mp4"):
        shutil.copy(clip, folder / "holiday" / name)
    for name in ("x.png", "y.png", "z.png"):
        write_png(folder / "holiday" / name, moving_frames(frames=1)[0])
    status, out, err = deblur(folder / "holiday", "-o", f"{folder}/out/")
    assert (status, len(out), err) == (0, 2, [])
    assert listing(folder / "out") == ["b.deblurred.mp4", "c.deblurred.mp4"]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.endswith("holiday/: 3 images are skipped; name images one by one, or give a folder without videos")


def test_report_names_every_field(deblur, clip, folder, tiny_model):
    assert deblur(clip, "--compare", "--report", folder / "sub" / "r.json")[0] == 0
    (entry,) = json.loads((folder / "sub" / "r.json").read_text())
    assert entry.keys() >= REPORT_FIELDS
    assert (entry["frames"], entry["width"], entry["height"], entry["model"]) == (10, 96, 64, "tiny")
    assert (entry["device"], entry["dtype"], entry["window_frames"]) == ("cpu", "float32", 8)
    assert entry["seconds"] > 0
    assert entry["peak_memory_mb"] > 10
    assert entry["version"] == unsmear.__version__
    assert entry["weights_sha256"] == unsmear.load(str(tiny_model), device="cpu").fingerprint
    assert entry["options"].items() >= {"window": 8, "compare": True, "strength": 1.0, "start_s": None}.items()
    assert [row["second"] for row in entry["blur_per_second"]] == [0]
    assert (folder / "a.deblurred.compare.mp4").exists()


def test_batch_does_the_others(deblur, clip, folder):
    """A folder of videos, a lone one and a missing one: the good ones are done, each bad one is one line."""
    (folder / "more").mkdir()
    for name in ("b.mp4", "c.mkv"):
        make_clip(folder / "more" / name, frames=10)
    (folder / "more" / "bad.mp4").write_bytes(b"no video at all" * 50)
    (folder / "more" / "old.deblurred.mp4").write_bytes(clip.read_bytes())  # what an earlier run wrote
    report = folder / "r.json"
    status, out, err = deblur(clip, folder / "more", folder / "gone.mp4", "-o", folder / "out", "--report", report)
    assert status == 1
    assert len(out) == 3
    assert len(err) == 2
    assert any("gone.mp4" in line for line in err)
    assert any("bad.mp4" in line for line in err)
    assert listing(folder / "out") == ["a.deblurred.mp4", "b.deblurred.mp4", "c.deblurred.mkv"]
    assert [Path(r["input"]).name for r in json.loads(report.read_text())] == ["a.mp4", "b.mp4", "c.mkv"]


def test_batch_of_frames_has_a_folder_each(deblur, clip, folder):
    other = make_clip(folder / "b.mp4", frames=9)
    assert deblur(clip, other, "--frames", "-o", folder / "out")[0] == 0
    assert listing(folder / "out") == sorted(
        ["a.deblurred", "b.deblurred"]
        + [f"a.deblurred/{n}" for n in numbered(range(10))]
        + [f"b.deblurred/{n}" for n in numbered(range(9))]
    )


def test_inputs_that_would_replace_each_other(deblur, clip, folder):
    (folder / "more").mkdir()
    shutil.copy(clip, folder / "more" / "a.mp4")
    status, _, err = deblur(clip, folder / "more" / "a.mp4", "-o", folder / "out")
    assert status == 2
    assert "would both become" in err[0]
    assert not (folder / "out").exists()


# --- what goes wrong --------------------------------------------------------------------------------------------


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        for i in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def truncated(path: Path) -> None:
    make_clip(path, frames=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def head_of_a_matroska(path: Path) -> None:
    make_clip(path, frames=60)
    path.write_bytes(path.read_bytes()[:300])


BAD_INPUTS = {
    "missing": ("x.mp4", lambda path: None, "no such file"),
    "empty-folder": ("x", lambda path: path.mkdir(), "neither images nor videos"),
    "audio-only": ("x.m4a", audio_only, "no video stream"),
    "empty": ("x.mp4", lambda path: path.touch(), "is empty"),
    "truncated-mp4": ("x.mp4", truncated, "damaged"),
    "head-of-an-mkv": ("x.mkv", head_of_a_matroska, "damaged"),
    "raw-without-size": ("x.yuv", lambda path: path.write_bytes(bytes(9000)), "does not state its size"),
    "address": ("https://example.org/x.mp4", None, "https://example.org/x.mp4: addresses are not read"),
    "stdin": ("-", None, "standard input is not read"),
    "text": ("x.mp4", lambda path: path.write_text("just words\n" * 100), "not a video"),
    "broken-image": ("x.png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "cut short"),
    "device": ("/dev/null", lambda path: None, "not a regular file"),
}


@pytest.mark.parametrize(("name", "make", "words"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_one_line(name, make, words, deblur, folder):
    given = name if make is None else folder / name
    if make is not None:
        make(folder / name)
    before = listing(folder)
    status, out, err = deblur(given, "-o", folder / "new" / "out.mp4")
    assert (status, out) == (1, [])
    assert len(err) == 1
    assert words in err[0]
    assert name in err[0]
    assert listing(folder) == before


BAD_OPTIONS = {
    "empty-range": (["--start", "1", "--end", "1"], 2, "a time after --start"),
    "backward-range": (["--start", "2", "--end", "1"], 2, "a time after --start"),
    "negative-start": (["--start", "-1"], 2, "0 or more"),
    "no-number": (["--start", "nan"], 2, "0 or more"),
    "beyond-the-end": (["--start", "100"], 2, "no frame lies in the range"),
    "strength": (["--strength", "1.5"], 2, "--strength 1.5: expected 0 to 1"),
    "no-strength": (["--strength", "nan"], 2, "--strength nan"),
    "words-for-strength": (["--strength", "much"], 2, "--strength"),
    "window": (["--window", "2"], 2, "--window 2: expected 8 or more (frames)"),
    "tile": (["--tile", "20"], 2, "--tile 20: expected"),
    "words-for-tile": (["--tile", "small"], 2, "--tile small: expected auto, off or 160"),
    "device": (["--device", "abacus"], 2, "abacus"),
    "missing-device": (["--device", "mps"], 2, "mps"),
    "dtype": (["--dtype", "int3"], 2, "int3"),
    "half-on-cpu": (["--dtype", "fp16"], 2, "fp16"),
    "codec": (["--codec", "morse"], 2, "morse"),
    "pixel-format": (["--pix-fmt", "yuv999"], 2, "yuv999"),
    "crf": (["--crf", "99"], 2, "99"),
    "codec-in-container": (["-o", "HERE/x.webm", "--codec", "h264"], 2, ".webm"),
    "container": (["-o", "HERE/x.xyz"], 2, "can be written as .xyz; name an output that ends in .mp4 or .mkv"),
    "no-video": (["-o", "HERE/out.txt"], 2, "can be written as .txt; name an output that ends in .mp4 or .mkv"),
    "hardware": (["--codec", "h264_nvenc"], 2, "--codec h264_nvenc: this encoder does not start here"),
    "words-for-start": (["--start", "soon"], 2, "soon: expected a time in seconds or as [HOURS:]MINUTES:SECONDS"),
    "no-clock": (["--end", "1:75"], 2, "1:75: expected a time"),
    "range-of-clock-times": (["--start", "0:01", "--end", "0:00:00.5"], 2, "a time after --start"),
    "rate-of-a-video": (["--fps", "24"], 2, "--fps 24 is for folders of frames"),
    "image-of-a-video": (["-o", "HERE/x.png"], 2, "many frames"),
    "input-as-output": (["-o", "HERE/a.mp4", "--overwrite"], 1, "is the input itself"),
    "link-to-the-input": (["-o", "HERE/link.mp4", "--overwrite"], 1, "is the input itself"),
    "existing-output": (["-o", "HERE/old.mkv"], 1, "exists already; give --overwrite or choose another --output"),
    "file-for-frames": (["-o", "HERE/old.mkv", "--frames", "--overwrite"], 1, "is a file"),
    "existing-report": (["--report", "HERE/old.mkv"], 1, "exists already"),
    "below-a-file": (["-o", "HERE/old.mkv/out.mp4"], 1, "cannot be written"),
    "report-below-a-file": (["--report", "HERE/old.mkv/r.json"], 1, "cannot be written"),
    "nowhere": (["-o", "/proc/nowhere/out.mp4"], 1, "cannot be written"),
    "unknown-option": (["--sharpness", "3"], 2, "--sharpness"),
}


@pytest.mark.parametrize(("options", "expected", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_option_is_one_line(options, expected, words, deblur, clip, folder):
    (folder / "old.mkv").write_text("old")
    os.link(clip, folder / "link.mp4")
    before = listing(folder)
    status, out, err = deblur(clip, *(option.replace("HERE", str(folder)) for option in options))
    assert (status, out) == (expected, [])
    assert len(err) == 1
    assert words in err[0]
    assert listing(folder) == before
    assert (folder / "old.mkv").read_text() == "old"


def test_existing_comparison_is_kept(deblur, clip, folder):
    (folder / "out.compare.mp4").write_text("old")
    status, _, err = deblur(clip, "-o", folder / "out.mp4", "--compare")
    assert status == 1
    assert "out.compare.mp4 exists already" in err[0]
    assert not (folder / "out.mp4").exists()


def truncate_weights(model: Path) -> None:
    data = (model / WEIGHTS_FILE).read_bytes()
    (model / WEIGHTS_FILE).write_bytes(data[: len(data) // 2])


def change_weights(model: Path, change) -> None:
    weights = load_file(model / WEIGHTS_FILE)
    change(weights)
    save_file(weights, model / WEIGHTS_FILE)


def widen(weights: dict) -> None:
    weights["to_pixels.bias"] = weights["to_pixels.bias"].repeat(2)


def pickled(model: Path) -> None:
    (model / WEIGHTS_FILE).write_bytes(pickle.dumps({"fuse.bias": [1.0, 2.0]}))


BAD_WEIGHTS = {
    "truncated": (truncate_weights, "no safetensors file"),
    "checksum": (lambda model: (model / "card.json").write_text(json.dumps({"sha256": "0" * 64})), "SHA-256"),
    "missing-key": (lambda model: change_weights(model, lambda w: w.pop("to_pixels.bias")), "lacks to_pixels.bias"),
    "wrong-shape": (lambda model: change_weights(model, widen), "wrong shape for to_pixels.bias"),
    "pickle": (pickled, "no safetensors file"),
    "no-weights": (lambda model: (model / WEIGHTS_FILE).unlink(), WEIGHTS_FILE),
    "no-config": (lambda model: (model / "config.json").unlink(), "config.json"),
    "broken-config": (lambda model: (model / "config.json").write_text("{"), "config.json"),
    "broken-card": (lambda model: (model / "card.json").write_text("[1]"), "card.json"),
    "another-network": (lambda model: (model / "config.json").write_text('{"_class_name": "UNet"}'), "UNet"),
}


@pytest.mark.parametrize(("damage", "words"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_are_one_line(damage, words, deblur, clip, folder, tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    damage(model)
    status, out, err = deblur(clip, model=model)
    assert (status, out) == (1, [])
    assert len(err) == 1
    assert words in err[0]
    assert listing(folder) == ["a.mp4"]


def test_unknown_model_is_wrong_usage(deblur, clip):
    status, _, err = deblur(clip, model="wonder")
    assert (status, len(err)) == (2, 1)
    assert "'wonder'" in err[0]


@pytest.mark.parametrize("arguments", [["nonsense"], ["deblur"], ["--nonsense"], ["train", "soup"]])
def test_wrong_arguments_are_one_line(arguments, capfd):
    assert run(arguments) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "--help' tells more" in said.err


@pytest.mark.parametrize(("arguments", "near"), [(["debur", "a.mp4"], "deblur"), (["data", "blurr"], "blur")])
def test_a_word_that_is_nearly_a_command(arguments, near, capfd):
    assert run(arguments) == 2
    assert f". Did you mean '{near}'? 'unsmear" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("75", 75), ("75.5", 75.5), ("1:15.5", 75.5), ("01:02:03", 3723), ("100:00", 6000), ("0:0:1.25", 1.25)],
)
def test_times_as_people_write_them(text, expected):
    assert seconds(text) == expected


def test_clock_times_reach_the_job(deblur, clip, folder):
    assert deblur(clip, "--start", "0:00:00.2", "--end", "0:0.36", "--frames")[0] == 0
    assert listing(folder / "a.deblurred") == numbered(range(5, 9))


def test_one_frame_into_a_name_of_an_image(deblur, folder):
    one = make_clip(folder / "one.mp4", frames=1)
    status, _, err = deblur(one, "-o", folder / "one.png")
    assert status == 2 and "one.mp4 is a video; name a video file, or a folder for PNG --frames" in err[0]
    status, out, _ = deblur(one, "-o", f"{folder}/f/", "--frames")
    assert status == 0 and "f: 1 frame of" in out[0]


def test_surprises_are_one_line_too(deblur, clip, folder, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the moon is full\nand a stack of words")

    monkeypatch.setattr("unsmear.restore.job.measure", fail)
    status, _, err = deblur(clip)
    assert status == 1
    assert err == ["unsmear: unexpected RuntimeError: the moon is full; --debug shows where"]
    assert listing(folder) == ["a.mp4"]
    with pytest.raises(RuntimeError):
        deblur(clip, "--debug")


# --- the rest ---------------------------------------------------------------------------------------------------


def test_help_and_version(capfd):
    assert run(["--version"]) == 0
    assert run(["-V"]) == 0
    assert capfd.readouterr().out == f"unsmear {unsmear.__version__}\n" * 2
    assert run(["deblur", "--help"]) == 0
    assert "--strength" in capfd.readouterr().out
    assert run([]) == 2
    assert "deblur" in capfd.readouterr().out


def test_progress_tells_rate_and_time_left():
    assert progress_words(Progress(24, 100, 0.5)) == "24/100 frames, 0.50 frames/s, 0:02:32 left"
    assert progress_words(Progress(24, None, 0.5)) == "24 frames, 0.50 frames/s"
    assert progress_words(Progress(24, 20, 0.5)) == "24 frames, 0.50 frames/s"
    assert progress_words(Progress(0, 20, 0.0)) == "0/20 frames, 0.00 frames/s"


def test_models(tiny_model, capfd):
    assert run(["models"]) == 0
    capfd.readouterr()
    assert run(["models", str(tiny_model)]) == 0
    said = capfd.readouterr().out
    assert "SHA-256" in said
    assert "no checksum in its card" in said
    assert run(["models", "wonder"]) == 2
    assert "'wonder'" in capfd.readouterr().err


def test_ctrl_c_leaves_130_and_one_line(tiny_model, folder):
    source = make_clip(folder / "a.mp4", frames=240)
    output = folder / "out.mp4"
    command = [sys.executable, "-m", "unsmear", "deblur", str(source), "-o", str(output), "--model", str(tiny_model)]
    command += ["--device", "cpu", "--dtype", "fp32", "--window", "8"]
    running = subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(6000):
        if (folder / ".out.mp4.unsmear" / "done.json").exists() or running.poll() is not None:
            break
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert len(err.splitlines()) == 1
    assert "interrupted; run the same command again" in err
    assert listing(folder)[0] == ".out.mp4.unsmear"
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "were there from an earlier run" in done.stdout
    assert listing(folder) == ["a.mp4", "out.mp4"]
    with open_video(output) as reader:
        assert sum(1 for _ in reader) == 240
