"""Measure the coding priors and write the tables to docs/priors.md.

    python tools/measure_priors.py                       # all tables
    python tools/measure_priors.py accuracy residual     # some tables
    python tools/measure_priors.py speed --clip A.mp4    # on another video
    python tools/measure_priors.py --write               # write the tables to docs/priors.md

Real pictures are taken from the clip of `make demo`. Speed is measured in one process; run it without other load.
"""

import argparse
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from demo import real_clip
from unsmear.priors import Prior, PriorSettings, PriorStream, chunk_priors, stream
from unsmear.priors.archive import PriorArchive
from unsmear.priors.cuts import CUT_COVERAGE, CUT_RESIDUAL
from unsmear.priors.extract import extract
from unsmear.priors.flow import DisFlow
from unsmear.priors.follow import residual_of
from unsmear.priors.grid import fill_holes, grid_from_vectors
from unsmear.priors.steps import encode_steps
from unsmear.video import Frame, open_video

DOCS = Path(__file__).resolve().parents[1] / "docs" / "priors.md"
FRAMES, DUTY = 5, 0.6
MARGIN = (104, 160)
"""Rows and columns of a synthetic clip's source picture that are outside the frame."""
NATIVE = "bframes=0:ref=1:weightp=0:scenecut=0"
CUT_SEEDS = (7, 8)
SPEED_SIZE, SPEED_FRAMES = (1280, 720), 72

Table = list[list[str]]


# Synthetic clips of known motion.


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return random texture of several scales around mid-grey, float32 (height, width), in 8-bit levels."""
    rng = np.random.default_rng(seed)
    layers = (cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), s) for s in (1.2, 3, 8))
    return (127 + 28 * sum(layer / layer.std() for layer in layers)).astype(np.float32)


def affine(dx: float, dy: float, degrees: float, zoom: float) -> np.ndarray:
    """Return a 3×3 affine matrix for points relative to the picture's centre."""
    c, s = zoom * np.cos(np.radians(degrees)), zoom * np.sin(np.radians(degrees))
    return np.array([[c, -s, dx], [s, c, dy], [0, 0, 1]])


def photograph(clip: Path | None) -> np.ndarray:
    """Return the luma of frame 40 of the real clip, float32 (H, W)."""
    *_, luma = real_lumas(clip, 41)
    return luma.astype(np.float32)


