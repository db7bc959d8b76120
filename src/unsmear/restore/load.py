"""Loading of models for restoration: the device, the number format, and what restores videos by a model's class."""

from importlib import import_module
from typing import Any, NamedTuple

import torch

from unsmear.errors import UsageError, WeightsError
from unsmear.models.loading import EXPORTED, FIRST_STAGES, load_model, sampling_defaults
from unsmear.models.zoo import ModelEntry, find
from unsmear.restore.memory import keep_freed_memory
from unsmear.restore.restorer import Restorer

ENGINES = ("auto", "torch", "onnx")
"""What computes a network. Auto: ONNX graphs where the folder holds them, else torch."""

ONNX_DEVICES = ("tensorrt", "directml", "coreml")
"""Devices that onnxruntime alone has."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(wanted: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` (or ``cuda:N``) or ``mps`` → a device that is there.

    Raises:
        UsageError: unknown, or not present on this machine.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = wanted.partition(":")[0]
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in present:
        raise UsageError(f"device {wanted!r} is unknown; choose auto, cpu, cuda or mps")
    if not present[kind]:
        raise UsageError(f"device {wanted!r} is not available to this build of torch; choose auto or cpu")
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """``auto``, ``fp32``, ``bf16`` or ``fp16``. Auto: bf16 on GPUs and on CPUs that compute in it, else fp32.

    Raises:
        UsageError: unknown, or fp16 on a CPU.
    """
    if wanted == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        if device.type == "cpu" and _cpu_has_bf16():
            return torch.bfloat16
        return torch.float32
    if wanted not in DTYPES:
        raise UsageError(f"dtype {wanted!r} is unknown; choose auto, {', '.join(DTYPES)}")
    if wanted == "fp16" and device.type == "cpu":
        raise UsageError("dtype 'fp16' is not for CPUs; choose fp32, or bf16 where the CPU computes in it")
    return DTYPES[wanted]


def _cpu_has_bf16() -> bool:
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(asked and asked())


def load_restorer(
    model: str = "cpfp", *, device: str = "auto", dtype: str = "auto", engine: str = "auto", **sampling: Any
) -> Restorer:
    """A model by name or folder, ready to restore clips.

    Args:
        model: a shipped name (``unsmear models`` lists them) or a folder of weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``; of ONNX graphs ``auto``, ``cpu``, ``cuda``, ``tensorrt``,
            ``directml`` or ``coreml``, by the providers of the onnxruntime that is installed.
        dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``; of ONNX graphs ``auto``.
        engine: ``auto``, ``torch`` or ``onnx``; the last takes a folder that ``unsmear models export`` wrote.
        **sampling: of models that generate: fields of ``unsmear.models.cpgd.pipeline.Sampling``, ``prompt`` and
            ``negative_prompt``, or of ``unsmear.models.vdm.pipeline.VDMSampling``; None is as if not given.

    Raises:
        UsageError: unknown model, device, dtype or engine; a sampling option for a model that does not sample.
        WeightsError: the weights are missing, damaged, or do not fit.
    """
    entry = find(model)
    exported = entry.kind == EXPORTED
    _check_engine(engine, entry, exported)
    if exported and dtype != "auto":
        raise UsageError(
            f"`dtype` {dtype}: the graphs of {entry.name} are exported in a format of their own; leave it out"
        )
    place = choose_device("cpu" if exported else device)
    number_format = choose_dtype("fp32" if exported else dtype, place)
    if place.type == "cpu":
        keep_freed_memory()
    chosen = {name: value for name, value in sampling.items() if value is not None}
    if entry.kind not in KINDS:
        raise WeightsError(f"{entry.folder} holds a {entry.kind!r}: expected one of {', '.join(KINDS)}")
    kind = KINDS[entry.kind]
    if chosen and not kind.sampling:
        raise UsageError(f"{', '.join(sorted(chosen))}: {entry.name} does not sample; choose a model that generates")
    if exported:
        return _exported(entry, device, place, number_format)
    given: dict[str, Any] = {}
    texts: dict[str, Any] = {name: chosen.pop(name) for name in ("prompt", "negative_prompt") if name in chosen}
    if kind.prompts:
        given.update({"prompt": entry.trained.get("prompt", "")} | texts)
    elif any(texts.values()):
        raise UsageError(f"prompt: {entry.name} takes none, the video is its only condition; leave the prompt out")
    if kind.sampling:
        given["sampling"] = _options(_named(kind.sampling), entry, chosen)
    if kind.first_stage:
        first = entry.first_stage
        if first is not None and first.kind not in FIRST_STAGES:
            raise WeightsError(
                f"{first.folder} holds a {first.kind!r}: expected a stage 1, {' or '.join(FIRST_STAGES)}"
            )
        given["first"] = None if first is None else _restorer(first, KINDS[first.kind], {}, place, number_format)
    return _restorer(entry, kind, given, place, number_format)


def samples(model: str) -> bool:
    """Whether a model, by name or folder, generates by sampling. Raises UsageError: there is none."""
    kind = KINDS.get(find(model).kind)
    return bool(kind and kind.sampling)


class Kind(NamedTuple):
    """How models of a class restore videos; classes are ``module:name``, imported when they are wanted."""

    restorer: str
    argument: str
    """Of the restorer, the network or pipeline."""
    sampling: str = ""
    """Dataclass of the sampler's options; empty for models that do not sample."""
    prompts: bool = False
    first_stage: bool = False


