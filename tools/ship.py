"""Put a trained checkpoint into the package: half-precision weights, configuration, and its card.

    unsmear evaluate --data PAIRS --model unsharp --model richardson-lucy --model RUN/best --sharp -o OUT
    python tools/ship.py RUN/best --config configs/cpfp-compact.yaml --results OUT/results.json --notes NOTES.md

`data.csv` (every training file with author, licence and checksum) must already lie in the target folder.
"""

import argparse
import csv
import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from unsmear.models.cpfp import CPFP
from unsmear.models.zoo import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from unsmear.report.blocks import clip_blocks, overall_blocks
from unsmear.report.results import Result, read_results
from unsmear.report.tables import block_markdown

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder written by save_pretrained")
    parser.add_argument("--name", default="cpfp")
    parser.add_argument("--config", type=Path, required=True, help="the training configuration")
    parser.add_argument("--steps", type=int, required=True, help="optimiser steps taken")
    parser.add_argument("--hours", type=float, required=True, help="hours that training took")
    parser.add_argument("--machine", required=True, help="what it was trained on")
    parser.add_argument(
        "--results", type=Path, nargs="+", help="results.json of `unsmear evaluate`; the last method is this model"
    )
    parser.add_argument("--notes", type=Path, help="Markdown put at the end of the card")
    given = parser.parse_args()

    folder = ROOT / "src" / "unsmear" / "weights" / given.name
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.to(torch.float16).contiguous() for k, v in load_file(given.checkpoint / WEIGHTS_FILE).items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)
    shutil.copy(given.checkpoint / CONFIG_FILE, folder / CONFIG_FILE)
    CPFP.from_config(json.loads((folder / CONFIG_FILE).read_text())).load_state_dict(weights)

    with (folder / "data.csv").open() as file:
        data = list(csv.DictReader(file))
    revision = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    parameters = sum(v.numel() for v in weights.values())
    results = [result for path in given.results or () for result in read_results(path)]
    if results:
        results[-1] = replace(results[-1], method=given.name)
    card = {
        "name": given.name,
        "summary": "stage 1 of CPGD-Net, compact: coding-prior feature propagation along the motion line",
        "architecture": "CPFP",
        "parameters": parameters,
        "dtype": "float16",
        "licence": "Apache-2.0",
        "sha256": hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest(),
        "steps": given.steps,
        "hours": given.hours,
        "machine": given.machine,
        "config": given.config.name,
        "revision": revision,
        "training_files": len(data),
        "validation": results[-1].as_dict() if results else None,
    }
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n")
    (folder / "README.md").write_text(as_markdown(card, results, given.notes))
    print(f"{folder}: {parameters / 1e6:.2f} M parameters, {(folder / WEIGHTS_FILE).stat().st_size / 1e6:.2f} MB")


CARD = """\
# {name}

{summary}. {millions:.2f} M parameters, {dtype}, {licence}.

- SHA-256 of the weights: `{sha256}`
- Training: {steps} steps in {hours:g} h on {machine}, from revision `{revision}`:
  `unsmear train cpfp configs/{config} -o RUN`
- Data: the {training_files} files of `data.csv`, each with author, licence, source and checksum, rendered by
  `unsmear data pack` as the head of the configuration says; coding priors come from the re-encode pass on the
  blurred frames.
"""

VALIDATION = """
## Validation

Nine clips that were not trained on, blurred by `unsmear data blur SHARP/* -o PAIRS --duty 0.4 1 --seed 0 --crf 18` and
measured by `{command}`. "Sharp input kept" is the PSNR between a sharp clip and what the model makes of it.

{tables}
"""


def as_markdown(card: dict, results: list[Result], notes: Path | None) -> str:
    """The card for people."""
    summary = card["summary"][0].upper() + card["summary"][1:]
    parts = [CARD.format(**{**card, "summary": summary, "millions": card["parameters"] / 1e6})]
    if results:
        blocks = [*overall_blocks(results), *clip_blocks(results[-1:])]
        tables = "\n".join(block_markdown(block) for block in blocks).strip()
        parts.append(VALIDATION.format(command=results[-1].command, tables=tables))
    if notes:
        parts.append("\n" + notes.read_text().strip() + "\n")
    return "".join(parts)


if __name__ == "__main__":
    main()
