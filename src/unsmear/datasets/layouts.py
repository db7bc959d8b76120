"""Folder layouts of deblurring data sets: clips of blurred frames and their sharp partners.

A clip is a folder of images or a video. Its role follows from the names of the folders above it:

=============================  ====================================================================
GoPro as published             ``{train,test}/SEQ/{blur,blur_gamma,sharp}/000000.png``
GoPro's raw 240 fps frames     ``GOPRO_Large_all/{train,test}/SEQ/000000.png``, no partners
sorted by kind                 ``{train,test}/{blur,gt}/SEQ/…``, ``{blur,GT}``, ``{train,test}`` optional
sorted by kind, GoPro11        ``{test_GT_blurred,test_GT}/SEQ/…``, also ``train_…``
DVD as published               ``quantitative_datasets/SEQ/{input,GT}/00000.jpg``
PVDNet's copies                ``test_DVD/SEQ/{input,GT}/…``, ``test_nah/SEQ/{blur,sharp}/…``, also ``train_…``
BSD                            ``BSD_3ms24ms/{train,valid,test}/SEQ/{Blur,Sharp}/RGB/00000000.png``
``unsmear data blur``          ``NAME/{blur,sharp}/000000.png``
anything else                  every folder of images and every video is a clip without a partner
=============================  ====================================================================

A video, including raw ``.yuv``, may replace any folder of images.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from unsmear.datasets.published import DVD_TEST, is_gopro_name
from unsmear.errors import DataLayoutError
from unsmear.priors.archive import SUFFIX
from unsmear.video import RawFormat
from unsmear.video.images import is_image, natural_key
from unsmear.video.probe import VIDEO_SUFFIXES
from unsmear.video.raw import RAW_SUFFIX

Split = Literal["train", "valid", "test"]

# Names of folders of blurred frames → possible names of the folders of their sharp partners.
PARTNERS = {
    "blur": ("sharp", "gt", "GT", "sharp_gamma"),
    "blur_gamma": ("sharp", "gt", "GT"),
    "input": ("GT", "gt", "sharp", "target"),
    "Blur": ("Sharp",),
    "test_GT_blurred": ("test_GT",),
    "train_GT_blurred": ("train_GT",),
}
_SHARP = {name for names in PARTNERS.values() for name in names}
_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SPLIT_PREFIX = re.compile(r"(train|test)_(DVD|nah|GT|GT_blurred)")
_SENSOR = "RAW"  # BSD's folders of raw sensor values beside RGB, which are not read


@dataclass(frozen=True)
class DataClip:
    """One clip of a data set.

    Attributes:
        name: path relative to the data set.
        source: folder of images or video to which priors belong.
        sharp: sharp partner; None where there is none.
        archive: path of the archive of priors, beside ``source``, which may not exist.
        frames: number of images in the folder; 0 for videos.
        sequence: name of the clip in list files, such as GOPR0410_11_00.
        split: "train", "valid" or "test"; None where the layout does not state it.
        role: folder name that determines the role, such as "blur_gamma"; "" where there is none.
        layout: name of the layout.
        listed_frames: number of frames in a list file; None without one.
        sought: paths where a partner was searched, if the role requires one.
        raw: format of ``.yuv`` files; None: what their names state.
    """

    name: str
    source: Path
    sharp: Path | None
    archive: Path
    frames: int
    sequence: str = ""
    split: Split | None = None
    role: str = ""
    layout: str = ""
    listed_frames: int | None = None
    sought: tuple[Path, ...] = ()
    raw: RawFormat | None = None

    @property
    def lacks_partner(self) -> bool:
        """Whether the role requires a partner that does not exist."""
        return self.sharp is None and bool(self.sought)


def find_clips(
    dataset: Path,
    *,
    split: str | None = None,
    clip_list: Path | None = None,
    role: str | None = None,
    raw: RawFormat | None = None,
) -> list[DataClip]:
    """Find all clips of a data set, except sharp partners of others, in natural order.

    Args:
        dataset: its top folder.
        split: "train", "valid" or "test": only clips of this split, which follows from folder names, or from the
            published test list for DVD as published, whose folders state none.
        clip_list: list file of the clips to return, in its order; see :func:`read_clip_list`.
        role: only clips whose frames are in folders of this name, such as "blur_gamma".
        raw: format of ``.yuv`` files; None: what their names state.

    Raises:
        DataLayoutError: the folder is missing or holds no clip; no clip has this split or role; a listed clip is
            missing.
    """
    if not dataset.is_dir():
        raise DataLayoutError(f"{dataset}: no such folder; give the top folder of a data set")
    sources = _sources(dataset)
    clips = [clip for source in sources if (clip := _clip(dataset, source, sources, raw)) is not None]
    if not clips:
        if (dataset / "data.mdb").exists() or next(dataset.rglob("data.mdb"), None) is not None:
            raise DataLayoutError(f"{dataset}: holds an LMDB data base; unpack it into folders of images")
        raise DataLayoutError(f"{dataset}: holds no folder of images and no video; give the top folder of a data set")
    if split is not None:
        clips = _of_split(dataset, clips, split)
    if role is not None:
        roles = sorted({clip.role or "none" for clip in clips})
        clips = [clip for clip in clips if clip.role == role]
        if not clips:
            raise DataLayoutError(f"{dataset}: holds no clip in a folder {role!r}; there are {', '.join(roles)}")
    return clips if clip_list is None else _of_list(dataset, clips, clip_list)


def _of_split(dataset: Path, clips: list[DataClip], split: str) -> list[DataClip]:
    wanted = _SPLITS.get(split)
    if wanted is None:
        raise DataLayoutError(f"split {split!r}: expected train, valid or test")
    chosen = [clip for clip in clips if clip.split == wanted]
    if not chosen:
        known = sorted({clip.split for clip in clips if clip.split})
        have = f"its splits are {', '.join(known)}" if known else "its folders name no split"
        raise DataLayoutError(f"{dataset}: holds no clip of the split {wanted}; {have}, so leave it out or give a list")
    return chosen


def _of_list(dataset: Path, clips: list[DataClip], clip_list: Path) -> list[DataClip]:
    chosen = []
    for listed in read_clip_list(clip_list):
        found = [clip for clip in clips if listed.name in (clip.sequence, clip.name)]
        if not found:
            raise DataLayoutError(
                f"{clip_list}: line {listed.line} names {listed.name}, which {dataset} does not hold; "
                f"its clips are called {clips[0].sequence} and the like"
            )
        chosen += [replace(clip, listed_frames=listed.frames) for clip in found]
    return chosen


def _clip(dataset: Path, source: Path, sources: Mapping[Path, int], raw: RawFormat | None) -> DataClip | None:
    """The clip of a folder or video; None for the sharp partner of another clip."""
    parts = source.relative_to(dataset).parts
    at = next((i for i in reversed(range(len(parts))) if parts[i] in PARTNERS or parts[i] in _SHARP), None)
    sharp, sought = None, []
    if at is not None and parts[at] in PARTNERS:
        sought = [dataset.joinpath(*parts[:at], name, *parts[at + 1 :]) for name in PARTNERS[parts[at]]]
        sharp = next((path for path in sought if path in sources), None)
    elif at is not None and _has_blurred_twin(dataset, parts, at, sources):
        return None
    sequence = _sequence(dataset, source, parts, at)
    layout = _layout(source, parts, at, sequence)
    return DataClip(
        name="/".join(parts) or dataset.resolve().name,
        source=source,
        sharp=sharp,
        archive=source.with_name(source.name + SUFFIX) if parts else source / f"frames{SUFFIX}",
        frames=sources[source],
        sequence=sequence,
        split=_split(dataset, parts, layout, sequence),
        role=parts[at] if at is not None else "",
        layout=layout,
        sought=tuple(sought),
        raw=raw,
    )


def _has_blurred_twin(dataset: Path, parts: tuple[str, ...], at: int, sources: Mapping[Path, int]) -> bool:
    blurred = (name for name, partners in PARTNERS.items() if parts[at] in partners)
    return any(dataset.joinpath(*parts[:at], name, *parts[at + 1 :]) in sources for name in blurred)


def _sequence(dataset: Path, source: Path, parts: tuple[str, ...], at: int | None) -> str:
    """Name of the last folder that is no role, split or BSD's RGB; for a video the name of its file."""
    names = [*parts[:-1], source.stem] if parts and not source.is_dir() else [*parts]
    remaining = [
        name
        for i, name in enumerate(names)
        if i != at and _split_of(name) is None and not (at is not None and i > at and name == "RGB")
    ]
    return remaining[-1] if remaining else dataset.resolve().name


