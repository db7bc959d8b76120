"""The public Python functions. What is heavy is imported when it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from unsmear.priors import Mode, Prior
    from unsmear.restore.options import Options, Progress
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
    engine: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    seed: int | None = None,
    fidelity: float | None = None,
    options: Options | None = None,
    strength: float | None = None,
    tile: str | int | None = None,
    window: int | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    fps: float | None = None,
    priors: str | None = None,
    codec: str | None = None,
    crf: int | None = None,
    pix_fmt: str | None = None,
    deinterlace: Literal["auto", "refuse", "keep", "top", "bottom"] | None = None,
    frames: bool | None = None,
    deep_frames: bool | None = None,
    compare: bool | None = None,
    overwrite: bool | None = None,
    resume: bool | None = None,
) -> Report:
    """Deblur one video, folder of frames or image.

    Args:
        source: a video, a folder of frames or an image; a folder of videos is refused, as each is an input of its own.
        output: a file, or a folder (``X/``, or one that is there) in which the result is ``NAME.deblurred.EXT``;
            PNG frames go right into it: with ``frames=True``, and if the input is a folder of frames. By default
            ``NAME.deblurred.EXT`` beside the input.
        model: a shipped name, a folder of weights, or what ``load`` returned.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``; ``dtype``: ``auto``, ``fp32``, ``bf16`` or ``fp16``;
            ``engine``: ``auto``, ``torch`` or ``onnx``; see ``load``.
        progress: called after every chunk with a ``Progress``.
        steps, guidance, prompt, negative_prompt, seed, fidelity: of models that generate, when ``model`` is a name or
            folder; see ``load``.
        options: what may be chosen for an input, with its defaults: ``Options()``.
        strength, tile, window, start_s, end_s, fps, priors, codec, crf, pix_fmt, deinterlace, frames, deep_frames,
            compare, overwrite, resume: single fields of ``Options``, which says what they mean; they replace those of
            ``options``. None is as if not given.

    Returns:
        Measurements. Of a damaged input every frame that can be read is restored, and ``damage`` describes the rest.

    Raises:
        UnsmearError: one line that says what is wrong and what to do; nothing is left behind.
    """
    from dataclasses import replace

    from unsmear.errors import UsageError
    from unsmear.restore.destination import in_folder
    from unsmear.restore.inputs import single_input
    from unsmear.restore.job import restore_video
    from unsmear.restore.options import Options

    given = _given(
        strength=strength,
        tile=tile,
        window=window,
        start_s=start_s,
        end_s=end_s,
        fps=fps,
        priors=priors,
        codec=codec,
        crf=crf,
        pix_fmt=pix_fmt,
        deinterlace=deinterlace,
        frames=frames,
        deep_frames=deep_frames,
        compare=compare,
        overwrite=overwrite,
        resume=resume,
    )
    path = single_input(source)
    target, chosen = in_folder(path, output, replace(options or Options(), **given))
    sampling = _given(
        steps=steps,
        guidance=guidance,
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=seed,
        fidelity=fidelity,
    )
    if isinstance(model, str):
        restorer = load(model, device=device, dtype=dtype, engine=engine, **sampling)
    elif sampling:
        raise UsageError(f"`{next(iter(sampling))}`: the model is loaded already; give it to load()")
    else:
        restorer = model
    return restore_video(path, target, restorer, chosen, progress)


def extract_priors(
    source: str | Path, *, mode: Mode = "auto", chunk_frames: int | None = None
) -> Iterator[tuple[Frame, Prior]]:
    """Every frame of a video or folder of frames with its coding prior, in order, in bounded memory.

    Args:
        source: a video, a folder of frames or an image.
        mode: ``native`` for the file's own motion vectors, ``reencode`` for those of a re-encode in memory,
            ``auto`` for its own where they qualify (see ``Prior.origin``).
        chunk_frames: N of the absolute chunks; part of the result.

    Raises:
        UnsmearError: the input cannot be read, or has no vectors that mode ``native`` could use.
    """
    from unsmear.priors import DEFAULT_CHUNK_FRAMES, PriorSettings, stream
    from unsmear.restore.inputs import single_input
    from unsmear.video import open_video

    settings = PriorSettings(mode=mode, chunk_frames=chunk_frames or DEFAULT_CHUNK_FRAMES)
    with open_video(single_input(source)) as reader:
        yield from stream(reader, settings)


def load(
    model: str = "cpfp",
    *,
    device: str = "auto",
    dtype: str = "auto",
    engine: str = "auto",
    steps: int | None = None,
    guidance: float | None = None,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    seed: int | None = None,
    start: float | None = None,
    fidelity: float | None = None,
    guided: bool | None = None,
    joint_time_attention: bool | None = None,
    carry_noise: bool | None = None,
    carry_detail: float | None = None,
    still_px: float | None = None,
    colour: bool | None = None,
    cancel_autoencoder: bool | None = None,
    window: int | None = None,
    overlap: int | None = None,
    tile: int | None = None,
    stride: int | None = None,
    tile_batch: int | None = None,
) -> Restorer:
    """A model ready to restore clips: ``restorer(clip)`` → frames. ``Clip.of`` makes a clip.

    Args:
        model: a shipped name (``unsmear models`` lists them) or a folder of weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``; of ONNX graphs ``auto``, ``cpu``, ``cuda``, ``tensorrt``,
            ``directml`` or ``coreml``, by the providers of the onnxruntime that is installed.
        dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``; of ONNX graphs ``auto``.
        engine: ``auto``, ``torch`` or ``onnx``; the last takes a folder that ``unsmear models export`` wrote.
        steps, guidance, seed: of models that generate: sampling steps, classifier-free guidance, seed of the noise.
        prompt, negative_prompt: what the video shows, and what not, of models with a text encoder.
        fidelity: 0 to 1, how far to stay with stage 1.
        start, guided, joint_time_attention, carry_noise, carry_detail, still_px, colour, cancel_autoencoder,
            window, overlap, tile, stride, tile_batch: fields of the model's sampling, which says
            what they mean: ``unsmear.load(model).sampling``. None is as if not given: as the model's folder says.

    Raises:
        UsageError: unknown model, device, dtype or engine; an option that the model has not.
        WeightsError: the weights are missing, damaged, or do not fit.
    """
    from unsmear.restore.load import load_restorer

    sampling = _given(
        steps=steps,
        guidance=guidance,
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=seed,
        start=start,
        fidelity=fidelity,
        guided=guided,
        joint_time_attention=joint_time_attention,
        carry_noise=carry_noise,
        carry_detail=carry_detail,
        still_px=still_px,
        colour=colour,
        cancel_autoencoder=cancel_autoencoder,
        window=window,
        overlap=overlap,
        tile=tile,
        stride=stride,
        tile_batch=tile_batch,
    )
    return load_restorer(model, device=device, dtype=dtype, engine=engine, **sampling)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
