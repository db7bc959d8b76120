"""Benchmark: time of priors, network and encoding, measured apart and synchronised."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from unsmear.priors import DEFAULT_CHUNK_FRAMES, chunk_priors
from unsmear.restore.report import peak_memory_mb
from unsmear.restore.restorer import Clip, Restorer
from unsmear.restore.sharpness import DutyTracker
from unsmear.video import SegmentWriter, VideoInfo, choose_encoding
from unsmear.video.colour import luma_of_rgb


@dataclass(frozen=True)
class Timing:
    """Seconds a frame at one size; the network's share includes its look-ahead."""

    model: str
    device: str
    dtype: str
    width: int
    height: int
    frames: int
    priors_s: float
    network_s: float
    encode_s: float
    total_s: float
    frames_per_second: float
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


def _timed(action: Callable[[], Any]) -> tuple[float, Any]:
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronise()
    began = time.perf_counter()
    result = action()
    synchronise()
    return time.perf_counter() - began, result


def measure(restorer: Restorer, width: int, height: int, chunk_frames: int = DEFAULT_CHUNK_FRAMES) -> Timing:
    """Time one chunk after a short warm-up."""
    clip = panning_clip(width, height, chunk_frames + restorer.frames_after)
    lumas = [luma_of_rgb(f) for f in clip]
    tile_px = restorer.default_tile_px(height, width, len(clip))
    chunk_priors(lumas[:3], before=None, after=None)
    priors_s, priors = _timed(lambda: chunk_priors(lumas, before=None, after=None))
    duty_s, duty = _timed(lambda: DutyTracker().update(lumas[:chunk_frames], priors[:chunk_frames]))
    restorer.restore(Clip(clip[:2], priors[:2], duty), None, tile_px)
    wanted = Clip(clip, priors, duty, chunk_frames)
    network_s, (restored, _) = _timed(lambda: restorer.restore(wanted, None, tile_px))
    encode_s, _ = _timed(lambda: _encode(restored))
    priors_each = (priors_s + duty_s) / len(clip)
    network_each, encode_each = network_s / chunk_frames, encode_s / chunk_frames
    total = priors_each + network_each + encode_each
    return Timing(
        model=restorer.name,
        device=restorer.device,
        dtype=restorer.dtype,
        width=width,
        height=height,
        frames=chunk_frames,
        priors_s=round(priors_each, 4),
        network_s=round(network_each, 4),
        encode_s=round(encode_each, 4),
        total_s=round(total, 4),
        frames_per_second=round(1 / total, 3),
        peak_memory_mb=round(peak_memory_mb(restorer.device), 1),
    )


def _encode(frames: np.ndarray) -> None:
    height, width = frames.shape[1:3]
    info = VideoInfo(
        Path("benchmark.mp4"),
        "video",
        width,
        height,
        "yuv420p",
        8,
        "h264",
        time_base=Fraction(1, 25),
        frame_rate=Fraction(25),
    )
    with tempfile.TemporaryDirectory() as folder:
        encoding = choose_encoding(info, container_suffix=".mp4")
        with SegmentWriter(Path(folder) / "segment.nut", info, encoding, width, height) as writer:
            for t, frame in enumerate(frames):
                writer.write(frame, t)
