"""Packs restored by stage 1, so that phase II need not run stage 1 at every step."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unsmear.blur.pack import FINISHED, open_pack
from unsmear.errors import OutputError
from unsmear.files import new_array, read_json, refuse_foreign, whole_folder
from unsmear.models.loading import FIRST_STAGES, load_model
from unsmear.models.zoo import find
from unsmear.training.batches import stacked
from unsmear.training.validation import restore

BLURRED, RESTORED_BY = "blurred", "restored_by"


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
        folder: folder of the new pack, which appears whole or not at all.
        model: stage-1 model; its checksum is stored as ``restored_by``.
        first: number of sequences, from the first on; None for all.
        overwrite: replace ``folder`` if it exists and is a restored pack.
        on_sequence: called with the number of finished sequences and the total.

    Returns:
        Number of sequences.

    Raises:
        DataLayoutError: ``pack`` is not finished.
        OutputError: ``folder`` exists, is ``pack``, or cannot be written.
        UsageError: there is no such model.
    """
    entry, arrays = find(model), open_pack(pack)
    if folder.resolve() == pack.resolve():
        raise OutputError(f"{folder} is the pack itself: give another folder")
    if folder.exists() and not overwrite:
        raise OutputError(f"{folder} exists: give `overwrite` or another folder")
    refuse_foreign(folder, RESTORED_BY in _facts(folder), "restored pack", pack)
    network = load_model(entry, *FIRST_STAGES).bfloat16()
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
            halves = type(priors)(*(p.bfloat16() if p.is_floating_point() else p for p in priors))
            restored[i] = restore(network, sample[BLURRED], halves)
            if on_sequence:
                on_sequence(i + 1, count)
        restored.flush()
        facts = _facts(pack) | {RESTORED_BY: entry.checksum()}
        (fresh / FINISHED).write_text(json.dumps(facts, indent=2) + "\n")
    return count


def _facts(pack: Path) -> dict[str, Any]:
    """The configuration of a finished pack; empty where there is none."""
    return read_json(pack / FINISHED, "make the pack again") if (pack / FINISHED).exists() else {}
