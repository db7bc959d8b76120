"""Copy a trained checkpoint into the package: half-precision weights, configuration and model card.

    unsmear evaluate --data PAIRS --model unsharp --model richardson-lucy --model RUN/best --sharp -o OUT
    python tools/ship.py RUN/best --config configs/cpfp-compact.yaml --results OUT/results.json --notes NOTES.md

A checkpoint is a folder of weights, or a pipeline: a folder of such folders. The target folder must already contain
`data.csv` (every training file with author, licence and checksum).
"""

import argparse
import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from unsmear.evaluation.formats import block_markdown
from unsmear.evaluation.results import Result, read_results
from unsmear.evaluation.tables import clip_blocks, overall_blocks
from unsmear.models.loading import sampling_defaults
from unsmear.models.zoo import CARD_FILE, CONFIG_FILE, PIPELINES, WEIGHTS_FILE, ModelEntry, write_index

ROOT = Path(__file__).resolve().parents[1]

SUMMARIES = {
    "cpfp": "stage 1 of CPGD-Net, compact: coding-prior feature propagation along the motion line",
    "cpgd": "CPGD-Net, compact: latent diffusion conditioned on stage 1 (`cpfp`) and on coding priors",
    "vdm": "video diffusion model, compact: whole clips in latent space, conditioned on the blurred frames",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder written by save_pretrained, or a pipeline")
    parser.add_argument("--name", default="cpfp", choices=SUMMARIES)
    parser.add_argument("--config", type=Path, nargs="+", required=True, help="training configurations, in order")
    parser.add_argument("--steps", type=int, required=True, help="number of optimiser steps")
    parser.add_argument("--hours", type=float, required=True, help="duration of training, hours")
    parser.add_argument("--machine", required=True, help="hardware of the training")
    parser.add_argument(
        "--results", type=Path, nargs="+", help="results.json of `unsmear evaluate`; the last method is this model"
    )
    parser.add_argument("--notes", type=Path, help="Markdown appended to the card")
    args = parser.parse_args()

    folder = ROOT / "src" / "unsmear" / "weights" / args.name
    parameters = ship(ModelEntry(args.name, args.checkpoint), folder)
    entry = ModelEntry(args.name, folder)
    with (folder / "data.csv").open() as file:
        data = list(csv.DictReader(file))
    revision = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    results = [result for path in args.results or () for result in read_results(path)]
    if results:
        results[-1] = replace(results[-1], method=args.name)
    card = {
        "name": args.name,
        "summary": SUMMARIES[args.name],
        "parameters": sum(parameters.values()),
        "parts": parameters,
        "dtype": "float16",
        "licence": "Apache-2.0",
        "sha256": entry.checksum(),
        "steps": args.steps,
        "hours": args.hours,
        "machine": args.machine,
        "config": [config.name for config in args.config],
        "revision": revision,
        "training_files": len(data),
        "validation": results[-1].as_dict() if results else None,
    }
    commands = [command for config in args.config for command in training_commands(config)]
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n")
    (folder / "README.md").write_text(as_markdown(card, commands, results, args.notes))
    size = sum(file.stat().st_size for file in folder.rglob(f"*{WEIGHTS_FILE}"))
    print(f"{folder}: {card['parameters'] / 1e6:.2f} M parameters, {size / 1e6:.2f} MB")


def ship(source: ModelEntry, folder: Path) -> dict[str, int]:
    """Copy weights in half precision and their configuration; return the number of parameters of each part."""
    if source.kind in PIPELINES:
        parameters = {}
        for name, part in source.parts.items():
            parameters[name] = sum(ship(part, folder / name).values())
        shutil.copytree(source.folder / "scheduler", folder / "scheduler", dirs_exist_ok=True)
        write_index(folder, sampling_defaults(source, dict), source.trained)
        return parameters
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.to(torch.float16).contiguous() for k, v in load_file(source.weights).items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)
    shutil.copy(source.folder / CONFIG_FILE, folder / CONFIG_FILE)
    return {source.name: sum(v.numel() for v in weights.values())}


def training_commands(config: Path) -> list[str]:
    """Return the training command in the header comment of a configuration: the last one, as a list."""
    return re.findall(r"^#\s+(unsmear train .*)$", config.read_text(), re.MULTILINE)[-1:]


CARD = """\
# {name}

{summary}. {millions:.2f} M parameters{parts}, {dtype}, {licence}.

- SHA-256 of the weights: `{sha256}`
- Training: {steps} steps in {hours:g} h on {machine}, from revision `{revision}`: {commands}
- Data: the {training_files} files of `data.csv`, each with author, licence, source and checksum, rendered by
  `unsmear data pack` as the heads of the configurations say; coding priors come from the re-encode pass on the
  blurred frames.
"""

VALIDATION = """
## Validation

Nine clips that were not trained on, blurred by `unsmear data blur SHARP/* -o PAIRS --duty 0.4 1 --seed 0 --crf 18` and
measured by `{command}`. "Sharp input kept" is the PSNR between a sharp clip and what the model makes of it.

{tables}
"""


def as_markdown(card: dict, commands: list[str], results: list[Result], notes: Path | None) -> str:
    """Return the model card as Markdown."""
    counts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in card["parts"].items())
    facts = {
        "summary": card["summary"][0].upper() + card["summary"][1:],
        "millions": card["parameters"] / 1e6,
        "parts": f" ({counts})" if len(card["parts"]) > 1 else "",
        "commands": "; ".join(f"`{command}`" for command in commands),
    }
    parts = [CARD.format(**card | facts)]
    if results:
        blocks = [*overall_blocks(results), *clip_blocks(results[-1:])]
        tables = "\n".join(block_markdown(block) for block in blocks).strip()
        parts.append(VALIDATION.format(command=results[-1].command, tables=tables))
    if notes:
        parts.append("\n" + notes.read_text().strip() + "\n")
    return "".join(parts)


if __name__ == "__main__":
    main()
