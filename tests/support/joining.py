"""A video through segments and a join, with the frames as they are."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from unsmear.video import Frame, JoinReport, SegmentWriter, choose_encoding, join_segments, open_video


def write_segments(source: Path, folder: Path, suffix: str, length: int = 5, **choice: object) -> list[Path]:
    """The frames of ``source``, ``length`` a segment, encoded for files whose names end in ``suffix``."""
    with open_video(source) as reader:
        info = reader.info
        encoding = choose_encoding(info, container_suffix=suffix, **choice)
        paths: list[Path] = []
        frames: list[Frame] = list(reader)
        for begin in range(0, len(frames), length):
            paths.append(folder / f"{begin:06d}.segment")
            with SegmentWriter(paths[-1], info, encoding, info.width, info.height) as writer:
                for frame in frames[begin : begin + length]:
                    writer.write(frame.rgb, frame.pts, frame.duration)
    return paths


def rewrite(source: Path, suffix: str | None = None, length: int = 5, **choice: object) -> tuple[Path, JoinReport]:
    """``source`` written anew beside it, into a container by ``suffix``."""
    output = source.with_name(f"{source.stem}.out{suffix or source.suffix}")
    folder = source.with_name(f"{source.stem}.segments")
    folder.mkdir(exist_ok=True)
    segments = write_segments(source, folder, output.suffix, length, **choice)
    with open_video(source) as reader:
        list(reader)
        return output, join_segments(source, segments, output, restarts=reader.restarts)


def tone_of(path: Path) -> tuple[float, float, float]:
    """Where a tone begins and ends in the sound of a file, seconds after its first frame, and its frequency in Hz."""
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
        picture_s = float(first.pts * first.time_base) if first.pts is not None else 0.0
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].codec_context.sample_rate
        pieces, begin_s = [], None
        for frame in container.decode(audio=0):
            if begin_s is None:
                begin_s = float(frame.pts * frame.time_base) if frame.pts is not None else 0.0
            array = frame.to_ndarray().astype(np.float64)
            channels = len(frame.layout.channels)
            pieces.append(array[0] if frame.format.is_planar else array.reshape(-1, channels)[:, 0])
    samples = np.concatenate(pieces)
    samples -= np.median(samples)
    loud = np.flatnonzero(np.abs(samples) > 0.3 * np.abs(samples).max())
    heard = samples[loud[0] : loud[-1] + 1]
    crossings = int((np.diff(np.signbit(heard)) != 0).sum())
    assert begin_s is not None
    offset_s = begin_s - picture_s
    return offset_s + loud[0] / rate, offset_s + loud[-1] / rate, crossings * rate / 2 / heard.size
