"""Parameters of training configurations at full size, and the memory that a step of each needs, computed on no device.

    python tools/training_size.py configs/cpfp-paper.yaml configs/cpgd-paper.yaml

Networks are made on torch's meta device. Counted are weights, gradients, Adam's moments and the moving average in
float32, frozen networks in float32, copies of all weights in half precision where the configuration says so, and what
the forward pass of a batch saves for the backward pass, attention without its scores, as on GPUs. Not counted: what
the arithmetic of a layer needs while it runs, stage 1 and the making of latents in the training of stage 2, and the
allocator's slack.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet3DConditionModel
from torch import Tensor, nn

from unsmear.models.convert.stable_diffusion import SD2
from unsmear.models.convert.vgen import UNET3D_CONFIG
from unsmear.models.cpfp.network import CPFP, PriorTensors
from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.vdm.network import VDM
from unsmear.training.config import read_config
from unsmear.training.cpfp import CPFPTraining
from unsmear.training.cpgd import CPGDTraining
from unsmear.training.vdm import VDMTraining, select

LATENT_CELL = 8


class Size(NamedTuple):
    """What a configuration trains."""

    config: Any
    trained: nn.Module
    frozen: list[nn.Module]
    forward: Callable[[torch.dtype], Tensor]
    """Forward pass of a batch."""

    @property
    def parameters(self) -> int:
        """Number of parameters that are trained."""
        return sum(p.numel() for p in self.trained.parameters() if p.requires_grad)


def size_of(path: Path) -> Size:
    """Networks of a configuration, by the first part of its name: cpfp, cpgd (stage control) or vdm."""
    with torch.device("meta"):
        return {"cpfp": _cpfp, "cpgd": _cpgd, "vdm": _vdm}[path.name.partition("-")[0]](path)


def step_bytes(size: Size) -> int:
    """Memory of a training step, see above."""
    loop = size.config.loop
    half = loop.precision != "no"
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[loop.precision]
    everything = [size.trained, *size.frozen]
    count = sum(p.numel() for model in everything for p in model.parameters())
    own = sum(p.numel() for p in size.trained.parameters())
    for model in everything:
        nn.Module.to(model, dtype)
    kept = {p.untyped_storage()._cdata for model in everything for p in [*model.parameters(), *model.buffers()]}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in kept:
            saved[storage._cdata] = storage.nbytes()
            held.append(storage)  # so that no other one takes its place
        return tensor

    held: list[Any] = []
    with _attention_as_on_gpus(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        size.forward(dtype)
    return 4 * count + 2 * count * half + 4 * own + 12 * size.parameters + sum(saved.values())


class _Attention(torch.autograd.Function):
    """Saves what fused attention saves."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, mask, out)
        return out


@contextmanager
def _attention_as_on_gpus() -> Iterator[None]:
    own = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda q, k, v, attn_mask=None, **_: _Attention.apply(q, k, v, attn_mask)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def _cpfp(path: Path) -> Size:
    config = read_config(CPFPTraining, path)
    model = CPFP.build(config.model)
    data, b = config.data, config.loop.batch

    def forward(dtype: torch.dtype) -> Tensor:
        del dtype  # frames and positions stay in float32
        t, side = data.frames, data.crop_px
        motion, cut = _meta(b, t, 2, side // 8, side // 8), _meta(b, t, dtype=torch.bool)
        priors = PriorTensors(motion, motion, _meta(b, t, 1, side // 4, side // 4), cut, cut, _meta(b, t))
        return model.train()(_meta(b, t, 3, side, side), priors).frames

    return Size(config, model, [], forward)


def _cpgd(path: Path) -> Size:
    config = read_config(CPGDTraining, path)
    unet = UNet2DConditionModel.from_config(SD2.unet).requires_grad_(False)
    vae = AutoencoderKL.from_config(SD2.vae).requires_grad_(False)
    control = CPControlNet.beside(unet, **config.control.stated())
    joint = config.control.joint_time_attention
    together = config.data.frames if joint else 1
    b, cells = config.loop.batch * together, config.data.crop_px // LATENT_CELL

    def forward(dtype: torch.dtype) -> Tensor:
        latent, t = _meta(b, 4, cells, cells, dtype=dtype), _meta(b, dtype=torch.long)
        text = _meta(b, 77, 1024, dtype=dtype)
        priors = _meta(b, 3, cells, cells, dtype=dtype)
        down, mid = control.train()(latent, t, text, latent, priors, frames=together, return_dict=False)
        return unet(
            latent, t, text, down_block_additional_residuals=down, mid_block_additional_residual=mid, return_dict=False
        )[0]

    return Size(config, control, [unet, vae], forward)


def _vdm(path: Path) -> Size:
    config = read_config(VDMTraining, path)
    vae = AutoencoderKL.from_config(SD2.vae).requires_grad_(False)
    model = VDM.assembled(UNet3DConditionModel.from_config(UNET3D_CONFIG), vae)
    select(model, config)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    b, f, cells = config.loop.batch, config.data.frames, config.data.crop_px // LATENT_CELL

    def forward(dtype: torch.dtype) -> Tensor:
        frames = _meta(b, f, 3, config.data.crop_px, config.data.crop_px, dtype=dtype)
        noisy = _meta(b, f, 4, cells, cells, dtype=dtype)
        vector = _meta(b, model.image_tokens.config["vector_width"], dtype=dtype)
        return model.train()(noisy, _meta(b, dtype=torch.long), frames, vector)

    return Size(config, model, [vae], forward)


def main(paths: list[str]) -> None:
    """Print a line of a table for each configuration."""
    for path in map(Path, paths):
        size = size_of(path)
        loop, data = size.config.loop, size.config.data
        sys.stdout.write(
            f"| `{path.stem}` | {size.parameters / 1e6:.2f} M | {loop.batch} × {data.frames} × {data.crop_px}² | "
            f"{step_bytes(size) / 1e9:.0f} GB |\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
