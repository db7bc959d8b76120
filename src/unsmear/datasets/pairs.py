"""Readers of blurred and sharp frame pairs of a data set, and of stored priors."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

import numpy as np

from unsmear.datasets.layouts import DataClip, find_clips
from unsmear.errors import DataLayoutError, UnsmearError
from unsmear.options import check
from unsmear.priors.archive import PriorArchive, open_archive
from unsmear.video import VideoInfo, VideoReader, eight_bit, open_video, upright, upright_size
from unsmear.video.images import list_images


class FramePair(NamedTuple):
    """A blurred and a sharp frame, ``(H, W, 3)`` RGB, both uint8 or both uint16 (full range).

    ``name`` is the name of the image without suffix, or the six-digit frame number for videos.
    """

    name: str
    blurred: np.ndarray
    sharp: np.ndarray


class Piece(NamedTuple):
    """Some frames of a clip, blurred and sharp, (T, H, W, 3) uint8 RGB."""

    name: str
    """Name of the clip."""
    blurred: np.ndarray
    sharp: np.ndarray


class PairReader:
    """Reader of the pairs of a clip, upright, one at a time; memory does not depend on the length.

    Every iteration starts at the first frame. Use it as a context manager, or call ``close``.

    Attributes:
        clip: the clip.
        width, height: size of the upright frames, pixels.
        deep: whether frames are uint16.
        frames: number of pairs; None for videos that do not state it.
    """

    def __init__(self, clip: DataClip) -> None:
        """See :func:`open_pairs`."""
        self.clip = clip
        sharp = _partner(clip)
        self._names = _common_names(clip.source, sharp)
        self._blurred = _opened(clip, clip.source)
        try:
            self._sharp = _opened(clip, sharp)
        except BaseException:
            self._blurred.close()
            raise
        try:
            self._compare(self._blurred.info, self._sharp.info)
            self.frames = self._count()
        except BaseException:
            self.close()
            raise

    def _compare(self, blurred: VideoInfo, sharp: VideoInfo) -> None:
        self.width, self.height = upright_size(blurred)
        self.deep = blurred.bit_depth > 8
        if upright_size(sharp) != (self.width, self.height):
            raise DataLayoutError(
                f"{sharp.path}: is {upright_size(sharp)[0]}x{upright_size(sharp)[1]} where the blurred frames in "
                f"{blurred.path} are {self.width}x{self.height}; give the partner of the same size"
            )
        if (sharp.bit_depth > 8) != self.deep:
            raise DataLayoutError(
                f"{sharp.path}: has {sharp.bit_depth} bits where the blurred frames in {blurred.path} have "
                f"{blurred.bit_depth}; convert one of them"
            )

    def _count(self) -> int | None:
        """Frames of each side, as far as they are known. Raises DataLayoutError: partners of another length."""
        listed = self.clip.listed_frames
        counts = [reader.info.frames for reader in (self._blurred, self._sharp)]
        if len({count for count in (*counts, listed) if count}) > 1:
            counts = [frames_shown(reader) for reader in (self._blurred, self._sharp)]
        blurred, sharp = counts
        if blurred and sharp and blurred != sharp:
            raise DataLayoutError(
                f"{self._sharp.info.path}: has {sharp} frames where {self._blurred.info.path} has {blurred}; "
                "give the partner of the same length"
            )
        count = blurred or sharp
        if listed is not None and count is not None and count != listed:
            raise DataLayoutError(
                f"{self.clip.source}: has {count} frames where the list states {listed}; "
                "complete the clip or correct the list"
            )
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close both files, which ends iterations in progress."""
        self._blurred.close()
        self._sharp.close()

    def __iter__(self) -> Iterator[FramePair]:
        """Iterate over pairs in order. Raises DataLayoutError where a file is damaged or lengths differ."""
        blurred, sharp = (self._side(side, slice(None)) for side in (self._blurred, self._sharp))
        count = 0
        while True:
            b, s = next(blurred, None), next(sharp, None)
            if b is None or s is None:
                break
            yield FramePair(self._names[count] if self._names else f"{count:06d}", b, s)
            count += 1
        if (b is None) != (s is None):
            short, long = (self._blurred, self._sharp) if b is None else (self._sharp, self._blurred)
            raise DataLayoutError(
                f"{short.info.path}: ends after {count} frames where {long.info.path} goes on; "
                "give the partner of the same length"
            )
        listed = self.clip.listed_frames
        if listed is not None and count != listed:
            raise DataLayoutError(
                f"{self.clip.source}: has {count} frames where the list states {listed}; "
                "complete the clip or correct the list"
            )

    def piece(self, span: slice) -> Piece:
        """Read the frames of a span, 16-bit ones rounded to 8 bits; fewer where the clip ends within the span.

        Raises:
            DataLayoutError: a file is damaged.
        """
        blurred, sharp = (list(map(eight_bit, self._side(side, span))) for side in (self._blurred, self._sharp))
        return Piece(self.clip.sequence or self.clip.name, np.stack(blurred), np.stack(sharp))

    def __len__(self) -> int:
        """Number of pairs; a video that does not state it is read completely."""
        return self.frames or sum(1 for _ in self)

    @staticmethod
    def _side(reader: VideoReader, span: slice) -> Iterator[np.ndarray]:
        try:
            for frame in reader.frames(span.start or 0, span.stop):
                yield upright(frame.rgb, reader.info)
        except DataLayoutError:
            raise
        except UnsmearError as error:
            raise DataLayoutError(str(error)) from error


