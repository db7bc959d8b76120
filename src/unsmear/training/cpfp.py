"""The recipe of stage 1 (CPGD-Net §III-B; sizes, losses and data of the compact model are ours)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unsmear.data.pack import open_pack
from unsmear.models.cpfp import CPFP, UNKNOWN_DUTY, CPFPConfig, PriorTensors
from unsmear.training.config import LoopConfig, from_mapping, read_yaml
from unsmear.training.line_fit import fit_line_bank
from unsmear.training.losses import LossConfig
from unsmear.training.sequences import DataConfig, open_sources
from unsmear.training.validation import ValidationClip, score_clips


@dataclass(frozen=True)
class CPFPTraining:
    """The whole of a ``train cpfp`` configuration."""

    model: CPFPConfig = field(default_factory=CPFPConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    init: str | None = None
    """Folder of weights to start from."""

    @classmethod
    def read(cls, path: Path) -> "CPFPTraining":
        return from_mapping(cls, read_yaml(path), str(path))


BANK_LR_SCALE = 0.02


class Batch(NamedTuple):
    blurred: Tensor
    sharp: Tensor
    priors: PriorTensors


class CPFPRecipe:
    """Batches, loss and validation for ``training.loop.train``."""

    def __init__(self, model: CPFP, config: CPFPTraining):
        self.model, self.config = model, config
        self.sources = open_sources(config.data)
        self.sizes = np.array([len(source) for source in self.sources])
        self.clips: Sequence[ValidationClip] = (
            ValidationClip.load_all(Path(config.data.validation)) if config.data.validation else []
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The closed-form filters move slowly: the optimiser's noise would undo them."""
        bank = [self.model.line.bank] if self.model.line is not None else []
        rest = [p for p in self.model.parameters() if all(p is not b for b in bank)]
        return [{"params": rest}, {"params": bank, "lr_scale": BANK_LR_SCALE, "weight_decay": 0.0}]

    def batch(self, rng: np.random.Generator) -> Batch:
        samples = [self._sample(rng) for _ in range(self.config.loop.batch)]
        stacked = {k: torch.from_numpy(np.stack([s[k] for s in samples])) for k in samples[0]}
        blurred, sharp = (stacked[k].permute(0, 1, 4, 2, 3).float() / 255 for k in ("blurred", "sharp"))
        priors = PriorTensors(
            stacked["motion"].float(),
            stacked["motion_back"].float(),
            stacked["residual"].float(),
            stacked["reset"],
            stacked["reset_back"],
            stacked["duty"].reshape(-1, 1).expand(-1, blurred.shape[1]),
        )
        return Batch(blurred, sharp, priors)

    def _sample(self, rng: np.random.Generator) -> dict[str, Any]:
        row = int(rng.integers(self.sizes.sum()))
        which = int(np.searchsorted(np.cumsum(self.sizes), row, side="right"))
        return self.sources[which].sample(row - int(self.sizes[:which].sum()), rng, self.config.data)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        restored = model(batch.blurred, batch.priors).frames
        with torch.no_grad():
            before = -10 * torch.log10(((batch.blurred - batch.sharp) ** 2).mean((1, 2, 3, 4)) + 1e-6)
            after = -10 * torch.log10(((restored - batch.sharp) ** 2).mean((1, 2, 3, 4)) + 1e-6)
        return self.config.loss(restored, batch.sharp), {"gain_db": float((after - before).mean())}

    def validate(self, model: nn.Module) -> dict[str, float]:
        return score_clips(model, self.clips) if self.clips else {}


def start_model(config: CPFPTraining, fit_line: bool = True) -> CPFP:
    """The network with start values: from ``init``, else fresh with the line bank fitted in closed form.

    ``fit_line=False`` leaves the bank at zero, for runs that load a checkpoint anyway.
    """
    if config.init:
        return CPFP.from_pretrained(config.init, low_cpu_mem_usage=False)
    torch.manual_seed(config.loop.seed)
    model = CPFP.build(config.model)
    if fit_line and model.line is not None and config.data.packs:
        pack = open_pack(Path(config.data.packs[0]))
        bank = fit_line_bank(pack, config.model.line_taps, config.model.line_reach, UNKNOWN_DUTY)
        model.line.bank.data.copy_(bank)
    return model
