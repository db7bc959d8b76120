"""``unsmear data …``: blurred and sharp pairs, and packs to train from."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unsmear.cli import augment
from unsmear.errors import OutputError, UsageError

if TYPE_CHECKING:
    from unsmear.data.pairset import PairSet

app = typer.Typer(help="Make data sets.", no_args_is_help=True)
app.command("augment")(augment.augment)
app.command("check")(augment.check)

_WORKERS = min(os.cpu_count() or 1, 8)


@app.command()
def blur(
    sharp: Annotated[
        list[Path],
        typer.Argument(
            metavar="SHARP...",
            help="Sharp videos, folders of frames (a clip each), folders of videos, or photographs.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the data set.", show_default=False)],
    duty: Annotated[
        tuple[float, float],
        typer.Option(metavar="MIN MAX", help="Exposure as a fraction of the frame step, drawn for each clip."),
    ] = (0.4, 1.0),
    seed: Annotated[int, typer.Option(help="Same seed and name, same clip.")] = 0,
    gamma: Annotated[Literal["srgb", "2.2"], typer.Option(help="Curve undone to average light.")] = "srgb",
    crf: Annotated[
        str,
        typer.Option(
            help="H.264 quality of the blurred frames, 0 to 51; a range to draw from, such as 15-28; none: no encode."
        ),
    ] = "18",
    average: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N…]",
            help="Average N real frames (odd) and nothing else; drawn for each clip where there are several; "
            "'name' takes N from GoPro's names. The middle frame is the target.",
            show_default="interpolate where frames move",
        ),
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="With --average: frames from target to target.", show_default="N")
    ] = None,
    motion: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="MIN MAX",
            help="Speed clips up: skip source frames until the faster parts (90th percentile) move by this many pixels "
            "an output frame, drawn for each clip; the exposure goes over the frames in between.",
            show_default="as they are",
        ),
    ] = None,
    noise: Annotated[
        tuple[float, float],
        typer.Option(metavar="MIN MAX", help="Sensor noise, 8-bit levels, drawn for each clip."),
    ] = (0.0, 0.0),
    yuv: augment.YuvOption = None,
    max_frames: Annotated[int | None, typer.Option(help="Frames read from a clip at most.", show_default="all")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Clips made at the same time.")] = _WORKERS,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make finished clips again.")] = False,
) -> None:
    """Blurred and sharp pairs in OUT/NAME/blur and OUT/NAME/sharp, from sharp video or photographs.

    Finished clips are kept, so a run that was stopped goes on where it was.
    """
    from unsmear.data.pairs import BlurSettings, make_pairs

    settings = BlurSettings(
        duty=duty,
        seed=seed,
        curve=gamma,
        crf=_crf(crf),
        max_frames=max_frames,
        average=_windows(average),
        step=step,
        motion_px=motion,
        noise=noise,
        raw=augment.raw_option(yuv),
    )
    _finish(out, make_pairs(sharp, out, settings, workers=workers, overwrite=overwrite, on_clip=_tell))


def _finish(out: Path, made: "PairSet") -> None:
    """Tell what became of a set of pairs."""
    for name in made.skipped:
        typer.echo(f"{name}: already there")
    for _, error in made.failures:
        typer.echo(f"unsmear: {error}", err=True)
    if made.manifest["clips"]:
        typer.echo(
            f"{len(made.manifest['clips'])} clips in {out}, "
            f"mean input PSNR {made.manifest['mean_input_psnr_db']:.2f} dB"
        )
    if made.failures:
        raise typer.Exit(1)


@app.command()
def degrade(
    sharp: Annotated[
        list[Path],
        typer.Argument(
            metavar="HQ...",
            help="High-quality videos (raw YUV too), folders of frames (a clip each), folders of videos.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the data set.", show_default=False)],
    sigma: Annotated[tuple[float, float], typer.Option(metavar="MIN MAX", help="Of the blur, pixels.")] = (0.1, 12.0),
    kernel: Annotated[int, typer.Option(help="Side of the blur's kernel, odd.")] = 41,
    scale: Annotated[tuple[float, float], typer.Option(metavar="MIN MAX", help="Smaller by, and back.")] = (1.0, 2.0),
    noise: Annotated[tuple[float, float], typer.Option(metavar="MIN MAX", help="8-bit levels.")] = (0.0, 15.0),
    jpeg: Annotated[tuple[int, int], typer.Option(metavar="MIN MAX", help="JPEG quality.")] = (40, 60),
    seed: Annotated[int, typer.Option(help="Same seed and name, same clip.")] = 0,
    max_frames: Annotated[int | None, typer.Option(help="Frames read from a clip at most.", show_default="all")] = None,
    yuv: augment.YuvOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Clips made at the same time.")] = _WORKERS,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make finished clips again.")] = False,
) -> None:
    """Degraded and sharp pairs in OUT/NAME/blur and OUT/NAME/sharp: blurred, shrunk, noisy, JPEG, enlarged.

    What is drawn from the ranges holds for a whole clip. Finished clips are kept.
    """
    from unsmear.data.degrade import DegradeRanges, DegradeSettings, make_degraded

    ranges = DegradeRanges(kernel_px=kernel, sigma_px=sigma, scale=scale, noise_levels=noise, jpeg_quality=jpeg)
    settings = DegradeSettings(ranges, seed, max_frames, augment.raw_option(yuv))
    _finish(out, make_degraded(sharp, out, settings, workers=workers, overwrite=overwrite, on_clip=_tell_degraded))


@app.command()
def pack(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the pack.", show_default=False)],
    photos: Annotated[Path | None, typer.Option(help="Folder of photographs.", show_default=False)] = None,
    clips: Annotated[Path | None, typer.Option(help="Folder of sharp videos.", show_default=False)] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="File to leave out; repeatable.", show_default=False)
    ] = None,
    clip_frames: Annotated[
        int | None,
        typer.Option(min=9, help="Frames kept in memory of a clip at most, spread over it.", show_default="all"),
    ] = None,
    leaves: Annotated[int, typer.Option(min=0, help="Pictures of dead leaves to add to the photographs.")] = 0,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences to render.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Sequence i depends on the seed and i alone.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = _WORKERS,
    size: Annotated[int, typer.Option(help="Side of the square frames, a multiple of 16.")] = 160,
    frames: Annotated[int, typer.Option(min=3, help="Frames of a sequence.")] = 6,
    photo_share: Annotated[float, typer.Option(min=0, max=1, help="Sequences from photographs, the rest clips.")] = 0.6,
    interpolated: Annotated[
        float, typer.Option(min=0, max=1, help="Of those from photographs, the share that is exposed along flow.")
    ] = 0.0,
    speed: Annotated[tuple[float, float], typer.Option(help="Range of motion, pixels a frame.")] = (1.5, 24.0),
    clip_motion: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Range of motion in clips, pixels a frame.", show_default="as --speed"),
    ] = None,
    duty: Annotated[tuple[float, float], typer.Option(help="Range of the exposure, of the frame step.")] = (0.3, 1.0),
    sharp_share: Annotated[float, typer.Option(min=0, max=1, help="Sequences left sharp.")] = 0.12,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="For speeds up to 72: more sub-frames, photographs never enlarged."),
    ] = False,
    turning: Annotated[
        tuple[float, float], typer.Option(help="Range of the strength of roll, zoom and tilt; 8 is violent.")
    ] = (1.0, 1.0),
    foregrounds: Annotated[int, typer.Option(min=1, max=8, help="Pieces at most that move in front.")] = 1,
    rolling: Annotated[float, typer.Option(min=0, max=1, help="Share with a rolling shutter.")] = 0.0,
    bright: Annotated[float, typer.Option(min=0, max=1, help="Share with light beyond white.")] = 0.0,
    lamps: Annotated[float, typer.Option(min=0, max=1, help="Share in the dark, with streaks of lamps.")] = 0.0,
    psnr: Annotated[
        tuple[float, float], typer.Option(help="Sequences whose blur is outside, in dB, are drawn again.")
    ] = (17.0, 38.0),
    noise: Annotated[float, typer.Option(min=0, help="Most sensor noise, 8-bit levels.")] = 3.0,
    crf: Annotated[tuple[float, float], typer.Option(help="Range of the H.264 encode of the result.")] = (10.0, 27.0),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make a finished pack again.")] = False,
) -> None:
    """A training pack: short blurred and sharp sequences with the priors of the blurred ones."""
    from unsmear.data.camera import CameraRanges
    from unsmear.data.pack import PackConfig, build_pack, load_sources

    if photos is None and clips is None and not leaves:
        raise UsageError("nothing to render from: give --photos DIR, --clips DIR, --leaves N or several of them")
    for folder in (photos, clips):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{folder} is not a folder: give one that holds photographs or videos")
    if size < 64 or size % 16:
        raise UsageError(f"--size {size}: expected a multiple of 16, at least 64")
    finished = out / "pack.json"
    if finished.exists():
        if not overwrite:
            raise OutputError(f"{out} holds a finished pack: give --overwrite or another folder")
        finished.unlink()
    if crf[0] > crf[1]:
        raise UsageError(f"--crf {crf[0]:g} {crf[1]:g}: expected the lower one first")
    if not 0 < speed[0] <= speed[1]:
        raise UsageError(f"--speed {speed[0]:g} {speed[1]:g}: expected two numbers above 0, the lower one first")
    if not 0 <= duty[0] <= duty[1] <= 1:
        raise UsageError(f"--duty {duty[0]:g} {duty[1]:g}: expected 0 <= MIN <= MAX <= 1 (fractions of the frame step)")
    if clip_motion is not None and not 0 < clip_motion[0] <= clip_motion[1]:
        raise UsageError(f"--clip-motion {clip_motion[0]:g} {clip_motion[1]:g}: expected 0 < MIN <= MAX (pixels)")
    if not 0 < turning[0] <= turning[1]:
        raise UsageError(f"--turning {turning[0]:g} {turning[1]:g}: expected 0 < MIN <= MAX")
    if bright + lamps > 1:
        raise UsageError(f"--bright {bright:g} and --lamps {lamps:g}: expected shares that add up to 1 at most")
    if psnr[0] >= psnr[1]:
        raise UsageError(f"--psnr {psnr[0]:g} {psnr[1]:g}: expected MIN < MAX (dB)")
    camera = CameraRanges(
        size_px=size,
        frames=frames,
        speed_px=speed,
        duty=duty,
        sharp_share=sharp_share,
        noise_levels=(0.0, noise),
        fast=fast,
        foregrounds=foregrounds,
        turning=turning,
        shutter_share=rolling,
        bright_share=bright,
        lamp_share=lamps,
    )
    config = PackConfig(
        sequences=sequences,
        seed=seed,
        photo_share=photo_share,
        interpolated_share=interpolated,
        camera=camera,
        crf=crf,
        psnr_range=psnr,
        clip_motion_px=clip_motion or speed,
    )
    sources = load_sources(photos, clips, leaves=leaves, seed=seed, exclude=exclude or (), clip_frames=clip_frames)
    build_pack(sources, out, config, workers)
    typer.echo(f"{sequences} sequences in {out}")


def _crf(text: str) -> float | tuple[float, float] | None:
    if text.lower() in ("none", "-1"):
        return None
    try:
        low, dash, high = text.partition("-")
        return (float(low), float(high)) if dash else float(low)
    except ValueError:
        raise UsageError(
            f"--crf {text}: expected 0 (lossless) to 51, a range such as 15-28, or none for no encode"
        ) from None


def _windows(text: str | None) -> "tuple[int, ...] | Literal['name'] | None":
    if text is None:
        return None
    if text.lower() == "name":
        return "name"
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--average {text}: expected odd numbers such as 7,9,11,13, or name") from None


def _tell(entry: dict[str, Any]) -> None:
    typer.echo(
        f"{entry['name']}: {entry['frames']} frames, duty {entry['duty']:.2f}, "
        f"input PSNR {entry['input_psnr_db']:.2f} dB"
    )


def _tell_degraded(entry: dict[str, Any]) -> None:
    typer.echo(
        f"{entry['name']}: {entry['frames']} frames, sigma {entry['sigma_px'][0]:.1f} {entry['sigma_px'][1]:.1f}, "
        f"scale {entry['scale']:.2f}, noise {entry['noise_level']:.1f}, JPEG {entry['jpeg_quality']}, "
        f"input PSNR {entry['input_psnr_db']:.2f} dB"
    )
