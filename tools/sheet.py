"""Contact sheet of a model's results on footage without ground truth: crops before and after, side by side.

    python tools/sheet.py CLIP... -o sheet.png [--model cpfp]

Of every video, folder of frames or picture, the middle frame is restored with its neighbours; the crop with the most
detail and change is selected automatically.
"""

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np

from unsmear import Restorer, deblur, load
from unsmear.blur.pairset import upright_frames
from unsmear.video import FrameFolderWriter, find_inputs, open_video

AROUND = 8
"""Neighbouring frames on each side of the middle frame."""
PIECE = (176, 264)
"""Height and width of a crop, pixels; enlarged by ``ZOOM``."""
ZOOM, GAP, LABEL = 1.5, 6, 22


def busiest(before: np.ndarray, after: np.ndarray) -> tuple[slice, slice]:
    """Return rows and columns of the crop with the highest product of mean gradient and 1 + mean change."""
    gray = cv2.cvtColor(before, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = np.abs(cv2.Sobel(gray, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(gray, cv2.CV_32F, 0, 1))
    change = np.abs(after.astype(np.float32) - before).mean(-1)
    height, width = min(PIECE[0], before.shape[0]), min(PIECE[1], before.shape[1])
    score = cv2.boxFilter(detail, -1, (width, height)) * (1 + cv2.boxFilter(change, -1, (width, height)))
    top, left = height // 2, width // 2
    inner = score[top : score.shape[0] - height + top + 1, left : score.shape[1] - width + left + 1]
    y, x = np.unravel_index(int(inner.argmax()), inner.shape)
    return slice(y, y + height), slice(x, x + width)


def pair(source: Path, restorer: Restorer) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle frame before and after restoration, uint8 (H, W, 3)."""
    with open_video(source) as reader:
        frames = list(upright_frames(reader, None))
    middle = len(frames) // 2
    first = max(0, middle - AROUND)
    taken = frames[first : middle + AROUND + 1]
    with tempfile.TemporaryDirectory() as folder:
        writer = FrameFolderWriter(Path(folder) / "in")
        for i, frame in enumerate(taken):
            writer.write(i, frame)
        clip = Path(folder) / "in" if len(taken) > 1 else writer.path(0)
        deblur(clip, f"{folder}/out/", model=restorer)
        with open_video(Path(folder) / "out") as reader:
            restored = list(upright_frames(reader, None))
    return taken[middle - first], restored[middle - first]


def row(name: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the labelled pair of crops, before | after, uint8 (h, w, 3)."""
    crop = busiest(before, after)
    pieces = [cv2.resize(x[crop], None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC) for x in (before, after)]
    height, width = pieces[0].shape[:2]
    out = np.full((height + LABEL, 2 * width + GAP, 3), 255, np.uint8)
    out[LABEL:, :width], out[LABEL:, width + GAP :] = pieces
    cv2.putText(out, name, (2, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True, help="PNG or JPEG")
    parser.add_argument("--model", default="cpfp")
    parser.add_argument("--columns", type=int, default=2)
    args = parser.parse_args()
    restorer = load(args.model)
    sources = [path for clip in args.clips for path in find_inputs(clip)]
    rows = [row(path.stem, *pair(path, restorer)) for path in sources]
    height, width = (max(r.shape[k] for r in rows) for k in (0, 1))
    rows = [
        np.pad(r, ((0, height - r.shape[0] + GAP), (0, width - r.shape[1] + GAP), (0, 0)), constant_values=255)
        for r in rows
    ]
    while len(rows) % args.columns:
        rows.append(np.full_like(rows[0], 255))
    lines = [np.hstack(rows[i : i + args.columns]) for i in range(0, len(rows), args.columns)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 88] if args.out.suffix.lower() in (".jpg", ".jpeg") else []
    cv2.imwrite(str(args.out), np.vstack(lines)[..., ::-1], quality)


if __name__ == "__main__":
    main()
