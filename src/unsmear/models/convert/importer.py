"""A foreign checkpoint, known by what it holds, to a folder in diffusers' layout: whole or not at all.

The folder has ``unet``, ``vae``, ``text_encoder``, ``tokenizer``, ``control``, ``image_tokens`` and ``scheduler``, as
far as sources for them were given, ``model_index.json``, and the empty prompt where there is all to read it with.
Several imports may fill one folder: first Stable Diffusion and then the control network, or first a video model's
denoiser and then Stable Diffusion, of which its autoencoder and text encoder are taken.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    """What an import found and wrote.

    Attributes:
        found: what the source is, in words.
        family: what the denoiser predicts.
        parameters: values by subfolder, 0 for those without weights.
        notes: what the user should know, a line each.
    """

    found: str
    family: Family
    parameters: dict[str, int]
    notes: list[str] = field(default_factory=list)


@dataclass
class _Found:
    what: str
    base: StableDiffusion | None = None
    beside_video: bool = False
    """The folder has a video model's denoiser, and of ``base`` all but its own is taken."""
    video: VideoUNet | None = None
    control: Any = None
    control_has_priors: bool = False

    @property
    def is_video(self) -> bool:
        return self.video is not None or self.beside_video or _sees_clips(self.base)


def _sees_clips(base: StableDiffusion | None) -> bool:
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
            DiffBIR or CPGD-Net, which is fitted to the denoiser that is in ``out`` already; a diffusers folder of
            ModelScopeT2V, or a checkpoint of TF-T2V or ModelScopeT2V in VGen's layout.
        out: folder, made if missing.
        family: what the denoiser predicts, where nothing else tells.
        overwrite: replace subfolders that exist.
        layout, video: sizes of the networks, for original checkpoints; folders state their own.

    Raises:
        WeightsError: the source is none of these, incomplete, damaged, of another version, or of no clear family.
        UsageError: ``family`` contradicts what the files say.
        OutputError: a subfolder exists already, or ``out`` cannot be written.
    """
    source, out = Path(source), Path(out)
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: choose a folder")
    found = _find(source, out, layout, video, overwrite)
    notes: list[str] = []
    parts, parameters = _parts(found, out, notes)
    _refuse_taken(out, parts, overwrite)
    decided = _family(found, source, out, family, overwrite, notes)
    parts["scheduler"], parameters["scheduler"] = families.scheduler(decided, found.is_video).save_pretrained, 0
    with _whole(out) as partial:
        for name, write in parts.items():
            write(partial / name)
    if parts.keys() & set(TEXT_PARTS) or not (out / EMPTY_PROMPT_FILE).exists():
        notes += filter(None, [store_empty_prompt(out)])
    write_index(out, _sampling(out))
    return Imported(found.what, decided, parameters, notes)


PAPERS_SAMPLING: dict[str, dict[str, Any]] = {
    "CPGDPipeline": {"cancel_autoencoder": False},
    "VDMPipeline": {"guidance": 9.0, "cancel_autoencoder": False, "colour": False},
}
"""What imported models sample with, by their class: without what is ours alone. Guidance is TF-T2V's; the paper names
no scale."""


def _sampling(out: Path) -> dict[str, Any]:
    """What the folder says already, else as the papers sample."""
    entry = ModelEntry(out.name, out)
    return dict(entry.index.get("sampling") or PAPERS_SAMPLING.get(entry.kind_by_parts, {}))


def _find(source: Path, out: Path, layout: Layout, video: Mapping[str, Any], overwrite: bool) -> _Found:
    if source.is_dir():
        moving = stable_diffusion.is_video(source)
        beside = stable_diffusion.is_video(out) and not moving
        _refuse_taken(out, ("vae",) if beside else ("unet", "vae"), overwrite)
        name = "ModelScopeT2V" if moving else "Stable Diffusion 2"
        return _Found(f"{name}, diffusers folder", stable_diffusion.from_folder(source), beside)
    state = read_checkpoint(source)
    if vgen.is_vgen(state):
        _refuse_taken(out, ("unet",), overwrite)
    elif diffbir.is_control(state):
        _refuse_taken(out, ("control",), overwrite)
    elif stable_diffusion.is_original(state):
        _refuse_taken(out, ("vae",) if stable_diffusion.is_video(out) else ("unet", "vae"), overwrite)
    try:
        return _convert(state, out, layout, video)
    except WeightsError as error:
        raise WeightsError(f"{source} {error}") from None


def _refuse_taken(out: Path, names: Iterable[str], overwrite: bool) -> None:
    """Also asked before long work, as soon as it is known what will be written."""
    taken = next((out / name for name in names if (out / name).exists()), None)
    if taken is not None and not overwrite:
        raise OutputError(f"{taken} exists already: use `overwrite` or choose another folder")


def _convert(state: State, out: Path, layout: Layout, video: Mapping[str, Any]) -> _Found:
    if vgen.is_vgen(state):
        made = vgen.convert_vgen(state, video)
        name = "ModelScopeT2V or the like" if made.family is None else "TF-T2V"
        return _Found(f"{name}, checkpoint of VGen", video=made)
    if stable_diffusion.is_original(state):
        rest = {key: value for key, value in state.items() if not key.startswith(CONTROL_PREFIX)}
        found = _Found("Stable Diffusion 2, original checkpoint", stable_diffusion.from_original(rest, layout))
        found.beside_video = stable_diffusion.is_video(out)
        if len(rest) < len(state) and not found.beside_video:
            found.what += " with a control network"
            _add_control(found, part(state, CONTROL_PREFIX), layout.unet)
        return found
    if diffbir.is_control(state):
        if stable_diffusion.is_video(out):
            raise WeightsError(f"steers Stable Diffusion, and {out} holds a video model: choose another folder")
        found = _Found("control network")
        _add_control(found, state, _unet_config(out, layout))
        return found
    raise WeightsError(
        f"is no checkpoint that is known here (it has {min(state)} and the like): expected Stable Diffusion 2.0 or 2.1 "
        "(model.diffusion_model.*, or a diffusers folder), a control network of DiffBIR or CPGD-Net (zero_convs.*), or "
        "a video model of VGen (*.temopral_conv.*)"
    )


def _add_control(found: _Found, state: Mapping[str, Tensor], unet_config: Mapping[str, Any]) -> None:
    found.control_has_priors = diffbir.has_priors(state)
    if found.base is None:
        found.what += " of CPGD-Net" if found.control_has_priors else " of DiffBIR"
    found.control = diffbir.convert_control(state, unet_config)


def _unet_config(out: Path, layout: Layout) -> Mapping[str, Any]:
    path = out / "unet" / "config.json"
    if not path.exists():
        return layout.unet
    return read_json(path, "import the denoiser again", WeightsError)


def _family(found: _Found, source: Path, out: Path, given: Family | None, overwrite: bool, notes: list[str]) -> Family:
    """By the source's scheduler or its own nature, the user, the folder's scheduler; else by probing."""
    held = families.family_of_scheduler(out / "scheduler")
    if found.beside_video and held is not None:
        return held  # what autoencoder and text encoder were trained beside is no matter
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
        notes.append(f"the file does not say what it is for: taken for {held}, as {out} is")
    if decided is None and found.is_video:
        raise WeightsError(
            f"{source} does not say what its denoiser predicts: give epsilon (ModelScopeT2V) or "
            "v-zero-snr (TF-T2V) as `family`"
        )
    if decided is None and found.base is not None:
        decided = families.family_by_probe(found.base.unet)
        notes.append("family epsilon by its answer to pure noise")
    if decided is None:
        raise WeightsError(
            f"{source} does not say what its denoiser predicts: import Stable Diffusion into {out} first, or give "
            "epsilon (DiffBIR v1, v2) or v-zero-snr (DiffBIR v2.1) as `family`"
        )
    if held not in (None, decided) and not overwrite:
        raise UsageError(f"{out} holds {held} and this is {decided}: choose another folder, or `overwrite` to replace")
    if held not in (None, decided):
        notes.append(f"{out} was {held} before: all its parts must be {decided} now")
    return decided


def _parts(found: _Found, out: Path, notes: list[str]) -> tuple[dict[str, Write], dict[str, int]]:
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
    if found.control is not None:
        add("control", found.control.save_pretrained, _values(found.control.state_dict()))
    return parts, parameters


def _text_to_add(out: Path, parts: Container[str]) -> list[str]:
    """What is still to be put into ``out`` before prompts can be read."""
    places = {name: out / name for name in TEXT_PARTS}
    absent = [name for name, place in places.items() if name not in parts and not place.is_dir()]
    how = {
        "text_encoder": f"copy the base model's folder to {places['text_encoder']}",
        "tokenizer": f"copy CLIP's vocab.json and merges.txt, of any version, into {places['tokenizer']}",
    }
    if not absent:
        return []
    told = ", and ".join(how[name] for name in absent)
    return [f"the source has no {' and no '.join(absent)}, which prompts need: {told}"]


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
    """A folder beside ``out`` to write into, whose subfolders take their places in ``out`` in the end, or never."""
    partial = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
        made = partial / "made"
        made.mkdir()
        yield made
        for path in made.rglob("*.safetensors"):
            path.chmod(made.stat().st_mode & 0o666)
        if out.exists():
            _exchange(made, out, partial / "replaced")
        else:
            made.replace(out)
    except (OSError, SafetensorError) as error:
        said = getattr(error, "strerror", None) or error
        raise OutputError(f"{out} cannot be written ({said}): free space or choose another folder") from None
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _exchange(made: Path, out: Path, replaced: Path) -> None:
    replaced.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for folder in sorted(made.iterdir()):
            place = out / folder.name
            for begin, end in ((place, replaced / folder.name), (folder, place)):
                if begin.exists():
                    begin.replace(end)
                    moved.append((begin, end))
    except OSError:
        for begin, end in reversed(moved):
            end.replace(begin)
        raise
