"""Augmentation of data sets with archives of coding priors, as for GoPro, DVD and BSD in CPGD-Net, §IV."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from unsmear.datasets.layouts import DataClip, find_clips
from unsmear.errors import DataLayoutError, UnsmearError
from unsmear.models.motion_sources import find_source
from unsmear.priors.archive import PriorArchive
from unsmear.priors.extract import Extraction, extract
from unsmear.priors.settings import DEFAULTS, PriorSettings
from unsmear.processes import in_processes
from unsmear.video import RawFormat


@dataclass
class Augmented:
    """Result of :func:`augment`, by clip name: new archives, names of existing ones that were kept, and failures."""

    made: dict[str, Extraction] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    failures: list[tuple[str, UnsmearError]] = field(default_factory=list)


def augment(
    dataset: Path,
    settings: PriorSettings = DEFAULTS,
    *,
    workers: int = 1,
    overwrite: bool = False,
    on_clip: Callable[[str, Extraction], None] | None = None,
    split: str | None = None,
    clip_list: Path | None = None,
    raw: RawFormat | None = None,
) -> Augmented:
    """Write an archive of priors beside every clip of a data set.

    Args:
        dataset: its top folder; see :mod:`unsmear.datasets.layouts`.
        settings: settings of the priors.
        workers: number of worker processes, one clip each.
        overwrite: make existing archives again. If not, those made with the same settings are kept, so that an
            interrupted run can be resumed.
        on_clip: called with the name and result of every finished clip.
        split, clip_list, raw: as for :func:`unsmear.datasets.layouts.find_clips`.

    Returns:
        The result, which lists clips that failed; they do not stop the others.

    Raises:
        DataLayoutError: there are no clips.
        UsageError: an unknown motion source.
    """
    for name in (settings.motion, settings.motion_back):
        find_source(name)
    result, todo = Augmented(), []
    for clip in find_clips(dataset, split=split, clip_list=clip_list, raw=raw):
        if overwrite or not clip.archive.exists():
            todo.append(clip)
            continue
        try:
            _check_same(clip, settings)
            result.kept.append(clip.name)
        except UnsmearError as error:
            result.failures.append((clip.name, error))

    def finished(clip: DataClip, outcome: Extraction | UnsmearError) -> None:
        if isinstance(outcome, UnsmearError):
            result.failures.append((clip.name, outcome))
            return
        result.made[clip.name] = outcome
        if on_clip is not None:
            on_clip(clip.name, outcome)

    make = partial(_try, settings=settings, overwrite=overwrite)
    with closing(in_processes(make, todo, workers)) as outcomes:
        for clip, outcome in zip(todo, outcomes, strict=True):
            finished(clip, outcome)
    return result


def _try(clip: DataClip, settings: PriorSettings, overwrite: bool) -> Extraction | UnsmearError:
    try:
        return extract(
            clip.source, clip.archive, settings, overwrite=overwrite, workers=1, raw=clip.raw, find_source=find_source
        )
    except UnsmearError as error:
        return error


def _check_same(clip: DataClip, settings: PriorSettings) -> None:
    """Raise DataLayoutError where an existing archive has other settings, or another number of frames than the clip."""
    with PriorArchive(clip.archive) as archive:
        stored = archive.provenance.get("settings")
        if not isinstance(stored, dict):
            stored = {}
        for key, value in asdict(settings).items():
            if stored.get(key) != value:
                raise DataLayoutError(
                    f"{clip.archive} was made with {key} {stored.get(key)}, not {value}: use `overwrite`"
                )
        if clip.frames and len(archive) != clip.frames:
            raise DataLayoutError(
                f"{clip.archive} holds {len(archive)} frames where the clip has {clip.frames}: use `overwrite`"
            )
