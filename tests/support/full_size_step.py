"""One step of stage 2 at Stable Diffusion 2's size with random weights; as a program it prints what it took as JSON."""

import json
import resource
import sys
import time

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn

from support.tiny_pipeline import BETAS
from unsmear.models.convert.stable_diffusion import SD2
from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.cpgd.pipeline import CPGDPipeline, Sampling


def filled(model: nn.Module) -> nn.Module:
    """Random bfloat16 in place of a network on the meta device; what multiplies stays near one, so it stays finite."""
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, 0.5 * max(parameter[0].numel(), 1) ** -0.5)
    return model


def main(side_px: int) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        parts = {
            "unet": UNet2DConditionModel.from_config(SD2.unet),
            "control": CPControlNet(),
            "vae": AutoencoderKL.from_config(SD2.vae),
        }
    parts = {name: filled(model) for name, model in parts.items()}
    torch.set_default_dtype(torch.float32)
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in parts.items()}
    guide = (".mask.", ".to_qm.")
    plain = sum(p.numel() for n, p in parts["control"].named_parameters() if not any(g in n for g in guide))
    pipe = CPGDPipeline(parts["vae"], parts["unet"], parts["control"], DDPMScheduler(**BETAS))
    frames, cells = torch.rand(1, 3, side_px, side_px), side_px // 8
    began = time.monotonic()
    made = pipe(
        frames,
        torch.randn(1, 2, cells, cells) * 8,
        torch.rand(1, 1, 2 * cells, 2 * cells),
        options=Sampling(steps=1, tile=cells, stride=cells // 2),
        prompt_embeds=torch.randn(1, 77, 1024),
    ).frames
    told = {
        "parameters": counts | {"control without priors": plain},
        "shape": list(made.shape),
        "finite": bool(made.isfinite().all()),
        "changed": float((made - frames).abs().mean()),
        "seconds": round(time.monotonic() - began, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 512)
