"""Import of a foreign checkpoint into a folder in diffusers' layout, which is written completely or not at all.

The folder has ``unet``, ``vae``, ``text_encoder``, ``tokenizer``, ``control``, ``image_tokens``, ``scheduler`` and
``cpfp`` (stage 1), as far as the sources have them, ``model_index.json``, and the embedding of the empty prompt where
it could be computed.
Several imports may fill one folder: first Stable Diffusion and then the control network, or first a video model's
denoiser and then Stable Diffusion, of which the autoencoder and text encoder are used.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from diffusers import UNet3DConditionModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from unsmear.errors import OutputError, UsageError, WeightsError
from unsmear.files import read_json
from unsmear.models.common.schedule import Family
from unsmear.models.common.text import TEXT_PARTS, store_empty_prompt
from unsmear.models.convert import diffbir, families, stable_diffusion, vgen
from unsmear.models.convert.checkpoint import read_checkpoint
from unsmear.models.convert.stable_diffusion import CONTROL_PREFIX, SD2, Layout, StableDiffusion
from unsmear.models.convert.strict import State, part
from unsmear.models.convert.text_encoder import TextEncoder
from unsmear.models.convert.vgen import UNET3D_CONFIG, VideoUNet
from unsmear.models.zoo import EMPTY_PROMPT_FILE, ModelEntry, write_index

Write = Callable[[Path], Any]


@dataclass
class Imported:
    """Result of an import.

    Attributes:
        found: description of the source.
        family: prediction of the denoiser; None where the source is a stage 1.
        parameters: number of parameters by subfolder, 0 for those without weights.
        notes: remarks for the user, one line each.
    """

    found: str
    family: Family | None
    parameters: dict[str, int]
    notes: list[str] = field(default_factory=list)


@dataclass
class _Source:
    """Networks of a source, converted."""

    what: str
    base: StableDiffusion | None = None
    beside_video: bool = False
    """Whether the folder has a video model's denoiser, so that the denoiser of ``base`` is not used."""
    video: VideoUNet | None = None
    control: Any = None
    control_has_priors: bool = False

    @property
    def is_video(self) -> bool:
        return self.video is not None or self.beside_video or _is_3d(self.base)


def _is_3d(base: StableDiffusion | None) -> bool:
    return base is not None and isinstance(base.unet, UNet3DConditionModel)


def import_weights(
    source: Path,
    out: Path,
    family: Family | None = None,
    overwrite: bool = False,
    layout: Layout = SD2,
    video: Mapping[str, Any] = UNET3D_CONFIG,
) -> Imported:
    """Convert ``source`` into subfolders of ``out``.

    Args:
        source: a diffusers folder or an original checkpoint of Stable Diffusion 2.0 or 2.1; a control network of
            DiffBIR or CPGD-Net, with the sizes of the denoiser in ``out``, if there is one; the stage 1 of CPGD-Net's
            release; a diffusers folder of ModelScopeT2V, or a checkpoint of TF-T2V or ModelScopeT2V in VGen's layout.
        out: folder, created if missing.
        family: prediction of the denoiser, where neither the source nor ``out`` states it.
        overwrite: replace subfolders that exist.
        layout, video: sizes of the networks, for original checkpoints; folders state their own.

    Raises:
        WeightsError: the source is none of these, incomplete, damaged, of another version, or of unknown family.
        UsageError: ``family`` contradicts the files.
        OutputError: a subfolder exists already, or ``out`` cannot be written.
    """
    source, out = Path(source), Path(out)
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: choose a folder")
    found = _find(source, out, Sizes(layout, video), overwrite)
    notes: list[str] = []
    parts, parameters = _parts(found, out, notes)
    _refuse_taken(out, parts, overwrite)
    decided = _family(found, source, out, family, overwrite, notes)
    if decided:
        parts["scheduler"], parameters["scheduler"] = families.scheduler(decided, found.is_video).save_pretrained, 0
    with _whole(out) as partial:
        for name, write in parts.items():
            write(partial / name)
    if decided and (parts.keys() & set(TEXT_PARTS) or not (out / EMPTY_PROMPT_FILE).exists()):
        notes += filter(None, [store_empty_prompt(out)])
    if decided:
        # The conditions of a training belong to its control network.
        write_index(out, _sampling(out), {} if "control" in parts else None)
    return Imported(found.what, decided, parameters, notes)


PAPERS_SAMPLING: dict[str, dict[str, Any]] = {
    "CPGDPipeline": {"cancel_autoencoder": False},
    "VDMPipeline": {"guidance": 9.0, "cancel_autoencoder": False, "colour": False},
}
"""Sampling defaults of imported models by pipeline class: those of the papers, without our own additions. The guidance
scale is TF-T2V's; the VDM paper states none."""


