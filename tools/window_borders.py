"""Whether windows in time can be seen: the warping error where windows of a video diffusion model meet, and elsewhere.

    python tools/window_borders.py PAIRS/camel --model vdm

Each frame after the first is warped back onto the one before along the optical flow of the sharp frames. A frame lies
at a border if two windows share it or the one before it. What the clip itself does at those frames, blurred as it was
given, is taken out: the last figure is the ratio of both ratios.
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
    parser.add_argument("pair", type=Path, help="folder with blur and sharp, of one shot")
    parser.add_argument("--model", default="vdm")
    parser.add_argument("--frames", type=int, default=40)
    given = parser.parse_args()
    blurred, sharp = (
        np.stack([read_image(file) for file in list_images(given.pair / kind)[: given.frames]])
        for kind in ("blur", "sharp")
    )
    restorer = load(given.model)
    if not isinstance(restorer, VDMRestorer):
        parser.error(f"{given.model} has no windows in time: name a video diffusion model")
    made = restorer(Clip.of(blurred))
    spans = window_spans(len(blurred), restorer.sampling.window, restorer.sampling.overlap)
    shared = {i for a, b in pairwise(spans) for i in range(b[0], a[1])}
    border = np.array([i in shared or i - 1 in shared for i in range(1, len(blurred))])
    ways = [align(sharp[i], sharp[i - 1]) for i in range(1, len(blurred))]
    ratios = []
    for name, clip in (("blurred", blurred), (restorer.name, made)):
        levels = clip.astype(np.float32)
        error = np.array([way.difference(levels[i + 1], levels[i]) for i, way in enumerate(ways)])
        at, inside = float(error[border].mean()), float(error[~border].mean())
        ratios.append(at / inside)
        print(f"{name}: {at:.3f} levels at borders, {inside:.3f} inside windows, ratio {at / inside:.3f}")
    print(f"{len(blurred)} frames, {len(spans)} windows: {ratios[1] / ratios[0]:.3f} times what the input does")


if __name__ == "__main__":
    main()
