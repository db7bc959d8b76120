"""Charts of training: the gains of a study's variants, and the learning curve of one or more runs.

python tools/plot.py study runs/study/study.json -o docs/pictures/study.png
python tools/plot.py curve RUN... -o docs/pictures/curve.png
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, SOFT = "#2b4c7e", "#9db3cf"


def study(file: Path, out: Path) -> None:
    """Plot one line per variant: gain half-way (hollow) and at the end (filled); the band is the range over seeds."""
    rows = json.loads(file.read_text())
    seeds = [row["score"] for row in rows if row["row"] == rows[0]["row"] or "seed" in row["row"]]
    figure, axes = plt.subplots(figsize=(8.5, 0.3 * len(rows) + 1.2))
    axes.axvspan(min(seeds), max(seeds), color="#eeeeee", zorder=0)
    for i, row in enumerate(rows):
        scores = [score for _, score in row["curve"]]
        axes.plot([scores[0], scores[-1]], [i, i], color=SOFT, zorder=1)
        axes.plot(scores[0], i, "o", markerfacecolor="white", markeredgecolor=INK)
        axes.plot(scores[-1], i, "o", color=INK)
    axes.set_yticks(range(len(rows)), [row["row"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("mean gain over the blurred input, dB (validation)")
    axes.grid(axis="x", color="#dddddd")
    _save(figure, out)


def curve(runs: list[Path], out: Path) -> None:
    """Plot the gain on training batches (moving average) and on validation over the steps of consecutive runs."""
    figure, axes = plt.subplots(figsize=(8.5, 4))
    offset = 0
    for k, run in enumerate(runs):
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        steps = np.array([line["step"] for line in lines if "gain_db" in line]) + offset
        gains = np.array([line["gain_db"] for line in lines if "gain_db" in line])
        wide = min(9, len(gains))
        smooth = np.convolve(gains, np.ones(wide) / wide, mode="valid")
        axes.plot(steps[wide - 1 :], smooth, color=SOFT, label="training batches" if k == 0 else None)
        scored = [(line["step"] + offset, line["validation"]["score"]) for line in lines if "validation" in line]
        if scored:
            axes.plot(*zip(*scored, strict=True), "o-", color=INK, label="validation" if k == 0 else None)
        offset = int(steps[-1])
        if k < len(runs) - 1:
            axes.axvline(offset, color="#cccccc", linestyle=":")
    axes.set_xlabel("steps")
    axes.set_ylabel("gain, dB")
    axes.grid(color="#eeeeee")
    axes.legend(frameon=False)
    _save(figure, out)


def _save(figure: plt.Figure, out: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("study", "curve"))
    parser.add_argument("inputs", type=Path, nargs="+", help="study.json of a study, or folders of runs in order")
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    if args.kind == "study":
        study(args.inputs[0], args.out)
    else:
        curve(args.inputs, args.out)


if __name__ == "__main__":
    main()
