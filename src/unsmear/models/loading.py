"""Loading of networks and pipelines from folders of weights.

Loading is strict: every key must fit, and the files must match the checksum on the card, if there is one.
"""

import json
import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from unsmear.errors import UsageError, WeightsError
from unsmear.files import read_json
from unsmear.models.zoo import CONFIG_FILE, INDEX_FILE, ModelEntry

log = logging.getLogger("unsmear")

SCHEDULER = Path("scheduler", "scheduler_config.json")
SAMPLING_FILE = "sampling.json"
"""Sampler settings beside a pipeline's networks; they override those in ``model_index.json``."""

RETIRED_SAMPLING = ("carry_latent",)
"""Sampler settings of earlier versions that were removed because they blurred; they are ignored with a warning."""

_MISSING = "{} has no {}: import one with `unsmear models import FILE -o DIR`"

EXPORTED = "ExportedCPFP"
"""Class of a folder of ONNX graphs; its network is loaded without them, and started by ``ExportedCPFP.start``."""

AUTOENCODERS = ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny")

FIRST_STAGES = ("CPFP",)
"""Networks that serve as stage 1."""

NETWORKS = {
    "CPFP": "unsmear.models.cpfp.network",
    EXPORTED: "unsmear.models.cpfp.exported",
    "CPControlNet": "unsmear.models.cpgd.control",
    "BlurEncoder": "unsmear.models.vdm.conditions",
    "ImageTokens": "unsmear.models.vdm.conditions",
    "UNet2DConditionModel": "diffusers",
    "UNet3DConditionModel": "diffusers",
    **dict.fromkeys(AUTOENCODERS, "diffusers"),
}
"""Module of each network class."""


def load_model(entry: ModelEntry, *kinds: str, prompts: bool = True) -> Any:
    """Load the network or pipeline of a folder: float32, on the CPU, in evaluation mode, without gradients.

    Parts of a pipeline other than ``unet`` and ``vae`` are initialised where they are missing, with a warning.

    Args:
        entry: the folder.
        kinds: accepted classes, keys of ``NETWORKS`` and ``PIPELINES``; none for any.
        prompts: whether a pipeline must be able to embed prompts. If not, the text encoder is not loaded where the
            embedding of the empty prompt is stored.

    Raises:
        WeightsError: damaged file, wrong checksum, another class, keys that do not fit (named); for a pipeline, also a
            part that is missing or whose width differs from the others'.
        UsageError: a text or image encoder is needed, and transformers is not installed.
    """
    _verify(entry)
    if set(kinds) & PIPELINES.keys() and "unet" not in entry.parts:
        raise WeightsError(_MISSING.format(entry.folder, "unet"))
    kind, known = entry.kind, kinds or (*NETWORKS, *PIPELINES)
    if kind not in known:
        named = (entry.folder / name for name in (INDEX_FILE, CONFIG_FILE))
        where = next((file for file in named if file.exists()), entry.folder)
        raise WeightsError(f"{where} describes a {kind!r}; known architectures: {', '.join(known)}")
    if kind == EXPORTED:
        return _built(entry, kind).eval().requires_grad_(False)
    return PIPELINES[kind](entry, prompts) if kind in PIPELINES else _network(entry, kind)


def sampling_defaults(entry: ModelEntry, kind: Any) -> dict[str, Any]:
    """Sampler settings stored in a folder, fields of the dataclass ``kind``; empty where there are none.

    Raises:
        WeightsError: a file is damaged or has unknown fields.
    """
    values: dict[str, Any] = {}
    for path in (entry.folder / INDEX_FILE, entry.folder / SAMPLING_FILE):
        if not path.exists():
            continue
        try:
            stored = (
                entry.index.get("sampling") or {}
                if path.name == INDEX_FILE
                else read_json(path, "restore the file", WeightsError)
            )
            values |= dict(stored)
            for name in RETIRED_SAMPLING:
                if values.pop(name, None):
                    log.warning("%s sets %s, which is no option any more: it has no effect", path, name)
            kind(**values)
        except (ValueError, TypeError) as error:
            raise WeightsError(f"{path} does not describe a sampler ({error}): restore the file") from None
    return values


def _cpgd(entry: ModelEntry, prompts: bool) -> Any:
    from unsmear.models.common.text import load_text_encoder, stored_empty_prompt
    from unsmear.models.cpgd.control import CPControlNet
    from unsmear.models.cpgd.pipeline import CPGDPipeline, Sampling

    unet, vae = _part(entry, "unet", "UNet2DConditionModel"), _part(entry, "vae", *AUTOENCODERS)
    if "control" in entry.parts:
        control = _part(entry, "control", "CPControlNet")
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
    sampling, trained = sampling_defaults(entry, Sampling), entry.trained
    return CPGDPipeline(vae, unet, control, scheduler_of(entry.folder), encoder, tokenizer, stored, sampling, trained)


