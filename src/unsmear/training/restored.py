"""Packs and data sets restored by stage 1, so that phase II need not run stage 1 at every step.

A copy has the layout of its source. Its blurred frames are restored, everything else is linked: sharp frames, captions,
and priors, which stay those of the blurred frames. A file of facts says by which stage 1.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from unsmear.blur.pack import FINISHED, open_pack
from unsmear.datasets.captions import CAPTIONS_FILE
from unsmear.datasets.layouts import DataClip
from unsmear.datasets.pairs import find_pairs
from unsmear.datasets.restored import FACTS_FILE
from unsmear.errors import DataLayoutError, OutputError, UsageError
from unsmear.files import make_folder, new_array, read_json, refuse_foreign, whole_folder, write_whole, writing
from unsmear.models.loading import FIRST_STAGES, load_model
from unsmear.models.zoo import find
from unsmear.restore.job import restore_video
from unsmear.restore.load import choose_device, choose_dtype, load_restorer
from unsmear.restore.options import Options
from unsmear.training.batches import stacked
from unsmear.training.sequences import check_clip
from unsmear.training.validation import restore
from unsmear.video.images import list_images

BLURRED, RESTORED_BY, COMPLETE = "blurred", "restored_by", "complete"

_UNFINISHED = ".unfinished"


class Selection(NamedTuple):
    """Clips of a data set, as for ``find_clips``."""

    split: str | None = None
    clip_list: Path | None = None
    role: str | None = None


EVERYTHING = Selection()


def restored_by(source: Path) -> str | None:
    """Checksum of the stage 1 that restored a pack or data set; None where none did.

    Raises:
        DataLayoutError: it is not complete, or its file of facts is damaged.
    """
    facts = _facts(source)
    if RESTORED_BY in facts and not facts.get(COMPLETE, True):
        raise DataLayoutError(f"{source}: is not restored completely; run `unsmear data restore` again")
    return facts.get(RESTORED_BY)


def restore_data(
    source: Path,
    folder: Path,
    model: str = "cpfp",
    *,
    device: str = "auto",
    dtype: str = "auto",
    first: int | None = None,
    selection: Selection = EVERYTHING,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Restore the blurred frames of a pack or of a data set of pairs.

    Clips of a data set are restored as videos are, conditioned on the priors beside them. Finished ones are kept, so
    that an interrupted run can be repeated; a pack appears whole or not at all.

    Args:
        source: pack made by ``unsmear data pack``, or top folder of a data set with priors.
        folder: folder of the copy.
        model: stage 1: a shipped model or a folder of weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        first: number of sequences or clips, from the first on; None for all.
        selection: clips of a data set.
        overwrite: replace ``folder`` if it is a restored pack or data set.
        progress: called with the number of finished sequences or clips and the total.

    Returns:
        Number of sequences or clips.

    Raises:
        DataLayoutError: ``source`` is neither, not finished, or lacks partners or priors.
        OutputError: ``folder`` exists, is or holds ``source``, or cannot be written.
        UsageError: there is no such model or device; a selection of a pack; ``source`` is restored already.
    """
    if folder.resolve() == source.resolve():
        raise OutputError(f"{folder} is the source itself: give another folder")
    if folder.resolve().is_relative_to(source.resolve()):
        raise OutputError(f"{folder} lies in {source}: give a folder outside of it")
    refuse_foreign(folder, RESTORED_BY in _facts(folder), "restored pack or data set", source)
    if restored_by(source):
        raise UsageError(f"{source} is restored already: name the one with the blurred frames")
    checksum = find(model).checksum()
    if (source / FINISHED).exists() or any(source.glob("*.npy")):
        if any(selection):
            raise UsageError(f"{source} is a pack, which has no clips to select: leave split, list and role out")
        if folder.exists() and not overwrite:
            raise OutputError(f"{folder} exists: give `overwrite` or another folder")
        return _restore_pack(source, folder, model, checksum, (device, dtype), first, progress)
    facts = _facts(folder)
    if facts and not overwrite and (facts.get(RESTORED_BY), facts.get("source")) != (checksum, str(source.resolve())):
        raise OutputError(
            f"{folder} was restored by another stage 1, or from other data: give `overwrite` or another folder"
        )
    clips = find_pairs(source, split=selection.split, clip_list=selection.clip_list, role=selection.role)[:first]
    for clip in clips:
        check_clip(clip)
    if facts and overwrite:
        shutil.rmtree(folder)
    return _restore_clips(source, clips, folder, model, checksum, (device, dtype), progress)


