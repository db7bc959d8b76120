"""A video diffusion model of tiny random networks, in memory and as a folder of weights."""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet3DConditionModel

from support.tiny_pipeline import vae as kl_vae
from unsmear.models.common.schedule import SCHEDULES
from unsmear.models.vdm.conditions import BlurEncoder, ImageTokens
from unsmear.models.vdm.network import VDM
from unsmear.models.vdm.pipeline import VDMPipeline

WIDTH, CONTEXT = 16, 16
V = SCHEDULES["v-zero-snr"]


def tiny_vae(channels: int = 6) -> AutoencoderTiny:
    torch.manual_seed(1)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=channels,
        scaling_factor=1.0,
    ).eval()


def unet(channels: int, out: int | None = None) -> UNet3DConditionModel:
    torch.manual_seed(0)
    made = UNet3DConditionModel(
        in_channels=channels,
        out_channels=out or channels,
        block_out_channels=(WIDTH, 2 * WIDTH),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        cross_attention_dim=CONTEXT,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return shaken(made)


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """As if trained: what starts at zero between the parts does not any more."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def tokens(**options) -> ImageTokens:
    torch.manual_seed(3)
    sizes = {"vector_width": 8, "token_width": CONTEXT, "tokens": 2, "prompt_tokens": 0, "embedding_channels": (8, 8)}
    return shaken(ImageTokens(**{**sizes, **options}))


def model(vae=None, **options) -> VDM:
    vae = tiny_vae() if vae is None else vae
    torch.manual_seed(2)
    blur = shaken(BlurEncoder.beside(vae, WIDTH))
    return VDM(unet(blur.channels), blur, tokens(**options)).eval()


def pipeline(scheduler=None, kl: bool = False) -> VDMPipeline:
    vae = kl_vae() if kl else tiny_vae()
    made = model(vae)
    pipe = VDMPipeline(vae, made.unet, made.blur_encoder, made.image_tokens, scheduler or DDIMScheduler(**V))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def folder(path: Path, **options) -> Path:
    """Weights of ``pipeline`` as training leaves them."""
    pipe = pipeline(**options)
    for name in ("vae", "unet", "blur_encoder", "image_tokens", "scheduler"):
        getattr(pipe, name).save_pretrained(path / name)
    return path
