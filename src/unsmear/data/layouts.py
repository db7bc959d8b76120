"""The folders in which deblurring data sets come, as clips: what is blurred, what is its sharp partner.

A clip is a folder of images or a video. What it is follows from the names of the folders above it:

=============================  ====================================================================
GoPro as published             ``{train,test}/SEQ/{blur,blur_gamma,sharp}/000000.png``
GoPro, sorted by kind          ``{train,test}/{blur,gt}/SEQ/…``, ``{test_GT_blurred,test_GT}/SEQ/…``
DVD as published               ``quantitative_datasets/SEQ/{input,GT}/00000.jpg``
BSD                            ``{train,valid,test}/SEQ/{Blur,Sharp}/RGB/00000000.png``
``unsmear data blur``          ``NAME/{blur,sharp}/000000.png``
anything else                  every folder of images and every video is a clip without a partner
=============================  ====================================================================
"""

from dataclasses import dataclass
from pathlib import Path

from unsmear.errors import DataLayoutError
from unsmear.priors.archive import SUFFIX
from unsmear.video.images import is_image, natural_key
from unsmear.video.probe import VIDEO_SUFFIXES

# Names of folders of blurred frames → what the folder of their sharp partners may be called.
_PARTNERS = {
    "blur": ("sharp", "gt", "GT", "sharp_gamma"),
    "blur_gamma": ("sharp", "gt", "GT"),
    "input": ("GT", "gt", "sharp"),
    "Blur": ("Sharp",),
    "test_GT_blurred": ("test_GT",),
}
_SHARP = {name for names in _PARTNERS.values() for name in names}


@dataclass(frozen=True)
class DataClip:
    """One clip of a data set.

    Attributes:
        name: its path below the data set.
        source: the folder of images or the video that priors belong to.
        sharp: its sharp partner, None where it has none.
        archive: where its priors are or will be: beside ``source``.
        frames: how many images the folder holds; 0 for videos.
    """

    name: str
    source: Path
    sharp: Path | None
    archive: Path
    frames: int


def find_clips(dataset: Path) -> list[DataClip]:
    """All clips of a data set that are not the sharp partner of another one, in natural order.

    Raises:
        DataLayoutError: the folder is missing or holds no clip; or a clip is blurred by its name, and others of
            the set have partners, but it has none.
    """
    if not dataset.is_dir():
        raise DataLayoutError(f"{dataset}: no such folder; give the top folder of a data set")
    sources = _sources(dataset)
    clips = []
    for source, images in sources.items():
        parts = source.relative_to(dataset).parts
        role = next((i for i in reversed(range(len(parts))) if parts[i] in _PARTNERS or parts[i] in _SHARP), None)
        sharp = None
        if role is not None and parts[role] in _PARTNERS:
            options = (dataset.joinpath(*parts[:role], name, *parts[role + 1 :]) for name in _PARTNERS[parts[role]])
            sharp = next((path for path in options if path in sources), None)
        elif role is not None and _has_blurred_twin(dataset, parts, role, sources):
            continue
        clips.append(
            DataClip(
                name="/".join(parts) or dataset.resolve().name,
                source=source,
                sharp=sharp,
                archive=source.with_name(source.name + SUFFIX) if parts else source / f"frames{SUFFIX}",
                frames=images,
            )
        )
    if not clips:
        raise DataLayoutError(f"{dataset}: holds no folder of images and no video; give the top folder of a data set")
    return clips


def _has_blurred_twin(dataset: Path, parts: tuple[str, ...], role: int, sources: dict[Path, int]) -> bool:
    blurred = (name for name, partners in _PARTNERS.items() if parts[role] in partners)
    return any(dataset.joinpath(*parts[:role], name, *parts[role + 1 :]) in sources for name in blurred)


def _sources(dataset: Path) -> dict[Path, int]:
    """Every folder that holds images, with their number, and every video (0), in natural order."""
    found: dict[Path, int] = {}
    for folder in [dataset, *sorted(dataset.rglob("*"), key=lambda path: [natural_key(Path(p)) for p in path.parts])]:
        if any(part.startswith(".") for part in folder.relative_to(dataset).parts):
            continue
        if folder.is_dir():
            images = sum(1 for e in folder.iterdir() if is_image(e) and not e.name.startswith(".") and e.is_file())
            if images:
                found[folder] = images
        elif folder.suffix.lower() in VIDEO_SUFFIXES and folder.is_file():
            found[folder] = 0
    return found
