"""Whatever goes wrong, stderr has one line and nothing is left behind, whoever would like to say more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.clips import make_clip
from support.command import unsmear
from unsmear.metrics.protocols import PROTOCOLS
from unsmear.video import open_video, write_png
from unsmear.video.images import natural_key

COMMAND = [sys.executable, "-m", "unsmear"]


def pictures(folder: Path, size: tuple[int, int], count: int = 3, first: int = 0) -> Path:
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        write_png(folder / f"{number:06d}.png", np.full((*size, 3), 20 + 10 * number, np.uint8))
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("digits", ["\u00b2", "\u0b68", "\u2460", "1\u00b22"])
def test_digits_of_all_kinds_in_names(digits, tmp_path):
    names = [f"a{digits}{number}.png" for number in (1, 2, 10)]
    for name in names:
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    assert [path.name for path in sorted(map(Path, reversed(names)), key=natural_key)] == names
    assert len(list(open_video(tmp_path))) == 3


@pytest.mark.parametrize("name", ["n" * 260 + ".mp4", "loop.mp4", "folder/" + "n" * 300])
def test_names_that_no_file_can_have(name, tmp_path):
    (tmp_path / "loop.mp4").symlink_to("pool.mp4")
    (tmp_path / "pool.mp4").symlink_to("loop.mp4")
    answer = unsmear("deblur", tmp_path / name)
    assert answer.exit_code == 1
    assert "cannot be read" in answer.complaint or "no such file" in answer.complaint


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&-"])
def test_standard_files_that_are_closed(closed):
    line = f"'{sys.executable}' -m unsmear --version {closed}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_printed_does_not_get_into_the_output(tmp_path):
    """The numbers of closed files are free for the next file that is opened."""
    source = make_clip(tmp_path / "a.mp4", frames=4)
    line = f"'{sys.executable}' -m unsmear deblur '{source}' --device cpu --window 8 >&- 2>&-"
    assert subprocess.run(line, shell=True, timeout=120).returncode == 0
    assert len(list(open_video(tmp_path / "a.deblurred.mp4"))) == 4


def test_names_that_cannot_be_printed(tmp_path):
    """Not in one line, or not in the encoding of standard output."""
    assert "two\\nlines.mp4: no such file" in unsmear("deblur", "two\nlines.mp4").complaint
    image = tmp_path / os.fsdecode(b"\xff.png")
    Image.new("RGB", (64, 48)).save(image)
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    command = [*COMMAND, "deblur", str(image), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=strict)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\udcff.deblurred.png: 1 frame" in done.stdout


NOISE = """
import os, sys
from unsmear.cli import main
def run(arguments):
    os.write(2, b"a library\\n")
    sys.stderr.write("the command\\n")
    return 3
main.run = run
main.main()
"""


@pytest.mark.parametrize(("arguments", "said"), [([], "the command\n"), (["--debug"], "a library\nthe command\n")])
def test_what_libraries_print_by_themselves_is_not_seen(arguments, said):
    done = subprocess.run([sys.executable, "-c", NOISE, *arguments], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (3, said)


def test_a_reader_that_goes_away_ends_the_batch_in_silence(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "deblur", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--device", "cpu"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
    assert (tmp_path / "a.deblurred.png").exists()


def test_evaluating_says_it_once(tmp_path):
    pictures(tmp_path / "set" / "train" / "clip" / "blur", (48, 64), first=7)
    pictures(tmp_path / "set" / "train" / "clip" / "sharp", (48, 64))
    done = subprocess.run(
        [*COMMAND, "evaluate", "--data", str(tmp_path / "set"), "--model", "identity"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "partners have the same names" in done.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("side", [3, 16, 42])
def test_small_frames_are_measured_or_refused_in_one_line(protocol, side, tmp_path):
    output, target = (pictures(tmp_path / name, (side, side), 9, first) for name, first in (("a", 0), ("b", 1)))
    answer = unsmear("evaluate", output, target, "--protocol", protocol, "--device", "cpu")
    if protocol == "shiftnet":  # it wants blocks of 48 frames
        assert "too few" in answer.complaint
    elif side < PROTOCOLS[protocol].least_px:
        assert "too small" in answer.complaint
    else:
        assert (answer.exit_code, answer.stderr) == (0, "")
        assert "PSNR" in answer.stdout


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from unsmear.cli.main import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("priors", "{source}", "-o", "{out}/p"),
        ("data", "blur", "{source}", "-o", "{out}/b", "--workers", "1"),
        ("deblur", "{source}", "-o", "{out}/c.mkv", "--device", "cpu", "--window", "8", "--codec", "ffv1"),
    ],
    ids=["priors", "pairs", "video"],
)
def test_a_disk_that_takes_no_more_leaves_no_partial_file(arguments, tmp_path):
    source = make_clip(tmp_path / "a.mp4", frames=12, size=(160, 120))
    (tmp_path / "out").mkdir()
    words = [word.format(source=source, out=tmp_path / "out") for word in arguments]
    done = subprocess.run([sys.executable, "-c", LIMITED, "5000", *words], capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert [name for name in listing(tmp_path / "out") if "partial" in name] == []