@torch.inference_mode()
def _restore_pack(
    pack: Path,
    folder: Path,
    model: str,
    checksum: str,
    where: tuple[str, str],
    first: int | None,
    progress: Callable[[int, int], None] | None,
) -> int:
    arrays, device = open_pack(pack), choose_device(where[0])
    dtype = choose_dtype(where[1], device)
    network = nn.Module.to(load_model(find(model), *FIRST_STAGES), device=device, dtype=dtype)
    count = min(first or len(arrays["duty"]), len(arrays["duty"]))
    with whole_folder(folder) as fresh:
        for name, values in arrays.items():
            source = pack.resolve() / f"{name}.npy"
            if name != BLURRED and count == len(values):
                (fresh / source.name).symlink_to(source)
            elif name != BLURRED:
                np.save(fresh / source.name, values[:count])
        blurred = arrays[BLURRED][:count]
        restored = new_array(fresh / f"{BLURRED}.npy", blurred.dtype, blurred.shape)
        for i in range(count):
            # Conditioned on the estimated duty cycle, as in the restoration of videos.
            sample = {k: np.array(v[i]) for k, v in arrays.items()}
            sample["duty"] = sample["duty_estimated"]
            priors = stacked([sample]).priors
            narrow = type(priors)(*(p.to(dtype) if p.is_floating_point() else p for p in priors))
            restored[i] = restore(network, sample[BLURRED], narrow)
            if progress:
                progress(i + 1, count)
        restored.flush()
        facts = _facts(pack) | {RESTORED_BY: checksum}
        (fresh / FINISHED).write_text(json.dumps(facts, indent=2) + "\n")
    return count


def _restore_clips(
    source: Path,
    clips: list[DataClip],
    folder: Path,
    model: str,
    checksum: str,
    where: tuple[str, str],
    progress: Callable[[int, int], None] | None,
) -> int:
    restorer = load_restorer(model, device=where[0], dtype=where[1])
    make_folder(folder)
    facts = {RESTORED_BY: checksum, "source": str(source.resolve())}
    _write_facts(folder, facts | {COMPLETE: False})
    if (source / CAPTIONS_FILE).exists():
        _link(source / CAPTIONS_FILE, folder / CAPTIONS_FILE)
    for number, clip in enumerate(clips, 1):
        place = folder / clip.source.relative_to(source)
        if not place.exists():
            assert clip.sharp is not None  # checked before
            work = folder / _UNFINISHED / clip.name.replace("/", "~")
            restore_video(clip.source, work, restorer, Options(frames=True, priors=str(clip.archive), overwrite=True))
            named = _named_as(clip, work)
            _link(clip.sharp, folder / clip.sharp.relative_to(source))
            _link(clip.archive, folder / clip.archive.relative_to(source))
            with writing(place):
                place.parent.mkdir(parents=True, exist_ok=True)
                named.rename(place)
        if progress:
            progress(number, len(clips))
    shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)
    _write_facts(folder, facts | {COMPLETE: True})
    return len(clips)


def _named_as(clip: DataClip, frames: Path) -> Path:
    """Move restored frames to a new folder, under the names of the clip's own; returns it."""
    made, names = list_images(frames), [path.stem for path in list_images(clip.source)]
    if len(made) != len(names):
        raise DataLayoutError(
            f"{clip.source}: {len(names)} frames gave {len(made)}; `unsmear data check` lists what is damaged"
        )
    named = frames.with_name(f"{frames.name}.named")
    with writing(named):
        shutil.rmtree(named, ignore_errors=True)
        named.mkdir()
        for path, name in zip(made, names, strict=True):
            path.rename(named / f"{name}.png")
    return named


def _link(target: Path, place: Path) -> None:
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink():
            place.symlink_to(target.resolve())


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    write_whole(folder / FACTS_FILE, (json.dumps(facts, indent=2) + "\n").encode())


def _facts(source: Path) -> dict[str, Any]:
    """Facts of a finished pack or a restored data set; empty where there are none."""
    for name in (FINISHED, FACTS_FILE):
        if (source / name).exists():
            return read_json(source / name, "make it again")
    return {}
