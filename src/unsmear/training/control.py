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
from unsmear.models.common.text import TEXT_PARTS, embedded
from unsmear.models.cpfp.network import PriorTensors
from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.cpgd.pipeline import CPGDPipeline, Sampling
from unsmear.models.loading import FIRST_STAGES, load_model
from unsmear.models.zoo import find
from unsmear.training.batches import Batch, open_batches
from unsmear.training.diffusion import Diffusion, picture_loss
from unsmear.training.images import ImageCrops, middle, spread, strip
from unsmear.training.loop import moved
from unsmear.training.restored import restored_by
from unsmear.training.validation import ValidationClip, restore

if TYPE_CHECKING:
    from unsmear.training.cpgd import CPGDTraining

SHOWN_STEPS = 4


class ControlBatch(NamedTuple):
    """Frames to generate, and the conditions of the control network; frames of a clip follow each other in B."""

    sharp: Tensor
    """(B, 3, S, S) uint8."""
    hint: Tensor
    """(B, 3, S, S) float32 in [0, 1]."""
    priors: Tensor
    """V in pixels and R in [0, 1], (B, 3, S/4, S/4)."""
    prompts: tuple[str, ...]
    """One per frame; empty where it was dropped."""
    seed: Tensor
    together: int = 1
    """Number of consecutive frames that attend to each other."""


class BlurredBatch(NamedTuple):
    """Blurred clips; stage 1, on the device of the training, makes a ``ControlBatch`` of some of their frames."""

    clips: Batch
    first: int
    """Number of the first of these frames."""
    prompts: tuple[str, ...]
    """One per clip."""
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
        self.base = Path(config.prior).parent
        """Folder of the base model."""
        captioned = (self.base / TEXT_PARTS[0]).is_dir()
        self.pairs = open_batches(config.data, config.loop.seed, config.loop.batch, captions=captioned)
        self.crops = ImageCrops(config.images) if config.hybrid else None
        self.lpips = load_lpips()
        self.first: nn.Module | None = (
            load_model(find(config.first_stage), *FIRST_STAGES) if config.first_stage else None
        )
        self.restored = _data_restored(config)
        """Whether the frames of the data were restored by stage 1 before."""
        self.together = config.data.frames if model.config["joint_time_attention"] else 1
        """Consecutive frames of a clip in a batch, which attend to each other; fewer of shorter clips."""
        self.texts = embedded(self.base, unet.config["cross_attention_dim"], {config.prompt, *self.pairs.captions})
        """Embedding of each prompt."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.model.parameters() if p.requires_grad]}]

    def batches(self, steps: range) -> Generator[ControlBatch | BlurredBatch, None, None]:
        with closing(self.pairs.at([step for step in steps if not self._draw(step)[1]])) as pairs:
            for step in steps:
                rng, degraded = self._draw(step)
                prompted = np.random.default_rng((self.config.loop.seed, step, 2))
                kept = prompted.random(self.config.loop.batch) >= self.config.drop_prompt
                yield self._degraded(rng, kept) if degraded else self._blurred(next(pairs), rng, kept)

    def _draw(self, step: int) -> tuple[np.random.Generator, bool]:
        """Random generator of a step, and whether its batch consists of degraded images."""
        rng = np.random.default_rng((self.config.loop.seed, step, 1))
        return rng, self.crops is not None and rng.random() < self.config.hybrid

    def _blurred(self, batch: Batch, rng: np.random.Generator, kept: np.ndarray) -> BlurredBatch:
        """One frame of each clip, or all where they attend to each other."""
        length = batch.blurred.shape[1]
        first = int(rng.integers(length - min(self.together, length) + 1))
        seed = torch.tensor(int(rng.integers(1 << 40)))
        captions = zip(batch.captions, kept, strict=True)
        prompts = tuple((caption or self.config.prompt) if keep else "" for caption, keep in captions)
        return BlurredBatch(batch, first, prompts, seed)

    @torch.no_grad()
    def hinted(self, batch: ControlBatch | BlurredBatch) -> ControlBatch:
        """The frames of a batch as they are trained on, restored by stage 1 unless the data hold such frames."""
        if isinstance(batch, ControlBatch):
            return batch
        hint = batch.clips.blurred.float() / 255
        together = min(self.together, hint.shape[1])
        part = slice(batch.first, batch.first + together)
        if self.first is not None and not self.restored:
            nn.Module.to(self.first, hint.device)
            with torch.autocast(hint.device.type, enabled=False):
                hint = self.first(hint, batch.clips.priors).frames.clamp(0, 1)
        prompts = tuple(text for text in batch.prompts for _ in range(together))
        sharp, hint = (frames[:, part].flatten(0, 1) for frames in (batch.clips.sharp, hint))
        priors = _priors_of(batch.clips.priors, part)
        return ControlBatch(sharp, hint, priors, prompts, batch.seed, together)

    def _degraded(self, rng: np.random.Generator, kept: np.ndarray) -> ControlBatch:
        """Still pictures: as a video of one frame, they have priors of zeros."""
        assert self.crops is not None
        sharp = [self.crops.crop(rng) for _ in range(self.config.loop.batch)]
        poor = np.stack([degrade([image], rng, self.config.degrade)[0] for image in sharp])
        size = poor.shape[1] // 4
        return ControlBatch(
            torch.from_numpy(np.stack(sharp)).permute(0, 3, 1, 2),
            torch.from_numpy(poor).permute(0, 3, 1, 2).float() / 255,
            torch.zeros(len(poor), 3, size, size),
            tuple(self.config.prompt if keep else "" for keep in kept),
            torch.tensor(int(rng.integers(1 << 40))),
        )

    def loss(self, model: nn.Module, batch: ControlBatch | BlurredBatch) -> tuple[Tensor, dict[str, float]]:
        batch = self.hinted(batch)
        inputs = self._inputs(batch)
        priors = self.model.prior_tensor(batch.priors[:, :2], batch.priors[:, 2:], batch.together)
        down, mid = model(
            inputs.noisy,
            inputs.t,
            inputs.text,
            inputs.hint,
            priors,
            frames=batch.together,
            return_dict=False,
        )
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
        share, seed = self.config.from_hint, int(batch.seed)
        noisy, t, target, weights = self.diffusion.noised_from(clean, hint, share, seed, batch.together)
        nn.Module.to(self.unet, noisy.device)
        text = torch.cat([self.texts[prompt] for prompt in batch.prompts]).to(clean)
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
        """(hint, priors, sharp) of each validation piece, sides cropped to multiples of 32.

        Of a piece there is the middle frame, or all where frames attend to each other.
        """
        if self.config.data.validation is None:
            return []
        out = []
        for clip in ValidationClip.load_all(PairSet.of(self.config.data.validation)):
            if clip.already_sharp:
                continue
            i, (h, w) = len(clip.frames) // 2, (side // 32 * 32 for side in clip.frames.shape[1:3])
            part = slice(i, i + 1) if self.together == 1 else slice(None)
            restored = clip.frames if self.first is None else restore(self.first, clip.frames, clip.priors)
            frames = [
                torch.from_numpy(x[part, :h, :w]).permute(0, 3, 1, 2).float() / 255 for x in (restored, clip.target)
            ]
            priors = F.interpolate(_priors_of(clip.priors, part), (-(-h // 4), -(-w // 4)), mode="nearest")
            out.append((frames[0], priors, frames[1]))
        return out

    @torch.inference_mode()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss on validation frames at fixed noise; ``score`` is its negative.

        ``share`` is the mean ratio of the loss, without ``perceptual``, to that of the UNet alone.
        """
        device = next(model.parameters()).device
        if self.first is not None:
            nn.Module.to(self.first, device)
        losses: list[float] = []
        collected: dict[str, list[float]] = {}
        for n, (hint, priors, sharp) in enumerate(self.clips):
            for k in range(2):
                prompts = (self.config.prompt,) * len(hint)
                levels, seed = (sharp * 255).round().byte(), torch.tensor(2 * n + k)
                batch = ControlBatch(levels, hint, priors, prompts, seed, len(hint))
                batch = moved(batch, device)
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
        scheduler, device = self.diffusion.preview(), next(model.parameters()).device
        start = self.diffusion.latest / int(scheduler.config["num_train_timesteps"])
        options = Sampling(SHOWN_STEPS, start=start, cancel_autoencoder=self.config.cancel_autoencoder)
        for part in (self.unet, self.diffusion.vae):
            nn.Module.to(part, device)
        pipe = CPGDPipeline(self.diffusion.vae, self.unet, model, scheduler)
        pipe.set_progress_bar_config(disable=True)
        least, out = max(pipe.multiple, 32), []
        for i, (hint, priors, sharp) in enumerate(spread(self.clips)):
            frames, target, coding = middle(hint, least), middle(sharp, least), middle(priors, least, 4)
            if frames.numel():
                motion, residual = coding[:, :2], coding[:, 2:]
                text = self.texts[self.config.prompt]
                generated = pipe(frames, motion, residual, options=options, prompt_embeds=text).frames
                shown = len(frames) // 2
                out.append((str(i), strip(*(x[shown : shown + 1] for x in (frames, generated, target)))))
        return out


