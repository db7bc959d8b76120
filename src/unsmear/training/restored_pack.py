"""Packs restored by stage 1, so that phase II need not run stage 1 at every step."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from unsmear.blur.pack import open_pack
from unsmear.errors import OutputError
from unsmear.files import read_json
from unsmear.models.loading import load_model
from unsmear.models.zoo import find
from unsmear.training.batches import stacked
from unsmear.training.validation import restore

BLURRED, FACTS, RESTORED_BY = "blurred", "pack.json", "restored_by"


@torch.inference_mode()
def restore_pack(
    pack: Path,
    folder: Path,
    model: str = "cpfp",
    *,
    first: int | None = None,
    overwrite: bool = False,
    on_sequence: Callable[[int, int], None] | None = None,
) -> int:
    """Write a copy of a pack whose ``blurred`` frames are restored; other arrays are symbolic links where possible.

    Args:
        pack: folder made by ``unsmear data pack``.
        folder: folder of the new pack; ``pack.json``, which marks it as finished, is written last.
        model: stage-1 model; its checksum is stored as ``restored_by``.
        first: number of sequences, from the first on; None for all.
        overwrite: replace ``folder`` if it exists.
        on_sequence: called with the number of finished sequences and the total.

    Returns:
        Number of sequences.

    Raises:
        DataLayoutError: ``pack`` is not finished.
        OutputError: ``folder`` exists, or is ``pack``.
        UsageError: there is no such model.
    """
    entry, arrays = find(model), open_pack(pack)
    if folder.resolve() == pack.resolve():
        raise OutputError(f"{folder} is the pack itself: give another folder")
    if folder.exists() and not overwrite:
        raise OutputError(f"{folder} exists: give `overwrite` or another folder")
    network = load_model(entry, "CPFP").bfloat16()
    count = min(first or len(arrays["duty"]), len(arrays["duty"]))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, values in arrays.items():
        source = pack.resolve() / f"{name}.npy"
        if name != BLURRED and count == len(values):
            (folder / source.name).symlink_to(source)
        elif name != BLURRED:
            np.save(folder / source.name, values[:count])
    blurred = arrays[BLURRED][:count]
    restored = np.lib.format.open_memmap(folder / f"{BLURRED}.npy", "w+", blurred.dtype, blurred.shape)
    for i in range(count):
        # Conditioned on the estimated duty cycle, as in the restoration of videos.
        sample = {k: np.array(v[i]) for k, v in arrays.items()}
        sample["duty"] = sample["duty_estimated"]
        priors = stacked([sample]).priors
        halves = type(priors)(*(p.bfloat16() if p.is_floating_point() else p for p in priors))
        restored[i] = restore(network, sample[BLURRED], halves)
        if on_sequence:
            on_sequence(i + 1, count)
    restored.flush()
    facts = read_json(pack / FACTS, "make the pack again") | {RESTORED_BY: entry.checksum()}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    return count
