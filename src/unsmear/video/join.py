"""Joining: segments and the source's other streams into the finished file, packet by packet, no picture decoded."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av.error

from unsmear.errors import OutputError, UsageError
from unsmear.files import WholeFile
from unsmear.video.clock import Restart
from unsmear.video.containers import find_container
from unsmear.video.ffmpeg import reason
from unsmear.video.muxing import Muxing
from unsmear.video.probe import VideoInfo, probe
from unsmear.video.rehearsal import Plan, rehearsed


@dataclass(frozen=True)
class JoinReport:
    """What ``join_segments`` wrote: the file, its frames, the streams copied, and what could not be kept."""

    output: Path
    frames: int
    copied_streams: int
    notes: list[str] = field(default_factory=list)


def join_segments(
    source: Path | None,
    segments: list[Path],
    output: Path,
    *,
    info: VideoInfo | None = None,
    plan: Plan | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    restarts: Sequence[Restart] = (),
) -> JoinReport:
    """Join ``segments`` (in order, as ``SegmentWriter`` made them) and the other streams of ``source``.

    Video packets keep the source's exact times wherever the container can express them; audio, subtitles,
    data, attachments and cover pictures are copied as they are; tags, chapters, dispositions, rotation,
    sample aspect ratio and colour tags are kept. Times of other streams that are out of order are repaired.
    What the container cannot hold is named in the notes (see ``containers``).

    The file is written beside ``output``, read back and compared with what was written, and renamed.

    Args:
        source: the video, None where there is none.
        segments: the restored picture.
        output: the file.
        info: what the frames in ``segments`` are where that is not as in ``source``.
        plan: as ``plan_join`` made it, else that is done here.
        start_s: on the source's clock, with ``end_s``: only that part was restored. The other streams and chapters are
            cut to it, and all times move so that the first frame is at 0.
        end_s: see ``start_s``.
        restarts: where the source's clock starts again; ``start_s`` and ``end_s`` do not know of that.

    Raises:
        OutputError: it cannot be written, or does not hold what was written. ``segments`` stay.
    """
    output = Path(output)
    if not segments:
        raise ValueError("no segments to join")
    info = None if source is None else info or probe(source)
    try:
        container = find_container(output.suffix)
        output.parent.mkdir(parents=True, exist_ok=True)
        if plan is None:
            with tempfile.TemporaryDirectory(prefix="unsmear-") as folder:
                plan = rehearsed(info, segments[:1], output, Path(folder))
        with (
            WholeFile(output, same_suffix=True) as partial,
            Muxing(info, segments, partial, container, plan.choices) as muxing,
        ):
            muxing.cut(start_s, end_s, restarts)
            frames = muxing.run()
            found = muxing.check()
            if found:
                raise OutputError(
                    f"{output}: does not hold what was written: {found[0].line}; choose another `output`, such as .mkv"
                )
    except UsageError as error:
        raise OutputError(f"{output}: {error}") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise OutputError(f"{output}: cannot be written ({reason(error)})") from error
    return JoinReport(output, frames, len(muxing.written), [*plan.notes, *muxing.notes])
