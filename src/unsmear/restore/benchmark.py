"""Benchmark: time of every stage of a restoration, measured apart and synchronised."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from unsmear.models.cpfp.full_size import AnyDevice, OnCPU
from unsmear.priors import DEFAULT_CHUNK_FRAMES, chunk_priors
from unsmear.restore.report import peak_memory_mb
from unsmear.restore.restorer import Clip, Restorer
from unsmear.restore.sharpness import DutyTracker, restrained
from unsmear.video import SegmentWriter, VideoInfo, choose_encoding, open_video
from unsmear.video.colour import luma_of_rgb

STAGES = ("decode", "priors", "deconvolution", "network", "blend", "encode")
"""``network`` is what the restorer does besides deconvolving, with the frames it looks ahead to; ``blend`` holds sharp
shots to their input."""


@dataclass(frozen=True)
class Timing:
    """Median over rounds of each stage's seconds a frame, at one size."""

    model: str
    device: str
    dtype: str
    threads: int
    instructions: str
    """Vector instructions that torch uses on this CPU."""
    width: int
    height: int
    frames: int
    rounds: int
    seconds: dict[str, float]
    """By stage, a frame."""
    total_s: float
    frames_per_second: float
    gflop: float
    """Of convolutions and matrix products that torch computes, a frame; 0 with another engine."""
    peak_share: float | None
    """Rate of the network stage over that of its most frequent convolution alone; None where it has none."""
    peak_memory_mb: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def panning_clip(width: int, height: int, frames: int, seed: int = 0) -> np.ndarray:
    """A synthetic clip (T, H, W, 3) uint8: texture that pans by 6 pixels a frame."""
    rng = np.random.default_rng(seed)
    wide = np.zeros((height, width + 6 * frames, 3), np.float32)
    for cell in (4, 16, 64):
        coarse = rng.normal(size=(height // cell + 2, wide.shape[1] // cell + 2, 3)).astype(np.float32)
        wide += cv2.resize(coarse, (wide.shape[1], height), interpolation=cv2.INTER_CUBIC) * 25
    blurred = np.clip(cv2.blur(wide + 128, (4, 1)), 0, 255).astype(np.uint8)
    return np.stack([blurred[:, 6 * t : 6 * t + width] for t in range(frames)])


def quiet_clip(width: int, height: int, frames: int, seed: int = 0) -> np.ndarray:
    """A synthetic clip (T, H, W, 3) uint8 of a still camera: noise, and an object on 1/50 of the frame that moves."""
    rng = np.random.default_rng(seed)
    clip = np.repeat(panning_clip(width, height, 1, seed), frames, 0)
    h, w = height // 7, width // 7
    clip[:, h : 2 * h, w : 2 * w] = panning_clip(w, h, frames, seed + 1)
    for frame in clip:
        noise = rng.normal(0, 1.5, frame.shape).astype(np.float32)
        np.copyto(frame, np.clip(np.rint(frame + noise), 0, 255), casting="unsafe")
    return clip


SCENES = {"pan": panning_clip, "quiet": quiet_clip}


def measure(
    restorer: Restorer,
    width: int,
    height: int,
    chunk_frames: int = DEFAULT_CHUNK_FRAMES,
    rounds: int = 3,
    scene: str = "pan",
) -> Timing:
    """Time one chunk ``rounds`` times, after one that is not counted.

    Args:
        restorer: the model.
        width, height: of the synthetic clip.
        chunk_frames: frames to restore.
        rounds: repetitions, whose median counts.
        scene: a name in ``SCENES``.
    """
    clip = SCENES[scene](width, height, chunk_frames + restorer.frames_after)
    tile_px = restorer.default_tile_px(height, width, len(clip))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.nut"
        _encode(clip, file)

        def once() -> dict[str, float]:
            spent = dict.fromkeys(STAGES, 0.0)
            with _stage(spent, "decode", len(clip)), open_video(file) as reader:
                frames = [frame.rgb for frame in reader]
            with _stage(spent, "priors", len(clip)):
                lumas = [luma_of_rgb(frame) for frame in frames]
                priors = chunk_priors(lumas, before=None, after=None)
                duty = DutyTracker().update(lumas[:chunk_frames], priors[:chunk_frames])
            with _stage(spent, "network", chunk_frames), _deconvolution_apart(spent, chunk_frames):
                restored, _ = restorer.restore(Clip(clip, priors, duty, chunk_frames), None, tile_px)
            with _stage(spent, "blend", chunk_frames):
                restored = restrained(clip[:chunk_frames], restored, 0.0)
            with _stage(spent, "encode", chunk_frames):
                _encode(restored, Path(folder) / "restored.nut")
            spent["network"] -= spent["deconvolution"]
            return spent

        convolutions: Counter[_Convolution] = Counter()
        with FlopCounterMode(display=False) as counter, _recorded(convolutions):
            once()
        runs = [once() for _ in range(rounds)]
    seconds = {stage: round(median(run[stage] for run in runs), 4) for stage in STAGES}
    total, gflop = sum(seconds.values()), counter.get_total_flops() / 1e9 / chunk_frames
    peak = _rate(*convolutions.most_common(1)[0][0]) if convolutions else None
    return Timing(
        model=restorer.name,
        device=restorer.device,
        dtype=restorer.dtype,
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        width=width,
        height=height,
        frames=chunk_frames,
        rounds=rounds,
        seconds=seconds,
        total_s=round(total, 4),
        frames_per_second=round(1 / total, 3),
        gflop=round(gflop, 2),
        peak_share=None if peak is None else round(gflop / seconds["network"] / peak, 3),
        peak_memory_mb=round(peak_memory_mb(restorer.device), 1),
    )


def markdown(timings: Sequence[Timing]) -> list[str]:
    """Lines of a Markdown table, a row for each timing; stages in milliseconds a frame."""
    head = ["model", "size", "device", "dtype", "threads", *(f"{stage} ms" for stage in STAGES)]
    head += ["total s", "frames/s", "GFLOP", "of peak", "peak MiB"]
    lines = [head, ["---"] * 5 + ["---:"] * (len(head) - 5)]
    for t in timings:
        device = f"cpu {t.instructions}" if t.device == "cpu" else t.device
        share = "" if t.peak_share is None else f"{t.peak_share:.0%}"
        row = [t.model, f"{t.width}×{t.height}", device, t.dtype, str(t.threads)]
        row += [f"{t.seconds[stage] * 1000:.0f}" for stage in STAGES]
        gflop = f"{t.gflop:.1f}" if t.gflop else ""
        row += [f"{t.total_s:.3f}", f"{t.frames_per_second:.2f}", gflop, share, f"{t.peak_memory_mb:.0f}"]
        lines.append(row)
    return [f"| {' | '.join(line)} |" for line in lines]


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def _stage(spent: dict[str, float], name: str, frames: int) -> Iterator[None]:
    """Add seconds a frame to ``spent``."""
    began = _now()
    yield
    spent[name] += (_now() - began) / frames


@contextmanager
def _deconvolution_apart(spent: dict[str, float], frames: int) -> Iterator[None]:
    """Time of the deconvolution, which is part of a network's ``restore``, as a stage of its own."""

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*arguments: Any) -> Any:
            with _stage(spent, "deconvolution", frames):
                return function(*arguments)

        return run

    with ExitStack() as stack:
        for kind in (AnyDevice, OnCPU):
            stack.enter_context(patch.object(kind, "_deconvolved", timed(kind._deconvolved)))
        yield


_Convolution = tuple[tuple[int, ...], tuple[int, ...], torch.dtype, torch.device]
"""Shapes of input and weight, type and device of a convolution that keeps the size."""


@contextmanager
def _recorded(found: Counter[_Convolution]) -> Iterator[None]:
    """Count the operations of each convolution that keeps the size."""
    original = F.conv2d

    def recorded(x: torch.Tensor, weight: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        out: torch.Tensor = original(x, weight, *arguments, **named)
        if out.shape[-2:] == x.shape[-2:] and weight.shape[1] == x.shape[1]:
            key = (tuple(x.shape), tuple(weight.shape), x.dtype, x.device)
            found[key] += out.numel() * weight[0].numel()
        return out

    with patch.object(F, "conv2d", recorded):
        yield


@torch.inference_mode()
def _rate(shape: tuple[int, ...], kernel: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of one convolution that is repeated with nothing in between."""
    x = torch.randn(shape, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(kernel, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(7):
        began = _now()
        F.conv2d(x, weight, padding=kernel[-1] // 2)
        times.append(_now() - began)
    operations = 2 * shape[0] * shape[-2] * shape[-1] * kernel[0] * int(np.prod(kernel[1:]))
    return operations / min(times) / 1e9


def _encode(frames: np.ndarray, path: Path) -> None:
    height, width = frames.shape[1:3]
    info = VideoInfo(
        path.with_suffix(".mp4"),
        "video",
        width,
        height,
        "yuv420p",
        8,
        "h264",
        time_base=Fraction(1, 25),
        frame_rate=Fraction(25),
    )
    encoding = choose_encoding(info, container_suffix=".mp4")
    with SegmentWriter(path, info, encoding, width, height) as writer:
        for t, frame in enumerate(frames):
            writer.write(frame, t)
