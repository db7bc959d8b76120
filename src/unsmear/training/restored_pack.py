"""Packs whose blurred frames are restored by stage 1, once a sequence rather than at every step of phase II."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unsmear.blur.pack import FINISHED, open_pack
from unsmear.errors import OutputError
from unsmear.files import read_json, refuse_foreign, reserve, whole_folder
from unsmear.models.loading import load_model
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
    """Write ``folder``, the pack with restored frames as ``blurred``; its other arrays are links where they can be.

    Args:
        pack: made by ``unsmear data pack``.
        folder: the new pack, which appears whole or not at all.
        model: stage 1; its checksum is kept as ``restored_by``.
        first: only so many sequences; None for all.
        overwrite: replace ``folder`` if it is there.
        on_sequence: called with the number of sequences done and of all.

    Returns:
        How many sequences it holds.

    Raises:
        DataLayoutError: ``pack`` is not finished.
        OutputError: ``folder`` exists, or cannot be written.
        UsageError: there is no such model.
    """
    entry, arrays = find(model), open_pack(pack)
    if folder.resolve() == pack.resolve():
        raise OutputError(f"{folder} is the pack itself: give another folder")
    if folder.exists() and not overwrite:
        raise OutputError(f"{folder} exists: give `overwrite` or another folder")
    refuse_foreign(folder, RESTORED_BY in _facts(folder), "restored pack", pack)
    network = load_model(entry, "CPFP").bfloat16()
    count = min(first or len(arrays["duty"]), len(arrays["duty"]))
    with whole_folder(folder) as fresh:
        for name, values in arrays.items():
            source = pack.resolve() / f"{name}.npy"
            if name != BLURRED and count == len(values):
                (fresh / source.name).symlink_to(source)
            elif name != BLURRED:
                np.save(fresh / source.name, values[:count])
        given = arrays[BLURRED][:count]
        restored = np.lib.format.open_memmap(fresh / f"{BLURRED}.npy", "w+", given.dtype, given.shape)
        reserve(fresh / f"{BLURRED}.npy")
        for i in range(count):
            # Conditioned on the estimated duty cycle, as restoring a video is.
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
