"""Average the weights of checkpoints of one network, and say what the average says more or less firmly.

    python tools/average.py RUN/best:0.25 OTHER/last:0.75 --confidence 1.2 -o OUT

A checkpoint is a folder of save_pretrained, or ``last`` of a run, whose moving average is taken. A head that one lacks
counts as zero. ``--confidence`` multiplies what the network adds to a frame, all of which comes from linear heads.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file

from unsmear.models.cpfp import CPFP
from unsmear.models.zoo import CONFIG_FILE, WEIGHTS_FILE

HEADS = ("to_pixels", "to_gates", "to_neighbours", "to_line")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    average = folder / "ema.safetensors"
    return load_file(average if average.exists() else folder / WEIGHTS_FILE)


def averaged(parts: list[tuple[Path, float]], confidence: float) -> CPFP:
    """The network of the last folder that has a configuration."""
    described = [folder for folder, _ in parts if (folder / CONFIG_FILE).exists()]
    model = CPFP.from_pretrained(described[-1], low_cpu_mem_usage=False)
    total = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    for folder, share in parts:
        weights = weights_of(folder)
        if strange := weights.keys() - total.keys():
            raise SystemExit(f"average: {folder} has {min(strange)}, which {described[-1]} has not")
        for key, value in weights.items():
            total[key] += share * value.float()
    model.load_state_dict(total)
    with torch.no_grad():
        for name in HEADS:
            if head := getattr(model, name, None):
                head.weight *= confidence
                head.bias *= confidence
        if model.line is not None:
            model.line.bank *= confidence
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", metavar="FOLDER:SHARE", help="shares must add up to 1")
    parser.add_argument("--confidence", type=float, default=1.0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    parts = [(Path(part.rpartition(":")[0]), float(part.rpartition(":")[2])) for part in given.parts]
    if abs(sum(share for _, share in parts) - 1) > 1e-6:
        raise SystemExit(f"average: the shares add up to {sum(share for _, share in parts):g}, not to 1")
    averaged(parts, given.confidence).save_pretrained(given.output)


if __name__ == "__main__":
    main()
