"""Conversion of Stable Diffusion 2.0 and 2.1, a diffusers folder or an original checkpoint, to diffusers' networks.

Keys are renamed by diffusers; ``convert.strict`` checks that every key of the file and of the networks is used.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet3DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor

from unsmear.errors import WeightsError
from unsmear.files import read_json
from unsmear.models.convert.checkpoint import read_checkpoint
from unsmear.models.convert.strict import and_more, convert_strictly, filled, part
from unsmear.models.convert.text_encoder import TextEncoder, convert_text_encoder

log = logging.getLogger(__name__)

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model."
CONTROL_PREFIX = "control_model."

CONTEXT_WIDTH = 1024

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": CONTEXT_WIDTH,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}

VAE_CONFIG: dict[str, Any] = {
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
}

OPENCLIP_BLOCKS = 24


@dataclass(frozen=True)
class Layout:
    """Sizes of the networks in an original checkpoint, which does not state them; by default Stable Diffusion 2's.

    Attributes:
        unet, vae: configurations of diffusers' networks.
        text_blocks: number of blocks of the text encoder in the file, including the unused last one.
    """

    unet: Mapping[str, Any] = field(default_factory=lambda: UNET_CONFIG)
    vae: Mapping[str, Any] = field(default_factory=lambda: VAE_CONFIG)
    text_blocks: int = OPENCLIP_BLOCKS


SD2 = Layout()

UNUSED_PREFIXES = ("model_ema.", "first_stage_model.loss.", "preprocess_model.")
"""Moving averages, the autoencoder's training loss, and the first stage of DiffBIR v1."""

UNUSED_BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
)
"""Buffers of the noise schedule, which the scheduler computes."""

HINT_ENCODER_PREFIX = "cond_encoder."
"""DiffBIR v1's copy of the autoencoder's encoder; unused, but checked to be equal."""

TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class StableDiffusion:
    """Contents of one source: networks, the tokenizer's files by name, and the folder of its scheduler."""

    unet: Any
    vae: Any
    text_encoder: TextEncoder | None = None
    tokenizer: dict[str, bytes] = field(default_factory=dict)
    scheduler: Path | None = None


