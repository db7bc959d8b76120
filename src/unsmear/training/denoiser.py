"""The recipe of a compact denoiser on sharp pictures: stage ``prior`` (ours; Stable Diffusion's place at full size)."""

from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from unsmear.training.cpc_config import CPCTraining
from unsmear.training.diffusion import Diffusion
from unsmear.training.images import ImageCrops


class PriorBatch(NamedTuple):
    images: Tensor
    """(B, 3, S, S) uint8."""
    seed: Tensor


class PriorRecipe:
    """A denoiser of the latents of sharp pictures."""

    def __init__(self, model: UNet2DConditionModel, config: CPCTraining):
        self.model, self.config, self.diffusion = model, config, Diffusion(config)
        self.crops = ImageCrops(config.images)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters())}]

    def batches(self, steps: range) -> Generator[PriorBatch, None, None]:
        loop = self.config.loop
        for step in steps:
            rng = np.random.default_rng((loop.seed, step))
            yield PriorBatch(self.crops.batch(rng, loop.batch), torch.tensor(int(rng.integers(1 << 40))))

    def loss(self, model: nn.Module, batch: PriorBatch) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            clean = self.diffusion.encode(batch.images.float() / 255)
        return self._error(model, clean, int(batch.seed)), {"latent_std": float(clean.std())}

    def _error(self, model: nn.Module, clean: Tensor, seed: int) -> Tensor:
        noisy, t, target = self.diffusion.noised(clean, seed)
        text = clean.new_zeros(len(clean), 1, self.model.config["cross_attention_dim"])
        return F.mse_loss(model(noisy, t, text).sample.float(), target)

    @torch.inference_mode()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The loss on validation frames, each at four noises that are always the same; ``score`` is its negative."""
        device = next(model.parameters()).device
        losses = [
            float(self._error(model, self.diffusion.encode(frame.to(device).float() / 255), 4 * i + k))
            for i, frame in enumerate(self.crops.validation)
            for k in range(4)
        ]
        return {"loss": round(float(np.mean(losses)), 5), "score": -round(float(np.mean(losses)), 5)} if losses else {}