def film(
    source: np.ndarray, dx: float = 0, dy: float = 0, degrees: float = 0, zoom: float = 1
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return uint8 luma frames with an exposure of DUTY, and each cell's true motion to the previous frame, (2, h, w).

    ``dx``, ``dy`` (pixels), ``degrees`` and ``zoom`` are the motion of ``source``, float32 (H, W), per frame.
    """
    height, width = ((side - margin) // 8 * 8 for side, margin in zip(source.shape, MARGIN, strict=True))
    to_centre = np.array([[1, 0, -source.shape[1] / 2], [0, 1, -source.shape[0] / 2], [0, 0, 1]])
    from_centre = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]])

    def at(s: float) -> np.ndarray:
        whole = from_centre @ affine(dx * s, dy * s, degrees * s, zoom**s) @ to_centre
        flags = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REFLECT}
        return cv2.warpAffine(source, whole[:2], (width, height), **flags)

    frames = [
        np.clip(np.rint(np.mean([at(t + DUTY * s) for s in np.linspace(-0.5, 0.5, 13)], axis=0)), 0, 255).astype(
            np.uint8
        )
        for t in range(FRAMES)
    ]
    rows, columns = height // 8, width // 8
    y, x = np.mgrid[:rows, :columns] * 8 + 3.5
    here = np.stack([x - width / 2, y - height / 2, np.ones_like(x)])
    past = np.einsum("ij,jyx->iyx", np.linalg.inv(affine(dx, dy, degrees, zoom)), here)
    return frames, (past - here)[:2]


MOTIONS: dict[str, dict[str, float]] = {
    "1 px": {"dx": 0.8, "dy": 0.6},
    "3.5 px": {"dx": 2.8, "dy": 2.1},
    "7 px": {"dx": -5.6, "dy": 4.2},
    "12 px": {"dx": 9.6, "dy": -7.2},
    "20 px": {"dx": 16, "dy": 12},
    "rotation 1.5°": {"degrees": 1.5},
    "zoom 3 %": {"zoom": 1.03},
}


def accuracy(clip: Path | None) -> Table:
    """Median end-point error in pixels, cell by cell, on clips of known motion blurred over 0.6 of the frame step."""
    flows: dict[str, Callable[[np.ndarray, np.ndarray, Any], np.ndarray]] = {
        "DIS fast": cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc,
        "DIS medium": cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc,
        "Farnebäck": farneback,
    }
    codecs = ["H.264 fast, raw", "H.264 fast", "H.264 best", "HEVC fast", "HEVC best"]
    rows = [["motion a frame", "of a", *codecs, *flows]]
    for picture, source in (("texture", texture(460, 800)), ("photograph", photograph(clip))):
        for name, step in MOTIONS.items():
            frames, truth = film(source, **step)
            fast, *others = (
                chunk_priors(frames, before=None, after=None, settings=PriorSettings(profile=profile, codec=codec))[1:]
                for codec in ("h264", "hevc")
                for profile in ("fast", "best")
            )
            estimates = [[p.motion(0) for p in fast], *([p.motion() for p in priors] for priors in (fast, *others))]
            for flow in flows.values():
                estimates.append([cell_means(flow(now, past, None)) for past, now in pairwise(frames)])
            rows.append([name, picture, *(f"{median_error(fields, truth):.2f}" for fields in estimates)])
    return rows


def cell_means(flow: np.ndarray) -> np.ndarray:
    """Average a flow (H, W, 2) over cells of 8×8 pixels: (2, H // 8, W // 8)."""
    rows, columns = flow.shape[0] // 8, flow.shape[1] // 8
    return np.moveaxis(flow[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8, 2).mean((1, 3)), -1, 0)


def median_error(fields: list[np.ndarray], truth: np.ndarray) -> float:
    """Return the median end-point error over cells and frames, pixels."""
    _, rows, columns = truth.shape
    return float(np.median([np.hypot(*(field[:, :rows, :columns] - truth)) for field in fields]))


def farneback(now: np.ndarray, past: np.ndarray, _: Any) -> np.ndarray:
    """Return Farnebäck's optical flow from ``now`` to ``past``, (H, W, 2)."""
    return cv2.calcOpticalFlowFarneback(now, past, None, 0.5, 3, 15, 3, 5, 1.2, 0)


# The residual.


def zero_share(priors: list[Prior]) -> str:
    """Return the share of inter blocks with a residual of zero everywhere."""
    predicted = [p for p in priors if not p.reset]
    rows, columns = predicted[0].height // 8, predicted[0].width // 8
    blocks = [p.residual[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8).max((1, 3)) for p in predicted]
    inter = np.concatenate([b[p.valid[:rows, :columns]] for b, p in zip(blocks, predicted, strict=True)])
    return f"{100 * (inter == 0).mean():.1f} %"


def describe(name: str, priors: list[Prior]) -> list[str]:
    """Return the row of a residual's statistics."""
    values = np.concatenate([p.residual.ravel() for p in priors if not p.reset])
    high = (f"{np.percentile(values, q):.0f}" for q in (95, 99))
    return [name, zero_share(priors), f"{100 * (values == 0).mean():.0f} %", f"{values.mean():.2f}", *high]


def residual(clip: Path | None) -> Table:
    """Statistics of the residual on the real clip, in luma levels."""
    rows = [["priors", "inter blocks without any", "pixels without any", "mean", "95 %", "99 %"]]
    lumas = list(real_lumas(clip, 30))
    for words, codec in (("", "h264"), (" by HEVC", "hevc")):
        for qp in (51, 36, 24):
            how = PriorSettings(qp=qp, codec=codec)
            rows.append(
                describe(f"re-encoded{words} at qp {qp}", chunk_priors(lumas, before=None, after=None, settings=how))
            )
    with tempfile.TemporaryDirectory() as folder:
        for label, extra in (("without deblocking", ":no-deblock=1"), ("with deblocking", "")):
            for qp in (51, 24):
                path = encode(lumas, Path(folder) / f"{qp}{label[:5]}.mp4", f"{NATIVE}:qp={qp}{extra}")
                rows.append(describe(f"native, coded at qp {qp} {label}", native(path)[1]))
    return rows


# Prediction of frames by motion vectors.


def warp_psnr(frames: list[np.ndarray], fields: list[np.ndarray]) -> str:
    """Return the mean PSNR, dB, of frames predicted from the previous one by motion fields (2, H, W), pixels."""
    values = []
    for (past, now), motion in zip(pairwise(frames), fields, strict=True):
        y, x = np.mgrid[: now.shape[0], : now.shape[1]].astype(np.float32)
        warped = cv2.remap(past, x + motion[0], y + motion[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        values.append(cv2.PSNR(now, warped))
    return f"{np.mean(values):.1f}"


def prediction(clip: Path | None) -> Table:
    """PSNR of the real clip's frames predicted from the previous frame, which block matching optimises by design."""
    lumas = list(real_lumas(clip, 40))
    height, width = lumas[0].shape
    still = [np.zeros((2, height, width), np.float32)] * (len(lumas) - 1)
    rows = [["motion", "PSNR, dB"], ["none", warp_psnr(lumas, still)]]
    ordinary, p_frames = ordinary_vectors(lumas)
    rows.append(["past vectors of an ordinary stream, taken as if they pointed to t-1", warp_psnr(lumas, ordinary)])
    rows.append(["past vectors of its P-frames alone, none elsewhere", warp_psnr(lumas, p_frames)])
    priors = chunk_priors(lumas, before=None, after=None)
    rows.append(["re-encoded", warp_psnr(lumas, [p.dense_motion(0, nearest=True) for p in priors[1:]])])
    rows.append(["re-encoded, smoothed as networks see it", warp_psnr(lumas, [p.dense_motion() for p in priors[1:]])])
    priors = chunk_priors(lumas, before=None, after=None, settings=PriorSettings(codec="hevc"))
    rows.append(["re-encoded by HEVC", warp_psnr(lumas, [p.dense_motion(0, nearest=True) for p in priors[1:]])])
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    fields = [np.moveaxis(flow.calc(now, past, None), -1, 0) for past, now in pairwise(lumas)]
    return [*rows, ["DIS medium", warp_psnr(lumas, fields)]]


def ordinary_vectors(lumas: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return past vectors, (2, H, W) per frame, of an x264 stream with B-frames: of all and of P-frames only."""
    height, width = lumas[0].shape
    all_frames, only_p = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = encode(lumas, Path(folder) / "ordinary.mp4", "bframes=3:ref=4", preset="medium")
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.flags2 |= av.codec.context.Flags2.export_mvs
            for frame in container.decode(stream):
                data = frame.side_data.get("MOTION_VECTORS")
                grid = fill_holes(*grid_from_vectors(None if data is None else data.to_ndarray(), height, width))
                dense = np.repeat(np.repeat(np.moveaxis(grid, -1, 0) / np.float32(4), 8, 1), 8, 2)[:, :height, :width]
                all_frames.append(dense.astype(np.float32))
                is_p = frame.pict_type == av.video.frame.PictureType.P
                only_p.append(all_frames[-1] if is_p else np.zeros_like(all_frames[-1]))
    return all_frames[1:], only_p[1:]


# Cuts.


def cuts(_: Path | None) -> Table:
    """Detected and false cuts in labelled reels (tests/support/cuts.py), of seeds not used to choose thresholds."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from support.cuts import calm_and_wild, with_cuts

    detectors: dict[str, Callable[[list[np.ndarray]], set[int]]] = {
        "unsmear": lambda frames: {t for t, (_, p) in enumerate(stream(frames)) if p.reset and t},
        "coverage below 0.5 or residual above 12": by_codec_alone,
    } | scene_detectors()
    tally = dict.fromkeys(detectors, (0, 0))
    hard = calm = 0
    for seed in CUT_SEEDS:
        for reel in (*calm_and_wild(seed), *with_cuts(seed)):
            hard, calm = hard + len(reel.cuts), calm + len(reel.frames) - len(reel.cuts)
            for name, detect in detectors.items():
                detected = detect(reel.frames)
                tally[name] = (tally[name][0] + len(detected & reel.cuts), tally[name][1] + len(detected - reel.cuts))
    rows = [["a cut is told by", f"of {hard} cuts found", f"false in {calm} frames", "false in 1,000"]]
    rows += [
        [n, f"{100 * hits / hard:.1f} %", str(false), f"{1000 * false / calm:.1f}"]
        for n, (hits, false) in tally.items()
    ]
    return rows


def by_codec_alone(frames: list[np.ndarray]) -> set[int]:
    """Return the frames that coverage and residual of the codec alone mark as cuts."""
    detected = set()
    for t, step in enumerate(encode_steps(frames), 1):
        residual = residual_of(step, fill_holes(step.grid, step.valid), *frames[t].shape)
        if step.valid.mean() < CUT_COVERAGE or residual.mean() > CUT_RESIDUAL:
            detected.add(t)
    return detected


def scene_detectors() -> dict[str, Callable[[list[np.ndarray]], set[int]]]:
    """Return PySceneDetect's detectors with default thresholds, on luma only; empty if it is not installed."""
    try:
        import scenedetect  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return {}

    def run(kind: str) -> Callable[[list[np.ndarray]], set[int]]:
        def detect(frames: list[np.ndarray]) -> set[int]:
            detector = getattr(scenedetect, kind)(min_scene_len=1, luma_only=True)
            detected: list[Any] = []
            for t, frame in enumerate(frames):
                stamp = scenedetect.FrameTimecode(t, 25.0)
                detected += detector.process_frame(stamp, cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
            detected += detector.post_process(scenedetect.FrameTimecode(len(frames) - 1, 25.0))
            return {cut.frame_num for cut in detected}

        return detect

    kinds = ("ContentDetector", "AdaptiveDetector")
    return {f"PySceneDetect {scenedetect.__version__}, {kind}": run(kind) for kind in kinds}


# Speed, cost and size.


def speed(clip: Path | None) -> Table:
    """Speed of each method alone on decoded frames; the native methods decode the file once more."""
    lumas = [cv2.resize(luma, SPEED_SIZE, interpolation=cv2.INTER_CUBIC) for luma in real_lumas(clip, SPEED_FRAMES)]
    width, height = SPEED_SIZE
    rows = [[f"method, {width}×{height}", "ms a frame", "frames/s"]]

    def add(name: str, seconds: float, count: int) -> None:
        rows.append([name, f"{1000 * seconds / count:.1f}", f"{count / seconds:.1f}"])

    def timed(run: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    for words, codec in (("re-encode", "h264"), ("re-encode by HEVC", "hevc")):
        for profile in ("fast", "best"):
            how = PriorSettings(profile=profile, codec=codec)
            run = timed(lambda h=how: list(stream(lumas, h)))  # type: ignore[misc]
            add(f"{words}, {profile}: motion both ways and residual", run, len(lumas))
    with tempfile.TemporaryDirectory() as folder:
        path = encode(lumas, Path(folder) / "native.mp4", f"{NATIVE}:crf=20")
        frames = decoded(path)
        add(
            "native: motion from the stream, back by re-encode, residual",
            timed(lambda: native(path, frames)),
            len(frames),
        )
        add("native: motion from the stream and residual", timed(lambda: native(path, frames, back=False)), len(frames))
    pairs = list(pairwise(lumas[:13]))
    for name, preset in (
        ("DIS fast", cv2.DISOPTICAL_FLOW_PRESET_FAST),
        ("DIS medium", cv2.DISOPTICAL_FLOW_PRESET_MEDIUM),
    ):
        flow = cv2.DISOpticalFlow.create(preset)
        add(f"{name}: motion one way", timed(lambda f=flow: [f.calc(b, a, None) for a, b in pairs]), len(pairs))  # type: ignore[misc]
    add("Farnebäck: motion one way", timed(lambda: [farneback(b, a, None) for a, b in pairs]), len(pairs))
    return rows


def operations(_: Path | None) -> Table:
    """Arithmetic operations for one motion field of a 720p frame."""
    rows = [["source", "10⁹ operations"], ["mv, none", "0"]]
    rows += [[f"dis ({p}), estimated", f"{DisFlow(p).flops(720, 1280) / 1e9:.1f}"] for p in ("fast", "medium")]
    try:
        from torchvision.models.optical_flow import raft_large
    except (ImportError, RuntimeError):
        return [*rows, ["raft-4, raft-20", "torchvision is not installed"]]
    from unsmear.models.raft import RaftFlow

    model = raft_large(weights=None)
    return [*rows, *([f"raft-{n}", f"{RaftFlow(model, n).flops(720, 1280) / 1e9:.0f}"] for n in (4, 20))]


def size(clip: Path | None) -> Table:
    """Size and reading time of the archive of the real clip."""
    clip = clip or demo_clip()
    rows = [["archive of", "kB a frame", "frames", "ms to read a frame"]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.priors.npz"
        done = extract(clip, path, PriorSettings(mode="reencode"))
        begin = time.perf_counter()
        with PriorArchive(path) as archive:
            count = sum(1 for _ in archive)
        each = 1000 * (time.perf_counter() - begin) / count
        name = f"{clip.name}, {done.width}×{done.height}"
        return [*rows, [name, f"{path.stat().st_size / 1000 / count:.1f}", str(count), f"{each:.1f}"]]


# Clips.


def demo_clip() -> Path:
    """Return the real clip of the demo; exit with a message if there is none."""
    clip = real_clip()
    if clip is None:
        sys.exit("measure_priors: the demo clip is not available; give --clip FILE")
    return clip


def real_lumas(clip: Path | None, count: int) -> Iterator[np.ndarray]:
    """Yield the luma planes, uint8 (H, W), of the first ``count`` frames."""
    with open_video(clip or demo_clip()) as reader:
        yield from (frame.luma for frame in reader.frames(0, count))


def encode(lumas: list[np.ndarray], path: Path, params: str, preset: str = "veryfast") -> Path:
    """Encode luma planes as greyscale H.264 with the given x264 parameters; return ``path``."""
    height, width = lumas[0].shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": preset, "x264-params": params})
        stream.width, stream.height, stream.pix_fmt = width, height, "gray"
        for luma in lumas:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(luma, format="gray")))
        container.mux(stream.encode(None))
    return path


def decoded(path: Path) -> list[np.ndarray]:
    with open_video(path) as reader:
        return [frame.luma for frame in reader]


def native(path: Path, lumas: list[np.ndarray] | None = None, *, back: bool = True) -> tuple[PriorStream, list[Prior]]:
    """Return the stream of native priors and its priors; without ``back``, backward motion is not computed."""
    frames = decoded(path) if lumas is None else lumas
    if not back:
        timed_frames = [Frame(t, None, t / 25, luma, luma) for t, luma in enumerate(frames)]
        priors = stream(timed_frames, PriorSettings(mode="native", motion_back="none"), path=path)
    else:
        priors = stream(frames, PriorSettings(mode="native"), path=path)
    return priors, [prior for _, prior in priors]


SECTIONS: dict[str, Callable[[Path | None], Table]] = {
    "accuracy": accuracy,
    "residual": residual,
    "prediction": prediction,
    "cuts": cuts,
    "speed": speed,
    "operations": operations,
    "size": size,
}


def markdown(rows: Table) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the coding priors.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"some of {', '.join(SECTIONS)}; default all")
    parser.add_argument("--clip", type=Path, help="a real video to use instead of the demo's")
    parser.add_argument("--write", action="store_true", help="write the tables to docs/priors.md")
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown section {min(unknown)}; choose from {', '.join(SECTIONS)}")
    for name in arguments.sections or SECTIONS:
        table = markdown(SECTIONS[name](arguments.clip))
        if name == "speed":
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            table += f"\n\n{cores} cores, {platform.machine()}, OpenCV {cv2.__version__}, PyAV {av.__version__}."
        print(f"\n## {name}\n\n{SECTIONS[name].__doc__}\n\n{table}")
        if arguments.write:
            page = DOCS.read_text()
            pattern = rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)"
            updated, count = re.subn(pattern, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", page, flags=re.DOTALL)  # type: ignore[misc]
            if count != 1:
                sys.exit(f"measure_priors: {DOCS} has no place for the table {name}")
            DOCS.write_text(updated)


if __name__ == "__main__":
    main()
