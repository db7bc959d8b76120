"""Visibility of window borders: warping error of a video diffusion model at the borders of windows and elsewhere.

    python tools/window_borders.py PAIRS/camel --model vdm

Each frame after the first is warped onto the previous one along the optical flow of the sharp frames. A frame counts as
a border if two windows share it or the previous one. The ratio of the blurred input at the same frames normalises the
result: the last figure is the ratio of both ratios.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np

from unsmear import Clip, load
from unsmear.metrics.temporal import align
from unsmear.models.common.tiles import window_spans
from unsmear.restore.vdm import VDMRestorer
from unsmear.video.images import list_images, read_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pair", type=Path, help="folder with blur and sharp frames of one shot")
    parser.add_argument("--model", default="vdm")
    parser.add_argument("--frames", type=int, default=40)
    args = parser.parse_args()
    blurred, sharp = (
        np.stack([read_image(file) for file in list_images(args.pair / kind)[: args.frames]])
        for kind in ("blur", "sharp")
    )
    restorer = load(args.model)
    if not isinstance(restorer, VDMRestorer):
        parser.error(f"{args.model} has no windows in time: give a video diffusion model")
    restored = restorer(Clip.of(blurred))
    spans = window_spans(len(blurred), restorer.sampling.window, restorer.sampling.overlap)
    shared = {i for a, b in pairwise(spans) for i in range(b[0], a[1])}
    border = np.array([i in shared or i - 1 in shared for i in range(1, len(blurred))])
    alignments = [align(sharp[i], sharp[i - 1]) for i in range(1, len(blurred))]
    ratios = []
    for name, clip in (("blurred", blurred), (restorer.name, restored)):
        levels = clip.astype(np.float32)
        error = np.array([alignment.difference(levels[i + 1], levels[i]) for i, alignment in enumerate(alignments)])
        at, inside = float(error[border].mean()), float(error[~border].mean())
        ratios.append(at / inside)
        print(f"{name}: {at:.3f} levels at borders, {inside:.3f} inside windows, ratio {at / inside:.3f}")
    print(f"{len(blurred)} frames, {len(spans)} windows: {ratios[1] / ratios[0]:.3f} times the ratio of the input")


if __name__ == "__main__":
    main()
