"""Small real clips for tests: textured content that moves a few pixels a frame, through real encoders."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np

from unsmear.video.ffmpeg import kept_scheduling, silence_encoder_libraries

QUIET = {"libx265": {"x265-params": "log-level=none"}}


def texture(size: tuple[int, int], seed: int = 0, *, smooth_px: float = 1.5) -> np.ndarray:
    """A colourful ``(H, W, 3)`` uint8 texture of ``size`` (width, height), blurred by ``smooth_px``."""
    width, height = size
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), smooth_px) + 2 * cv2.GaussianBlur(noise, (0, 0), 4 * smooth_px)
    return cv2.normalize(soft, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)


def moving_frames(
    size: tuple[int, int] = (96, 64),
    frames: int = 12,
    *,
    step_px: tuple[int, int] = (3, 1),
    seed: int = 0,
    smooth_px: float = 1.5,
) -> list[np.ndarray]:
    """``frames`` RGB uint8 frames in which a texture moves by ``step_px`` (right, down) a frame."""
    (width, height), (dx, dy) = size, step_px
    run_x, run_y = abs(dx) * frames, abs(dy) * frames
    big = texture((width + run_x, height + run_y), seed, smooth_px=smooth_px)
    x0, y0 = (run_x if dx > 0 else 0), (run_y if dy > 0 else 0)
    return [
        np.ascontiguousarray(
            big[y0 - dy * i : y0 - dy * i + height, x0 - dx * i : x0 - dx * i + width],
        )
        for i in range(frames)
    ]


def interlaced_frames(
    size: tuple[int, int] = (96, 64), frames: int = 12, *, top_first: bool = True, step_px: tuple[int, int] = (3, 1)
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """``frames`` interlaced frames, and progressive ones from the moments of their first fields.

    Each field is half of a picture of its own, of a texture that moves by ``step_px`` (right, down) a field.
    """
    pictures = moving_frames(size, 2 * frames, step_px=step_px)
    woven = []
    for first, second in zip(pictures[::2], pictures[1::2], strict=True):
        frame = first.copy()
        frame[top_first::2] = second[top_first::2]
        woven.append(frame)
    return woven, pictures[::2]


def moving_lumas(
    velocity: tuple[float, float], frames: int, blur: float = 0.0, size: tuple[int, int] = (240, 160)
) -> list[np.ndarray]:
    """Gray frames of detail at several scales that moves by ``velocity`` (right, down) a frame, parts of pixels too.

    Each is averaged over ``blur`` of a frame's time.
    """
    width, height = size
    rng = np.random.default_rng(0)
    source = np.zeros((3 * height, 3 * width), np.float32)
    for sigma in (1.2, 3.0, 8.0):
        layer = cv2.GaussianBlur(rng.standard_normal(source.shape).astype(np.float32), (0, 0), sigma)
        source += layer / layer.std()
    source = 127.0 + 28.0 * source
    out = []
    for t in range(frames):
        taps = np.linspace(-0.5, 0.5, 9) * blur if blur else [0.0]
        frame = np.zeros((height, width), np.float32)
        for tap in taps:
            shift = np.float32([[1, 0, (t + tap) * velocity[0] - width], [0, 1, (t + tap) * velocity[1] - height]])
            frame += cv2.warpAffine(source, shift, (width, height), flags=cv2.INTER_CUBIC)
        out.append(np.clip(np.rint(frame / len(taps)), 0, 255).astype(np.uint8))
    return out


def vfr_times(frames: int, rate: int, time_base: Fraction) -> list[int]:
    """Uneven but increasing times in ``time_base`` units, near ``rate`` frames/s on average."""
    step = 1 / (rate * time_base)
    return [int(i * step) + int(step * (0.0, 0.37, 0.11, 0.61)[i % 4]) for i in range(frames)]


def make_clip(
    path: Path | str,
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (96, 64),
    frames: int = 12,
    rate: int = 25,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    time_base: Fraction | None = None,
    start: int = 0,
    vfr: bool = False,
    audio: str | None = None,
    subtitles: str | None = None,
    rotation: int = 0,
    sample_aspect_ratio: Fraction | None = None,
    colour: tuple[int, int, int, int] | None = None,
    metadata: dict[str, str] | None = None,
    chapters: Sequence[tuple[float, float, str]] = (),
    content: Sequence[np.ndarray] | None = None,
    fields: Literal["tff", "bff"] | None = None,
    alpha: Sequence[np.ndarray] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode a small clip and return its path; the suffix chooses the container.

    ``options`` go to the encoder. ``time_base`` is the video's (default 1/12800 s for VFR, else 1/rate) and
    ``start`` the first pts in it. ``audio`` names an audio encoder (a sine tone as long as the video),
    ``subtitles`` a subtitle codec (two lines; "subrip" or "mov_text"). ``colour`` is (primaries, transfer,
    matrix, range) in H.273 numbers. ``chapters`` are (start s, end s, title). ``content`` replaces the moving
    texture by RGB frames, uint8 or uint16, and ``alpha``, (H, W) of the same type, goes with it. ``fields`` marks
    frames as interlaced, with the top or the bottom field first.
    """
    path = Path(path)
    silence_encoder_libraries()  # they listen before they first start
    pictures = list(content) if content is not None else moving_frames(size, frames)
    height, width = pictures[0].shape[:2]
    base = time_base or (Fraction(1, 12800) if vfr else Fraction(1, rate))
    step = 1 / (rate * base)
    times = vfr_times(len(pictures), rate, base) if vfr else [round(i * step) for i in range(len(pictures))]
    seconds = len(pictures) / rate
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=rate, options=QUIET.get(codec, {}) | (options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = base
        stream.time_base = base
        if sample_aspect_ratio is not None:
            stream.sample_aspect_ratio = sample_aspect_ratio
        if colour is not None:
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = colour
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream(audio, rate=48000) if audio else None
        lines = _subtitle_packets(container, subtitles, seconds) if subtitles else []
        if chapters:
            container.set_chapters(
                [
                    {
                        "id": number + 1,
                        "start": round(begin * 1000),
                        "end": round(end * 1000),
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": title},
                    }
                    for number, (begin, end, title) in enumerate(chapters)
                ]
            )
        matrix, full = (colour[2], colour[3]) if colour else (None, None)
        if fields:
            stream.codec_context.field_order = 4 if fields == "tff" else 5
        for i, (picture, pts) in enumerate(zip(pictures, times, strict=True)):
            form = "rgb24" if picture.dtype == np.uint8 else "rgb48le"
            if alpha is not None:
                picture, form = np.dstack([picture, alpha[i]]), form.replace("rgb24", "rgba").replace("rgb48", "rgba64")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=form)
            frame = frame.reformat(
                format=pix_fmt,
                dst_colorspace=5 if matrix == 6 else matrix,
                dst_color_range=full,
                interpolation="LANCZOS",
            )
            if fields:
                frame = _marked(frame, fields)
            frame.pts, frame.time_base = start + pts, base
            with kept_scheduling():
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _add_tone(container, sound, seconds)
        container.mux(lines)
    return path


