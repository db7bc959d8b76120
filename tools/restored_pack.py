"""A pack whose blurred frames are what stage 1 makes of them, so that phase II runs it once a sequence, not every step.

python tools/restored_pack.py runs/packG -o runs/restoredG --model cpfp
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from unsmear.data.pack import open_pack
from unsmear.models.loading import load
from unsmear.models.zoo import find
from unsmear.training.batches import stacked
from unsmear.training.validation import restore


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="cpfp")
    parser.add_argument("--first", type=int, help="only so many sequences")
    parser.add_argument("--threads", type=int, help="of torch")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    model, arrays = load(find(given.model), "CPFP").bfloat16(), open_pack(given.pack)
    count = min(given.first or len(arrays["duty"]), len(arrays["duty"]))
    given.output.mkdir(parents=True)
    for name, values in arrays.items():
        source = given.pack.resolve() / f"{name}.npy"
        if name == "blurred":
            continue
        if count == len(values):
            (given.output / source.name).symlink_to(source)
        else:
            np.save(given.output / source.name, values[:count])
    blurred = arrays["blurred"][:count]
    made = np.lib.format.open_memmap(given.output / "blurred.npy", "w+", blurred.dtype, blurred.shape)
    for i in range(count):
        # what the tool itself would be told of the exposure
        sample = {k: np.array(v[i]) for k, v in arrays.items()} | {"duty": np.float32(arrays["duty_estimated"][i])}
        batch = stacked([sample])
        priors = type(batch.priors)(*(p.bfloat16() if p.is_floating_point() else p for p in batch.priors))
        made[i] = restore(model, sample["blurred"], priors)
        if i % 20 == 0:
            print(f"{i} of {count}", flush=True)
    made.flush()
    told = json.loads((given.pack / "pack.json").read_text()) | {"restored_by": find(given.model).checksum()}
    (given.output / "pack.json").write_text(json.dumps(told, indent=2) + "\n")  # last: it says that the pack is whole


if __name__ == "__main__":
    main()
