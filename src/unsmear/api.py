"""The Python functions that most users need. What is heavy is imported when it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unsmear.priors import Prior
    from unsmear.restore.options import Progress
    from unsmear.restore.report import Report
    from unsmear.restore.restorer import Restorer
    from unsmear.video import Frame


def deblur(
    source: str | Path,
    output: str | Path | None = None,
    *,
    model: str | Restorer = "cpfp",
    device: str = "auto",
    dtype: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    prompt: str | None = None,
    seed: int | None = None,
    fidelity: float | None = None,
    **options: Any,
) -> Report:
    """Deblur one video, folder of frames or image.

    Args:
        source: the input file or folder.
        output: a file, or a folder (``X/``, or one that is there) in which the result is ``NAME.deblurred.EXT``;
            PNG frames go right into it: with ``frames=True``, and if the input is a folder of frames. By default
            ``NAME.deblurred.EXT`` beside the input.
        model: a shipped name, a folder of weights, or what ``load`` returned.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``; ``dtype``: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        progress: called after every chunk with a ``Progress``.
        steps, guidance, prompt, seed, fidelity: of models that generate, when ``model`` is a name or folder: sampling
            steps, classifier-free guidance, text, seed of the noise, and 0…1 how far to stay with stage 1.
        **options: fields of ``unsmear.restore.options.Options``: ``strength``, ``tile``, ``window``, ``start_s``,
            ``end_s``, ``codec``, ``crf``, ``pix_fmt``, ``frames``, ``compare``, ``overwrite``, ``resume``.

    Raises:
        UnsmearError: one line that says what is wrong and what to do; nothing is left behind.
    """
    from unsmear.errors import UsageError
    from unsmear.restore.job import restore_video
    from unsmear.restore.options import Options
    from unsmear.restore.outputs import in_folder

    strange = sorted(set(options) - set(Options.__dataclass_fields__))
    if strange:
        raise UsageError(f"option {strange[0]!r} is unknown; known are {', '.join(Options.__dataclass_fields__)}")
    target, chosen = in_folder(Path(source), output, Options(**options))
    sampling = {"steps": steps, "guidance": guidance, "prompt": prompt, "seed": seed, "fidelity": fidelity}
    if isinstance(model, str):
        restorer = load(model, device=device, dtype=dtype, **sampling)
    elif given := [name for name, value in sampling.items() if value is not None]:
        raise UsageError(f"{given[0]}: the model is loaded already; give it to load()")
    else:
        restorer = model
    return restore_video(Path(source), target, restorer, chosen, progress)


def extract_priors(
    source: str | Path, *, mode: str = "auto", chunk_frames: int | None = None
) -> Iterator[tuple[Frame, Prior]]:
    """Every frame of a video or folder of frames with its coding prior, in order, in bounded memory.

    Args:
        source: the input file or folder.
        mode: ``native`` for the file's own motion vectors, ``reencode`` for those of a re-encode in memory,
            ``auto`` for its own where they qualify (see ``Prior.origin``).
        chunk_frames: N of the absolute chunks; part of the result.

    Raises:
        UnsmearError: the input cannot be read, or has no vectors that mode ``native`` could use.
    """
    from unsmear.priors import DEFAULT_CHUNK_FRAMES, PriorSettings, stream
    from unsmear.video import open_video

    settings = PriorSettings(mode=mode, chunk_frames=chunk_frames or DEFAULT_CHUNK_FRAMES)  # type: ignore[arg-type]
    with open_video(source) as reader:
        yield from stream(reader, settings)


def load(model: str = "cpfp", *, device: str = "auto", dtype: str = "auto", **sampling: Any) -> Restorer:
    """A model ready to restore clips: ``restorer(clip)`` → frames.

    Args:
        model: a shipped name (``unsmear models`` lists them) or a folder of weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        **sampling: of models that generate: ``steps``, ``guidance``, ``prompt``, ``negative_prompt``, ``seed``,
            ``fidelity`` and the other fields of ``unsmear.models.cpc.pipeline.Sampling``.

    Raises:
        UsageError: unknown model, device, dtype or option.
        WeightsError: the weights are missing, damaged, or do not fit.
    """
    from unsmear.restore.devices import load as load_restorer

    return load_restorer(model, device=device, dtype=dtype, **sampling)
