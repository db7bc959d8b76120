"""Score a model on pairs made by `unsmear data blur`: PSNR before and after, clip by clip, and what sharp input loses.

    unsmear data blur SHARP/* -o PAIRS --duty 0.4 1 --seed 0 --crf 18
    python tools/validate.py PAIRS --model cpfp -o OUT

Frames go through the same path as `unsmear deblur`, are rounded to 8 bits, and PSNR (RGB) is averaged over frames,
then over clips.
"""

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np

import unsmear
from unsmear.metrics import psnr
from unsmear.models import zoo
from unsmear.restore.job import Options, restore_video
from unsmear.video import open_video


def score(before: Path, after: Path, truth: Path) -> tuple[float, float]:
    """Mean PSNR over frames of ``before`` and of ``after`` against ``truth``."""
    with open_video(before) as b, open_video(after) as a, open_video(truth) as t:
        rows = [(psnr(x.rgb, z.rgb), psnr(y.rgb, z.rgb)) for x, y, z in zip(b, a, t, strict=True)]
    return tuple(np.mean(rows, 0))


def picture(clip: Path, restored: Path, out: Path) -> None:
    """Blurred | restored | sharp of the middle frame, the most blurred 320×240 part of it."""
    names = sorted(p.name for p in restored.glob("*.png"))
    name = names[len(names) // 2]
    blurred, after, sharp = (cv2.imread(str(d / name)) for d in (clip / "blur", restored, clip / "sharp"))
    h, w = (min(a, b) for a, b in zip(sharp.shape[:2], (240, 320), strict=True))
    error = cv2.boxFilter(((blurred.astype(np.float32) - sharp) ** 2).mean(2), -1, (w, h))
    inner = error[h // 2 : error.shape[0] - h // 2 or None, w // 2 : error.shape[1] - w // 2 or None]
    y, x = np.unravel_index(int(inner.argmax()), inner.shape)
    cv2.imwrite(str(out), np.hstack([i[y : y + h, x : x + w] for i in (blurred, after, sharp)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--model", default="cpfp")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--clips", nargs="*", help="only these")
    parser.add_argument("--no-sharp", action="store_true", help="skip restoring the sharp clips themselves")
    given = parser.parse_args()
    restorer = unsmear.load(given.model, dtype=given.dtype)
    rows = []
    for clip in sorted(p for p in given.pairs.iterdir() if (p / "blur").is_dir()):
        if given.clips and clip.name not in given.clips:
            continue
        folder = given.output / clip.name
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        report = restore_video(clip / "blur", folder / "restored", restorer, Options(overwrite=True))
        seconds = (time.monotonic() - began) / report.frames
        before, after = score(clip / "blur", folder / "restored", clip / "sharp")
        picture(clip, folder / "restored", folder / "crop.png")
        row = {"clip": clip.name, "frames": report.frames, "duty": report.duty, "before": before, "after": after}
        row |= {"gain": after - before, "seconds_a_frame": seconds, "note": report.note}
        if not given.no_sharp:
            restore_video(clip / "sharp", folder / "sharp", restorer, Options(overwrite=True))
            row["sharp"] = score(clip / "sharp", clip / "sharp", folder / "sharp")[0]
        rows.append({k: round(float(v), 3) if isinstance(v, float) else v for k, v in row.items()})
        print(rows[-1], flush=True)
    mean = {k: round(float(np.mean([r[k] for r in rows])), 3) for k in ("before", "after", "gain")}
    result = {"model": given.model, "sha256": zoo.find(given.model).checksum(), "clips": rows, "mean": mean}
    (given.output / "validation.json").write_text(json.dumps(result, indent=2))
    print(as_table(rows, mean))


def as_table(rows: list[dict], mean: dict[str, float]) -> str:
    """Markdown."""
    lines = ["| clip | frames | input dB | output dB | gain dB | sharp in, out dB |", "|---|---|---|---|---|---|"]
    for r in rows:
        sharp = f"{r['sharp']:.1f}" if "sharp" in r else ""
        lines.append(
            f"| {r['clip']} | {r['frames']} | {r['before']:.2f} | {r['after']:.2f} | {r['gain']:+.2f} | {sharp} |"
        )
    lines.append(f"| **mean** | | {mean['before']:.2f} | {mean['after']:.2f} | **{mean['gain']:+.2f}** | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
