"""Ablation study: train variants of one configuration and print the validation gain of each.

    python tools/study.py configs/cpfp-study.yaml -o runs/study

The file is a training configuration with a mapping ``rows``: the name of each variant and its changes, by dotted keys.
``after: ROW`` starts from the final weights of another row. Finished runs are kept and interrupted ones resumed, so
rows can be added later. All variants start from the same seed and, unless they change the data, are trained on the same
batches. Time is CPU time, independent of other load.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from unsmear.training.config import changed, from_mapping, read_yaml
from unsmear.training.cpfp import CPFPRecipe, CPFPTraining, start_model
from unsmear.training.loop import train


def run(name: str, config: CPFPTraining, folder: Path) -> dict[str, Any]:
    """Train one variant, or resume it; return the figures of its last validation, parameters and seconds per step."""
    finished = folder / "row.json"
    if finished.exists():
        return json.loads(finished.read_text())
    stopped_at = folder / "last" / "state.json"
    start = json.loads(stopped_at.read_text())["step"] if stopped_at.exists() else 0
    model = start_model(config, fit_line=not start)
    recipe = CPFPRecipe(model, config)
    seconds: list[float] = []
    validate = recipe.validate

    def validated(model: torch.nn.Module) -> dict[str, float]:
        began = time.process_time()
        figures = validate(model)
        seconds.append(began - time.process_time())
        return figures

    recipe.validate = validated  # type: ignore[method-assign]
    seconds.append(-time.process_time())
    average = train(model, recipe, config.loop, folder, resume=True)
    seconds.append(time.process_time())
    average.save_pretrained(folder / "end")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    figures = next(line["validation"] for line in reversed(lines) if "validation" in line)
    row = {
        "row": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": config.loop.steps,
        "seconds_a_step": round(sum(seconds) / max(config.loop.steps - start, 1), 3),
        "curve": [[line["step"], line["validation"]["score"]] for line in lines if "validation" in line],
        **figures,
    }
    finished.write_text(json.dumps(row) + "\n")
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table; differences are relative to the first row."""
    out = [
        "| variant | mean gain dB | against the first | worst clip dB | sharp kept dB | M | steps | s a step |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    others = {"row", "parameters", "steps", "seconds_a_step", "curve", "score", "sharp_mean", "sharp_least"}
    for row in rows:
        worst = min(value for key, value in row.items() if key not in others)  # the remaining keys are clips
        out.append(
            f"| {row['row']} | {row['score']:+.3f} | {row['score'] - rows[0]['score']:+.3f} | {worst:+.2f} | "
            f"{row['sharp_mean']:.1f} | {row['parameters'] / 1e6:.2f} | {row['steps']} | {row['seconds_a_step']:.2f} |"
        )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", metavar="ROW", help="train only these rows")
    parser.add_argument("--threads", type=int, help="number of torch threads")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    study = read_yaml(args.study)
    rows = []
    for name, changes in study.pop("rows").items():
        if args.only and name not in args.only:
            continue
        changes = dict(changes or {})
        if earlier := changes.pop("after", None):
            changes["init"] = str(args.output / earlier.replace(" ", "-") / "end")
        config = from_mapping(CPFPTraining, changed(study, changes), f"{args.study}: {name}")
        rows.append(run(name, config, args.output / name.replace(" ", "-")))
        print(f"{name}: {rows[-1]['score']:+.3f} dB", flush=True)
        (args.output / "study.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
