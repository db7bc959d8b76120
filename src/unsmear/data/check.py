"""Whether a data set is whole: partners, counts, sizes, damaged files, and priors that belong to their frames."""

import multiprocessing
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2

from unsmear.data.layouts import DataClip, find_clips
from unsmear.errors import UnsmearError
from unsmear.priors.archive import PriorArchive
from unsmear.video import open_video
from unsmear.video.images import list_images


@dataclass(frozen=True)
class ClipCheck:
    """What was found out about one clip: its size, whether it has a sharp partner and priors, and what is wrong."""

    name: str
    frames: int
    width: int
    height: int
    paired: bool
    augmented: bool
    problems: tuple[str, ...]


def check(dataset: Path, *, workers: int = 1, on_clip: Callable[[ClipCheck], None] | None = None) -> list[ClipCheck]:
    """Read every file of a data set.

    Args:
        dataset: its top folder; see :mod:`unsmear.data.layouts`.
        workers: clips read at the same time, in processes of their own.
        on_clip: called with each result, in the order of the clips.

    Raises:
        DataLayoutError: no clips.
    """
    clips, results = find_clips(dataset), []
    if workers > 1 and len(clips) > 1:
        context = multiprocessing.get_context("spawn")  # FFmpeg's and OpenCV's threads do not survive a fork
        with ProcessPoolExecutor(min(workers, len(clips)), context, cv2.setNumThreads, (1,)) as pool:
            found = pool.map(_check_clip, clips)
            for result in found:
                results.append(result)
                if on_clip is not None:
                    on_clip(result)
        return results
    for clip in clips:
        results.append(_check_clip(clip))
        if on_clip is not None:
            on_clip(results[-1])
    return results


def _check_clip(clip: DataClip) -> ClipCheck:
    problems: list[str] = []
    checksums: list[int] = []
    width = height = 0
    try:
        with open_video(clip.source) as reader:
            width, height = reader.info.width, reader.info.height
            checksums.extend(zlib.crc32(frame.luma.tobytes()) for frame in reader)
    except UnsmearError as error:
        problems.append(str(error))
    if clip.sharp is not None and not problems:
        problems += _partner_problems(clip, len(checksums), width, height)
    if clip.archive.exists() and not problems:
        problems += _archive_problems(clip, checksums, width, height)
    return ClipCheck(
        clip.name, len(checksums), width, height, clip.sharp is not None, clip.archive.exists(), tuple(problems)
    )


def _partner_problems(clip: DataClip, frames: int, width: int, height: int) -> list[str]:
    assert clip.sharp is not None
    problems = []
    if clip.frames:
        blurred, sharp = ([path.stem for path in list_images(folder)] for folder in (clip.source, clip.sharp))
        lone = sorted(set(blurred) ^ set(sharp))
        if lone:
            where = clip.sharp if lone[0] in blurred else clip.source
            problems.append(
                f"{clip.sharp}: has {len(sharp)} frames where {clip.source} has {len(blurred)}; "
                f"{lone[0]} is missing in {where}"
            )
    try:
        with open_video(clip.sharp) as reader:
            info, count = reader.info, sum(1 for _ in reader)
        if (info.width, info.height) != (width, height):
            problems.append(
                f"{clip.sharp}: is {info.width}x{info.height} where the blurred frames are {width}x{height}"
            )
        if count != frames and not problems:
            problems.append(f"{clip.sharp}: has {count} frames where {clip.source} has {frames}")
    except UnsmearError as error:
        problems.append(str(error))
    return problems


def _archive_problems(clip: DataClip, checksums: list[int], width: int, height: int) -> list[str]:
    """Every record is read, and its frame compared by checksum."""
    try:
        with PriorArchive(clip.archive) as archive:
            if (archive.width, archive.height, len(archive)) != (width, height, len(checksums)):
                size = f"{len(archive)} frames of {archive.width}x{archive.height}"
                clip_size = f"{len(checksums)} of {width}x{height}"
                return [f"{clip.archive}: holds {size} where the clip has {clip_size}; make it again with --overwrite"]
            for t, (_, checksum) in enumerate(zip(archive, checksums, strict=True)):
                if archive.luma_crc32[t] != checksum:
                    return [f"{clip.archive}: frame {t} is not the clip's; make it again with --overwrite"]
    except UnsmearError as error:
        return [str(error)]
    return []