def is_original(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has the layout of the original latent-diffusion code."""
    return any(key.startswith(UNET_PREFIX) for key in state)


def check_context_width(found: int | None) -> None:
    """Raise WeightsError where the width of the text context is not that of Stable Diffusion 2."""
    if found != CONTEXT_WIDTH:
        which = {768: "Stable Diffusion 1.x", 2048: "Stable Diffusion XL"}.get(found or 0, "another model")
        raise WeightsError(
            f"has a text context {found} wide ({which}), expected {CONTEXT_WIDTH} (Stable Diffusion 2.0 or 2.1): "
            "give a 2.x checkpoint"
        )


def context_width(state: Mapping[str, Tensor]) -> int | None:
    """Width of the text context, from the keys of cross-attention; None where there are none."""
    width = next((value.shape[-1] for key, value in state.items() if key.endswith("attn2.to_k.weight")), None)
    return None if width is None else int(width)


def from_original(state: Mapping[str, Tensor], layout: Layout = SD2) -> StableDiffusion:
    """Convert a checkpoint with ``model.diffusion_model.*``, ``first_stage_model.*`` and ``cond_stage_model.*``.

    Args:
        state: tensors by name, without ``control_model.*``; on the meta device to check the layout only.
        layout: sizes of the networks.

    Returns:
        The networks, in the dtypes of the file; no text encoder where the file has none.

    Raises:
        WeightsError: another version of Stable Diffusion, or a key without counterpart or of another shape.
    """
    unet_state, context = part(state, UNET_PREFIX), layout.unet["cross_attention_dim"]
    width = context_width(unet_state)
    if width not in (None, context):
        check_context_width(width)
    vae_state = {key: value for key, value in part(state, VAE_PREFIX).items() if not key.startswith("loss.")}
    _check_rest(state, vae_state)
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel.from_config(layout.unet), AutoencoderKL.from_config(layout.vae)
    unet_converted = convert_strictly(
        unet_state,
        lambda s: convert_ldm_unet_checkpoint({UNET_PREFIX + key: value for key, value in s.items()}, unet.config),
        unet.state_dict(),
        UNET_PREFIX,
    )
    vae_converted = convert_strictly(
        vae_state,
        lambda s: convert_ldm_vae_checkpoint({VAE_PREFIX + key: value for key, value in s.items()}, vae.config),
        vae.state_dict(),
        VAE_PREFIX,
    )
    text = {key: value for key, value in state.items() if key.startswith(TEXT_PREFIX)}
    return StableDiffusion(
        unet=filled(unet, unet_converted),
        vae=filled(vae, vae_converted),
        text_encoder=convert_text_encoder(text, context, layout.text_blocks) if text else None,
    )


def _check_rest(state: Mapping[str, Tensor], vae: Mapping[str, Tensor]) -> None:
    used = (UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX, HINT_ENCODER_PREFIX)
    rest = [key for key in state if not key.startswith(used) and key not in UNUSED_BUFFERS]
    unused = [key for key in rest if key.startswith(UNUSED_PREFIXES)]
    unknown = sorted(set(rest) - set(unused))
    if unknown:
        raise WeightsError(f"has unknown {and_more(unknown)}: expected an original Stable Diffusion 2 checkpoint")
    for key, value in part(state, HINT_ENCODER_PREFIX).items():
        if key not in vae or value.shape != vae[key].shape or not torch.equal(value, vae[key]):
            raise WeightsError(
                f"has {HINT_ENCODER_PREFIX}{key} other than {VAE_PREFIX}{key}: a hint encoder of its own is not "
                "supported, give one that shares the autoencoder's"
            )
    if unused:
        log.info("%d tensors are unused, such as %s", len(unused), unused[0])


def is_video(folder: Path) -> bool:
    """Whether the denoiser in a folder's ``unet/`` is a 3D UNet, such as ModelScopeT2V's."""
    path = folder / "unet" / "config.json"
    return path.exists() and _config(folder / "unet").get("_class_name") == UNet3DConditionModel.__name__


def from_folder(folder: Path) -> StableDiffusion:
    """Load the networks of a diffusers folder with ``unet/`` and ``vae/``, and text encoder and tokenizer if present.

    The denoiser is a ``UNet2DConditionModel``, or the ``UNet3DConditionModel`` of ModelScopeT2V. Widths are those of
    the folder's configurations, so that smaller networks of the same kind load.

    Raises:
        WeightsError: a part is missing or damaged, does not fit its configuration, or is of another version.
    """
    config = _config(folder / "unet")
    try:
        check_context_width(config.get("cross_attention_dim"))
    except WeightsError as error:
        raise WeightsError(f"{folder} {error}") from None
    taken, latent = config.get("in_channels", 4), _config(folder / "vae").get("latent_channels", 4)
    if taken != latent:
        raise WeightsError(
            f"{folder} has a denoiser of {taken} input channels, expected the autoencoder's {latent}: "
            "inpainting and depth models are not supported, give a base model"
        )
    scheduler = folder / "scheduler"
    return StableDiffusion(
        unet=_load(UNet3DConditionModel if is_video(folder) else UNet2DConditionModel, folder / "unet"),
        vae=_load(AutoencoderKL, folder / "vae"),
        text_encoder=_text_encoder(folder / "text_encoder", config["cross_attention_dim"]),
        tokenizer={
            name: path.read_bytes() for name in TOKENIZER_FILES if (path := folder / "tokenizer" / name).is_file()
        },
        scheduler=scheduler if scheduler.is_dir() else None,
    )


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "config.json", "expected a diffusers folder with unet/ and vae/", WeightsError)


def _weights_file(folder: Path, *stems: str) -> Path:
    names = [f"{stem}{kind}" for kind in (".safetensors", ".fp16.safetensors", ".bin") for stem in stems]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"{folder} holds no weights: expected one of {', '.join(names)}")


def _load(kind: Any, folder: Path) -> Any:
    """Load a network strictly with diffusers, which also accepts older names of its layers."""
    if _config(folder).get("_class_name", kind.__name__) != kind.__name__:
        raise WeightsError(f"{folder} holds a {_config(folder)['_class_name']}, expected a {kind.__name__}")
    path = _weights_file(folder, "diffusion_pytorch_model")
    dtype = next(iter(read_checkpoint(path).values())).dtype
    try:
        model, report = kind.from_pretrained(
            folder,
            torch_dtype=dtype,
            variant="fp16" if ".fp16." in path.name else None,
            use_safetensors=path.suffix == ".safetensors",
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (ValueError, RuntimeError, OSError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path} does not fit {folder / 'config.json'} ({reason[:160]})") from None
    for what, keys in (("lacks", report["missing_keys"]), ("has unknown", report["unexpected_keys"])):
        if keys:
            raise WeightsError(
                f"{path} {what} {and_more(sorted(keys))}: it does not belong to {folder / 'config.json'}"
            )
    return model.eval().requires_grad_(False)


def _text_encoder(folder: Path, width: int) -> TextEncoder | None:
    if not folder.is_dir():
        return None
    config = _config(folder)
    if config.get("hidden_size") != width:
        raise WeightsError(f"{folder} is {config.get('hidden_size')} wide, expected {width}, as the denoiser's context")
    state = read_checkpoint(_weights_file(folder, "model", "pytorch_model"))
    return TextEncoder(config, {key: value for key, value in state.items() if not key.endswith("position_ids")})
