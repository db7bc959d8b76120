"""Models on data sets, and outputs against targets: frames in, figures and pictures out.

Every clip goes through the same path as ``unsmear deblur``, into PNG frames, and is measured from these: what is
scored is what a user gets. A clip that is finished is kept, so that a run which was stopped goes on where it was.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path

import numpy as np

from unsmear.datasets.layouts import DataClip
from unsmear.datasets.pairs import open_pairs
from unsmear.errors import DataLayoutError, UnsmearError
from unsmear.evaluation.pictures import Picture
from unsmear.evaluation.results import ClipResult, Result
from unsmear.files import write_whole
from unsmear.metrics.meter import DEFAULT_METRICS, Measures, Meter
from unsmear.metrics.protocols import Protocol, find_protocol
from unsmear.restore.job import restore_video
from unsmear.restore.options import Options
from unsmear.restore.report import reset_peak_memory
from unsmear.restore.restorer import Restorer
from unsmear.video import VideoReader, eight_bit, open_video, read_image, upright
from unsmear.video.images import write_png

log = logging.getLogger(__name__)

INPUT_METHOD = "input"
"""Under this name the blurred frames themselves are measured."""


@dataclass(frozen=True)
class Settings:
    """How to evaluate."""

    protocol: str = "basicsr"
    metrics: tuple[str, ...] = DEFAULT_METRICS
    lpips_vgg: Path | None = None
    device: str = "cpu"
    """Where metrics with networks run."""
    pictures: int = 2
    """Frames of each clip to show: the middle one, and the most blurred."""
    keep_frames: bool = False
    sharp: bool = False
    """Also restore the sharp clips themselves: ``kept`` is the PSNR in dB of what comes out against what went in."""
    options: Options = field(default_factory=Options)
    """Strength, window and tile of the restoration."""
    musiq: Path | None = None
    """Weights of the metric ``musiq``."""
    archived_priors: bool = False
    """Restore with the priors in the archives beside the blurred clips, not with those of a re-encode."""

    def measures(self) -> Measures:
        """The metrics with their networks. Raises UsageError, WeightsError: as ``Measures``."""
        return Measures(self.metrics, self.lpips_vgg, self.device, self.musiq)


@dataclass
class Evaluation:
    """What was found out: the figures, and the clips that could not be measured."""

    result: Result
    pictures: list[Picture]
    failures: list[tuple[str, UnsmearError]]


OnClip = Callable[[str, ClipResult], None]
"""Called with the method's name and the figures of a clip as it is finished."""


