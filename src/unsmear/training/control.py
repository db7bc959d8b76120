"""The recipe of CPGD-Net's phase II (§III-C): UNet and autoencoder are frozen, the control network learns to steer.

It is given the latent of what stage 1 makes of a blurred frame and its coding priors; the loss is that of the base
model, and as an option (ours) what the picture looks like that its prediction means.
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
from unsmear.models.cpfp.network import CPFP, PriorTensors
from unsmear.models.cpgd.attention import LONGEST_PX, control_priors
from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.cpgd.pipeline import CPGDPipeline, Sampling
from unsmear.models.loading import load_model
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
    """(B, 3, S/4, S/4), of ``control_priors``."""
    seed: Tensor


class _Asked(NamedTuple):
    """Inputs of the networks for a batch, and the target; of latents (B, 4, h, w)."""

    hint: Tensor
    noisy: Tensor
    t: Tensor
    text: Tensor
    target: Tensor
    counts: Tensor
    """Weight of each sample."""

    def error(self, predicted: Tensor) -> Tensor:
        return (self.counts * (predicted - self.target) ** 2).mean()


class ControlRecipe:
    """Phase II: only the control network is moved."""

    def __init__(self, model: CPControlNet, unet: UNet2DConditionModel, config: "CPGDTraining"):
        self.model, self.config, self.diffusion = model, config, Diffusion(config)
        self.unet = unet.eval().requires_grad_(False)
        if config.loop.channels_last:
            nn.Module.to(self.unet, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pairs = open_batches(config.data, config.loop.seed, config.loop.batch)
        self.crops = ImageCrops(config.images) if config.hybrid else None
        self.lpips = load_lpips()
        self.first: CPFP | None = load_model(find(config.first_stage), "CPFP") if config.first_stage else None
        self.given_first = _restored_already(config)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.model.parameters() if p.requires_grad]}]

    def batches(self, steps: range) -> Generator[ControlBatch, None, None]:
        with closing(self.pairs.at([step for step in steps if not self._draw(step)[1]])) as pairs:
            for step in steps:
                rng, degraded = self._draw(step)
                yield self._degraded(rng) if degraded else self._deblurred(next(pairs), rng)

    def _draw(self, step: int) -> tuple[np.random.Generator, bool]:
        """The generator of a step, and whether its batch is one of degraded pictures."""
        rng = np.random.default_rng((self.config.loop.seed, step, 1))
        return rng, self.crops is not None and rng.random() < self.config.hybrid

    @torch.inference_mode()
    def _deblurred(self, batch: Batch, rng: np.random.Generator) -> ControlBatch:
        """One frame of each sequence, as stage 1 restores it."""
        blurred, i = batch.blurred.float() / 255, int(rng.integers(batch.blurred.shape[1]))
        plain = self.first is None or self.given_first
        hint = blurred if plain else self.first(blurred, batch.priors).frames.clamp(0, 1)  # type: ignore[misc]
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
        asked = self._asked(batch)
        down, mid = model(asked.noisy, asked.t, asked.text, asked.hint, batch.priors, return_dict=False)
        predicted = self.unet(
            asked.noisy, asked.t, asked.text, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample.float()
        error = asked.error(predicted)
        if not self.config.perceptual:
            return error, {}
        clean = self.diffusion.clean(asked.noisy, predicted, asked.t)
        seen = self._seen(batch, asked.hint, clean, self.diffusion.gain(asked.t))
        return error + self.config.perceptual * seen, {"noise": float(error.detach()), "seen": seen.item()}

    @torch.no_grad()
    def _asked(self, batch: ControlBatch) -> "_Asked":
        clean, hint = self.diffusion.encode(batch.sharp.float() / 255), self.diffusion.encode(batch.hint)
        noisy, t, target, counts = self.diffusion.started(clean, hint, self.config.from_hint, int(batch.seed))
        nn.Module.to(self.unet, noisy.device)
        text = clean.new_zeros(len(clean), 1, self.unet.config["cross_attention_dim"])
        return _Asked(hint, noisy, t, text, target, counts)

    @torch.no_grad()
    def unsteered(self, batch: ControlBatch) -> float:
        """The loss of the UNet alone at the same noise, without ``perceptual``."""
        asked = self._asked(batch)
        return float(asked.error(self.unet(asked.noisy, asked.t, asked.text).sample.float()))

    def _seen(self, batch: ControlBatch, hint: Tensor, clean: Tensor, gain: Tensor) -> Tensor:
        """L1 + LPIPS of the picture of ``clean`` latents, the mean over samples that count by ``gain``."""
        picture = self.diffusion.decode(clean)
        if self.config.cancel_autoencoder:
            with torch.no_grad():
                lost = batch.hint - self.diffusion.decode(hint)
            picture = picture + lost
        return (gain * picture_loss(self.lpips, picture, batch.sharp / 255)).mean()

    @cached_property
    def clips(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(hint, priors, sharp) of the middle frame of each validation piece, sides cut to multiples of 32."""
        if self.config.data.validation is None:
            return []
        out = []
        for clip in ValidationClip.load_all(PairSet.of(self.config.data.validation)):
            if clip.already_sharp:
                continue
            i, (h, w) = len(clip.given) // 2, (side // 32 * 32 for side in clip.given.shape[1:3])
            restored = clip.given if self.first is None else restore(self.first, clip.given, clip.priors)
            frames = [
                torch.from_numpy(x[i, :h, :w]).permute(2, 0, 1)[None].float() / 255 for x in (restored, clip.wanted)
            ]
            priors = F.interpolate(_priors_of(clip.priors, i), (-(-h // 4), -(-w // 4)), mode="nearest")
            out.append((frames[0], priors, frames[1]))
        return out

    @torch.inference_mode()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """The loss on validation frames at noises that are always the same; ``score`` is its negative.

        ``share`` is the mean ratio of the loss, without ``perceptual``, to that of the UNet alone; 1 is no help.
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
                figures["share"] = figures.get("noise", losses[-1]) / self.unsteered(batch)
                for name, value in figures.items():
                    collected.setdefault(name, []).append(value)
        if not losses:
            return {}
        means = {name: round(float(np.mean(values)), 5) for name, values in sorted(collected.items())}
        mean = round(float(np.mean(losses)), 5)
        return {"loss": mean, **means, "score": -mean}

    @torch.inference_mode()
    def pictures(self, model: CPControlNet) -> list[tuple[str, np.ndarray]]:
        """Hint | what the sampler makes of it | sharp, in a few steps from the noise of ``latest``."""
        scheduler, device = self.diffusion.sampler(), next(model.parameters()).device
        start = self.diffusion.latest / int(scheduler.config["num_train_timesteps"])
        options = Sampling(SHOWN_STEPS, start=start, cancel_autoencoder=self.config.cancel_autoencoder)
        for part in (self.unet, self.diffusion.vae):
            nn.Module.to(part, device)
        pipe = CPGDPipeline(self.diffusion.vae, self.unet, model, scheduler)
        pipe.set_progress_bar_config(disable=True)
        least, out = max(pipe.multiple, 32), []
        for i, (hint, priors, sharp) in enumerate(spread(self.clips)):
            given, wanted, coding = middle(hint, least), middle(sharp, least), middle(priors, least, 4)
            if given.numel():
                generated = pipe(given, coding[:, :2] * LONGEST_PX, coding[:, 2:], options=options).frames
                out.append((str(i), strip(given, generated, wanted)))
        return out


def _restored_already(config: "CPGDTraining") -> bool:
    """True where the packs hold the frames that stage 1 restored (``unsmear data restore``).

    Raises:
        UsageError: some do and some do not, or another stage 1 made them.
    """
    makers = {name: read_yaml(Path(name, "pack.json")).get("restored_by") for name in config.data.packs}
    restored = {name: checksum for name, checksum in makers.items() if checksum}
    if not restored:
        return False
    wanted = find(config.first_stage).checksum() if config.first_stage else None
    for name in config.data.packs:
        if makers[name] != wanted:
            by = f"by the model {str(makers[name])[:12]}…" if makers[name] else "by none"
            raise UsageError(
                f"{name}: frames were restored {by}, expected {(wanted or 'none')[:12]} as first_stage says; "
                "make all packs anew with it, or use none that was restored"
            )
    return True


def _priors_of(priors: PriorTensors, i: int) -> Tensor:
    """Of frame i of each clip, on the grid of the residual."""
    residual = priors.residual[:, i].float()
    motion = F.interpolate(priors.motion[:, i].float(), residual.shape[-2:], mode="bilinear", align_corners=False)
    return control_priors(motion, residual)
