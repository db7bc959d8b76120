"""The recipe of stage 1 (CPGD-Net §III-B; sizes, losses and data of the compact model are ours)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unsmear.data.pack import open_pack
from unsmear.errors import UsageError
from unsmear.models.cpfp import CPFP, UNKNOWN_DUTY, CPFPConfig, PriorTensors
from unsmear.training.config import LoopConfig, from_mapping, read_yaml
from unsmear.training.line_fit import fit_line_bank
from unsmear.training.validation import ValidationClip, score_clips


@dataclass(frozen=True)
class DataConfig:
    packs: list[str] = field(default_factory=list)
    """Folders made by ``unsmear data pack``."""
    crop_px: int = 256
    frames: int = 6
    duty_estimated: float = 0.25
    """Share of sequences where the network is told the estimated duty cycle; sharp ones never hear the truth."""
    duty_noise: float = 0.08
    """Elsewhere it is told the true one plus Gaussian noise of this standard deviation."""
    duty_unknown: float = 0.15
    """Share of sequences where it is told nothing."""
    sharp_unknown: float = 0.15
    """The same of sequences that are sharp: what moves fast and was filmed sharp has to be seen for itself."""
    validation: str | None = None
    """Folder of CLIP/{blur,sharp} made by ``unsmear data blur``."""


@dataclass(frozen=True)
class CPFPTraining:
    """The whole of a ``train cpfp`` configuration."""

    model: CPFPConfig = field(default_factory=CPFPConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    loss: str = "l1"
    """``l1`` (the paper's), ``charbonnier``, or ``psnr``: mean over samples of 10 log10 of their MSE."""
    init: str | None = None
    """Folder of weights to start from."""

    @classmethod
    def read(cls, path: Path) -> "CPFPTraining":
        return from_mapping(cls, read_yaml(path), str(path))


BANK_LR_SCALE = 0.02


SHARP_DUTY, SHARP_TOLD = 0.1, 0.22
"""Exposures up to the first are sharp; the network may be told that they are anything up to the second, which is where
the tool itself stops calling a video sharp. More would teach it to distrust short exposures."""


class Batch(NamedTuple):
    blurred: Tensor
    sharp: Tensor
    priors: PriorTensors


def l1(restored: Tensor, sharp: Tensor) -> Tensor:
    return (restored - sharp).abs().mean()


def charbonnier(restored: Tensor, sharp: Tensor) -> Tensor:
    return ((restored - sharp) ** 2 + 1e-6).sqrt().mean()


def psnr_loss(restored: Tensor, sharp: Tensor) -> Tensor:
    """Mean over samples of their error in decibels, so that hopeless samples do not drive the loss.

    Errors are counted from a floor of 40 dB: below it the gradient fades, or nearly sharp samples would.
    """
    mse = ((restored - sharp) ** 2).mean((1, 2, 3, 4))
    return 0.2 * torch.log10(mse + 1e-4).mean()


LOSSES = {"l1": l1, "charbonnier": charbonnier, "psnr": psnr_loss}


class CPFPRecipe:
    """Batches, loss and validation for ``training.loop.train``."""

    def __init__(self, model: CPFP, config: CPFPTraining):
        if config.loss not in LOSSES:
            raise UsageError(f"loss {config.loss!r} is unknown; choose one of {', '.join(LOSSES)}")
        if not config.data.packs:
            raise UsageError("data.packs is empty: name at least one folder made by `unsmear data pack`")
        self.model, self.config, self.criterion = model, config, LOSSES[config.loss]
        self.packs = [open_pack(Path(p)) for p in config.data.packs]
        self.sizes = np.array([len(p["duty"]) for p in self.packs])
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
        pack = self.packs[which]
        return augment(pack, row - int(self.sizes[:which].sum()), rng, self.config.data)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        restored = model(batch.blurred, batch.priors).frames
        with torch.no_grad():
            before = -10 * torch.log10(((batch.blurred - batch.sharp) ** 2).mean((1, 2, 3, 4)) + 1e-6)
            after = -10 * torch.log10(((restored - batch.sharp) ** 2).mean((1, 2, 3, 4)) + 1e-6)
        return self.criterion(restored, batch.sharp), {"gain_db": float((after - before).mean())}

    def validate(self, model: nn.Module) -> dict[str, float]:
        return score_clips(model, self.clips) if self.clips else {}


def augment(pack: dict[str, np.ndarray], i: int, rng: np.random.Generator, config: DataConfig) -> dict[str, Any]:
    """Crop sequence ``i`` on the 16-pixel grid, flip and transpose it together with its motion."""
    t, size = pack["blurred"].shape[1:3]
    crop, frames = min(config.crop_px, size), min(config.frames, t)
    first = int(rng.integers(0, t - frames + 1))
    y, x = (int(v) * 16 for v in rng.integers(0, (size - crop) // 16 + 1, 2))
    out: dict[str, Any] = {}
    for key in ("blurred", "sharp"):
        out[key] = pack[key][i, first : first + frames, y : y + crop, x : x + crop]
    for key, cell in (("motion", 8), ("motion_back", 8), ("residual", 4)):
        window = (slice(y // cell, (y + crop) // cell), slice(x // cell, (x + crop) // cell))
        out[key] = pack[key][(i, slice(first, first + frames), slice(None), *window)]
    for key in ("reset", "reset_back"):
        out[key] = pack[key][i, first : first + frames]
    spatial = {
        "blurred": (1, 2),
        "sharp": (1, 2),
        "motion": (2, 3),
        "motion_back": (2, 3),
        "residual": (2, 3),
    }
    for axis in (0, 1):  # vertical, then horizontal flip
        if rng.random() < 0.5:
            for key, axes in spatial.items():
                out[key] = np.flip(out[key], axes[axis])
            for key in ("motion", "motion_back"):
                sign = np.ones((1, 2, 1, 1), np.float16)
                sign[0, 1 - axis] = -1
                out[key] = out[key] * sign
    if rng.random() < 0.5:
        for key, axes in spatial.items():
            out[key] = np.swapaxes(out[key], *axes)
        for key in ("motion", "motion_back"):
            out[key] = out[key][:, ::-1]
    out["duty"] = _told_duty(float(pack["duty"][i]), float(pack["duty_estimated"][i]), rng, config)
    return {k: np.ascontiguousarray(v) for k, v in out.items()}


def _told_duty(true: float, estimated: float, rng: np.random.Generator, config: DataConfig) -> np.float32:
    """What the network hears of the exposure, -1 for nothing.

    Estimates on small crops are poorer than those on whole frames that it will hear in use, so the truth
    has its part. A sharp clip is often thought to be a little blurred: that the network has to see for itself. One
    thought to be blurred a lot was filmed so; leaving that alone must not be learnt, or real blur would stay.
    """
    drawn = rng.random()
    if drawn < (config.sharp_unknown if true <= SHARP_DUTY else config.duty_unknown):
        return np.float32(-1)
    if true <= SHARP_DUTY:
        return np.float32(estimated if estimated <= SHARP_TOLD else rng.uniform(0, SHARP_TOLD))
    if drawn < config.duty_unknown + config.duty_estimated:
        return np.float32(estimated)
    return np.float32(np.clip(true + rng.normal() * config.duty_noise, 0, 1))


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