class Evaluator:
    """Measures methods on the clips of one data set.

    Args:
        clips: with partners, from :func:`unsmear.datasets.layouts.find_clips`.
        dataset: what tables call it.
        folder: of results; frames, pictures and figures of finished clips lie below it.
        settings: how to measure.

    Raises:
        UsageError: unknown protocol or metric; a metric whose weights or package are missing.
    """

    def __init__(self, clips: Sequence[DataClip], dataset: str, folder: Path, settings: Settings | None = None):
        self.clips, self.dataset, self.folder = clips, dataset, folder
        self.settings = settings or Settings()
        self.protocol: Protocol = find_protocol(self.settings.protocol)
        self.measures = self.settings.measures()

    def run(self, restorer: Restorer, on_clip: OnClip | None = None, command: str = "") -> Evaluation:
        """Restore and measure every clip. One that fails is reported and does not stop the others.

        Raises:
            DataLayoutError: no clip could be measured; the first reason.
        """
        rows, pictures, failures = [], [], []
        for clip in self.clips:
            name = clip_name(clip)
            try:
                row, shown = self._clip(clip, restorer)
            except UnsmearError as error:
                failures.append((name, error))
                log.warning("%s", error)
                continue
            rows.append(row)
            pictures += [self._picture(clip, restorer.name, i) for i in shown]
            if on_clip is not None:
                on_clip(restorer.name, row)
        if not rows:
            raise DataLayoutError(str(failures[0][1]) if failures else f"{self.dataset}: no clip has a sharp partner")
        result = Result(
            method=restorer.name,
            dataset=self.dataset,
            protocol=self.protocol.name,
            clips=tuple(rows),
            average=self.protocol.average,
            device=restorer.device,
            dtype=restorer.dtype,
            weights_sha256=restorer.fingerprint,
            command=command,
            version=version("unsmear"),
        )
        return Evaluation(result, pictures, failures)

    def _clip(self, clip: DataClip, restorer: Restorer) -> tuple[ClipResult, list[int]]:
        """Figures of a clip, and which of its frames are kept as pictures."""
        kept = self._kept(clip, restorer.name)
        identity = self._identity(clip, restorer)
        found = _read_kept(kept, identity)
        if found is not None:
            return found
        with open_pairs(clip):
            pass  # whatever is wrong with the partners is told before hours of work
        assert clip.sharp is not None
        before = self._before(clip)
        frames = self.folder / "frames" / self.protocol.name / restorer.name / flat_name(clip)
        options = replace(
            self.settings.options,
            frames=True,
            deep_frames=not self.protocol.rounded,
            overwrite=True,
            priors=self._archive(clip),
        )
        reset_peak_memory()
        report = restore_video(clip.source, frames, restorer, options)
        meter, note = measure(frames, clip.sharp, self.measures, self.protocol, clip_name(clip))
        kept_sharp = {"kept": self._sharp_kept(clip, restorer)} if self.settings.sharp else {}
        row = ClipResult(
            clip_name(clip),
            meter.frames,
            meter.means() | kept_sharp,
            before.means(),
            seconds_per_frame=report.seconds / max(report.frames - report.resumed_frames, 1),
            peak_memory_mb=report.peak_memory_mb,
            note="; ".join(part for part in (note, report.note) if part),
            windows=meter.windows,
        )
        shown = chosen_frames(before, self.settings.pictures)
        self._keep_pictures(clip, frames, restorer.name, shown)
        _write_json(kept, {"identity": identity, "figures": asdict(row), "frames": meter.rows, "shown": shown})
        if not self.settings.keep_frames:
            shutil.rmtree(frames, ignore_errors=True)
        return row, shown

    def _archive(self, clip: DataClip) -> str | None:
        if not self.settings.archived_priors:
            return None
        if not clip.archive.exists():
            raise DataLayoutError(f"{clip.source}: has no priors beside it; run `unsmear data augment` first")
        return str(clip.archive)

    def _sharp_kept(self, clip: DataClip, restorer: Restorer) -> float:
        """PSNR in dB between the sharp clip and what the method makes of it; the protocol does not matter here."""
        assert clip.sharp is not None
        frames = self.folder / "frames" / "sharp" / restorer.name / flat_name(clip)
        restore_video(clip.sharp, frames, restorer, replace(self.settings.options, frames=True, overwrite=True))
        meter, _ = measure(frames, clip.sharp, Measures(("psnr",)), find_protocol("basicsr"), clip_name(clip))
        if not self.settings.keep_frames:
            shutil.rmtree(frames, ignore_errors=True)
        return meter.means()["psnr"]

    def _before(self, clip: DataClip) -> Meter:
        """The blurred input, measured like an output; once for all methods."""
        kept = self._kept(clip, INPUT_METHOD)
        identity = self._identity(clip, None)
        try:
            stored = json.loads(kept.read_text())
            if stored["identity"] == identity:
                return self._replayed(clip, stored["frames"])
        except (OSError, ValueError, KeyError):
            pass
        assert clip.sharp is not None
        meter, _ = measure(clip.source, clip.sharp, self.measures, self.protocol, clip_name(clip))
        _write_json(kept, {"identity": identity, "figures": meter.means(), "frames": meter.rows})
        return meter

    def _replayed(self, clip: DataClip, rows: list[dict[str, float]]) -> Meter:
        meter = Meter(self.measures, self.protocol, self.measures.names)
        windows = self.protocol.window_of_frames(len(rows), clip_name(clip))
        for row, window in zip(rows, windows, strict=True):
            meter.replay(row, window)
        return meter

    def _identity(self, clip: DataClip, restorer: Restorer | None) -> dict:
        """What figures of a clip depend on; those of another run with the same are taken over."""
        files = [(str(p.resolve()), _stamp(p)) for p in (clip.source, clip.sharp) if p is not None]
        made: dict = {"files": [list(f) for f in files], "protocol": self.protocol.name}
        made["metrics"] = list(self.settings.metrics)
        if self.settings.musiq is not None and "musiq" in self.settings.metrics:
            made["musiq"] = _stamp(self.settings.musiq)
        if restorer is not None:
            made["model"] = [restorer.name, restorer.fingerprint, restorer.dtype, restorer.device]
            o = self.settings.options
            made["options"] = [o.strength, o.tile, o.window]
            made["pictures"] = self.settings.pictures
            if self.settings.archived_priors and clip.archive.exists():
                made["priors"] = _stamp(clip.archive)
            if self.settings.sharp:
                made["sharp"] = True
        return json.loads(json.dumps(made))

    def _kept(self, clip: DataClip, method: str) -> Path:
        return self.folder / "clips" / self.protocol.name / method / f"{flat_name(clip)}.json"

    def _picture_file(self, clip: DataClip, method: str, frame: int) -> Path:
        return self.folder / "pictures" / flat_name(clip) / f"{frame:06d}.{method}.png"

    def _keep_pictures(self, clip: DataClip, frames: Path, method: str, shown: Sequence[int]) -> None:
        for i in shown:
            for path, name in ((clip.source, INPUT_METHOD), (clip.sharp, "truth"), (frames, method)):
                file = self._picture_file(clip, name, i)
                if name == method or not file.exists():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    assert path is not None
                    write_png(file, eight_bit(_frame(path, i)))

    def _picture(self, clip: DataClip, method: str, frame: int) -> Picture:
        before, after, truth = (
            read_image(self._picture_file(clip, name, frame)) for name in (INPUT_METHOD, method, "truth")
        )
        return Picture(clip_name(clip), frame, method, before, after, truth)