def find_pairs(
    dataset: Path, *, split: str | None = None, clip_list: Path | None = None, role: str | None = None
) -> list[DataClip]:
    """Find the clips of a data set that have a sharp partner, or whose role requires one; see ``find_clips``.

    Raises:
        DataLayoutError: there is none.
    """
    found = find_clips(dataset, split=split, clip_list=clip_list, role=role)
    pairs = [clip for clip in found if clip.sharp is not None or clip.lacks_partner]
    if not pairs:
        raise DataLayoutError(f"{dataset}: no clip has a sharp partner; `unsmear data check {dataset}` lists its clips")
    return pairs


@dataclass(frozen=True)
class PairSet:
    """A data set of blurred and sharp clips, or a part of it."""

    dataset: str
    """Top folder."""
    split: Literal["train", "valid", "test", "all"] | None = None
    """``train``, ``valid``, ``test`` or ``all``; None: depending on the use."""
    role: str | None = None
    """Only clips in folders of this name, such as blur_gamma."""
    clip_list: str | None = None
    """Only the clips of a list file."""

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def of(cls, given: "str | PairSet") -> "PairSet":
        """A data set given by its folder alone, or as it is."""
        return cls(given) if isinstance(given, str) else given

    def __str__(self) -> str:
        return "-".join(filter(None, (Path(self.dataset).resolve().name, self.split, self.role)))

    def clips(self, split: str | None = None) -> list[DataClip]:
        """Clips of its own split, else of ``split``. Raises DataLayoutError: as ``find_pairs``."""
        wanted = self.split or split
        listed = None if self.clip_list is None else Path(self.clip_list)
        chosen = None if wanted == "all" else wanted
        return find_pairs(Path(self.dataset), split=chosen, clip_list=listed, role=self.role)

    def held_out(self) -> list[DataClip]:
        """Clips for validation: of its own split, else of ``valid``, else of ``test``, else all.

        Raises:
            DataLayoutError: as ``find_pairs``.
        """
        clips = self.clips()
        if self.split is not None or self.clip_list is not None:
            return clips
        return next((part for name in ("valid", "test") if (part := [c for c in clips if c.split == name])), clips)


def open_pairs(clip: DataClip) -> PairReader:
    """Open a clip, from :func:`unsmear.datasets.layouts.find_clips`, and its sharp partner.

    Raises:
        DataLayoutError: it has no partner; the two differ in size, depth, length or names of frames; one of them
            is damaged. Errors in later frames are raised during iteration.
    """
    return PairReader(clip)


def read_pieces(clips: Iterable[DataClip], spans: Callable[[int], Iterable[slice]]) -> Iterator[Piece]:
    """Read pieces of every pair of clips, in their order.

    Args:
        clips: clips with partners.
        spans: number of frames of a clip → spans of frames to read, one piece each.

    Raises:
        DataLayoutError: as ``open_pairs``.
    """
    for clip in clips:
        with open_pairs(clip) as pairs:
            for span in spans(len(pairs)):
                yield pairs.piece(span)


def open_priors(clip: DataClip) -> PriorArchive | None:
    """Open the priors of a clip, stored by ``unsmear data augment``. The caller must close the archive.

    Returns:
        The archive, whose frame t belongs to frame t of the clip; None where there is none.

    Raises:
        DataLayoutError: it is damaged, or its number or size of frames differs from the clip's. Contents of frames
            are compared only by ``unsmear data check``.
    """
    if not clip.archive.exists():
        return None
    with _opened(clip, clip.source) as reader:
        info = reader.info
        with PriorArchive(clip.archive) as archive:
            if info.frames not in (None, len(archive)):
                info = replace(info, frames=frames_shown(reader))
        return open_archive(clip.archive, info)


def _partner(clip: DataClip) -> Path:
    if clip.sharp is not None:
        return clip.sharp
    if not clip.sought:
        raise DataLayoutError(
            f"{clip.source}: has no sharp partner, and its folders do not say where one would be; "
            "lay pairs out as NAME/blur and NAME/sharp"
        )
    raise DataLayoutError(
        f"{clip.source}: has no sharp partner; expected {' or '.join(str(path) for path in clip.sought)}"
    )


def _common_names(blurred: Path, sharp: Path) -> list[str]:
    """Names of the images, which both folders share, in order; empty for videos."""
    if not (blurred.is_dir() and sharp.is_dir()):
        return []
    names, partners = ([path.stem for path in list_images(folder)] for folder in (blurred, sharp))
    problem = name_problem(blurred, sharp, names, partners)
    if problem:
        raise DataLayoutError(problem)
    return names


def name_problem(blurred: Path, sharp: Path, names: list[str], partners: list[str]) -> str | None:
    """Describe in one line the first difference between the image names of two folders; None where they are equal."""
    for folder, own in ((blurred, names), (sharp, partners)):
        twice = next((name for name in own if own.count(name) > 1), None) if len(set(own)) < len(own) else None
        if twice:
            return f"{folder}: holds two images named {twice}; remove one of them"
    unmatched = sorted(set(names) ^ set(partners))
    if not unmatched:
        return None
    if not set(names) & set(partners):
        return (
            f"{sharp}: its images are named {partners[0]} and on, those of {blurred} {names[0]} and on; "
            "partners have the same names"
        )
    where = sharp if unmatched[0] in set(names) else blurred
    return (
        f"{sharp}: has {len(partners)} frames where {blurred} has {len(names)}; {unmatched[0]} is missing in {where}, "
        "copy it there"
    )


def frames_shown(reader: VideoReader) -> int | None:
    """How many frames a reader gives; of a damaged video None. A container may state more: edit lists hide some."""
    if reader.info.kind != "video":
        return reader.info.frames
    try:
        return sum(1 for _ in reader)
    except UnsmearError:
        return None


def _opened(clip: DataClip, path: Path) -> VideoReader:
    try:
        return open_video(path, clip.raw)
    except UnsmearError as error:
        raise DataLayoutError(str(error)) from error
