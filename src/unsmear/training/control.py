"""Training recipe of CPGD-Net's phase II (§III-C): the control network is trained, UNet and autoencoder are frozen.

The control network is conditioned on the latent of stage 1's result and on coding priors. The loss is that of the base
model and, optionally (ours), a perceptual loss of the decoded clean latent that the prediction implies.
"""

from collections.abc import Generator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from unsmear.blur.degrade import degrade
from unsmear.datasets.pairs import PairSet
from unsmear.errors import UsageError
from unsmear.metrics.lpips import load_lpips
from unsmear.models.cpfp.network import PriorTensors
from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.cpgd.pipeline import CPGDPipeline, Sampling
from unsmear.models.loading import FIRST_STAGES, load_model
from unsmear.models.zoo import find
from unsmear.training.batches import Batch, open_batches
from unsmear.training.config import read_yaml
from unsmear.training.diffusion import Diffusion, picture_loss
from unsmear.training.images import ImageCrops, middle, spread, strip
from unsmear.training.validation import ValidationClip, restore

if TYPE_CHECKING:
    from unsmear.training.cpgd import CPGDTraining

SHOWN_STEPS = 4


class ControlBatch(NamedTuple):
    """Frames to generate, and the conditions of the control network."""

    sharp: Tensor
    """(B, 3, S, S) uint8."""
    hint: Tensor
    """(B, 3, S, S) float32 in [0, 1]."""
    priors: Tensor
    """V in pixels and R in [0, 1], (B, 3, S/4, S/4)."""
    seed: Tensor


class _Inputs(NamedTuple):
    """Inputs of the networks for a batch, and the target; latents are (B, L, h, w)."""

    hint: Tensor
    noisy: Tensor
    t: Tensor
    text: Tensor
    target: Tensor
    weights: Tensor
    """Weight of each sample in the loss, (B, 1, 1, 1)."""

    def error(self, predicted: Tensor) -> Tensor:
        return (self.weights * (predicted - self.target) ** 2).mean()


