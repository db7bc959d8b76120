"""Visibility of tile borders: differences of neighbouring pixels across tile borders, relative to elsewhere.

    python tools/tile_borders.py PAIRS/goat/blur --model cpgd --tile 256

The same frames are restored in tiles and whole; visible borders make the first ratio larger than the second.
"""

import argparse
from pathlib import Path

import numpy as np

from unsmear import Clip, load
from unsmear.models.common.tiles import tile_boxes
from unsmear.restore.cpgd import CPGDRestorer
from unsmear.video.images import list_images, read_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", type=Path, help="folder of frames")
    parser.add_argument("--model", default="cpgd")
    parser.add_argument("--tile", type=int, default=256, help="side of a tile, pixels")
    parser.add_argument("--count", type=int, default=4, help="number of frames, from the first")
    parser.add_argument("--duty", type=float, default=0.7, help="exposure that stage 1 is conditioned on")
    args = parser.parse_args()
    frames = np.stack([read_image(file) for file in list_images(args.frames)[: args.count]])
    restorer = load(args.model)
    if not isinstance(restorer, CPGDRestorer):
        parser.error(f"{args.model} has no tiles in latent space: give a model of stage 2")
    clip = Clip.of(frames, args.duty)
    whole, tiled = (restorer.restore(clip, None, tile)[0].astype(float) for tile in (None, args.tile))

    cell, multiple = restorer.pipe.cell, restorer.pipe.multiple
    height, width = (-(-side // multiple) * multiple // cell for side in frames.shape[1:3])
    side = min(args.tile // cell, max(height, width))
    boxes = tile_boxes(height, width, side, max(side // 2, 1))
    borders = {
        1: {edge * cell for box in boxes for edge in box[:2]},
        2: {edge * cell for box in boxes for edge in box[2:]},
    }
    for name, restored in (("tiled", tiled), ("whole", whole)):
        print(f"{name}: {across(restored, borders):.3f} times as large at borders as elsewhere")
    print(f"{len(boxes)} tiles change a pixel by {np.abs(tiled - whole).mean():.3f} levels on the mean")


def across(frames: np.ndarray, borders: dict[int, set[int]]) -> float:
    """Return the mean absolute difference of neighbouring pixels at ``borders``, divided by that elsewhere.

    Args:
        frames: (T, H, W, 3).
        borders: for axis 1 (rows) and 2 (columns), the index of the first pixel after each border.
    """
    at, elsewhere = [], []
    for axis, edges in borders.items():
        steps = np.abs(np.diff(frames, axis=axis)).mean(axis=(0, 3 - axis, 3))
        at_border = np.isin(np.arange(1, len(steps) + 1), list(edges))
        at.append(steps[at_border].mean())
        elsewhere.append(steps[~at_border].mean())
    return float(np.mean(at) / np.mean(elsewhere))


if __name__ == "__main__":
    main()
