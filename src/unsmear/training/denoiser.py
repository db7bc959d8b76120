"""Training recipe of the compact denoiser, stage ``prior`` (ours; full-size models use Stable Diffusion)."""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from unsmear.models.common.schedule import start_timesteps
from unsmear.training.diffusion import Diffusion
from unsmear.training.images import ImageCrops, strip

if TYPE_CHECKING:
    from unsmear.training.cpgd import CPGDTraining

SHOWN_STEPS = 8


class PriorBatch(NamedTuple):
    """Sharp images, and the seed of their noise."""

    images: Tensor
    """(B, 3, S, S) uint8."""
    seed: Tensor


class PriorRecipe:
    """Batches, loss and validation of a denoiser of sharp images' latents, for ``training.loop.train``."""

    def __init__(self, model: UNet2DConditionModel, config: "CPGDTraining"):
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
        return F.mse_loss(self._predicted(model, noisy, t), target)

    def _predicted(self, model: nn.Module, noisy: Tensor, t: Tensor) -> Tensor:
        text = noisy.new_zeros(len(noisy), 1, self.model.config["cross_attention_dim"])
        return model(noisy, t, text).sample.float()

    @torch.inference_mode()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss on validation frames, each at four fixed noises; ``score`` is its negative."""
        device = next(model.parameters()).device
        losses = [
            float(self._error(model, self.diffusion.encode(frame.to(device).float() / 255), 4 * i + k))
            for i, frame in enumerate(self.crops.validation)
            for k in range(4)
        ]
        return {"loss": round(float(np.mean(losses)), 5), "score": -round(float(np.mean(losses)), 5)} if losses else {}

    @torch.inference_mode()
    def pictures(self, model: nn.Module) -> list[tuple[str, np.ndarray]]:
        """Sharp | noised at half of ``latest`` | denoised."""
        device, out, scheduler = next(model.parameters()).device, [], self.diffusion.preview()
        total = int(scheduler.config["num_train_timesteps"])
        for i, frame in enumerate(self.crops.shown()):
            sharp = frame.to(device).float() / 255
            clean = self.diffusion.encode(sharp)
            steps = start_timesteps(scheduler, SHOWN_STEPS, self.diffusion.latest / total / 2, device)
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(i)).to(clean)
            noisy = latents = scheduler.add_noise(clean, noise, steps[:1])  # type: ignore[arg-type]
            for t in steps:
                latents = scheduler.step(self._predicted(model, latents, t), int(t), latents, return_dict=False)[0]
            out.append((str(i), strip(sharp, self.diffusion.decode(noisy), self.diffusion.decode(latents))))
        return out