class ControlRecipe:
    """Batches, loss and validation of phase II, for ``training.loop.train``."""

    def __init__(self, model: CPControlNet, unet: UNet2DConditionModel, config: "CPGDTraining"):
        self.model, self.config, self.diffusion = model, config, Diffusion(config)
        self.unet = unet.eval().requires_grad_(False)
        if config.loop.channels_last:
            nn.Module.to(self.unet, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pairs = open_batches(config.data, config.loop.seed, config.loop.batch)
        self.crops = ImageCrops(config.images) if config.hybrid else None
        self.lpips = load_lpips()
        self.first: nn.Module | None = (
            load_model(find(config.first_stage), *FIRST_STAGES) if config.first_stage else None
        )
        self.restored = _packs_restored(config)
        """Whether the packs hold frames restored by stage 1."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.model.parameters() if p.requires_grad]}]

    def batches(self, steps: range) -> Generator[ControlBatch, None, None]:
        with closing(self.pairs.at([step for step in steps if not self._draw(step)[1]])) as pairs:
            for step in steps:
                rng, degraded = self._draw(step)
                yield self._degraded(rng) if degraded else self._deblurred(next(pairs), rng)

    def _draw(self, step: int) -> tuple[np.random.Generator, bool]:
        """Random generator of a step, and whether its batch consists of degraded images."""
        rng = np.random.default_rng((self.config.loop.seed, step, 1))
        return rng, self.crops is not None and rng.random() < self.config.hybrid

    @torch.inference_mode()
    def _deblurred(self, batch: Batch, rng: np.random.Generator) -> ControlBatch:
        """One frame of each sequence, restored by stage 1."""
        blurred, i = batch.blurred.float() / 255, int(rng.integers(batch.blurred.shape[1]))
        unchanged = self.first is None or self.restored
        hint = blurred if unchanged else self.first(blurred, batch.priors).frames.clamp(0, 1)  # type: ignore[misc]
        priors = _priors_of(batch.priors, i)
        return ControlBatch(batch.sharp[:, i], hint[:, i], priors, torch.tensor(int(rng.integers(1 << 40))))

    def _degraded(self, rng: np.random.Generator) -> ControlBatch:
        assert self.crops is not None
        sharp = [self.crops.crop(rng) for _ in range(self.config.loop.batch)]
        poor = np.stack([degrade([image], rng, self.config.degrade)[0] for image in sharp])
        size = poor.shape[1] // 4
        return ControlBatch(
            torch.from_numpy(np.stack(sharp)).permute(0, 3, 1, 2),
            torch.from_numpy(poor).permute(0, 3, 1, 2).float() / 255,
            torch.zeros(len(poor), 3, size, size),
            torch.tensor(int(rng.integers(1 << 40))),
        )

    def loss(self, model: nn.Module, batch: ControlBatch) -> tuple[Tensor, dict[str, float]]:
        inputs = self._inputs(batch)
        priors = self.model.prior_tensor(batch.priors[:, :2], batch.priors[:, 2:])
        down, mid = model(inputs.noisy, inputs.t, inputs.text, inputs.hint, priors, return_dict=False)
        predicted = self.unet(
            inputs.noisy, inputs.t, inputs.text, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample.float()
        error = inputs.error(predicted)
        if not self.config.perceptual:
            return error, {}
        clean = self.diffusion.clean(inputs.noisy, predicted, inputs.t)
        perceptual = self._perceptual(batch, inputs.hint, clean, self.diffusion.gain(inputs.t))
        total = error + self.config.perceptual * perceptual
        return total, {"noise": float(error.detach()), "perceptual": perceptual.item()}

    @torch.no_grad()
    def _inputs(self, batch: ControlBatch) -> "_Inputs":
        clean, hint = self.diffusion.encode(batch.sharp.float() / 255), self.diffusion.encode(batch.hint)
        noisy, t, target, weights = self.diffusion.noised_from(clean, hint, self.config.from_hint, int(batch.seed))
        nn.Module.to(self.unet, noisy.device)
        text = clean.new_zeros(len(clean), 1, self.unet.config["cross_attention_dim"])
        return _Inputs(hint, noisy, t, text, target, weights)

    @torch.no_grad()
    def uncontrolled(self, batch: ControlBatch) -> float:
        """Loss of the UNet alone at the same noise, without ``perceptual``."""
        inputs = self._inputs(batch)
        return float(inputs.error(self.unet(inputs.noisy, inputs.t, inputs.text).sample.float()))

    def _perceptual(self, batch: ControlBatch, hint: Tensor, clean: Tensor, gain: Tensor) -> Tensor:
        """L1 + LPIPS of the decoded ``clean`` latents, the mean over samples weighted by ``gain``."""
        image = self.diffusion.decode(clean)
        if self.config.cancel_autoencoder:
            with torch.no_grad():
                error = batch.hint - self.diffusion.decode(hint)
            image = image + error
        return (gain * picture_loss(self.lpips, image, batch.sharp / 255)).mean()

    @cached_property
    def clips(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(hint, priors, sharp) of the middle frame of each validation piece, sides cropped to multiples of 32."""
        if self.config.data.validation is None:
            return []
        out = []
        for clip in ValidationClip.load_all(PairSet.of(self.config.data.validation)):
            if clip.already_sharp:
                continue
            i, (h, w) = len(clip.frames) // 2, (side // 32 * 32 for side in clip.frames.shape[1:3])
            restored = clip.frames if self.first is None else restore(self.first, clip.frames, clip.priors)
            frames = [
                torch.from_numpy(x[i, :h, :w]).permute(2, 0, 1)[None].float() / 255 for x in (restored, clip.target)
            ]
            priors = F.interpolate(_priors_of(clip.priors, i), (-(-h // 4), -(-w // 4)), mode="nearest")
            out.append((frames[0], priors, frames[1]))
        return out

    @torch.inference_mode()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss on validation frames at fixed noise; ``score`` is its negative.

        ``share`` is the mean ratio of the loss, without ``perceptual``, to that of the UNet alone.
        """
        losses: list[float] = []
        collected: dict[str, list[float]] = {}
        for n, (hint, priors, sharp) in enumerate(self.clips):
            for k in range(2):
                batch = ControlBatch((sharp * 255).round().byte(), hint, priors, torch.tensor(2 * n + k))
                device = next(model.parameters()).device
                batch = ControlBatch(*(x.to(device) for x in batch))
                error, figures = self.loss(model, batch)
                losses.append(float(error))
                figures["share"] = figures.get("noise", losses[-1]) / self.uncontrolled(batch)
                for name, value in figures.items():
                    collected.setdefault(name, []).append(value)
        if not losses:
            return {}
        means = {name: round(float(np.mean(values)), 5) for name, values in sorted(collected.items())}
        mean = round(float(np.mean(losses)), 5)
        return {"loss": mean, **means, "score": -mean}

    @torch.inference_mode()
    def pictures(self, model: CPControlNet) -> list[tuple[str, np.ndarray]]:
        """Hint | generated | sharp, sampled in a few steps from the noise level of ``latest``."""
        scheduler, device = self.diffusion.sampler(), next(model.parameters()).device
        start = self.diffusion.latest / int(scheduler.config["num_train_timesteps"])
        options = Sampling(SHOWN_STEPS, start=start, cancel_autoencoder=self.config.cancel_autoencoder)
        for part in (self.unet, self.diffusion.vae):
            nn.Module.to(part, device)
        pipe = CPGDPipeline(self.diffusion.vae, self.unet, model, scheduler)
        pipe.set_progress_bar_config(disable=True)
        least, out = max(pipe.multiple, 32), []
        for i, (hint, priors, sharp) in enumerate(spread(self.clips)):
            frame, target, coding = middle(hint, least), middle(sharp, least), middle(priors, least, 4)
            if frame.numel():
                generated = pipe(frame, coding[:, :2], coding[:, 2:], options=options).frames
                out.append((str(i), strip(frame, generated, target)))
        return out


def _packs_restored(config: "CPGDTraining") -> bool:
    """Whether the packs hold frames restored by stage 1 (``unsmear data restore``).

    Raises:
        UsageError: only some do, or they were restored by another stage 1.
    """
    makers = {name: read_yaml(Path(name, "pack.json")).get("restored_by") for name in config.data.packs}
    restored = {name: checksum for name, checksum in makers.items() if checksum}
    if not restored:
        return False
    expected = find(config.first_stage).checksum() if config.first_stage else None
    for name in config.data.packs:
        if makers[name] != expected:
            by = f"by the model {str(makers[name])[:12]}…" if makers[name] else "by none"
            raise UsageError(
                f"{name}: frames were restored {by}, expected {(expected or 'none')[:12]}, that of first_stage; "
                "restore all packs with it, or use none that was restored"
            )
    return True


def _priors_of(priors: PriorTensors, i: int) -> Tensor:
    """V and R (B, 3, h, w) of frame i of each clip, on the grid of the residual."""
    residual = priors.residual[:, i].float()
    motion = F.interpolate(priors.motion[:, i].float(), residual.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([motion, residual], dim=1)
