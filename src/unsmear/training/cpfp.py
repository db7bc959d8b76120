"""Training recipe of stage 1 (CPGD-Net §III-B; sizes, losses and data of the compact model are ours)."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unsmear.blur.pack import open_pack
from unsmear.datasets.pairs import PairSet
from unsmear.models.cpfp.network import CPFP, UNKNOWN_DUTY, CPFPConfig
from unsmear.models.loading import FIRST_STAGES, load_model
from unsmear.models.zoo import ModelEntry
from unsmear.training.batches import Batch, open_batches
from unsmear.training.config import LoopConfig, read_config, sizes_of
from unsmear.training.line_fit import fit_line_bank
from unsmear.training.loop import Job
from unsmear.training.losses import LossConfig
from unsmear.training.online import OnlineSequences
from unsmear.training.sequences import DataConfig
from unsmear.training.validation import ValidationClip, score_clips


@dataclass(frozen=True)
class CPFPTraining:
    """Configuration of ``train cpfp``."""

    model: CPFPConfig = field(default_factory=CPFPConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    init: str | None = None
    """Folder of initial weights."""
    more_validation: list[str | PairSet] = field(default_factory=list)
    """Further data sets like ``data.validation``, such as one of strong blur, with equal weight in the score."""


BANK_LR_SCALE = 0.02
"""Factor on the learning rate of the motion-line bank."""


class CPFPRecipe:
    """Batches, loss and validation for ``training.loop.train``."""

    def __init__(self, model: CPFP, config: CPFPTraining):
        self.model, self.config = model, config
        self.sequences = open_batches(config.data, config.loop.seed, config.loop.batch)
        sets = [PairSet.of(given) for given in (config.data.validation, *config.more_validation) if given]
        self.clips = {str(given): ValidationClip.load_all(given) for given in sets}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters in two groups: the fitted bank has a low learning rate, since gradient noise would degrade it."""
        bank = [] if self.model.line is None else [self.model.line.bank]
        others = [p for p in self.model.parameters() if not any(p is slow for slow in bank)]
        return [{"params": others}, {"params": bank, "lr_scale": BANK_LR_SCALE, "weight_decay": 0.0}]

    def batches(self, steps: range) -> Generator[Batch, None, None]:
        return self.sequences.at(steps)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        blurred, sharp = batch.blurred.float() / 255, batch.sharp.float() / 255
        restored = model(blurred, batch.priors).frames
        with torch.no_grad():
            before = -10 * torch.log10(((blurred - sharp) ** 2).mean((1, 2, 3, 4)) + 1e-4)
            after = -10 * torch.log10(((restored - sharp) ** 2).mean((1, 2, 3, 4)) + 1e-4)
        return self.config.loss(restored, sharp), {"gain_db": float((after - before).mean())}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of each validation set; of several sets, by the name of the folder, with the mean ``score``."""
        by_set = {name: score_clips(model, clips) for name, clips in self.clips.items()}
        if len(by_set) == 1:
            return next(iter(by_set.values()))
        figures = {f"{name}/{key}": value for name, scores in by_set.items() for key, value in scores.items()}
        if by_set:
            figures["score"] = round(sum(scores["score"] for scores in by_set.values()) / len(by_set), 3)
        return figures


def start_model(config: CPFPTraining, fit_line: bool = True) -> CPFP:
    """Return the network with initial weights: those of ``init``, else new ones.

    A new network deblurs from the first step on, by deconvolution or, without it, by a motion-line bank fitted in
    closed form. ``fit_line=False`` leaves the bank at zero, for runs that load a checkpoint.
    """
    if config.init:
        start: CPFP = load_model(ModelEntry("init", Path(config.init)), *FIRST_STAGES)
        return start.requires_grad_(True)
    torch.manual_seed(config.loop.seed)
    with sizes_of("model"):
        model = CPFP.build(config.model)
    if fit_line and model.line is not None and not model.deconvolve and (config.data.packs or config.data.shards):
        pack = open_pack(Path(config.data.packs[0])) if config.data.packs else _few_rows(config)
        bank = fit_line_bank(pack, config.model.line_taps, config.model.line_reach, UNKNOWN_DUTY)
        model.line.bank.data.copy_(bank)
    return model


def prepare(config: Path, resuming: bool, changes: Sequence[str] = ()) -> Job:
    """Network, recipe and loop of a configuration file with ``changes``.

    With ``resuming`` the motion-line bank is not fitted, since a checkpoint replaces it.
    """
    chosen = read_config(CPFPTraining, config, changes)
    model = start_model(chosen, fit_line=not resuming)
    return Job(model, CPFPRecipe(model, chosen), chosen.loop)


_FITTED_SEQUENCES, _FITTED_PX = 200, 160


def _few_rows(config: CPFPTraining) -> dict[str, np.ndarray]:
    """Sequences from shards to which the motion-line bank is fitted."""
    small = replace(config.data, crop_px=min(config.data.crop_px, _FITTED_PX))
    return OnlineSequences.open(small, config.loop.seed).rows(_FITTED_SEQUENCES)