def measure(images: Path, truth: Path, measures: Measures, protocol: Protocol, name: str = "") -> tuple[Meter, str]:
    """Measure a video or folder of frames against its truth.

    Returns:
        The meter, and a note on metrics that could not be had.

    Raises:
        DataLayoutError: they differ in size or length; too short for the protocol; damaged.
    """
    name = name or str(images)
    with open_video(images) as a, open_video(truth) as b:
        count = b.info.frames or sum(1 for _ in b)
        windows = protocol.window_of_frames(count, name)
        pairs = zip_longest(_upright(a), _upright(b))
        meter, note = None, ""
        for i, (image, wanted) in enumerate(pairs):
            if image is None or wanted is None:
                short, long = (images, truth) if image is None else (truth, images)
                raise DataLayoutError(
                    f"{short}: ends after {i} frames where {long} goes on: give partners of one length"
                )
            if image.shape != wanted.shape:
                sizes = [f"{s.shape[1]}x{s.shape[0]}" for s in (image, wanted)]
                raise DataLayoutError(f"{images}: is {sizes[0]} where {truth} is {sizes[1]}: give partners of one size")
            if meter is None:
                names, note = measures.possible(*image.shape[:2])
                meter = Meter(measures, protocol, names)
            if i >= count:
                raise DataLayoutError(
                    f"{truth}: states {count} frames and holds more: convert it to a folder of images"
                )
            meter.add(image, wanted, windows[i])
    if meter is None:
        raise DataLayoutError(f"{images}: holds no frame: give a video or a folder of frames")
    return meter, note


def chosen_frames(before: Meter, count: int) -> list[int]:
    """Frames worth a look: the middle one, then the most blurred, apart from each other; the same for all methods."""
    scored = [i for i, row in enumerate(before.rows) if row]
    if not scored or count < 1:
        return []
    chosen = [scored[len(scored) // 2]]
    for i in sorted(scored, key=lambda i: before.rows[i].get("psnr", 0.0)):
        if len(chosen) == count:
            break
        if all(abs(i - j) > len(scored) // 8 for j in chosen):
            chosen.append(i)
    return sorted(chosen)


def compare(
    output: Path, target: Path, blurred: Path | None = None, settings: Settings | None = None, command: str = ""
) -> Evaluation:
    """One output against its target, and its input if given, as a data set of one clip.

    Raises:
        DataLayoutError: see ``measure``.
    """
    settings = settings or Settings()
    protocol = find_protocol(settings.protocol)
    measures = settings.measures()
    meter, note = measure(output, target, measures, protocol)
    before = measure(blurred, target, measures, protocol)[0] if blurred else None
    row = ClipResult(
        output.name, meter.frames, meter.means(), before.means() if before else {}, note=note, windows=meter.windows
    )
    result = Result(
        output.name, target.name, protocol.name, (row,), protocol.average, command=command, version=version("unsmear")
    )
    pictures = [
        Picture(
            output.name,
            i,
            output.name,
            eight_bit(_frame(blurred, i)) if blurred else None,
            eight_bit(_frame(output, i)),
            eight_bit(_frame(target, i)),
        )
        for i in chosen_frames(before or meter, settings.pictures)
    ]
    return Evaluation(result, pictures, [])


def clip_name(clip: DataClip) -> str:
    """What tables call it: its sequence where the layout names one."""
    return clip.sequence or clip.name


def flat_name(clip: DataClip) -> str:
    """A file name that no other clip of the set has."""
    return clip.name.replace("/", "~")


def _upright(reader: VideoReader) -> Iterator[np.ndarray]:
    return (upright(frame.rgb, reader.info) for frame in reader)


def _frame(path: Path, index: int) -> np.ndarray:
    """One frame of a clip; folders are read at once, videos from their start."""
    with open_video(path) as reader:
        frame = next(iter(reader.frames(index, index + 1)))
        return upright(frame.rgb, reader.info)


def _stamp(path: Path) -> list[int]:
    """Size and time of a file; number and newest time of a folder's."""
    if path.is_dir():
        stats = [p.stat() for p in path.iterdir()]
        return [len(stats), max((s.st_mtime_ns for s in stats), default=0)]
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _read_kept(path: Path, identity: dict) -> tuple[ClipResult, list[int]] | None:
    try:
        stored = json.loads(path.read_text())
        if stored["identity"] == identity:
            return ClipResult(**stored["figures"]), stored["shown"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(value) + "\n").encode())
