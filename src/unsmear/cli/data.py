"""``unsmear data …``: blurred and sharp pairs, packs and shards to train from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unsmear.blur.camera import CameraRanges
from unsmear.blur.degrade import DegradeRanges, DegradeSettings
from unsmear.blur.pack import PackConfig
from unsmear.blur.pairs import BlurSettings
from unsmear.blur.shards import ShardSettings
from unsmear.cli import augment, choices
from unsmear.cli.choices import WORKERS, field
from unsmear.cli.errors import complain, leave_with
from unsmear.errors import OutputError, UsageError
from unsmear.options import counted

if TYPE_CHECKING:
    from unsmear.blur.pairset import PairSet

app = typer.Typer(
    help="Make data sets and training material.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("augment")(augment.augment)
app.command("check")(augment.check)

Pairs = Annotated[Path, typer.Option("-o", "--out", help="Folder of the data set.", show_default=False)]
Range = tuple[float, float]
Photos = Annotated[Path | None, typer.Option(help="Folder of photographs.", show_default=False)]
Clips = Annotated[Path | None, typer.Option(help="Folder of sharp videos.", show_default=False)]


@app.command()
def blur(
    sharp: Annotated[
        list[str],
        typer.Argument(
            metavar="SHARP...",
            help="Sharp videos, folders of frames (a clip each), folders of videos, or photographs.",
            show_default=False,
        ),
    ],
    out: Pairs,
    duty: Annotated[Range, field(BlurSettings, "duty", metavar="MIN MAX")] = BlurSettings.duty,
    seed: Annotated[int, field(BlurSettings, "seed")] = BlurSettings.seed,
    curve: Annotated[Literal["srgb", "2.2"], field(BlurSettings, "curve", "--gamma")] = BlurSettings.curve,
    crf: Annotated[
        str,
        typer.Option(
            help="H.264 quality of the blurred frames, 0 to 51; a range to draw from, such as 15-28; none: no encode."
        ),
    ] = str(BlurSettings.crf),
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
    ] = BlurSettings.step,
    motion_px: Annotated[
        Range | None,
        typer.Option(
            "--motion",
            metavar="MIN MAX",
            help="Speed clips up: skip source frames until the faster parts (90th percentile) move by this many pixels "
            "an output frame, drawn for each clip; the exposure goes over the frames in between.",
            show_default="as they are",
        ),
    ] = BlurSettings.motion_px,
    noise: Annotated[Range, field(BlurSettings, "noise", metavar="MIN MAX")] = BlurSettings.noise,
    yuv: choices.Yuv = None,
    max_frames: Annotated[int | None, field(BlurSettings, "max_frames", show_default="all")] = BlurSettings.max_frames,
    workers: choices.Workers = WORKERS,
    overwrite: choices.Overwrite = False,
    debug: choices.Debug = False,
) -> None:
    """Blurred and sharp pairs in OUT/NAME/blur and OUT/NAME/sharp, from sharp video or photographs.

    Finished clips are kept, so a run that was stopped goes on where it was.
    """
    del debug
    from unsmear.blur.pairs import make_pairs

    settings = BlurSettings(
        duty=duty,
        seed=seed,
        curve=curve,
        crf=_crf(crf),
        max_frames=max_frames,
        average=_windows(average),
        step=step,
        motion_px=motion_px,
        noise=noise,
        raw=choices.raw_format(yuv),
    )
    _finish(out, make_pairs(sharp, out, settings, workers=workers, overwrite=overwrite, on_clip=_report))


def _finish(out: Path, pairs: "PairSet") -> None:
    """Report on a set of pairs."""
    for name in pairs.skipped:
        typer.echo(f"{name}: already there")
    for _, error in pairs.failures:
        complain(error)
    if pairs.manifest["clips"]:
        typer.echo(
            f"{counted(len(pairs.manifest['clips']), 'clip')} in {out}, "
            f"mean input PSNR {pairs.manifest['mean_input_psnr_db']:.2f} dB"
        )
    leave_with([error for _, error in pairs.failures], pairs.manifest["clips"])


@app.command()
def degrade(
    sharp: Annotated[
        list[str],
        typer.Argument(
            metavar="HQ...",
            help="High-quality videos (raw YUV too), folders of frames (a clip each), folders of videos.",
            show_default=False,
        ),
    ],
    out: Pairs,
    sigma_px: Annotated[Range, field(DegradeRanges, "sigma_px", "--sigma", metavar="MIN MAX")] = DegradeRanges.sigma_px,
    kernel_px: Annotated[int, field(DegradeRanges, "kernel_px", "--kernel")] = DegradeRanges.kernel_px,
    scale: Annotated[Range, field(DegradeRanges, "scale", metavar="MIN MAX")] = DegradeRanges.scale,
    noise_levels: Annotated[
        Range, field(DegradeRanges, "noise_levels", "--noise", metavar="MIN MAX")
    ] = DegradeRanges.noise_levels,
    jpeg_quality: Annotated[
        tuple[int, int], field(DegradeRanges, "jpeg_quality", "--jpeg", metavar="MIN MAX")
    ] = DegradeRanges.jpeg_quality,
    seed: Annotated[int, field(DegradeSettings, "seed")] = DegradeSettings.seed,
    max_frames: Annotated[
        int | None, field(DegradeSettings, "max_frames", show_default="all")
    ] = DegradeSettings.max_frames,
    yuv: choices.Yuv = None,
    workers: choices.Workers = WORKERS,
    overwrite: choices.Overwrite = False,
    debug: choices.Debug = False,
) -> None:
    """Degraded and sharp pairs in OUT/NAME/blur and OUT/NAME/sharp: blurred, shrunk, noisy, JPEG, enlarged.

    What is drawn from the ranges holds for a whole clip. Finished clips are kept.
    """
    del debug
    from unsmear.blur.degrade import make_degraded

    ranges = DegradeRanges(
        kernel_px=kernel_px, sigma_px=sigma_px, scale=scale, noise_levels=noise_levels, jpeg_quality=jpeg_quality
    )
    settings = DegradeSettings(ranges, seed, max_frames, choices.raw_format(yuv))
    _finish(out, make_degraded(sharp, out, settings, workers=workers, overwrite=overwrite, on_clip=_report_degraded))


@app.command()
def pack(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the pack.", show_default=False)],
    photos: Photos = None,
    clips: Clips = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="File to leave out; repeatable.", show_default=False)
    ] = None,
    clip_frames: Annotated[
        int | None,
        typer.Option(min=9, help="Frames kept in memory of a clip at most, spread over it.", show_default="all"),
    ] = None,
    leaves: Annotated[int, typer.Option(min=0, help="Pictures of dead leaves to add to the photographs.")] = 0,
    sequences: Annotated[int, field(PackConfig, "sequences")] = PackConfig.sequences,
    seed: Annotated[int, field(PackConfig, "seed")] = PackConfig.seed,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = WORKERS,
    size_px: Annotated[int, field(CameraRanges, "size_px", "--size")] = CameraRanges.size_px,
    frames: Annotated[int, field(CameraRanges, "frames", min=3)] = CameraRanges.frames,
    photo_share: Annotated[float, field(PackConfig, "photo_share")] = PackConfig.photo_share,
    interpolated_share: Annotated[
        float, field(PackConfig, "interpolated_share", "--interpolated")
    ] = PackConfig.interpolated_share,
    speed_px: Annotated[Range, field(CameraRanges, "speed_px", "--speed")] = CameraRanges.speed_px,
    clip_motion_px: Annotated[
        Range | None, field(PackConfig, "clip_motion_px", "--clip-motion", show_default="as --speed")
    ] = None,
    duty: Annotated[Range, field(CameraRanges, "duty")] = CameraRanges.duty,
    sharp_share: Annotated[float, field(CameraRanges, "sharp_share")] = CameraRanges.sharp_share,
    fast: Annotated[
        bool, typer.Option("--fast", help="For speeds up to 72: more sub-frames, photographs never enlarged.")
    ] = CameraRanges.fast,
    turning: Annotated[Range, field(CameraRanges, "turning")] = CameraRanges.turning,
    foregrounds: Annotated[int, field(CameraRanges, "foregrounds")] = CameraRanges.foregrounds,
    shutter_share: Annotated[float, field(CameraRanges, "shutter_share", "--rolling")] = CameraRanges.shutter_share,
    bright_share: Annotated[float, field(CameraRanges, "bright_share", "--bright")] = CameraRanges.bright_share,
    lamp_share: Annotated[float, field(CameraRanges, "lamp_share", "--lamps")] = CameraRanges.lamp_share,
    psnr_range: Annotated[Range, field(PackConfig, "psnr_range", "--psnr")] = PackConfig.psnr_range,
    noise: Annotated[float, typer.Option(min=0, help="Most sensor noise, 8-bit levels.")] = CameraRanges.noise_levels[
        1
    ],
    crf: Annotated[Range, field(PackConfig, "crf")] = PackConfig.crf,
    overwrite: choices.Overwrite = False,
    debug: choices.Debug = False,
) -> None:
    """A training pack: short blurred and sharp sequences with the priors of the blurred ones."""
    del debug
    from unsmear.blur.pack import FINISHED, build_pack, load_sources

    if photos is None and clips is None and not leaves:
        raise UsageError("nothing to render from: give `photos`, `clips`, `leaves` or several of them")
    for folder in (photos, clips):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{folder} is not a folder: give one that holds photographs or videos")
    if size_px < 64:
        raise UsageError(f"`size_px` {size_px}: expected a multiple of 16, at least 64")
    camera = CameraRanges(
        size_px=size_px,
        frames=frames,
        speed_px=speed_px,
        duty=duty,
        sharp_share=sharp_share,
        noise_levels=(0.0, noise),
        fast=fast,
        foregrounds=foregrounds,
        turning=turning,
        shutter_share=shutter_share,
        bright_share=bright_share,
        lamp_share=lamp_share,
    )
    config = PackConfig(
        sequences=sequences,
        seed=seed,
        photo_share=photo_share,
        interpolated_share=interpolated_share,
        camera=camera,
        crf=crf,
        psnr_range=psnr_range,
        clip_motion_px=clip_motion_px or speed_px,
    )
    finished = out / FINISHED
    if finished.exists():
        if not overwrite:
            raise OutputError(f"{out} holds a finished pack: give `overwrite` or another folder")
        finished.unlink()
    sources = load_sources(photos, clips, leaves=leaves, seed=seed, exclude=exclude or (), clip_frames=clip_frames)
    build_pack(sources, out, config, workers)
    typer.echo(f"{counted(sequences, 'sequence')} in {out}")


@app.command()
def shards(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the shards.", show_default=False)],
    photos: Photos = None,
    clips: Clips = None,
    listing: Annotated[
        Path | None,
        typer.Option("--sources", metavar="CSV", help="file, author, licence, sha256 of all.", show_default=False),
    ] = None,
    leaves: Annotated[int, field(ShardSettings, "leaves")] = ShardSettings.leaves,
    seed: Annotated[int, field(ShardSettings, "seed")] = ShardSettings.seed,
    photo_px: Annotated[int, field(ShardSettings, "photo_px")] = ShardSettings.photo_px,
    quality: Annotated[int, field(ShardSettings, "quality")] = ShardSettings.quality,
    clip_px: Annotated[int, field(ShardSettings, "clip_px")] = ShardSettings.clip_px,
    clip_frames: Annotated[
        int | None, field(ShardSettings, "clip_frames", show_default="all")
    ] = ShardSettings.clip_frames,
    crf: Annotated[int, field(ShardSettings, "crf")] = ShardSettings.crf,
    most_mb: Annotated[float, field(ShardSettings, "most_mb")] = ShardSettings.most_mb,
    permissive_only: Annotated[
        bool, field(ShardSettings, "permissive_only", "--permissive-only")
    ] = ShardSettings.permissive_only,
    overwrite: choices.Overwrite = False,
    debug: choices.Debug = False,
) -> None:
    """Photographs and clips made small enough to be carried to an accelerator, where training renders from them."""
    del debug
    from unsmear.blur.shards import build_shards

    settings = ShardSettings(
        photo_px=photo_px,
        quality=quality,
        clip_px=clip_px,
        clip_frames=clip_frames,
        crf=crf,
        leaves=leaves,
        seed=seed,
        most_mb=most_mb,
        permissive_only=permissive_only,
    )
    manifest = build_shards(out, photos, clips, settings, listing=listing, overwrite=overwrite)
    kinds = [shard["kind"] for shard in manifest["shards"]]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    typer.echo(f"{out}: {counted}, {manifest['bytes'] / 1e6:.1f} MB")


@app.command()
def restore(
    source: Annotated[
        Path,
        typer.Argument(help="Folder made by `unsmear data pack`, or a data set with priors.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the copy.", show_default=False)],
    model: Annotated[str, typer.Option(help="Stage 1: a shipped model or a folder of weights.")] = "cpfp",
    device: choices.Device = "auto",
    dtype: choices.Dtype = "auto",
    first: Annotated[
        int | None, typer.Option(min=1, help="Only so many sequences or clips.", show_default="all")
    ] = None,
    split: choices.Split = None,
    clip_list: choices.ClipList = None,
    role: choices.Role = None,
    overwrite: choices.Overwrite = False,
    debug: choices.Debug = False,
) -> None:
    """A pack or data set whose blurred frames are restored by stage 1, for the training of stage 2.

    Everything else is linked. Finished clips of a data set are kept, so a run that was stopped goes on where it was.
    """
    del debug
    from unsmear.training.restored import Selection, restore_data

    def report(done: int, count: int) -> None:
        if done % 20 == 0 or count <= 100:
            typer.echo(f"{done} of {count}", err=True)

    count = restore_data(
        source,
        out,
        model,
        device=device,
        dtype=dtype,
        first=first,
        selection=Selection(split, clip_list, role),
        overwrite=overwrite,
        progress=report,
    )
    typer.echo(f"{out}: {count} restored")


def _crf(text: str) -> float | tuple[float, float] | None:
    if text.lower() in ("none", "-1"):
        return None
    try:
        low, dash, high = text.partition("-")
        return (float(low), float(high)) if dash else float(low)
    except ValueError:
        raise UsageError(
            f"`crf` {text}: expected 0 (lossless) to 51, a range such as 15-28, or none for no encode"
        ) from None


def _windows(text: str | None) -> "tuple[int, ...] | Literal['name'] | None":
    if text is None:
        return None
    if text.lower() == "name":
        return "name"
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"`average` {text}: expected odd numbers such as 7,9,11,13, or name") from None


def _report(entry: dict[str, Any]) -> None:
    typer.echo(
        f"{entry['name']}: {counted(entry['frames'], 'frame')}, duty {entry['duty']:.2f}, "
        f"input PSNR {entry['input_psnr_db']:.2f} dB"
    )


def _report_degraded(entry: dict[str, Any]) -> None:
    typer.echo(
        f"{entry['name']}: {counted(entry['frames'], 'frame')}, "
        f"sigma {entry['sigma_px'][0]:.1f} {entry['sigma_px'][1]:.1f}, "
        f"scale {entry['scale']:.2f}, noise {entry['noise_level']:.1f}, JPEG {entry['jpeg_quality']}, "
        f"input PSNR {entry['input_psnr_db']:.2f} dB"
    )
