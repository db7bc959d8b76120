"""Evaluation of models on data sets, and of outputs against targets.

Every clip is restored to PNG frames by the same code as ``unsmear deblur``, and these are measured. Results of finished
clips are stored, so that an interrupted run can be resumed.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from unsmear.datasets.layouts import DataClip
from unsmear.datasets.pairs import open_pairs
from unsmear.errors import DataLayoutError, UnsmearError
from unsmear.evaluation.pictures import Picture
from unsmear.evaluation.results import ClipResult, Result
from unsmear.files import make_folder, write_whole
from unsmear.metrics.meter import DEFAULT_METRICS, Measures, Meter
from unsmear.metrics.protocols import Protocol, find_protocol
from unsmear.restore.job import restore_video
from unsmear.restore.options import Options
from unsmear.restore.report import reset_peak_memory
from unsmear.restore.restorer import Restorer
from unsmear.restore.resume import stamp, versions
from unsmear.video import VideoReader, eight_bit, open_video, read_image, upright
from unsmear.video.images import write_png

INPUT_METHOD = "input"
"""Name under which the blurred frames themselves are measured."""


@dataclass(frozen=True)
class Settings:
    """Settings of an evaluation."""

    protocol: str = "basicsr"
    metrics: tuple[str, ...] = DEFAULT_METRICS
    lpips_vgg: Path | None = None
    """Weights of the metric ``lpips_vgg``."""
    device: str = "cpu"
    """Device of metrics with networks."""
    pictures: int = 2
    """Number of frames of each clip to show: the middle one, then the most blurred ones."""
    keep_frames: bool = False
    """Whether restored frames are kept after they are measured."""
    sharp: bool = False
    """Whether sharp clips are restored too: the metric ``kept`` is the PSNR in dB between output and input."""
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
    """Result of an evaluation, its pictures, and clips that could not be measured with their errors."""

    result: Result
    pictures: list[Picture]
    failures: list[tuple[str, UnsmearError]]


OnClip = Callable[[str, ClipResult], None]
"""Called with the name of the method and the result of each finished clip."""


class Evaluator:
    """Evaluation of methods on the clips of one data set.

    Args:
        clips: clips with partners, from :func:`unsmear.datasets.layouts.find_clips`.
        dataset: name of the data set in tables.
        folder: folder for frames, pictures and results of finished clips.
        settings: settings of the evaluation; None for the defaults.

    Raises:
        UsageError: unknown protocol or metric; a metric whose weights or package are missing.
    """

    def __init__(self, clips: Sequence[DataClip], dataset: str, folder: Path, settings: Settings | None = None):
        self.clips, self.dataset, self.folder = clips, dataset, folder
        self.settings = settings or Settings()
        self.protocol: Protocol = find_protocol(self.settings.protocol)
        self.measures = self.settings.measures()

    def run(self, restorer: Restorer, on_clip: OnClip | None = None, command: str = "") -> Evaluation:
        """Restore and measure every clip. Clips that fail are listed in the result and do not stop the others.

        Raises:
            DataLayoutError: no clip could be measured; the message is that of the first one.
        """
        rows, pictures, failures = [], [], []
        for clip in self.clips:
            name = clip_name(clip)
            try:
                row, shown = self._clip(clip, restorer)
            except UnsmearError as error:
                failures.append((name, error))
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
        """Result of a clip, and the numbers of the frames that are kept as pictures."""
        file = self._result_file(clip, restorer.name)
        identity = self._identity(clip, restorer)
        stored = _read_stored(file, identity)
        if stored is not None:
            return stored
        with open_pairs(clip):
            pass  # raises errors of the partners before the restoration
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
        _write_json(file, {"identity": identity, "figures": asdict(row), "frames": meter.rows, "shown": shown})
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
        """PSNR in dB between the sharp clip and its restoration, under protocol basicsr."""
        assert clip.sharp is not None
        frames = self.folder / "frames" / "sharp" / restorer.name / flat_name(clip)
        restore_video(clip.sharp, frames, restorer, replace(self.settings.options, frames=True, overwrite=True))
        meter, _ = measure(frames, clip.sharp, Measures(("psnr",)), find_protocol("basicsr"), clip_name(clip))
        if not self.settings.keep_frames:
            shutil.rmtree(frames, ignore_errors=True)
        return meter.means()["psnr"]

    def _before(self, clip: DataClip) -> Meter:
        """Metrics of the blurred input, measured once for all methods."""
        file = self._result_file(clip, INPUT_METHOD)
        identity = self._identity(clip, None)
        try:
            stored = json.loads(file.read_text())
            if stored["identity"] == identity:
                return self._replayed(clip, stored["frames"])
        except (OSError, ValueError, KeyError):
            pass
        assert clip.sharp is not None
        meter, _ = measure(clip.source, clip.sharp, self.measures, self.protocol, clip_name(clip))
        _write_json(file, {"identity": identity, "figures": meter.means(), "frames": meter.rows})
        return meter

    def _replayed(self, clip: DataClip, rows: list[dict[str, float]]) -> Meter:
        meter = Meter(self.measures, self.protocol, self.measures.names)
        windows = self.protocol.window_of_frames(len(rows), clip_name(clip))
        for row, window in zip(rows, windows, strict=True):
            meter.replay(row, window)
        return meter

    def _identity(self, clip: DataClip, restorer: Restorer | None) -> dict[str, Any]:
        """Everything that the result of a clip depends on; a stored result with the same identity is reused."""
        files = [stamp(path) for path in (clip.source, clip.sharp) if path is not None]
        identity: dict[str, Any] = {"files": files, "versions": versions(), "protocol": self.protocol.name}
        identity["metrics"] = list(self.settings.metrics)
        if self.settings.musiq is not None and "musiq" in self.settings.metrics:
            identity["musiq"] = stamp(self.settings.musiq)
        if restorer is not None:
            identity["model"] = [restorer.name, restorer.fingerprint, restorer.dtype, restorer.device]
            o = self.settings.options
            identity["options"] = [o.strength, o.tile, o.window]
            identity["pictures"] = self.settings.pictures
            if self.settings.archived_priors and clip.archive.exists():
                identity["priors"] = stamp(clip.archive)
            if self.settings.sharp:
                identity["sharp"] = True
        return json.loads(json.dumps(identity))

    def _result_file(self, clip: DataClip, method: str) -> Path:
        return self.folder / "clips" / self.protocol.name / method / f"{flat_name(clip)}.json"

    def _picture_file(self, clip: DataClip, method: str, frame: int) -> Path:
        return self.folder / "pictures" / flat_name(clip) / f"{frame:06d}.{method}.png"

    def _keep_pictures(self, clip: DataClip, frames: Path, method: str, shown: Sequence[int]) -> None:
        for i in shown:
            for path, name in ((clip.source, INPUT_METHOD), (clip.sharp, "truth"), (frames, method)):
                file = self._picture_file(clip, name, i)
                if name == method or not file.exists():
                    make_folder(file.parent)
                    assert path is not None
                    write_png(file, eight_bit(_frame(path, i)))

    def _picture(self, clip: DataClip, method: str, frame: int) -> Picture:
        before, after, truth = (
            read_image(self._picture_file(clip, name, frame)) for name in (INPUT_METHOD, method, "truth")
        )
        return Picture(clip_name(clip), frame, method, before, after, truth)


def measure(images: Path, truth: Path, measures: Measures, protocol: Protocol, name: str = "") -> tuple[Meter, str]:
    """Measure a video or folder of frames against its ground truth.

    Returns:
        The meter, and a note on metrics that are not defined for the size of frames.

    Raises:
        DataLayoutError: they differ in size or length, are too short for the protocol, or damaged.
    """
    name = name or str(images)
    with open_video(images) as a, open_video(truth) as b:
        # What a container states is not always shown: edit lists hide some, a copy may hold fewer.
        count = sum(1 for _ in b) if b.info.kind == "video" else b.info.frames or 0
        windows = protocol.window_of_frames(count, name)
        pairs = zip_longest(_upright(a), _upright(b))
        meter, note = None, ""
        for i, (image, target) in enumerate(pairs):
            if image is None or target is None:
                short, long = (images, truth) if image is None else (truth, images)
                raise DataLayoutError(
                    f"{short}: ends after {i} frames where {long} goes on: give partners of one length"
                )
            if image.shape != target.shape:
                sizes = [f"{s.shape[1]}x{s.shape[0]}" for s in (image, target)]
                raise DataLayoutError(f"{images}: is {sizes[0]} where {truth} is {sizes[1]}: give partners of one size")
            if meter is None:
                protocol.check_size(image.shape[0], image.shape[1], name)
                names, note = measures.possible(*image.shape[:2])
                meter = Meter(measures, protocol, names)
            meter.add(image, target, windows[i])
    if meter is None:
        raise DataLayoutError(f"{images}: holds no frame: give a video or a folder of frames")
    return meter, note


def chosen_frames(before: Meter, count: int) -> list[int]:
    """Numbers of the frames to show, equal for all methods: the middle one, then the most blurred, with a distance."""
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
    """Evaluate one output against its target, and its blurred input if given, as a data set of one clip.

    Raises:
        DataLayoutError: as ``measure``.
        UsageError: as ``Evaluator``.
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
    """Name of a clip in tables: its sequence where the layout has one."""
    return clip.sequence or clip.name


def flat_name(clip: DataClip) -> str:
    """File name of a clip, unique in its data set."""
    return clip.name.replace("/", "~")


def _upright(reader: VideoReader) -> Iterator[np.ndarray]:
    return (upright(frame.rgb, reader.info) for frame in reader)


def _frame(path: Path, index: int) -> np.ndarray:
    """Read one frame of a clip; videos are decoded from their start."""
    with open_video(path) as reader:
        frame = next(iter(reader.frames(index, index + 1)))
        return upright(frame.rgb, reader.info)


def _read_stored(path: Path, identity: dict[str, Any]) -> tuple[ClipResult, list[int]] | None:
    try:
        stored = json.loads(path.read_text())
        if stored["identity"] == identity:
            return ClipResult(**stored["figures"]), stored["shown"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write_json(path: Path, value: object) -> None:
    make_folder(path.parent)
    write_whole(path, (json.dumps(value) + "\n").encode())
