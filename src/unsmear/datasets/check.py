"""Checks of a data set: partners, counts, sizes, damaged files, and whether priors match their frames."""

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from unsmear.datasets.layouts import DataClip, find_clips
from unsmear.datasets.pairs import name_problem
from unsmear.datasets.published import DVD_TEST, GOPRO_TEST, is_gopro_name, published_split
from unsmear.datasets.restored import refuse_restored
from unsmear.errors import UnsmearError
from unsmear.options import counted
from unsmear.priors.archive import PriorArchive
from unsmear.processes import in_processes
from unsmear.video import RawFormat, VideoInfo, open_video
from unsmear.video.images import list_images


@dataclass(frozen=True)
class ClipCheck:
    """Result of the check of one clip: its size, whether it has a sharp partner and priors, and problems.

    ``sequence``, ``split``, ``role`` and ``layout`` are those of its :class:`~unsmear.datasets.layouts.DataClip`.
    """

    name: str
    frames: int
    width: int
    height: int
    paired: bool
    augmented: bool
    problems: tuple[str, ...]
    sequence: str = ""
    split: str | None = None
    role: str = ""
    layout: str = ""


def check(
    dataset: Path,
    *,
    workers: int = 1,
    on_clip: Callable[[ClipCheck], None] | None = None,
    split: str | None = None,
    clip_list: Path | None = None,
    raw: RawFormat | None = None,
) -> list[ClipCheck]:
    """Read every file of a data set.

    Args:
        dataset: its top folder; see :mod:`unsmear.datasets.layouts`.
        workers: number of worker processes, one clip each.
        on_clip: called with each result, in the order of the clips.
        split, clip_list, raw: as for :func:`unsmear.datasets.layouts.find_clips`.

    Raises:
        DataLayoutError: there are no clips; it is a restored copy.
    """
    refuse_restored(dataset)
    clips, results = find_clips(dataset, split=split, clip_list=clip_list, raw=raw), []
    any_paired = any(clip.sharp is not None for clip in clips)
    jobs = [(clip, any_paired) for clip in clips]
    with closing(in_processes(_check_clip, jobs, workers)) as found:
        for result in found:
            results.append(result)
            if on_clip is not None:
                on_clip(result)
    return results


def describe(found: Sequence[ClipCheck]) -> list[str]:
    """Summary of a set in lines: layouts, counts of each part, and differences from the published set, if known."""
    layouts = Counter(clip.layout for clip in found)
    lines = [f"layout: {', '.join(name for name, _ in layouts.most_common())}"]
    parts = sorted({(clip.split or "", clip.role) for clip in found})
    for split, role in parts:
        clips = [clip for clip in found if (clip.split or "", clip.role) == (split, role)]
        words = " ".join(word for word in (split, role) if word) or "all"
        lines.append(f"{words}: {counted(len(clips), 'clip')}, {counted(sum(clip.frames for clip in clips), 'frame')}")
        difference = _difference(clips, split)
        if difference:
            lines.append(f"{words}: {difference}")
    return lines


def _difference(clips: Sequence[ClipCheck], split: str) -> str | None:
    """Differences of one part of a set from the published set that it resembles; None where there are none."""
    known = published_split(_family(clips) or "", split)
    if known is None:
        return None
    frames, names = sum(clip.frames for clip in clips), {clip.sequence for clip in clips}
    raw_frames = not any(clip.paired or clip.role for clip in clips)  # GOPRO_Large_all: many frames per pair
    if len(clips) == known.clips and (raw_frames or frames == known.frames) and (names >= set(known.names)):
        return None
    words = f"differs from the published {known.family} {split}, {known.clips} clips and {known.frames} frames"
    missing = [name for name in known.names if name not in names]
    if missing:
        return f"{words}: {', '.join(missing)} missing"
    short = [
        f"{clip.sequence} has {clip.frames} frames instead of {GOPRO_TEST[clip.sequence]}"
        for clip in clips
        if not raw_frames and clip.frames != GOPRO_TEST.get(clip.sequence, clip.frames)
    ]
    return f"{words}: {', '.join(short)}" if short else words


