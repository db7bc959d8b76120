"""Blurred and sharp pairs under realistic conditions (compression, noise, cuts, titles …), to test a model's limits.

    python tools/footage.py SHARP... -o runs/footage
    unsmear evaluate --data runs/footage --model identity --model cpfp --sharp -o out/footage

SHARP are sharp videos or folders of frames. Each gives a clip VARIANT-NAME/{blur,sharp} for every variant: synthetic
blur along optical flow with an exposure of 0.6 of the frame step, as in ``unsmear data blur``, then the degradation of
the variant. The target is the result of an ideal deblurring: it keeps burnt-in titles, low light and the skew of a
rolling shutter.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from unsmear.blur.camera import CameraRanges, noisy, render
from unsmear.blur.compress import h264_round_trip
from unsmear.blur.exposure import Neighbourhood, blur_by_flow, subframe_times
from unsmear.blur.light import expose
from unsmear.blur.pairset import upright_frames
from unsmear.metrics import psnr
from unsmear.video import FrameFolderWriter, open_video
from unsmear.video.light import from_linear, quantise, to_linear

DUTY, CRF, READOUT = 0.6, 18.0, 0.6
"""Exposure as a fraction of the frame step; H.264 quality; readout time of a rolling shutter, in frame steps."""
TITLE = ("The quick brown fox", "jumps over the lazy dog")
PAGE = "Sphinx of black quartz, judge my vow. 0123456789 &?! Pack my box with five dozen jugs."

Frames = list[np.ndarray]
Pairs = tuple[Frames, Frames]


def exposed(frames: Frames, duty: float = DUTY) -> Pairs:
    """Return blurred and sharp frames without compression."""
    pairs = list(blur_by_flow(frames, duty))
    return [b for b, _ in pairs], [s for _, s in pairs]


def encoded(pairs: Pairs, crf: float = CRF) -> Pairs:
    """Compress the blurred frames with H.264; the sharp ones are returned unchanged."""
    return list(h264_round_trip(pairs[0], crf)), pairs[1]


def plain(frames: Frames) -> Pairs:
    return encoded(exposed(frames))


def compressed(crf: float) -> Callable[[Frames], Pairs]:
    return lambda frames: encoded(exposed(frames), crf)


def with_noise(frames: Frames) -> Pairs:
    """Sensor noise with a standard deviation of 5 levels at mid grey; the target is without noise."""
    rng = np.random.default_rng(0)
    blurred, sharp = exposed(frames)
    return encoded(([quantise(noisy(b.astype(np.float32), rng, 5.0)) for b in blurred], sharp))


def dark(frames: Frames) -> Pairs:
    """A twelfth of the light, with read noise of 1.5 levels; the target is dark too, without noise."""
    rng = np.random.default_rng(0)

    def dimmed(frame: np.ndarray) -> np.ndarray:
        return from_linear(to_linear(frame) / 12)

    blurred, sharp = exposed(frames)
    noise = [rng.normal(size=b.shape).astype(np.float32) * 1.5 for b in blurred]
    noised = [quantise(dimmed(b) + n) for b, n in zip(blurred, noise, strict=True)]
    return encoded((noised, [quantise(dimmed(s)) for s in sharp]))


def rolling(frames: Frames) -> Pairs:
    """Rolling shutter: each of 12 bands of rows is exposed later than the one above; the target is skewed alike."""
    height = frames[0].shape[0]
    delay = np.linspace(-READOUT / 2, READOUT / 2, height)
    out: Pairs = ([], [])
    for previous, centre, following in zip(frames, frames[1:], frames[2:], strict=False):
        near = Neighbourhood.of(previous, centre, following)
        blurred, sharp = np.empty_like(centre), np.empty_like(centre)
        for band in np.array_split(np.arange(height), 12):
            at, rows = float(delay[band].mean()), slice(band[0], band[-1] + 1)
            times = subframe_times(DUTY, near.fastest_px())
            blurred[rows] = quantise(expose([near.at(at + float(s))[rows] for s in times]))
            sharp[rows] = near.at(at)[rows]
        out[0].append(blurred)
        out[1].append(sharp)
    return encoded(out)


def tiny_motion(frames: Frames) -> Pairs:
    """An eighth of the motion: thirteen frames interpolated around the fourth frame."""
    near = Neighbourhood.of(*frames[2:5])
    return encoded(exposed([near.at(s / 8) for s in range(-6, 7)]))


def huge_motion(frames: Frames) -> Pairs:
    """Three times the motion: every third frame."""
    return encoded(exposed(frames[::3]))


def still(frames: Frames) -> Pairs:
    """A still shot: one frame repeated, with noise of 2 levels; there is no blur to remove."""
    rng = np.random.default_rng(0)
    picture = frames[len(frames) // 2]
    count = len(frames) - 2
    noised = [quantise(noisy(picture.astype(np.float32), rng, 2.0)) for _ in range(count)]
    return encoded((noised, [picture] * count))


def cut(frames: Frames) -> Pairs:
    """A cut in the middle: the second half of the clip is rotated by 180°."""
    half = len(frames) // 2
    first, second = exposed(frames[: half + 2]), exposed([np.ascontiguousarray(f[::-1, ::-1]) for f in frames[half:]])
    return encoded((first[0] + second[0], first[1] + second[1]))


def titled(frames: Frames) -> Pairs:
    """Static subtitles and a corner logo over moving footage."""
    return encoded(tuple([_title(f) for f in kind] for kind in exposed(frames)))  # type: ignore[arg-type]


def _title(frame: np.ndarray) -> np.ndarray:
    out = frame.copy()
    height, width = out.shape[:2]
    size = height / 480
    for i, line in enumerate(TITLE):
        (w, _), _ = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, size, 2)
        place = ((width - w) // 2, int(height - (len(TITLE) - i) * 36 * size))
        cv2.putText(out, line, place, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 5, cv2.LINE_AA)
        cv2.putText(out, line, place, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 2, cv2.LINE_AA)
    cv2.rectangle(out, (width - 90, 20), (width - 20, 60), (220, 30, 30), -1)
    cv2.putText(out, "LIVE", (width - 84, 50), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2, cv2.LINE_AA)
    return out


def page(frames: Frames) -> Pairs:
    """A printed page filmed by a hand-held camera; only the length of the footage is used."""
    paper = np.full((1400, 1400, 3), 244, np.uint8)
    for i in range(60):
        shift = i * 7 % len(PAGE)
        cv2.putText(
            paper, PAGE[shift:] + PAGE[:shift], (20, 30 + i * 23), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (30, 30, 34), 1,
            cv2.LINE_AA,
        )  # fmt: skip
    ranges = CameraRanges(
        size_px=480, frames=len(frames) - 2, speed_px=(7, 7), foreground_share=0.0, noise_levels=(0.0, 0.0)
    )
    shot = render([paper], np.random.default_rng(3), ranges, duty=DUTY)
    return encoded((list(shot.blurred), list(shot.sharp)))


VARIANTS: dict[str, Callable[[Frames], Pairs]] = {
    "plain": plain,
    "compressed-28": compressed(28.0),
    "compressed-36": compressed(36.0),
    "noisy": with_noise,
    "dark": dark,
    "rolling-shutter": rolling,
    "tiny-motion": tiny_motion,
    "huge-motion": huge_motion,
    "still": still,
    "cut": cut,
    "titles": titled,
    "page": page,
}


def write(folder: Path, frames: Sequence[np.ndarray]) -> None:
    writer = FrameFolderWriter(folder)
    for i, frame in enumerate(frames):
        writer.write(i, frame)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sharp", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=18, help="number of frames, from the middle of each clip")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    for source in args.sharp:
        with open_video(source) as reader:
            frames = list(upright_frames(reader, None))
        first = max(0, (len(frames) - args.frames * 3) // 2)  # "huge-motion" needs three times as many frames
        for name in args.only:
            taken = frames[first : first + (args.frames * 3 if name == "huge-motion" else args.frames)]
            blurred, sharp = VARIANTS[name](taken)
            clip = args.out / f"{name}-{source.stem}"
            write(clip / "blur", blurred)
            write(clip / "sharp", sharp)
            mean = np.mean([psnr(b, s) for b, s in zip(blurred, sharp, strict=True)])
            print(f"{clip.name}: {len(sharp)} frames, {mean:.2f} dB", flush=True)


if __name__ == "__main__":
    main()
