"""H.264 encode and decode of synthetic frames, for realistic compression in training and evaluation."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

from unsmear.video.colour import LIMITED_RANGE, UNSPECIFIED, FromRgb, ToRgb

SMALL_PX = 240
"""Smaller frames are encoded without x264's assembly code, whose look-ahead reads beyond small frames, with bits that
differ from run to run."""


def h264_round_trip(frames: Iterable[np.ndarray], crf: float, preset: str = "veryfast") -> Iterator[np.ndarray]:
    """Encode with libx264 at ``crf`` in memory and decode again.

    Colours are converted to 4:2:0 and back with accurate rounding, as for videos: swscale's default darkens them by a
    level, which a network would learn to undo.

    Args:
        frames: uint8 RGB (H, W, 3), all of one size.
        crf: constant rate factor, 0 (lossless) … 51.
        preset: x264's preset.

    Yields:
        uint8 RGB (H, W, 3), one for each frame, in order. Odd sizes are padded for the encoder and cropped
        afterwards.
    """
    encoder: Any = None
    decoder: Any = None
    height = width = 0
    to_yuv, to_rgb = FromRgb("yuv420p", UNSPECIFIED, LIMITED_RANGE), ToRgb(deep=False)

    def decoded(packets: Iterable[Any]) -> Iterator[np.ndarray]:
        for packet in packets:
            for frame in decoder.decode(packet):
                yield to_rgb(frame)[0][:height, :width]

    for i, image in enumerate(frames):
        if encoder is None:
            height, width = image.shape[:2]
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height = width + width % 2, height + height % 2
            encoder.pix_fmt = "yuv420p"
            encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
            encoder.options = {"preset": preset, "crf": f"{crf:g}", "threads": "1"}
            if min(height, width) < SMALL_PX:
                encoder.options |= {"x264-params": "asm=0"}
            decoder = av.CodecContext.create("h264", "r")
        padded = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = to_yuv(padded)
        picture.pts = i
        yield from decoded(encoder.encode(picture))
    if encoder is not None:
        yield from decoded(encoder.encode(None))
        yield from decoded([None])  # flushes it
