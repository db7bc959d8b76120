"""From a folder of weights to networks. Strict: every key must fit, and where a card states a checksum the files must
have it.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unsmear.errors import UsageError, WeightsError
from unsmear.models.zoo import CONFIG_FILE, VIDEO_UNET, ModelEntry

if TYPE_CHECKING:
    from unsmear.models.vdm.network import VDM

log = logging.getLogger("unsmear")

SCHEDULER = Path("scheduler", "scheduler_config.json")
SAMPLING_FILE = "sampling.json"
"""Beside a pipeline's networks: defaults of the sampler that suit them, fields of ``Sampling``."""


def load_model(entry: ModelEntry) -> Any:
    """The stage-1 network of a folder with its weights, in float32 on the CPU.

    Raises:
        WeightsError: damaged file, wrong checksum, another architecture, or keys that do not fit (named).
    """
    from unsmear.models.cpfp import CPFP

    _verify(entry)
    return _network(entry, {"CPFP": CPFP})


def load_denoiser(entry: ModelEntry) -> Any:
    """A ``UNet2DConditionModel``; see ``load_model``."""
    from diffusers import UNet2DConditionModel

    return _network(entry, {"UNet2DConditionModel": UNet2DConditionModel})


def load_autoencoder(entry: ModelEntry) -> Any:
    """An ``AutoencoderKL``, ``AutoencoderDC`` or ``AutoencoderTiny``; see ``load_model``."""
    from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny

    return _network(entry, {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderDC, AutoencoderTiny)})


def load_pipeline(entry: ModelEntry, prompts: bool = True) -> Any:
    """The ``CPGDPipeline`` of a folder, in float32 on the CPU; without ``control`` it starts from the UNet's encoder.

    Args:
        entry: the folder.
        prompts: whether it has to read prompts. Else the text encoder stays where it is if the empty prompt is stored.

    Raises:
        WeightsError: as ``load_model``; also a part that is missing or is of another width than the others.
        UsageError: the text encoder is needed, and transformers is not installed.
    """
    from unsmear.models.cpgd.control import CPControlNet
    from unsmear.models.cpgd.pipeline import CPGDPipeline
    from unsmear.models.text import load_text_encoder, stored_empty_prompt

    _verify(entry)
    parts = entry.parts
    for needed in ("unet", "vae"):
        if needed not in parts:
            raise WeightsError(f"{entry.folder} has no {needed}: import one with `unsmear models import FILE -o DIR`")
    unet, vae = load_denoiser(parts["unet"]), load_autoencoder(parts["vae"])
    if "control" in parts:
        control = _network(parts["control"], {"CPControlNet": CPControlNet})
    else:
        log.warning("%s has no control network: it starts from the denoiser's encoder, untrained", entry.folder)
        control = CPControlNet.beside(unet).eval().requires_grad_(False)
    for field in ("block_out_channels", "cross_attention_dim"):
        ours, theirs = control.config[field], unet.config[field]
        if json.dumps(ours) != json.dumps(theirs):  # tuples and lists alike
            raise WeightsError(
                f"{entry.folder}: the control network has {field} {ours}, the denoiser {theirs}; "
                "import ones that belong together"
            )
    stored = stored_empty_prompt(entry.folder, unet.config["cross_attention_dim"])
    reads = prompts or stored is None
    encoder, tokenizer = load_text_encoder(entry.folder) if reads else (None, None)
    return CPGDPipeline(vae, unet, control, _scheduler(entry.folder), encoder, tokenizer, stored)


def load_vdm(entry: ModelEntry) -> "VDMParts":
    """The video diffusion model of a folder, in float32 on the CPU; what it lacks beside UNet and autoencoder is fresh.

    Raises:
        WeightsError: as ``load_model``; also a part that is missing or does not fit the others.
        UsageError: there is an image encoder, or a text encoder and no stored empty prompt, and transformers is not
            installed.
    """
    from diffusers import UNet3DConditionModel

    from unsmear.models.vdm.conditions import BlurEncoder, ImageTokens
    from unsmear.models.vdm.network import VDM

    parts = entry.parts
    for needed in ("unet", "vae"):
        if needed not in parts:
            raise WeightsError(f"{entry.folder} has no {needed}: import one with `unsmear models import FILE -o DIR`")
    unet = _network(parts["unet"], {VIDEO_UNET: UNet3DConditionModel})
    vae = load_autoencoder(parts["vae"])
    given = {
        name: _network(parts[name], {kind.__name__: kind})
        for name, kind in {"blur_encoder": BlurEncoder, "image_tokens": ImageTokens}.items()
        if name in parts
    }
    try:
        model = VDM.assembled(unet, vae, **given)
    except ValueError as error:
        raise WeightsError(f"{entry.folder}: {error}; import parts that belong together") from None
    _hear_empty_prompt(model.image_tokens, entry.folder)
    return VDMParts(
        model.eval().requires_grad_(False), vae, _scheduler(entry.folder), _image_encoder(entry.folder, model)
    )