def _sampling(out: Path) -> dict[str, Any]:
    """Sampling defaults that the folder states already, else those of the papers."""
    entry = ModelEntry(out.name, out)
    return dict(entry.index.get("sampling") or PAPERS_SAMPLING.get(entry.kind_by_parts, {}))


class Sizes(NamedTuple):
    """Sizes of networks whose checkpoints do not state them."""

    layout: Layout
    video: Mapping[str, Any]


def _find(source: Path, out: Path, sizes: Sizes, overwrite: bool) -> _Source:
    if source.is_dir():
        moving = stable_diffusion.is_video(source)
        beside = stable_diffusion.is_video(out) and not moving
        _refuse_taken(out, ("vae",) if beside else ("unet", "vae"), overwrite)
        name = "ModelScopeT2V" if moving else "Stable Diffusion 2"
        return _Source(f"{name}, diffusers folder", stable_diffusion.from_folder(source), beside)
    state = read_checkpoint(source)
    if vgen.is_vgen(state):
        _refuse_taken(out, ("unet",), overwrite)
    elif diffbir.is_control(state):
        _refuse_taken(out, ("control",), overwrite)
    elif stable_diffusion.is_original(state):
        _refuse_taken(out, ("vae",) if stable_diffusion.is_video(out) else ("unet", "vae"), overwrite)
    try:
        return _convert(state, out, sizes)
    except WeightsError as error:
        raise WeightsError(f"{source} {error}") from None


def _refuse_taken(out: Path, names: Iterable[str], overwrite: bool) -> None:
    """Raise OutputError where a subfolder exists and is not to be replaced; also called before long conversions."""
    taken = next((out / name for name in names if (out / name).exists()), None)
    if taken is not None and not overwrite:
        raise OutputError(f"{taken} exists already: use `overwrite` or choose another folder")


def _convert(state: State, out: Path, sizes: Sizes) -> _Source:
    layout = sizes.layout
    if vgen.is_vgen(state):
        converted = vgen.convert_vgen(state, sizes.video)
        name = "ModelScopeT2V or similar" if converted.family is None else "TF-T2V"
        return _Source(f"{name}, checkpoint of VGen", video=converted)
    if stable_diffusion.is_original(state):
        rest = {key: value for key, value in state.items() if not key.startswith(CONTROL_PREFIX)}
        found = _Source("Stable Diffusion 2, original checkpoint", stable_diffusion.from_original(rest, layout))
        found.beside_video = stable_diffusion.is_video(out)
        if len(rest) < len(state) and not found.beside_video:
            found.what += " with a control network"
            _add_control(found, part(state, CONTROL_PREFIX), layout.unet)
        return found
    if diffbir.is_control(state):
        if stable_diffusion.is_video(out):
            raise WeightsError(f"controls Stable Diffusion, and {out} holds a video model: choose another folder")
        found = _Source("control network")
        _add_control(found, state, _unet_config(out, layout))
        return found
    raise WeightsError(
        f"is no known checkpoint (it has keys such as {min(state)}): expected Stable Diffusion 2.0 or 2.1 "
        "(model.diffusion_model.*, or a diffusers folder), a control network of DiffBIR or CPGD-Net (zero_convs.*), "
        "or a video model of VGen (*.temopral_conv.*)"
    )


def _add_control(found: _Source, state: Mapping[str, Tensor], unet_config: Mapping[str, Any]) -> None:
    found.control_has_priors = diffbir.has_priors(state)
    if found.base is None:
        found.what += " of CPGD-Net" if found.control_has_priors else " of DiffBIR"
    found.control = diffbir.convert_control(state, unet_config)


def _unet_config(out: Path, layout: Layout) -> Mapping[str, Any]:
    path = out / "unet" / "config.json"
    if not path.exists():
        return layout.unet
    return read_json(path, "import the denoiser again", WeightsError)


