"""Alpha channels: detection, reading, writing. Alpha is straight (unassociated) and is not restored."""

from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

# FFmpeg's own decoders of these ignore the alpha that WebM stores beside the pictures.
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
TAG = "ALPHA_MODE"
"""Matroska tag of a stream with alpha."""


def has_alpha(form: Any) -> bool:
    """Whether a pixel format (``av.VideoFormat``) has alpha, in a channel or in its palette."""
    return form.has_palette or any(part.is_alpha for part in form.components)


def decoder_of(stream: Any) -> Any:
    """Object with ``decode(packet)`` for a stream's packets: the stream, or a decoder that supports its alpha."""
    codec = stream.codec_context.codec.canonical_name
    tags = {key.upper(): value for key, value in stream.metadata.items()}
    if codec in _WITH_ALPHA and tags.get(TAG) == "1":
        return av.CodecContext.create(_WITH_ALPHA[codec], "r")
    return stream


def needs_matroska(encoder: str, pixel_format: str) -> bool:
    """Whether an encoder stores alpha beside the pictures, which only Matroska and WebM support."""
    return encoder in _WITH_ALPHA.values() and has_alpha(av.VideoFormat(pixel_format))


class AlphaReader:
    """Reads the alpha of decoded frames; one object a stream."""

    def __init__(self) -> None:
        self._packed = VideoReformatter()

    def __call__(self, frame: Any, *, deep: bool) -> np.ndarray | None:
        """``(H, W)`` uint8, or uint16 over the full range with ``deep``; None where the format has no alpha."""
        form = frame.format
        if not has_alpha(form):
            return None
        number, bits = _plane(form)
        if number is None:
            name = "rgba64le" if deep else "rgba"
            return np.ascontiguousarray(self._packed.reformat(frame, format=name).to_ndarray()[..., 3])
        plane = frame.planes[number]
        values = np.frombuffer(plane, _type(form, bits)).reshape(plane.height, -1)[:, : frame.width]
        return _scaled(values, bits, 16 if deep else 8)


def write_alpha(frame: Any, alpha: np.ndarray) -> None:
    """Write alpha, ``(H, W)`` uint8 or uint16, to the alpha plane of a frame."""
    number, bits = _plane(frame.format)
    assert number is not None
    plane, kind = frame.planes[number], _type(frame.format, bits)
    rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
    rows[:, : frame.width] = _scaled(alpha, 8 * alpha.itemsize, bits)


def is_transparent(alpha: np.ndarray | None) -> bool:
    """Whether any pixel is transparent; ``alpha`` is None where there is no alpha channel."""
    return alpha is not None and bool(alpha.min() < np.iinfo(alpha.dtype).max)


def divided(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours ``(H, W, 3)`` divided by the ``(H, W)`` alpha that they are multiplied by; black where alpha is 0."""
    highest = np.iinfo(alpha.dtype).max
    share = np.maximum(alpha, 1).astype(np.float64)[..., None] / highest
    return np.clip(np.rint(rgb / share), 0, highest).astype(rgb.dtype)


def as_deep(alpha: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Alpha, uint8 or uint16, with the type of a picture."""
    return _scaled(alpha, 8 * alpha.itemsize, 8 * picture.itemsize)


def is_planar(form: Any) -> bool:
    """Whether a pixel format stores alpha in a plane of its own."""
    return _plane(form)[0] is not None


def shows_through(frame: Any, codec: str) -> bool:
    """Whether a video with this first frame has alpha. Palettes and GIF count only with transparent pixels."""
    alpha = AlphaReader()(frame, deep=False)
    if alpha is None or not (frame.format.has_palette or codec == "gif"):
        return alpha is not None
    return bool((alpha < 255).any())


def _plane(form: Any) -> tuple[int | None, int]:
    """Index of the plane with alpha alone, None where there is none, and bits a sample."""
    if form.has_palette:
        return None, 8
    part = next(part for part in form.components if part.is_alpha)
    alone = sum(other.plane == part.plane for other in form.components) == 1
    return (part.plane if alone else None), part.bits


def _type(form: Any, bits: int) -> np.dtype:
    return np.dtype(np.uint8) if bits <= 8 else np.dtype(">u2" if form.is_big_endian else "<u2")


def _scaled(values: np.ndarray, bits: int, wanted: int) -> np.ndarray:
    """Values over the full range of ``bits``, rounded to the full range of ``wanted``."""
    highest, top = (1 << bits) - 1, (1 << wanted) - 1
    kind = np.uint8 if wanted <= 8 else np.uint16
    if highest == top:
        return np.ascontiguousarray(values, kind)
    return ((values.astype(np.uint32) * top + highest // 2) // highest).astype(kind)
