"""Render ``examples/handheld.{blur,sharp}.mp4``: hand-held camera motion over one photograph, with its sharp frames.

    python tools/make_example.py PHOTO [-o examples]

The mean speed is 8 px per frame; the exposure is 0.7 of the frame step. The same photograph and seed give the same
pixels.
"""

import argparse
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from unsmear.blur.camera_motion import CameraPath, CameraTurn
from unsmear.blur.light import expose
from unsmear.video import read_image
from unsmear.video.light import quantise

WIDTH, HEIGHT, FRAMES, RATE = 320, 192, 24, 25
DUTY, SPEED_PX, SEED = 0.7, 8.0, 10
SUBFRAMES = 17
PHOTO_WIDTH_PX = 1000
"""Width to which the photograph is reduced, so that it is sharp at the scale of one pixel."""
CENTRE = (0.32, 0.40)
"""Centre of the camera path, as fractions of the photograph's width and height."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).parents[1] / "examples")
    args = parser.parse_args()
    blurred, sharp, speeds = walk(read_image(args.photo))
    args.out.mkdir(parents=True, exist_ok=True)
    for kind, frames, crf in (("blur", blurred, 16), ("sharp", sharp, 12)):
        path = args.out / f"handheld.{kind}.mp4"
        encode(path, frames, crf)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")
    print(f"motion {speeds.min():.1f} to {speeds.max():.1f} px per frame, duty {DUTY}")


def walk(photo: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Return blurred frames, sharp frames (uint8 (H, W, 3)) and the motion of the centre, pixels per frame."""
    scale = PHOTO_WIDTH_PX / photo.shape[1]
    photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    rng = np.random.default_rng(SEED)
    offsets = np.linspace(-DUTY / 2, DUTY / 2, SUBFRAMES)
    times = (np.arange(FRAMES)[:, None] - (FRAMES - 1) / 2 + offsets).ravel()
    path = CameraPath(times, rng, SPEED_PX).at(times)
    path -= (path.max(0) + path.min(0)) / 2
    centre = np.array(photo.shape[1::-1]) * np.array(CENTRE)
    poses = CameraTurn(rng, SPEED_PX / WIDTH, WIDTH).poses(times, centre + path)
    middle = np.eye(3)
    middle[1, 2] = (WIDTH - HEIGHT) / 2  # poses are for a square view; ours is the central strip
    reach = np.abs(path).max(0) + np.array([WIDTH, HEIGHT]) / 2
    if (reach > np.minimum(centre, photo.shape[1::-1] - centre)).any():
        raise SystemExit(f"the camera path leaves the photograph: {reach} from {centre} in {photo.shape[1::-1]}")
    blurred, sharp = [], []
    for i in range(FRAMES):
        views = [
            cv2.warpPerspective(
                photo,
                pose @ middle,
                (WIDTH, HEIGHT),
                flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT,
            )
            for pose in poses[i * SUBFRAMES : (i + 1) * SUBFRAMES]
        ]
        blurred.append(quantise(expose(views)))
        sharp.append(views[SUBFRAMES // 2])
    steps = np.linalg.norm(np.diff(path[SUBFRAMES // 2 :: SUBFRAMES], axis=0), axis=1)
    return blurred, sharp, steps


def encode(path: Path, frames: list[np.ndarray], crf: int) -> None:
    """Write H.264, 4:2:0, BT.709, as phones record it."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "slow", "crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE)
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = 1
        context.color_range = 1
        for i, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1, interpolation="LANCZOS")
            frame.pts, frame.time_base = i, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