class VDMParts(NamedTuple):
    """What a folder of a video diffusion model holds."""

    model: "VDM"
    vae: Any
    scheduler: Any
    image_encoder: Any
    """CLIP's vision tower, None where there is none."""


def load_video_pipeline(entry: ModelEntry) -> Any:
    """The ``VDMPipeline`` of a folder, in float32 on the CPU; see ``load_vdm``."""
    from unsmear.models.vdm.pipeline import VDMPipeline

    _verify(entry)
    for part in ("blur_encoder", "image_tokens"):
        if part not in entry.parts:
            log.warning("%s has no %s: it starts untrained; `unsmear train vdm` trains it", entry.folder, part)
    parts = load_vdm(entry)
    model = parts.model
    return VDMPipeline(
        parts.vae, model.unet, model.blur_encoder, model.image_tokens, parts.scheduler, parts.image_encoder
    )


def sampling_defaults(entry: ModelEntry, kind: Any) -> dict[str, Any]:
    """What the folder says of sampling, fields of the dataclass ``kind``; empty where it says nothing.

    Raises:
        WeightsError: the file is damaged or names unknown fields.
    """
    path = entry.folder / SAMPLING_FILE
    if not path.exists():
        return {}
    try:
        values = dict(json.loads(path.read_text()))
        kind(**values)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} does not describe a sampler ({error}): restore the file") from None
    return values


def _verify(entry: ModelEntry) -> None:
    stated = entry.card.get("sha256")
    if stated and entry.checksum() != stated:
        where = entry.folder if entry.is_pipeline else entry.weights
        raise WeightsError(
            f"{where} is damaged (its SHA-256 is not the card's {stated[:12]}…): restore the file or reinstall unsmear"
        )


def _network(entry: ModelEntry, kinds: Mapping[str, Any]) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from unsmear.models.common.latents import described

    config = entry.config
    kind = str(config.get("_class_name"))
    if kind not in kinds:
        raise WeightsError(
            f"{entry.folder / CONFIG_FILE} describes a {kind!r}; known architectures: {', '.join(kinds)}"
        )
    try:
        weights = load_file(entry.weights)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{entry.weights} is missing or no safetensors file ({str(error).splitlines()[0]}): "
            "restore the file or reinstall unsmear"
        ) from None
    try:
        model = kinds[kind].from_config(described(config))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{entry.folder / CONFIG_FILE} does not describe a {kind} ({error})") from None
    _load_strictly(model, weights, entry)
    return model.eval().requires_grad_(False)


def _load_strictly(model: Any, weights: dict[str, Any], entry: ModelEntry) -> None:
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - weights.keys())
    strange = sorted(weights.keys() - wanted.keys())
    shaped = sorted(k for k in wanted.keys() & weights.keys() if wanted[k].shape != weights[k].shape)
    for what, keys in (("lacks", missing), ("has unknown", strange), ("has the wrong shape for", shaped)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise WeightsError(
                f"{entry.weights} {what} {keys[0]}{more}: it does not belong to {entry.folder / CONFIG_FILE}"
            )
    model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=True)


def _scheduler(folder: Path) -> Any:
    import diffusers

    path = folder / SCHEDULER
    try:
        config = json.loads(path.read_text())
        kind = getattr(diffusers, config["_class_name"])
        return kind.from_config(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} does not describe a scheduler of diffusers ({error}): import the denoiser again, with --family"
        ) from None


def _hear_empty_prompt(image_tokens: Any, folder: Path) -> None:
    """Take over the folder's empty prompt, where its tokens are wanted and not there yet."""
    from unsmear.models.text import empty_prompt

    kept = image_tokens.empty_prompt
    if not kept.numel() or kept.any():
        return
    read = empty_prompt(folder, kept.shape[1])
    if read is None:
        log.warning("%s has no text encoder: the empty prompt's tokens are taken for zero", folder)
        return
    if read.shape[1] != len(kept):
        raise WeightsError(f"{folder} has an empty prompt of {read.shape[1]} tokens, its image tokens want {len(kept)}")
    kept.copy_(read[0])


def _image_encoder(folder: Path, model: "VDM") -> Any:
    """CLIP's vision tower, if there is one and the model has no embedding of its own."""
    if model.image_tokens.embedding is not None:
        return None
    if not (folder / "image_encoder").is_dir():
        log.warning("%s has no image encoder: the centre frame counts as unknown", folder)
        return None
    try:
        from transformers import CLIPVisionModelWithProjection
    except ImportError:
        raise UsageError(
            f"{folder} has an image encoder, which needs the extra 'text': pip install 'unsmear[text]'"
        ) from None
    encoder = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder", use_safetensors=True)
    ours, theirs = model.image_tokens.config["vector_width"], encoder.config.projection_dim
    if ours != theirs:
        raise WeightsError(f"{folder / 'image_encoder'} gives vectors of {theirs}, the image tokens want {ours}")
    return encoder.eval().requires_grad_(False)
