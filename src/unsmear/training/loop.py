"""Training loop of all recipes: checkpoints, resuming, EMA, validation and a log in JSON lines.

All random draws of batch n derive from (seed, n), and step s uses the batches from s · ``accumulate`` on, so that an
interrupted and resumed run equals an uninterrupted one.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unsmear.errors import UsageError, WeightsError
from unsmear.files import make_folder, settle_folder, unwritable, whole_folder, writing
from unsmear.training.config import LoopConfig, OptimiserConfig
from unsmear.video.images import write_png

log = logging.getLogger(__name__)


class Recipe(Protocol):
    """Parameters, batches, loss and validation of a model's training."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser; ``lr_scale`` multiplies a group's learning rate."""

    def batches(self, steps: range) -> Generator[Any, None, None]:
        """Training batches on the CPU, one per number; their draws depend on the seed and that number only."""

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Loss to minimise (scalar), and values for the log."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on validation data; the checkpoint with the highest ``score`` is kept as best."""


@runtime_checkable
class Pictured(Protocol):
    """A recipe with pictures of results."""

    def pictures(self, model: nn.Module) -> list[tuple[str, np.ndarray]]:
        """(name, (H, W, 3) uint8 RGB) of validation data; a few small ones, since they are made at each validation."""


class Job(NamedTuple):
    """A network with initial weights, its recipe and its loop."""

    model: nn.Module
    recipe: Recipe
    loop: LoopConfig
    finish: Callable[[nn.Module, Path], None] | None = None
    """Called at the end with the averaged network and the folder of the run."""


def learning_rate(step: int, total: int, config: OptimiserConfig) -> float:
    """Learning rate at ``step`` of ``total``: linear warm-up, constant, cosine to zero from ``decay_from`` on."""
    rate = config.lr * min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.decay_from is not None and step >= config.decay_from:
        part = (step - config.decay_from) / max(total - config.decay_from, 1)
        rate *= 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))
    return rate


def _optimiser(groups: list[dict[str, Any]], config: OptimiserConfig) -> torch.optim.Optimizer:
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[config.name](groups, config.lr, config.betas, weight_decay=config.weight_decay)


