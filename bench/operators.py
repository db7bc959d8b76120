"""Time the operators that restoration spends its time in, one by one.

python bench/operators.py                    # all, at 1280×720, with one thread
python bench/operators.py deconvolution warp --size 640x360 --threads 2
"""

import argparse
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.benchmark import Timer

from unsmear.models.common.gather import positions_of, read_pixels
from unsmear.models.common.warp import DeformConv2d, warp
from unsmear.models.cpfp.blocks import ResidualBlock
from unsmear.models.cpfp.correction import pinned, shuffled
from unsmear.models.cpfp.deconvolution import richardson_lucy
from unsmear.models.cpfp.motion_line import LineBlock
from unsmear.priors.compensation import compensate
from unsmear.restore.tiles import Tile, by_tiles, tile_rows

GRID, CHANNELS, GROUPS, TAPS = 4, 32, 4, 9


def operators(width: int, height: int) -> dict[str, Callable[[], object]]:
    """Each operator on fixed random data of a frame of this size."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    h, w = height // GRID, width // GRID
    frame = F.avg_pool2d(torch.rand(1, 3, height, width), 5, 1, 2)
    blur = F.interpolate(5 * torch.randn(1, 2, max(h // 20, 1), max(w // 20, 1)), (h, w), mode="bilinear")
    features = torch.randn(1, CHANNELS, h, w).contiguous(memory_format=torch.channels_last)
    offset, mask = 2 * torch.randn(1, GROUPS * TAPS * 2, h, w), torch.rand(1, GROUPS * TAPS, h, w)
    deform, line, block = DeformConv2d(CHANNELS, CHANNELS), LineBlock(CHANNELS), ResidualBlock(CHANNELS)
    for module in (deform, line, block):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    heads, gate = torch.randn(1, 3 * GRID * GRID, h, w), torch.rand(1, 1, height, width)
    pixels = np.ascontiguousarray(rng.random((height, width, 4), np.float32))
    into, (x, y) = np.empty_like(pixels), positions_of(height, width)
    at_x, at_y = x + np.float32(3.3), y + np.float32(1.2)
    luma = rng.integers(0, 256, (height, width), np.uint8)
    motion = rng.integers(-40, 40, (-(-height // 8), -(-width // 8), 2)).astype(np.int16)
    rows = tile_rows(height, width, 512, 96, 16)

    def identity(tile: Tile) -> tuple[torch.Tensor, ...]:
        return (tile.cut(frame),)

    return {
        "read": lambda: read_pixels(pixels, at_x, at_y, into),
        "deconvolution": lambda: richardson_lucy(frame, blur, 5, (3, 6)),
        "deconvolution-long": lambda: richardson_lucy(frame, blur, 13, (3, 6)),
        "deformable": lambda: deform(features, offset, mask),
        "line-block": lambda: line(features, blur / GRID),
        "warp": lambda: warp(features, blur / GRID),
        "residual-block": lambda: block(features),
        "shuffle": lambda: shuffled(heads, GRID),
        "pinned": lambda: pinned(frame, frame, gate),
        "motion-compensation": lambda: compensate(luma, motion),
        "tiles": lambda: by_tiles(rows, identity, (1,)),
    }


def main() -> None:
    """Command line: a line for each operator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="operators; all where none is named")
    parser.add_argument("--size", default="1280x720", help="WIDTHxHEIGHT of the frame")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    known = operators(width, height)
    if unknown := set(args.names) - known.keys():
        parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join(known)}")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{width}x{height}, {args.threads} threads, {capability}, float32; median milliseconds")
    with torch.inference_mode():
        for name in args.names or known:
            timer = Timer("run()", globals={"run": known[name]}, num_threads=args.threads)
            print(f"{name:20} {timer.blocked_autorange(min_run_time=0.5).median * 1000:9.2f}")


if __name__ == "__main__":
    main()