def _marked(frame: Any, fields: str) -> Any:
    graph = av.filter.Graph()
    begin = graph.add_buffer(template=frame, time_base=Fraction(1, 25))
    graph.link_nodes(begin, graph.add("setfield", fields), graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()


def hide_first(source: Path, path: Path, frames: int) -> Path:
    """Copy a video so that an edit list hides its first ``frames`` frames, as editors cut without a new encode."""
    with av.open(str(source)) as given, av.open(str(path), "w") as made:
        copies = [made.add_stream_from_template(stream) for stream in given.streams]
        hidden_s = frames / given.streams.video[0].average_rate
        for packet in given.demux():
            if packet.size:
                earlier = round(hidden_s / packet.time_base)
                packet.pts, packet.dts = packet.pts - earlier, packet.dts - earlier
                packet.stream = copies[packet.stream.index]
                made.mux(packet)
    return path


def packets_of(path: Path | str, kind: str = "video", number: int = 0) -> list[tuple[Fraction, bytes]]:
    """(presentation time in seconds, bytes) of every packet of one stream, in file order."""
    with av.open(str(path)) as container:
        stream = [stream for stream in container.streams if stream.type == kind][number]
        return [
            ((packet.pts or 0) * packet.time_base, bytes(packet)) for packet in container.demux(stream) if packet.size
        ]


def frame_times(path: Path | str) -> list[Fraction]:
    """Exact presentation times of the decoded frames of the first video stream, in seconds."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def _add_tone(container: Any, stream: Any, seconds: float) -> None:
    layout, form = stream.layout.name, stream.format.name
    samples = stream.frame_size or 1024
    channels = len(stream.layout.channels)
    for begin in range(0, int(48000 * seconds), samples):
        wave = 0.2 * np.sin(2 * np.pi * 440 * np.arange(begin, begin + samples) / 48000)
        if form.startswith("flt"):
            wave = wave.astype(np.float32)
        else:
            wave = (wave * 32767).astype(np.int16)
            if form.startswith("u8"):
                wave = ((wave >> 8) + 128).astype(np.uint8)
            if form.startswith("s32"):
                wave = wave.astype(np.int32) << 16
        array = np.tile(wave, (channels, 1)) if form.endswith("p") else np.repeat(wave, channels)[None]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(array), format=form, layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = 48000, begin, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _subtitle_packets(container: Any, codec: str, seconds: float) -> list[Any]:
    stream = container.add_mux_stream(codec)
    stream.time_base = Fraction(1, 1000)
    stream.metadata["language"] = "eng"
    packets = []
    for number, text in enumerate((b"first line", b"second line")):
        data = len(text).to_bytes(2, "big") + text if codec == "mov_text" else text
        packet = av.Packet(data)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = round(1000 * seconds * number / 2)
        packet.duration = round(400 * seconds)
        packets.append(packet)
    return packets


def make_yuv(
    path: Path | str, frames: Sequence[np.ndarray], *, pix_fmt: str = "yuv420p", cut_bytes: int = 0
) -> tuple[Path, list[tuple[np.ndarray, ...]]]:
    """Write RGB frames as a raw ``.yuv`` file (BT.601, limited range); return its path and the planes written.

    ``cut_bytes`` are left away at its end, as if copying had been stopped.
    """
    path = Path(path)
    written, data = [], b""
    for rgb in frames:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(format=pix_fmt)
        planes = []
        for plane in frame.planes:
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            width = plane.width * (2 if frame.format.components[0].bits > 8 else 1)
            planes.append(np.ascontiguousarray(rows[:, :width]))
        written.append(tuple(planes))
        data += b"".join(plane.tobytes() for plane in planes)
    path.write_bytes(data[: len(data) - cut_bytes])
    return path, written


LAYOUTS_PUBLISHED = ("GoPro, DVD", "BSD", "flat")
"""Layouts of the arrays of CPGD-Net's authors."""


def write_published(
    folder: Path, clip: str, t: int, motion: np.ndarray, residual: np.ndarray, layout: str = "GoPro, DVD"
) -> None:
    """Motion and residual of frame ``t + 1`` of a clip, as CPGD-Net's authors publish them."""
    digits = 8 if layout == "BSD" else 5
    for kind, array in (("MVs", motion), ("resi", residual)):
        places = {"flat": folder / kind, "BSD": folder / clip / "Blur" / kind, "GoPro, DVD": folder / kind / clip}
        places[layout].mkdir(parents=True, exist_ok=True)
        np.save(places[layout] / f"{clip}_{t:0{digits}d}_{t + 1:0{digits}d}.npy", array)
