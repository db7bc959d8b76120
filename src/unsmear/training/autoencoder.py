"""Training recipe of the compact autoencoder (ours; full-size models use Stable Diffusion's)."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC, ResBlock
from torch import Tensor, nn

from unsmear.metrics.lpips import load_lpips
from unsmear.models.loading import load_model
from unsmear.models.zoo import ModelEntry
from unsmear.options import Limits, OptionError, check
from unsmear.training.config import LoopConfig, read_config, sizes_of
from unsmear.training.images import ImageConfig, ImageCrops, strip
from unsmear.training.loop import Job

FIRST_SHARE = 0.1
"""Initial scale of residual blocks, so that training starts from the shortcuts and plain convolutions."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of diffusers' ``AutoencoderDC``, whose shortcuts are pixel shuffles."""

    channels: Annotated[tuple[int, ...], Limits(1, count=2)] = (32, 32, 64, 128)
    """Channels of each level, half the resolution of the one before: four levels give latents at 1/8."""
    blocks: Annotated[tuple[int, ...], Limits(0)] = (0, 2, 2, 2)
    """Residual blocks of each level; without any at the first, its only layer is the downsampling."""
    latent_channels: Annotated[int, Limits(1)] = 16

    def __post_init__(self) -> None:
        check(self)
        if len(self.blocks) != len(self.channels):
            raise OptionError("blocks", self.blocks, f"{len(self.channels)} values, as in channels")

    def build(self) -> AutoencoderDC:
        """Return the network with initial weights."""
        without = ((),) * len(self.channels)
        model = AutoencoderDC(
            latent_channels=self.latent_channels,
            encoder_block_out_channels=self.channels,
            decoder_block_out_channels=self.channels,
            encoder_layers_per_block=self.blocks,
            decoder_layers_per_block=self.blocks,
            encoder_qkv_multiscales=without,
            decoder_qkv_multiscales=without,
        )
        for block in model.modules():
            if isinstance(block, ResBlock):
                nn.init.constant_(block.norm.weight, FIRST_SHARE)  # type: ignore[arg-type]
        return model


@dataclass(frozen=True)
class AutoencoderTraining:
    """Configuration of ``train autoencoder``."""

    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    data: ImageConfig = field(default_factory=ImageConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    perceptual: Annotated[float, Limits(0)] = 0.5
    """Weight of LPIPS, relative to L1."""
    compact: Annotated[float, Limits(0)] = 1e-3
    """Weight of the loss that keeps latents at mean 0 and variance 1, as diffusion models expect."""
    init: str | None = None
    """Folder of initial weights."""

    def __post_init__(self) -> None:
        check(self)

    def start(self) -> AutoencoderDC:
        """Return the network with initial weights: those of ``init``, else new ones."""
        if self.init:
            start: AutoencoderDC = load_model(ModelEntry("init", Path(self.init)), "AutoencoderDC")
            return start.requires_grad_(True)
        torch.manual_seed(self.loop.seed)
        with sizes_of("model"):
            return self.model.build()


class AutoencoderRecipe:
    """Batches, loss and validation for ``training.loop.train``."""

    def __init__(self, model: AutoencoderDC, config: AutoencoderTraining):
        self.model, self.config, self.crops = model, config, ImageCrops(config.data)
        self.lpips = load_lpips()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters())}]

    def batches(self, steps: range) -> Generator[Tensor, None, None]:
        for step in steps:
            yield self.crops.batch(np.random.default_rng((self.config.loop.seed, step)), self.config.loop.batch)

    def loss(self, model: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        images = batch.float() / 127.5 - 1
        latents = model.encode(images).latent  # type: ignore[operator]
        decoded = model.decode(latents).sample  # type: ignore[operator]
        error = (decoded - images).abs().mean()
        flat = latents.float().transpose(0, 1).flatten(1)
        spread = (flat.mean(1) ** 2 + (flat.var(1) - 1) ** 2).mean()
        total = error + self.config.compact * spread
        figures = {"l1": error.item(), "latent_std": flat.detach().std().item()}
        if self.config.perceptual:
            with torch.autocast(decoded.device.type, enabled=False):
                distance = self.lpips.to(decoded.device)(decoded.float().clamp(-1, 1), images).mean()
            total = total + self.config.perceptual * distance
            figures["lpips"] = distance.item()
        return total, figures

    @torch.inference_mode()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR (dB) and LPIPS of reconstructed whole frames; ``score`` is PSNR − 20 · LPIPS."""
        device = next(model.parameters()).device
        decibels, distances = [], []
        for frame in self.crops.validation:
            image = frame.to(device).float() / 127.5 - 1
            decoded = model.decode(model.encode(image).latent).sample.clamp(-1, 1)  # type: ignore[operator]
            decibels.append(float(-10 * torch.log10(((decoded - image) / 2).square().mean())))
            distances.append(float(self.lpips.to(device)(decoded, image)))
        if not decibels:
            return {}
        psnr, lpips = float(np.mean(decibels)), float(np.mean(distances))
        return {"psnr": round(psnr, 3), "lpips": round(lpips, 4), "score": round(psnr - 20 * lpips, 3)}

    @torch.inference_mode()
    def pictures(self, model: nn.Module) -> list[tuple[str, np.ndarray]]:
        """Input | reconstruction."""
        out = []
        for i, frame in enumerate(self.crops.shown()):
            image = frame.to(next(model.parameters()).device).float() / 255
            decoded = model.decode(model.encode(image * 2 - 1).latent).sample / 2 + 0.5  # type: ignore[operator]
            out.append((str(i), strip(image, decoded)))
        return out


def prepare(config: Path, resuming: bool, changes: Sequence[str] = ()) -> Job:
    """Network, recipe and loop of a configuration file with ``changes``."""
    del resuming
    chosen = read_config(AutoencoderTraining, config, changes)
    model = chosen.start()
    return Job(model, AutoencoderRecipe(model, chosen), chosen.loop)