KINDS = {
    "CPFP": Kind("unsmear.restore.cpfp:CPFPRestorer", "model"),
    EXPORTED: Kind("unsmear.restore.cpfp:CPFPRestorer", "model"),
    "CPGDPipeline": Kind(
        "unsmear.restore.cpgd:CPGDRestorer", "pipe", "unsmear.models.cpgd.pipeline:Sampling", True, True
    ),
    "VDMPipeline": Kind("unsmear.restore.vdm:VDMRestorer", "pipe", "unsmear.models.vdm.pipeline:VDMSampling"),
}
"""By the class that a folder names (``ModelEntry.kind``)."""


def _restorer(
    entry: ModelEntry, kind: Kind, given: dict[str, Any], place: torch.device, number_format: torch.dtype
) -> Restorer:
    texts = [name for name in ("prompt", "negative_prompt") if given.get(name)]
    model = load_model(entry, prompts=bool(texts))
    if texts and model.text_encoder is None:
        raise UsageError(f"{texts[0]}: {entry.name} has no text encoder; leave the prompt out")
    if "negative_prompt" in texts and given["sampling"].guidance == 1:
        raise UsageError("`negative_prompt` has no effect without guidance; set `guidance` above 1 or leave it out")
    made: Restorer = _named(kind.restorer)(
        **{kind.argument: model, **given},
        name=entry.name,
        device=place,
        dtype=number_format,
        fingerprint=entry.checksum(),
    )
    return made


def _check_engine(engine: str, entry: ModelEntry, exported: bool) -> None:
    """Raises UsageError: the engine is unknown, or not the one that runs this folder."""
    if engine not in ENGINES:
        raise UsageError(f"`engine` {engine}: expected {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    if engine == "onnx" and not exported:
        raise UsageError(
            f"`engine` onnx: {entry.name} holds no ONNX graphs; `unsmear models export {entry.name} -o DIR` writes "
            "them to a folder, which is then the model"
        )
    if engine == "torch" and exported:
        raise UsageError(f"`engine` torch: {entry.folder} holds ONNX graphs alone; choose auto or another model")


def _exported(entry: ModelEntry, device: str, place: torch.device, number_format: torch.dtype) -> Restorer:
    """A restorer whose features are computed by the ONNX graphs of a folder, on an execution provider by name."""
    restorer = _restorer(entry, KINDS[EXPORTED], {}, place, number_format)
    provider, restorer.engine = restorer.model.start(entry.folder, device)  # type: ignore[attr-defined]
    restorer.device, restorer.dtype = f"onnx {provider}", str(entry.card.get("dtype", "float32"))
    return restorer


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _options(kind: Any, entry: ModelEntry, chosen: dict[str, Any]) -> Any:
    """What was chosen, over the folder's defaults, as the dataclass ``kind``."""
    known = kind.__dataclass_fields__
    strange = sorted(chosen.keys() - known.keys())
    if strange:
        raise UsageError(f"option {strange[0]!r} is unknown to {entry.name}; known are {', '.join(known)}")
    try:
        return kind(**{**sampling_defaults(entry, kind), **chosen})
    except ValueError as error:
        raise UsageError(str(error)) from None
