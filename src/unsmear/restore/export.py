"""A folder of ONNX graphs made of a stage-1 network."""

import json
from collections.abc import Sequence
from pathlib import Path

from unsmear.errors import OutputError, UsageError
from unsmear.files import refuse_foreign, whole_folder
from unsmear.models.loading import EXPORTED, load_model
from unsmear.models.zoo import CARD_FILE, CONFIG_FILE, ModelEntry, find
from unsmear.restore.inputs import single_input


def export(model: str, out: Path, clips: Sequence[Path] = (), overwrite: bool = False) -> None:
    """Write the graphs of a network with their card, complete or not at all.

    Args:
        model: a shipped stage 1 by name, or a folder of its weights.
        out: the folder to be.
        clips: videos or folders of frames that calibrate int8; none for float32.
        overwrite: replace a folder that is there.

    Raises:
        UsageError: the model cannot be exported; a clip is not there; the packages for it are not installed.
        WeightsError: the weights are missing or damaged.
        OutputError: the folder is there, or cannot be written.
    """
    entry = find(model)
    if entry.kind != "CPFP":
        raise UsageError(f"{entry.name} is a {entry.kind}: expected stage 1, such as cpfp; the others are not exported")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists: give `overwrite` or another folder")
    ours = (out / CONFIG_FILE).is_file() and any(out.glob("*.onnx"))
    refuse_foreign(out, ours, "folder of ONNX graphs", entry.folder, *clips)
    clips = [single_input(clip) for clip in clips]
    from unsmear.models.cpfp.export import write_graphs
    from unsmear.models.cpfp.export_card import card

    network = load_model(entry)
    with whole_folder(out) as folder:
        write_graphs(network, folder)
        settings = {name: value for name, value in network.config.items() if not name.startswith("_")}
        config = {"_class_name": EXPORTED, **settings}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        made = ModelEntry(out.name, folder)
        if clips:
            from unsmear.restore.quantise import quantise

            quantise(made, clips)
        (folder / "README.md").write_text(card(network, entry.name, entry.checksum(), bool(clips)))
        dtype = "int8" if clips else "float32"
        facts = {"summary": f"{entry.name} as ONNX graphs, {dtype}", "dtype": dtype, "sha256": made.checksum()}
        (folder / CARD_FILE).write_text(json.dumps(facts, indent=2) + "\n")