def _vdm(entry: ModelEntry, prompts: bool) -> Any:
    from unsmear.models.vdm.network import VDM
    from unsmear.models.vdm.pipeline import VDMPipeline, VDMSampling

    del prompts  # only the empty prompt is used
    unet, vae = _part(entry, "unet", "UNet3DConditionModel"), _part(entry, "vae", *AUTOENCODERS)
    conditions = {}
    for name, kind in {"blur_encoder": "BlurEncoder", "image_tokens": "ImageTokens"}.items():
        if name in entry.parts:
            conditions[name] = _part(entry, name, kind)
        else:
            log.warning("%s has no %s: it starts untrained; `unsmear train vdm` trains it", entry.folder, name)
    try:
        model = VDM.assembled(unet, vae, **conditions)
    except ValueError as error:
        raise WeightsError(f"{entry.folder}: {error}; import parts that belong together") from None
    _fill_empty_prompt(model.image_tokens, entry.folder)
    model.eval().requires_grad_(False)
    encoder = _image_encoder(entry.folder, model.image_tokens)
    sampling = sampling_defaults(entry, VDMSampling)
    return VDMPipeline(
        vae, model.unet, model.blur_encoder, model.image_tokens, scheduler_of(entry.folder), encoder, sampling
    )


PIPELINES: dict[str, Callable[[ModelEntry, bool], Any]] = {"CPGDPipeline": _cpgd, "VDMPipeline": _vdm}
"""Loader of each pipeline class."""


def _part(entry: ModelEntry, name: str, *kinds: str) -> Any:
    if name not in entry.parts:
        raise WeightsError(_MISSING.format(entry.folder, name))
    return load_model(entry.parts[name], *kinds)


def _verify(entry: ModelEntry) -> None:
    expected = entry.card.get("sha256")
    if expected and entry.checksum() != expected:
        where = entry.weights if entry.weights.exists() else entry.folder
        raise WeightsError(
            f"{where} is damaged (its SHA-256 is not the card's {expected[:12]}…): "
            "restore the file or reinstall unsmear"
        )


def _network(entry: ModelEntry, kind: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(entry.weights)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{entry.weights} is missing or no safetensors file ({str(error).splitlines()[0]}): "
            "restore the file or reinstall unsmear"
        ) from None
    model = _built(entry, kind)
    _load_strictly(model, weights, entry)
    return model.eval().requires_grad_(False)


def _built(entry: ModelEntry, kind: str) -> Any:
    """A network by its configuration, with initial weights."""
    from unsmear.models.common.latents import accepted_config

    try:
        return getattr(import_module(NETWORKS[kind]), kind).from_config(accepted_config(entry.config))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{entry.folder / CONFIG_FILE} does not describe a {kind} ({error})") from None


def _load_strictly(model: Any, weights: dict[str, Any], entry: ModelEntry) -> None:
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    reshaped = sorted(k for k in expected.keys() & weights.keys() if expected[k].shape != weights[k].shape)
    for what, keys in (("lacks", missing), ("has unknown", unknown), ("has the wrong shape for", reshaped)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise WeightsError(
                f"{entry.weights} {what} {keys[0]}{more}: it does not belong to {entry.folder / CONFIG_FILE}"
            )
    model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=True)


def scheduler_of(folder: Path) -> Any:
    """Scheduler of a pipeline's folder. Raises WeightsError: the file is missing or does not describe one."""
    import diffusers

    path = folder / SCHEDULER
    try:
        config = read_json(path, "restore the file", WeightsError)
        kind = getattr(diffusers, config["_class_name"])
        return kind.from_config(config)
    except (WeightsError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} does not describe a scheduler of diffusers ({error}): import the denoiser again, "
            "`unsmear models import --family`"
        ) from None


def _fill_empty_prompt(image_tokens: Any, folder: Path) -> None:
    """Copy the folder's empty prompt into image tokens that use one and do not hold it yet."""
    from unsmear.models.common.text import empty_prompt

    tokens = image_tokens.empty_prompt
    if not tokens.numel() or tokens.any():
        return
    embedding = empty_prompt(folder, tokens.shape[1])
    if embedding is None:
        log.warning("%s has no text encoder: the empty prompt's tokens are set to zero", folder)
        return
    if embedding.shape[1] != len(tokens):
        raise WeightsError(
            f"{folder} has an empty prompt of {embedding.shape[1]} tokens, "
            f"expected {len(tokens)} as in its image tokens"
        )
    tokens.copy_(embedding[0])


def _image_encoder(folder: Path, image_tokens: Any) -> Any:
    """CLIP's vision encoder, if there is one and the model has no frame embedding of its own."""
    if image_tokens.embedding is not None:
        return None
    if not (folder / "image_encoder").is_dir():
        log.warning("%s has no image encoder: the model is not conditioned on the centre frame", folder)
        return None
    try:
        from transformers import CLIPVisionModelWithProjection
    except ImportError:
        raise UsageError(
            f"{folder} has an image encoder, which needs the extra 'text': pip install 'unsmear[text]'"
        ) from None
    encoder = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder", use_safetensors=True)
    ours, theirs = image_tokens.config["vector_width"], encoder.config.projection_dim
    if ours != theirs:
        raise WeightsError(
            f"{folder / 'image_encoder'} gives vectors of {theirs} values, expected {ours} as in the image tokens"
        )
    return encoder.eval().requires_grad_(False)
