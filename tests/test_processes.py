"""Work in several processes: order, errors, interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from unsmear.processes import in_processes

_started: list[str] = []


def square(x: int) -> int:
    time.sleep(0.2 if x == 0 else 0)  # the first is ready last
    return x * x


def fail_at_two(x: int) -> int:
    if x == 2:
        raise ValueError(f"no {x}")
    return x


def begin(word: str) -> None:
    _started.append(word)


def started_in(_: int) -> tuple[int, list[str]]:
    return os.getpid(), list(_started)


def hold(folder: Path) -> None:
    """Leaves a file as long as it works."""
    busy = folder / f"busy{os.getpid()}"
    busy.touch()
    try:
        for _ in range(1200):
            time.sleep(0.05)
    finally:
        busy.unlink()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers):
    assert list(in_processes(square, range(7), workers)) == [x * x for x in range(7)]
    assert list(in_processes(square, range(7), workers, at_once=3)) == [x * x for x in range(7)]
    assert list(in_processes(square, [], workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_at_the_place_of_its_result(workers):
    results = in_processes(fail_at_two, range(5), workers)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="no 2"):
        next(results)


def test_every_process_is_prepared():
    _started.clear()
    found = list(in_processes(started_in, range(4), 2, start=begin, arguments=("ready",)))
    assert all(pid != os.getpid() and words == ["ready"] for pid, words in found) and not _started
    assert (
        list(in_processes(started_in, range(2), 1, start=begin, arguments=("here",))) == [(os.getpid(), ["here"])] * 2
    )


SCRIPT = """
import sys
from pathlib import Path
from test_processes import hold
from unsmear.processes import in_processes
if __name__ == "__main__":
    list(in_processes(hold, [Path(sys.argv[1])] * 4, 2))
"""


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
@pytest.mark.parametrize("kind", ["parent", "terminal", "killed"])
def test_an_interruption_ends_all_processes_and_lets_tasks_clean_up(tmp_path, kind):
    (tmp_path / "run.py").write_text(SCRIPT)
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    job = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: len(list(tmp_path.glob("busy*"))) == 2)
    workers = [int(path.name.removeprefix("busy")) for path in tmp_path.glob("busy*")]
    if kind == "terminal":
        os.killpg(job.pid, signal.SIGINT)
    else:
        job.send_signal(signal.SIGINT if kind == "parent" else signal.SIGKILL)
    _, said = job.communicate(timeout=60)
    assert job.returncode != 0 and not said.count("SpawnProcess-"), said
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers) or not Path("/proc").exists())
    assert not list(tmp_path.glob("busy*"))


def test_closing_the_results_interrupts_what_is_under_way(tmp_path):
    begin = time.monotonic()
    results = in_processes(first_quick, [(0, tmp_path), (1, tmp_path), (1, tmp_path), (1, tmp_path)], 2)
    with closing(results):
        assert next(results) == 0
    assert time.monotonic() - begin < 50 and not list(tmp_path.glob("busy*"))


def first_quick(task: tuple[int, Path]) -> int:
    if task[0]:
        hold(task[1])
    return task[0]
