"""Augmentation of data sets with archives of coding priors, as for GoPro, DVD and BSD in CPGD-Net, §IV."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from unsmear.datasets.layouts import DataClip, find_clips
from unsmear.datasets.restored import refuse_restored
from unsmear.errors import DataLayoutError, UnsmearError, UsageError
from unsmear.files import sha256
from unsmear.models.motion_sources import find_source
from unsmear.priors.archive import PriorArchive
from unsmear.priors.extract import Extraction, extract, settings_kept
from unsmear.priors.published import PublishedArrays, find_published
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
    role: str | None = None,
    raw: RawFormat | None = None,
    published: Path | None = None,
    raft: Path | None = None,
) -> Augmented:
    """Write an archive of priors beside every clip of a data set.

    Args:
        dataset: its top folder; see :mod:`unsmear.datasets.layouts`.
        settings: settings of the priors.
        workers: number of worker processes, one clip each.
        overwrite: make existing archives again. If not, those made with the same settings are kept, so that an
            interrupted run can be resumed.
        on_clip: called with the name and result of every finished clip.
        split, clip_list, role, raw: as for :func:`unsmear.datasets.layouts.find_clips`.
        published: folder of the arrays of CPGD-Net's authors (:mod:`unsmear.priors.published`), from which the priors
            are taken. Arrays beside the frames of a clip, as in BSD, come before others of the same name.
        raft: weights of RAFT, for motion sources of this name.

    Returns:
        The result, which lists clips that failed; they do not stop the others.

    Raises:
        DataLayoutError: there are no clips, or no arrays; it is a restored copy.
        UsageError: an unknown motion source, or settings of the re-encode together with ``published``.
    """
    refuse_restored(dataset)
    if published is not None and settings != DEFAULTS:
        raise UsageError("`published` priors are not encoded; leave out the settings of the re-encode")
    how = _How(settings, raft, None if published is None else find_published(published))
    for name in (settings.motion, settings.motion_back):
        find_source(name, raft)
    result, todo = Augmented(), []
    for clip in find_clips(dataset, split=split, clip_list=clip_list, role=role, raw=raw):
        if overwrite or not clip.archive.exists():
            todo.append(clip)
            continue
        try:
            _check_same(clip, how)
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

    make = partial(_try, how=how, overwrite=overwrite)
    with closing(in_processes(make, todo, workers)) as outcomes:
        for clip, outcome in zip(todo, outcomes, strict=True):
            finished(clip, outcome)
    return result


@dataclass(frozen=True)
class _How:
    """Source of the priors of a data set."""

    settings: PriorSettings
    raft: Path | None
    published: Mapping[str, Sequence[Path]] | None

    def of(self, clip: DataClip) -> PriorSettings | PublishedArrays:
        if self.published is None:
            return self.settings
        places = self.published.get(clip.sequence, ())
        beside = [place for place in places if place.parent == clip.source.parent]
        if not places:
            known = ", ".join(sorted(self.published)[:3])
            raise DataLayoutError(
                f"{clip.source}: no arrays are called {clip.sequence}; there are {known} and the like"
            )
        if len(beside or places) > 1:
            raise DataLayoutError(f"{clip.source}: its arrays may be {places[0]} or {places[1]}; give one of them")
        return PublishedArrays((beside or places)[0], clip.sequence)

    def provenance(self) -> dict[str, Any]:
        """Entries of the archives' provenance besides the settings."""
        sources = (self.settings.motion, self.settings.motion_back)
        named = self.raft is not None and any(name.startswith("raft") for name in sources)
        return {"raft_sha256": sha256(self.raft)} if named and self.raft else {}


def _try(clip: DataClip, how: _How, overwrite: bool) -> Extraction | UnsmearError:
    try:
        return extract(
            clip.source,
            clip.archive,
            how.of(clip),
            overwrite=overwrite,
            workers=1,
            raw=clip.raw,
            find_source=partial(find_source, weights=how.raft),
            provenance=how.provenance(),
        )
    except UnsmearError as error:
        return error


def _check_same(clip: DataClip, how: _How) -> None:
    """Raise DataLayoutError where an existing archive has other settings, or another number of frames than the clip."""
    expected = settings_kept(how.of(clip)) | how.provenance()
    with PriorArchive(clip.archive) as archive:
        settings = archive.provenance.get("settings")
        stored: dict[str, Any] = {key: archive.provenance.get(key) for key in how.provenance()}
        if isinstance(settings, dict):
            stored |= {"codec": "h264"} | settings  # archives without this field are older than the option
        for key, value in expected.items():
            if stored.get(key) != value:
                raise DataLayoutError(
                    f"{clip.archive} was made with {key} {stored.get(key)}, not {value}: use `overwrite`"
                )
        if clip.frames and len(archive) != clip.frames:
            raise DataLayoutError(
                f"{clip.archive} holds {len(archive)} frames where the clip has {clip.frames}: use `overwrite`"
            )