def train(
    model: nn.Module,
    recipe: Recipe,
    config: LoopConfig,
    folder: Path,
    *,
    resume: bool = False,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> nn.Module:
    """Train ``model`` and return its moving average (EMA).

    Args:
        model: with initial weights; when resuming they are replaced.
        recipe: data, loss and validation.
        config: steps, intervals and optimiser.
        folder: receives ``log.jsonl``, ``last/`` (checkpoint to resume from), ``best/`` (checkpoint with the best
            validation score, without validation the latest) and, where the recipe has them,
            ``pictures/STEP-NAME.png`` of each validation. In the log ``waited`` is the share of the time of a step
            spent waiting for its batches.
        resume: continue from ``folder/last`` where it exists.
        on_step: called at each entry of the log with the step and its values.

    Raises:
        UsageError: without ``resume``, ``folder`` holds a run; there are several processes.
        WeightsError: the checkpoint cannot be resumed; the loss, or a weight, is not finite.
        OutputError: ``folder`` cannot be written; checkpoints that were saved before stay.
    """
    from accelerate import Accelerator

    refuse_processes()
    refuse_run(folder, resume)
    accelerator = Accelerator(mixed_precision=config.precision, gradient_accumulation_steps=config.accumulate)
    refuse_processes(accelerator.num_processes)
    make_folder(folder)
    if config.channels_last:
        nn.Module.to(model, memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups = recipe.parameter_groups()
    parameters = [p for group in groups for p in group["params"]]
    optimiser = _optimiser(groups, config.optimiser)
    average = deepcopy(model).eval().requires_grad_(False)
    start, best = 0, -math.inf
    last, best_folder = folder / "last", folder / "best"
    for checkpoint in (last, best_folder):
        settle_folder(checkpoint)
    if resume and (last / "state.json").is_file():
        start, best = _load(last, model, average, optimiser)
        log.info("resumed at step %d", start)
    trained, optimiser = accelerator.prepare(model, optimiser)
    average.to(accelerator.device)

    began, counted, waiting, working = time.monotonic(), 0, 0.0, 0.0
    figures_sum: dict[str, float] = {}
    numbers = range(start * config.accumulate, config.steps * config.accumulate)
    with (folder / "log.jsonl").open("a", buffering=1) as journal, closing(recipe.batches(numbers)) as batches:
        for step in range(start, config.steps):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, config.steps, config.optimiser) * group.get("lr_scale", 1.0)
            trained.train()
            for _ in range(config.accumulate):
                requested = time.monotonic()
                batch = next(batches)
                received = time.monotonic()
                with accelerator.accumulate(trained):
                    with accelerator.autocast():
                        loss, figures = recipe.loss(trained, moved(batch, accelerator.device))
                    if not math.isfinite(value := loss.item()):
                        raise _diverged(f"the loss is {value}", step, last)
                    accelerator.backward(loss)
                    if config.optimiser.clip_norm and accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(parameters, config.optimiser.clip_norm)
                        figures["gradient_norm"] = float(norm) * config.accumulate  # one norm per step
                    optimiser.step()
                    optimiser.zero_grad()
                for key, figure in {"loss": value, **figures}.items():
                    figures_sum[key] = figures_sum.get(key, 0.0) + figure / config.accumulate
                waiting, working = waiting + received - requested, working + time.monotonic() - received
            _update_average(average, accelerator.unwrap_model(trained), min(config.ema, (step + 1) / (step + 10)))

            done = step + 1
            counted += 1
            if done % config.log_every == 0 or done == config.steps:
                row = {k: v / counted for k, v in figures_sum.items()}
                row |= {"waited": round(waiting / (waiting + working), 4)}
                row |= {"step": done, "seconds": round(time.monotonic() - began, 3)}
                _log(journal, row)
                if on_step:
                    on_step(done, row)
                figures_sum, counted, waiting, working = {}, 0, 0.0, 0.0
            validated, saved = (
                done % every == 0 or done == config.steps for every in (config.validate_every, config.checkpoint_every)
            )
            if (validated or saved) and not (_finite(trained) and _finite(average)):
                raise _diverged("weights are not finite", step, last)
            if validated:
                scores = recipe.validate(average)
                _log(journal, {"step": done, "validation": scores})
                log.info("step %d: %s", done, scores)
                if isinstance(recipe, Pictured):
                    _write_pictures(recipe.pictures(average), folder / "pictures", done)
                score = scores.get("score")
                if score is None or score > best:
                    best = best if score is None else score
                    contiguous = deepcopy(average).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
                    with _checkpoint(best_folder) as fresh:
                        contiguous.save_pretrained(fresh)
            if saved:
                _save(last, accelerator.unwrap_model(trained), average, optimiser, done, best)
    return average


PROCESS_COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables in which launchers state the number of processes."""


def refuse_processes(count: int | None = None) -> None:
    """Raise UsageError where training runs in several processes.

    Args:
        count: number of processes; None for what a launcher states in the environment.
    """
    if count is None:
        stated = [os.environ.get(name, "") for name in PROCESS_COUNTS]
        count = max((int(value) for value in stated if value.isdecimal()), default=1)
    if count > 1:
        raise UsageError(
            f"training in {count} processes is not supported yet, each would do the same work: start one process, and "
            "set loop.accumulate for larger batches"
        )


def refuse_run(folder: Path, resume: bool) -> None:
    """Raise UsageError where ``folder`` holds a run and ``resume`` is not set."""
    log_file = folder / "log.jsonl"
    if not resume and ((folder / "last").exists() or (log_file.exists() and log_file.stat().st_size)):
        raise UsageError(f"{folder} holds a run already: give `resume` to continue it, or another folder")


def _finite(model: nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def _diverged(what: str, step: int, last: Path) -> WeightsError:
    kept = f"{last} holds the last good checkpoint" if last.is_dir() else "no checkpoint was written yet"
    return WeightsError(f"step {step + 1}: {what}; {kept}, lower loop.optimiser.lr or set clip_norm")


def moved(batch: Any, device: torch.device) -> Any:
    """A batch, of tensors and tuples of them, on a device; other values as they are."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple):
        items = [moved(item, device) for item in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else tuple(items)
    return batch


def _write_pictures(pictures: list[tuple[str, np.ndarray]], folder: Path, step: int) -> None:
    if pictures:
        make_folder(folder)
    for name, image in pictures:
        write_png(folder / f"{step:06d}-{name}.png", image)


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    for mean, current in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(current, 1 - decay)


def _log(journal: TextIO, row: dict[str, Any]) -> None:
    with writing(Path(journal.name)):
        journal.write(json.dumps(row) + "\n")


@contextmanager
def _checkpoint(folder: Path) -> Generator[Path, None, None]:
    """A folder to save a checkpoint in, which takes the place of the old one when it is whole."""
    try:
        with whole_folder(folder) as fresh:
            yield fresh
    except (SafetensorError, RuntimeError) as error:  # what their writers raise on a full disk
        raise unwritable(folder, error) from error


def _save(folder: Path, model: nn.Module, average: nn.Module, optimiser: Any, step: int, best: float) -> None:
    """Write a checkpoint and replace the old one by it."""
    with _checkpoint(folder) as fresh:
        for name, module in (("model", model), ("ema", average)):
            save_file({k: v.contiguous() for k, v in module.state_dict().items()}, fresh / f"{name}.safetensors")
        torch.save(optimiser.state_dict(), fresh / "optimiser.pt")
        (fresh / "state.json").write_text(json.dumps({"step": step, "best": best}))


def _load(folder: Path, model: nn.Module, average: nn.Module, optimiser: Any) -> tuple[int, float]:
    try:
        for name, module in (("model", model), ("ema", average)):
            module.load_state_dict(load_file(folder / f"{name}.safetensors"))
        optimiser.load_state_dict(torch.load(folder / "optimiser.pt", weights_only=True))
        state = json.loads((folder / "state.json").read_text())
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise WeightsError(
            f"{folder} cannot be resumed ({str(error).splitlines()[0]}): start afresh without `resume`"
        ) from None
    return state["step"], state["best"]
