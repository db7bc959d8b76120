"""Memory while priors are made does not grow with the length of the video."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.clips import make_clip, moving_frames

# Peak resident memory in MiB of a process that makes an archive and a preview.
CHILD = """
import resource, sys
from pathlib import Path
from unsmear.priors.extract import extract
from unsmear.priors.settings import PriorSettings
source, folder, mode = sys.argv[1:]
extract(Path(source), Path(folder) / "a.priors.npz", PriorSettings(mode=mode), preview=Path(folder) / "p.mp4")
sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))
"""


def peak_mb(clip: Path, folder: Path, mode: str) -> int:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(clip), str(folder), mode], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is needed to tell peak memory")
@pytest.mark.parametrize("mode", ["native", "reencode"])
def test_memory_does_not_grow_with_length(tmp_path, mode):
    """Kept frames would need 0.6 MB each: 240 MB for what the longer clip has more."""
    frames = moving_frames((320, 240), 100, step_px=(1, 0))
    frames += frames[::-1]
    options = {"preset": "ultrafast", "x264-params": "bframes=0:ref=1:weightp=0"}
    short, long = (make_clip(tmp_path / f"{n}.mp4", content=(frames * 3)[:n], options=options) for n in (150, 550))
    first, second = peak_mb(short, tmp_path / "short", mode), peak_mb(long, tmp_path / "long", mode)
    assert second - first < 40, f"{first} MiB for 150 frames, {second} MiB for 550"