def _family(found: _Source, source: Path, out: Path, given: Family | None, overwrite: bool, notes: list[str]) -> Family:
    """Determine the family by the source's scheduler or type, the user, or the folder's scheduler; else by probing."""
    held = families.family_of_scheduler(out / "scheduler")
    if found.beside_video and held is not None:
        return held  # the family of the source concerns only its denoiser, which is not used
    stated = families.family_of_scheduler(found.base.scheduler) if found.base and found.base.scheduler else None
    decided = families.agreed(
        {
            f"{source}/scheduler": stated,
            "CPGD-Net's release": "epsilon" if found.control_has_priors else None,
            "TF-T2V": found.video.family if found.video else None,
            "`family`": given,
        }
    )
    if decided is None and held is not None:
        decided = held
        notes.append(f"the file does not state its family: {held} is assumed, as in {out}")
    if decided is None and found.is_video:
        raise WeightsError(
            f"{source} does not state the prediction type of its denoiser: give epsilon (ModelScopeT2V) or "
            "v-zero-snr (TF-T2V) as `family`"
        )
    if decided is None and found.base is not None:
        decided = families.family_by_probe(found.base.unet)
        notes.append("family epsilon, by the prediction for pure noise")
    if decided is None:
        raise WeightsError(
            f"{source} does not state the prediction type of its denoiser: import Stable Diffusion into {out} first, "
            "or give epsilon (DiffBIR v1, v2) or v-zero-snr (DiffBIR v2.1) as `family`"
        )
    if held not in (None, decided) and not overwrite:
        raise UsageError(f"{out} holds {held} and this is {decided}: choose another folder, or `overwrite` to replace")
    if held not in (None, decided):
        notes.append(f"{out} was {held} before: all its parts must be {decided} now")
    return decided


def _parts(found: _Source, out: Path, notes: list[str]) -> tuple[dict[str, Write], dict[str, int]]:
    parts: dict[str, Write] = {}
    parameters: dict[str, int] = {}

    def add(name: str, write: Write, values: int = 0) -> None:
        parts[name], parameters[name] = write, values

    if found.base is not None:
        base = found.base
        if found.beside_video:
            notes.append("the folder has a video model's denoiser already, and keeps it")
        else:
            add("unet", base.unet.save_pretrained, _values(base.unet.state_dict()))
        add("vae", base.vae.save_pretrained, _values(base.vae.state_dict()))
        if base.text_encoder is not None:
            text = base.text_encoder
            add("text_encoder", lambda folder: _save_text_encoder(text, folder), _values(text.state))
        if base.tokenizer:
            add("tokenizer", lambda folder: _save_files(base.tokenizer, folder))
        notes += _text_to_add(out, parts)
    if found.video is not None:
        video = found.video
        add("unet", video.unet.save_pretrained, _values(video.unet.state_dict()))
        if video.image_tokens is not None:
            add("image_tokens", video.image_tokens.save_pretrained, _values(video.image_tokens.state_dict()))
        notes.append("autoencoder and text encoder come from Stable Diffusion 2: import that into the same folder next")
    if found.control_has_priors:
        notes.append(f"the release samples with the prompt {diffbir.RELEASED_PROMPT!r}, which is not stored: give it")
    if found.control is not None:
        add("control", found.control.save_pretrained, _values(found.control.state_dict()))
    return parts, parameters


def _text_to_add(out: Path, parts: Container[str]) -> list[str]:
    """Notes on the parts that ``out`` lacks for the embedding of prompts."""
    places = {name: out / name for name in TEXT_PARTS}
    absent = [name for name, place in places.items() if name not in parts and not place.is_dir()]
    steps = {
        "text_encoder": f"copy the base model's folder to {places['text_encoder']}",
        "tokenizer": f"copy CLIP's vocab.json and merges.txt, of any version, into {places['tokenizer']}",
    }
    if not absent:
        return []
    todo = ", and ".join(steps[name] for name in absent)
    return [f"the source has no {' and no '.join(absent)}, which prompts need: {todo}"]


def _values(state: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in state.values())


def _save_text_encoder(text: TextEncoder, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(text.config, indent=2) + "\n")
    state: State = {key: value.contiguous() for key, value in text.state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _save_files(files: Mapping[str, bytes], folder: Path) -> None:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Context with a folder beside ``out`` to write to; at the end its subfolders are moved to ``out``, all or none."""
    partial = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
        fresh = partial / "new"
        fresh.mkdir()
        yield fresh
        for path in fresh.rglob("*.safetensors"):
            path.chmod(fresh.stat().st_mode & 0o666)
        if out.exists():
            _exchange(fresh, out, partial / "replaced")
        else:
            fresh.replace(out)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{out} cannot be written ({reason}): free space or choose another folder") from None
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _exchange(fresh: Path, out: Path, replaced: Path) -> None:
    replaced.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for folder in sorted(fresh.iterdir()):
            place = out / folder.name
            for begin, end in ((place, replaced / folder.name), (folder, place)):
                if begin.exists():
                    begin.replace(end)
                    moved.append((begin, end))
    except OSError:
        for begin, end in reversed(moved):
            end.replace(begin)
        raise
