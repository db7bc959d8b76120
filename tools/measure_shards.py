"""Train a few steps from shards, and measure whether they keep the accelerator busy.

python tools/measure_shards.py runs/shards configs/cpfp-accelerator.yaml --steps 60
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import torch

from unsmear.errors import UnsmearError
from unsmear.training.config import read_config
from unsmear.training.cpfp import CPFPRecipe, CPFPTraining, start_model
from unsmear.training.loop import train
from unsmear.training.online import OnlineSequences

WARM_UP = 3
"""Steps that are not counted: compilers choose their kernels, and workers start."""


def measure(given: argparse.Namespace) -> None:
    config = read_config(CPFPTraining, given.config)
    data = replace(config.data, shards=[str(given.folder)], packs=[], pairs=[], validation=None)
    data = replace(data, **{k: v for k in ("crop_px", "workers") if (v := getattr(given, k)) is not None})
    loop = replace(config.loop, steps=given.steps + WARM_UP, log_every=1, checkpoint_every=10**9, validate_every=10**9)
    loop = replace(loop, **{k: v for k in ("batch", "precision") if (v := getattr(given, k)) is not None})
    config = replace(config, data=data, loop=loop)
    online = OnlineSequences.open(data, loop.seed)
    rendered = rate(renders(online), given.seconds)
    finished = rate(sequences(online, loop.batch), given.seconds)
    costly = worker_seconds(online, given.seconds)
    del online

    model = start_model(config, fit_line=False)
    used: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        train(model, CPFPRecipe(model, config), loop, Path(folder), on_step=lambda *_: used.extend(utilisation()))
        rows = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines() if "loss" in line]
    seconds = (rows[-1]["seconds"] - rows[WARM_UP - 1]["seconds"]) / given.steps
    waited = sum(row["waited"] for row in rows[WARM_UP:]) / given.steps
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{given.config.name}: {data.frames} frames of {data.crop_px} pixels, batch {loop.batch}, ", end="")
    print(
        f"precision {loop.precision}, {data.workers} workers; {device}, {platform.machine()}, torch {torch.__version__}"
    )
    table = {
        "rendered on the device, sequences/s": f"{rendered:.1f}",
        "finished by the workers, sequences/s": f"{finished:.2f}",
        "their priors, frames/s": f"{finished * data.frames:.1f}",
        "CPU seconds for a finished sequence": f"{costly:.3f}",
        "trained on, sequences/s": f"{loop.batch / seconds:.2f}",
        "a step, seconds": f"{seconds:.3f}",
        "of it waiting for data": f"{100 * waited:.1f} %",
        "workers that would keep up": f"{loop.batch * costly / (seconds * (1 - waited)):.1f}",
        "utilisation that the driver reports": f"{sum(used) / len(used):.0f} %" if used else "not known here",
    }
    print("| figure | value |\n|---|---:|\n" + "\n".join(f"| {name} | {value} |" for name, value in table.items()))


def renders(online: OnlineSequences) -> Iterator[None]:
    """Sequences that the virtual camera renders on the device and sends back, which is to wait for it."""
    if online.camera is None:
        sys.exit("measure_shards: there are no photographs to render")
    for i in count():
        online.camera(np.random.default_rng(i), online.draw.camera)
        yield


def sequences(online: OnlineSequences, batch: int) -> Iterator[None]:
    with closing(online.batches(range(1 << 30), batch)) as batches:
        for drawn in batches:
            yield from (None for _ in drawn)


def worker_seconds(online: OnlineSequences, seconds: float) -> float:
    """Seconds of a worker for a sequence, by the clock of its core, with the draws that do not suit."""
    cv2.setNumThreads(1)
    finished, spent = 0, 0.0
    for i in count():
        drawn, rng = online.render((0, i, 0))
        began = time.process_time()
        finished += drawn is not None and online.finish(drawn, rng) is not None
        spent += time.process_time() - began
        if finished and spent > seconds:
            return spent / finished
    raise AssertionError("count() does not end")


def rate(events: Iterator[None], seconds: float) -> float:
    """Events a second, over ``seconds`` after the first."""
    next(events)
    began, seen = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        next(events)
        seen += 1
    return seen / passed


def utilisation() -> list[int]:
    """Per cent of the last moment in which the GPU did something; empty where nobody can tell."""
    try:
        return [torch.cuda.utilization()] if torch.cuda.is_available() else []
    except (ModuleNotFoundError, RuntimeError):  # nvidia-ml-py is not installed
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10, help="for each rate that is taken without training")
    for name in ("crop-px", "batch", "workers"):
        parser.add_argument(f"--{name}", type=int, help="instead of the configuration's")
    parser.add_argument("--precision", help="instead of the configuration's")
    try:
        measure(parser.parse_args())
    except UnsmearError as error:
        sys.exit(f"measure_shards: {error}")


if __name__ == "__main__":
    main()