def _layout(source: Path, parts: tuple[str, ...], at: int | None, sequence: str) -> str:
    if at is None:
        if source.suffix.lower() == RAW_SUFFIX:
            return "raw YUV"
        if source.suffix.lower() in VIDEO_SUFFIXES and not source.is_dir():
            return "videos"
        return "GOPRO_Large_all (raw frames)" if is_gopro_name(sequence) else "folders of frames"
    role, above, below = parts[at], parts[:at], parts[at + 1 :]
    if any(_SPLIT_PREFIX.fullmatch(name) for name in above):
        return "PVDNet"
    if role in ("Blur", "Sharp"):
        return "BSD"
    if _SPLIT_PREFIX.fullmatch(role):
        return "sorted by kind (GoPro11)"
    if below:
        return "sorted by kind"
    if (source.parent / "clip.json").exists():
        return "unsmear data"
    return "DVD" if role in ("input", "GT") else "GOPRO_Large"


def _split(dataset: Path, parts: tuple[str, ...], layout: str, sequence: str) -> Split | None:
    named = (_split_of(name) for name in (*parts, dataset.resolve().name))
    found = next((split for split in named if split is not None), None)
    if found is None and layout == "DVD":
        return "test" if sequence in DVD_TEST else "train"
    return found


def _split_of(name: str) -> Split | None:
    prefixed = _SPLIT_PREFIX.fullmatch(name)
    return _SPLITS.get(prefixed[1] if prefixed else name.lower())