def _data_restored(config: "CPGDTraining") -> bool:
    """Whether packs and data sets hold frames restored by stage 1 (``unsmear data restore``).

    Raises:
        UsageError: only some do, or they were restored by another stage 1; those of the validation do.
    """
    if config.data.validation and restored_by(Path(PairSet.of(config.data.validation).dataset)):
        raise UsageError("data.validation: its frames are restored already; name the data set with the blurred ones")
    names = [*config.data.packs, *(PairSet.of(given).dataset for given in config.data.pairs)]
    makers = {name: restored_by(Path(name)) for name in names}
    if not any(makers.values()):
        return False
    expected = find(config.first_stage).checksum() if config.first_stage else None
    for name, maker in makers.items():
        if maker != expected:
            by = f"by the model {maker[:12]}…" if maker else "by none"
            raise UsageError(
                f"{name}: frames were restored {by}, expected {(expected or 'none')[:12]}, that of first_stage; "
                "restore all packs and data sets with it, or use none that was restored"
            )
    return True


def _priors_of(priors: PriorTensors, frames: slice) -> Tensor:
    """V and R (B, 3, h, w) of some frames of each clip, on the grid of the residual."""
    residual = priors.residual[:, frames].flatten(0, 1).float()
    motion = priors.motion[:, frames].flatten(0, 1).float()
    motion = F.interpolate(motion, residual.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([motion, residual], dim=1)
