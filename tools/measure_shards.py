"""Measure the data rate of shards and the training rate, and thus whether training waits for data.

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
"""First steps that are not measured: kernels are selected and workers start."""


def measure(args: argparse.Namespace) -> None:
    config = read_config(CPFPTraining, args.config)
    data = replace(config.data, shards=[str(args.folder)], packs=[], pairs=[], validation=None)
    data = replace(data, **{k: v for k in ("crop_px", "workers") if (v := getattr(args, k)) is not None})
    loop = replace(config.loop, steps=args.steps + WARM_UP, log_every=1, checkpoint_every=10**9, validate_every=10**9)
    loop = replace(loop, **{k: v for k in ("batch", "precision") if (v := getattr(args, k)) is not None})
    config = replace(config, data=data, loop=loop)
    online = OnlineSequences.open(data, loop.seed)
    rendered = rate(renders(online), args.seconds)
    finished = rate(sequences(online, loop.batch), args.seconds)
    costly = worker_seconds(online, args.seconds)
    del online

    model = start_model(config, fit_line=False)
    used: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        train(model, CPFPRecipe(model, config), loop, Path(folder), on_step=lambda *_: used.extend(utilisation()))
        rows = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines() if "loss" in line]
    seconds = (rows[-1]["seconds"] - rows[WARM_UP - 1]["seconds"]) / args.steps
    waited = sum(row["waited"] for row in rows[WARM_UP:]) / args.steps
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.config.name}: {data.frames} frames of {data.crop_px} pixels, batch {loop.batch}, ", end="")
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
    """Yield after each sequence that the virtual camera rendered on the device and copied to the CPU."""
    if online.camera is None:
        sys.exit("measure_shards: the shards hold no photographs to render")
    for i in count():
        online.camera(np.random.default_rng(i), online.draw.camera)
        yield


def sequences(online: OnlineSequences, batch: int) -> Iterator[None]:
    """Yield after each sequence that the workers finished."""
    with closing(online.batches(range(1 << 30), batch)) as batches:
        for drawn in batches:
            yield from (None for _ in drawn)


def worker_seconds(online: OnlineSequences, seconds: float) -> float:
    """Return the CPU seconds of a worker per finished sequence, including rejected draws."""
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
    """Return events per second, measured for ``seconds`` after the first event."""
    next(events)
    began, counted = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        next(events)
        counted += 1
    return counted / passed


def utilisation() -> list[int]:
    """Return the GPU utilisation in per cent as a list of one value; empty if it cannot be measured."""
    try:
        return [torch.cuda.utilization()] if torch.cuda.is_available() else []
    except (ModuleNotFoundError, RuntimeError):  # nvidia-ml-py is not installed
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10, help="duration of each measurement without training")
    for name in ("crop-px", "batch", "workers"):
        parser.add_argument(f"--{name}", type=int, help="replaces the value of the configuration")
    parser.add_argument("--precision", help="replaces the value of the configuration")
    try:
        measure(parser.parse_args())
    except UnsmearError as error:
        sys.exit(f"measure_shards: {error}")


if __name__ == "__main__":
    main()
