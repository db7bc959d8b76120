"""Base class of the diffusion pipelines, with the interface of diffusers' own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from unsmear.models.common.latents import cell_px
from unsmear.models.common.sampler import SamplerSettings
from unsmear.models.zoo import renamed_index

OUTPUT_TYPES = ("pt", "np", "pil")

Callback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]
"""(pipeline, step, timestep, tensors by name) → tensors to replace, by name; as in diffusers."""


class SamplingPipeline(DiffusionPipeline):
    """Base of pipelines with ``vae``, ``unet`` and ``scheduler``: conversion of frames, callbacks, devices.

    Subclasses are added to the namespace of diffusers where their name is free: there
    ``DiffusionPipeline.from_pretrained`` looks up the class of a folder, and diffusers has no other registry.

    Raises:
        ValueError: ``sampling`` has unknown fields or values out of range.
    """

    _callback_tensor_inputs = ["latents"]  # noqa: RUF012  # diffusers' own protocol
    settings_class: type[SamplerSettings] = SamplerSettings

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(diffusers, cls.__name__):
            setattr(diffusers, cls.__name__, cls)

    def __init__(self, sampling: dict[str, Any] | None = None, **modules: Any):
        super().__init__()
        self.register_modules(**modules)
        try:
            self.settings_class(**(sampling or {}))
        except TypeError as error:
            raise ValueError(
                f"sampling {sampling}: {error}; expected fields of {self.settings_class.__name__}"
            ) from None
        self.register_to_config(sampling=dict(sampling) if sampling else None)
        self.video_processor = VideoProcessor(vae_scale_factor=self.cell, do_resize=False, do_normalize=False)
        self._interrupt, self._num_timesteps = False, 0
        self._callback: tuple[Callback, Sequence[str]] | None = None
        self._bar: Any = None

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers; folders saved under former names of our classes and modules are accepted."""
        loaded = super().load_config(*args, **kwargs)
        return renamed_index(loaded) if isinstance(loaded, dict) else (renamed_index(loaded[0]), *loaded[1:])

    @property
    def sampling(self) -> Any:
        """Default settings of calls: those of the folder, else those of ``settings_class``."""
        return self.settings_class(**(self.config.get("sampling") or {}))

    @property
    def cell(self) -> int:
        """Frame pixels per latent cell, each way."""
        return cell_px(self.vae)

    @property
    def multiple(self) -> int:
        """Required multiple of frame sides, pixels."""
        return self.cell * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def interrupt(self) -> bool:
        """Whether sampling stops after this step; a callback sets ``_interrupt``, as in diffusers."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Sampling steps per group of frames that are sampled together."""
        return self._num_timesteps

    def clips(self, frames: Any) -> tuple[Tensor, bool]:
        """Convert the frames of a call to clips (B, T, 3, H, W) in [0, 1]; also whether they were a single clip.

        Raises:
            ValueError: no frames, another shape, or sides that are not multiples of ``multiple``.
        """
        if isinstance(frames, list | tuple) and not frames:
            raise ValueError("frames is empty: expected at least one frame")
        if isinstance(frames, list | tuple) and isinstance(frames[0], np.ndarray | Tensor):
            frames = (np if isinstance(frames[0], np.ndarray) else torch).stack(list(frames))
        if isinstance(frames, np.ndarray):
            full = 255 if frames.dtype == np.uint8 else 1
            frames = torch.from_numpy(np.moveaxis(frames, -1, -3).astype(np.float32)) / full
        if isinstance(frames, Tensor):
            single = frames.ndim == 4
            clips = frames[None] if single else frames
        else:
            single = not isinstance(frames[0], list | tuple)
            clips = self.video_processor.preprocess_video(frames).transpose(1, 2)
        if clips.ndim != 5 or clips.shape[2] != 3 or not clips.shape[1]:
            raise ValueError(f"frames of shape {tuple(frames.shape)}: expected (T, 3, H, W) or (B, T, 3, H, W)")
        if clips.shape[-2] % self.multiple or clips.shape[-1] % self.multiple:
            raise ValueError(f"frames of {tuple(clips.shape[-2:])} pixels: sides must be multiples of {self.multiple}")
        return clips, single

    def settings(
        self,
        options: SamplerSettings | None,
        clips: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        generator: torch.Generator | Sequence[torch.Generator] | None,
    ) -> list[Any]:
        """Settings of each clip: ``options``, else the folder's; the other arguments override them.

        Noise is a function of seed and frame number, so a generator only draws the seed of each clip.

        Raises:
            ValueError: a value out of range, or generators for another number of clips.
        """
        base = options or self.sampling
        shared = generator is None or isinstance(generator, torch.Generator)
        generators: list[Any] = [generator] * clips if shared else list(generator)  # type: ignore[arg-type]
        if len(generators) != clips:
            raise ValueError(f"{len(generators)} generators for {clips} clips: give one, or one per clip")
        seeds = [None if g is None else int(torch.randint(2**62, (), generator=g, device=g.device)) for g in generators]
        return [base.overridden(num_inference_steps, guidance_scale, seed) for seed in seeds]

    @contextmanager
    def stepping(
        self, total: int, steps: int, callback: Callback | None, tensor_inputs: Sequence[str], output_type: str
    ) -> Iterator[None]:
        """Context of a call: a progress bar of ``total`` steps, and the callback that ``end_step`` calls.

        Raises:
            ValueError: unknown names of tensors, or an unknown ``output_type``.
        """
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            tensor_inputs = callback.tensor_inputs
        unknown = [name for name in tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            known = ", ".join(self._callback_tensor_inputs)
            raise ValueError(f"callback_on_step_end_tensor_inputs {unknown[0]!r} is unknown: expected some of {known}")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type {output_type!r} is unknown: expected {', '.join(OUTPUT_TYPES)}")
        self._interrupt, self._num_timesteps = False, steps
        self._callback = None if callback is None else (callback, tensor_inputs)
        try:
            with self.progress_bar(total=total) as self._bar:
                yield
        finally:
            self._callback = self._bar = None
            self.maybe_free_model_hooks()

    def end_step(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        """Advance the progress bar and call the callback; return the latents to continue with."""
        if self._callback is not None:
            call, names = self._callback
            replaced = call(self, step, timestep, dict.fromkeys(names, latents)) or {}
            latents = replaced.get("latents", latents)
        if self._bar is not None:
            self._bar.update()
        return latents

    def delivered(self, frames: Tensor, single: bool, output_type: str) -> Any:
        """Convert clips (B, T, 3, H, W) to ``output_type``, without B for a single clip.

        Tensors are not clipped; arrays and PIL images are clipped to [0, 1].
        """
        output: Any = frames
        if output_type != "pt":
            output = self.video_processor.postprocess_video(frames.clamp(0, 1).transpose(1, 2), output_type)
        return output[0] if single else output