def _sources(dataset: Path) -> dict[Path, int]:
    """Folders of images → number of images, and videos → 0, in natural order."""
    sources: dict[Path, int] = {}
    for path in [dataset, *sorted(dataset.rglob("*"), key=lambda path: [natural_key(Path(p)) for p in path.parts])]:
        parts = path.relative_to(dataset).parts
        if any(part.startswith(".") for part in parts):
            continue
        if path.is_dir():
            if len(parts) > 1 and parts[-1] == _SENSOR and parts[-2] in ("Blur", "Sharp"):
                continue
            images = sum(1 for e in path.iterdir() if is_image(e) and not e.name.startswith(".") and e.is_file())
            if images:
                sources[path] = images
        elif path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            sources[path] = 0
    return sources


@dataclass(frozen=True)
class ListedClip:
    """A clip in a list file: name, number of frames (None where it is not stated), and line number."""

    name: str
    frames: int | None
    line: int


def read_clip_list(path: Path) -> list[ListedClip]:
    """Read a list file of clips such as ``GoPro_test.txt``, one per line: ``GOPR0410_11_00 134``.

    A line consists of a name and optionally the number of frames; further words (such as a size) are ignored, as are
    empty lines and lines that begin with ``#``.

    Raises:
        DataLayoutError: the file cannot be read, has no clip or one twice, or an invalid number of frames.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataLayoutError(
            f"{path}: cannot be read as a list of clips ({_reason(error)}); give a text file"
        ) from None
    listed: dict[str, ListedClip] = {}
    for number, text in enumerate(lines, 1):
        words = text.split()
        if not words or words[0].startswith("#"):
            continue
        name, frames = words[0].strip("/"), None
        if len(words) > 1:
            if not (words[1].isascii() and words[1].isdigit() and int(words[1]) > 0):
                raise DataLayoutError(
                    f"{path}: line {number} has {words[1]!r} after {name}; expected its number of frames, or nothing"
                )
            frames = int(words[1])
        if name in listed:
            raise DataLayoutError(
                f"{path}: line {number} names {name} again, after line {listed[name].line}; remove one"
            )
        listed[name] = ListedClip(name, frames, number)
    if not listed:
        raise DataLayoutError(f"{path}: names no clip; expected lines such as 'GOPR0410_11_00 134'")
    return list(listed.values())


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or "no reason given" if isinstance(error, OSError) else "it is not UTF-8 text"