def _family(clips: Sequence[ClipCheck]) -> str | None:
    if any(clip.layout == "unsmear data" for clip in clips):
        return None
    if sum(is_gopro_name(clip.sequence) for clip in clips) * 2 > len(clips):
        return "GoPro"
    by_layout = any(clip.layout == "DVD" or (clip.layout == "PVDNet" and clip.role == "input") for clip in clips)
    return "DVD" if by_layout or sum(clip.sequence in DVD_TEST for clip in clips) * 2 > len(clips) else None


def _check_clip(job: tuple[DataClip, bool]) -> ClipCheck:
    clip, any_paired = job
    problems: list[str] = []
    checksums: list[int] = []
    info: VideoInfo | None = None
    if any_paired and clip.lacks_partner:
        where = " or ".join(str(path) for path in clip.sought)
        problems.append(f"{clip.source}: has no sharp partner; expected {where}")
    elif any_paired and clip.role and clip.sharp is None:
        problems.append(
            f"{clip.source}: has no blurred partner, which other clips of the set have; complete or remove it"
        )
    try:
        with open_video(clip.source, clip.raw) as reader:
            info = reader.info
            checksums.extend(zlib.crc32(frame.luma.tobytes()) for frame in reader)
    except UnsmearError as error:
        problems.append(str(error))
    if clip.listed_frames not in (None, len(checksums)) and not problems:
        problems.append(f"{clip.source}: has {len(checksums)} frames where the list states {clip.listed_frames}")
    if clip.sharp is not None and info is not None and not problems:
        problems += _partner_problems(clip, len(checksums), info)
    width, height = (info.width, info.height) if info else (0, 0)
    if clip.archive.exists() and not problems:
        problems += _archive_problems(clip, checksums, width, height)
    return ClipCheck(
        clip.name,
        len(checksums),
        width,
        height,
        clip.sharp is not None,
        clip.archive.exists(),
        tuple(problems),
        clip.sequence,
        clip.split,
        clip.role,
        clip.layout,
    )


def _partner_problems(clip: DataClip, frames: int, blurred: VideoInfo) -> list[str]:
    assert clip.sharp is not None
    problems = []
    if clip.source.is_dir() and clip.sharp.is_dir():
        names, partners = ([path.stem for path in list_images(folder)] for folder in (clip.source, clip.sharp))
        problem = name_problem(clip.source, clip.sharp, names, partners)
        if problem:
            problems.append(problem)
    try:
        with open_video(clip.sharp, clip.raw) as reader:
            info, count = reader.info, sum(1 for _ in reader)
        if (info.width, info.height) != (blurred.width, blurred.height):
            problems.append(
                f"{clip.sharp}: is {info.width}x{info.height} where the blurred frames are "
                f"{blurred.width}x{blurred.height}"
            )
        if (info.bit_depth > 8) != (blurred.bit_depth > 8):
            problems.append(
                f"{clip.sharp}: has {info.bit_depth} bits where the blurred frames have {blurred.bit_depth}"
            )
        if count != frames and not problems:
            problems.append(f"{clip.sharp}: has {count} frames where {clip.source} has {frames}")
    except UnsmearError as error:
        problems.append(str(error))
    return problems


_AGAIN = "make it again with `unsmear data augment`"


def _archive_problems(clip: DataClip, checksums: list[int], width: int, height: int) -> list[str]:
    """Read every record of an archive, and compare checksums of frames."""
    try:
        with PriorArchive(clip.archive) as archive:
            if (archive.width, archive.height, len(archive)) != (width, height, len(checksums)):
                size = f"{len(archive)} frames of {archive.width}x{archive.height}"
                clip_size = f"{len(checksums)} of {width}x{height}"
                return [f"{clip.archive}: holds {size} where the clip has {clip_size}; {_AGAIN}"]
            for t, (_, checksum) in enumerate(zip(archive, checksums, strict=True)):
                if archive.luma_crc32[t] != checksum:
                    return [f"{clip.archive}: frame {t} is not the clip's; {_AGAIN}"]
    except UnsmearError as error:
        return [str(error)]
    return []
