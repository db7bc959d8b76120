"""Interlaced input: the option `deinterlace`, and notes on what was done."""

from unsmear.errors import UnsupportedVideo
from unsmear.restore.options import Options
from unsmear.video import VideoInfo, VideoReader
from unsmear.video.fields import Deinterlace, holds_single_fields, order_in_words


def wanted_frames(options: Options) -> Deinterlace:
    """The reader's argument for the option `deinterlace`; `refuse` reads as `auto` does, to find interlaced frames."""
    chosen = options.deinterlace
    return chosen if chosen in ("top", "bottom") else chosen != "keep"


def refuse_interlaced(reader: VideoReader, options: Options) -> None:
    """Raise UnsupportedVideo for interlaced video with the option `refuse`."""
    if options.deinterlace == "refuse" and (reader.info.interlaced or reader.deinterlaced):
        raise UnsupportedVideo(
            f"{reader.info.path}: is interlaced; give `deinterlace` auto to make it progressive, or keep"
        )


def field_notes(info: VideoInfo, deinterlaced: bool) -> list[str]:
    """Notes on interlaced frames."""
    if deinterlaced:
        return ["interlaced: made progressive, a frame for each; `deinterlace` keep takes frames as they are"]
    if not info.interlaced:
        return []
    if holds_single_fields(info.codec):
        return [f"interlaced: its pictures are single fields, {order_in_words(info.field_order)}, restored one by one"]
    return [f"interlaced, {order_in_words(info.field_order)}: both fields of a frame are restored as one picture"]
