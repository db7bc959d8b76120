"""Decoded planes to RGB and back, in the stream's own matrix and range.

Both directions go through swscale with the same flags and the same chroma siting, so a frame that is decoded
and encoded unchanged keeps its colours. What the stream leaves unspecified takes swscale's convention both
ways: BT.601, limited range.
"""

import io
from fractions import Fraction
from typing import Any, Literal

import av
import av.error
import av.filter
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from unsmear.video.alpha import as_deep, has_alpha, is_planar, write_alpha
from unsmear.video.frame import eight_bit

# AVColorSpace → the matrices that swscale knows (its numbers differ for SMPTE 170M only).
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_BT601 = 5
# Weights of red and blue in luma, by the matrix (H.273).
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
Siting = Literal["left", "center", "topleft", "top"]
"""Position of subsampled chroma relative to luma, in FFmpeg's terms; "left" is MPEG-2's and "topleft" UHD's."""
_BY_STANDARD: dict[str, Siting] = {"mjpeg": "center", "mpeg1video": "center", "dvvideo": "topleft"}  # others: left
# Encoders that write the siting into the bitstream.
_STATE_SITING = frozenset(("libx264", "libx265", "libsvtav1"))
# Matroska's elements ChromaSitingHorz and ChromaSitingVert, of one byte each, and the sitings for their values.
_SITING_ELEMENTS = (b"\x55\xb7\x81", b"\x55\xb8\x81")
_SITINGS: dict[tuple[int, int], Siting] = {(1, 1): "topleft", (1, 2): "left", (2, 1): "top", (2, 2): "center"}
UNSPECIFIED = 2
LIMITED_RANGE = 1
FULL_RANGE = 2
_ANY_TIME_BASE = Fraction(1, 25)
_FLAGS = (
    Interpolation.LANCZOS  # of the kernels, the one whose chroma changes least on a round trip
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


def chroma_siting_of(stream: Any) -> Siting:
    """Chroma siting of a stream: as stated, else by the standard of its codec.

    PyAV has no attribute for it; FFmpeg writes it to the header of a Matroska file.
    """
    header = io.BytesIO()
    try:
        with av.open(header, "w", format="matroska") as scratch:
            scratch.add_stream_from_template(stream, opaque=True)
            scratch.start_encoding()
    except (ValueError, av.error.FFmpegError):
        pass  # what Matroska cannot hold, or will not end without packets
    values = tuple(header.getvalue().partition(element)[2][:1] for element in _SITING_ELEMENTS)
    stated = _SITINGS.get((values[0][0], values[1][0])) if all(values) else None
    return stated or default_siting(stream.codec_context.codec.canonical_name)


def default_siting(codec: str) -> Siting:
    """The siting that decoders assume for a codec, or encoder, that states none."""
    return _BY_STANDARD.get(codec, "left")


def siting_of_output(encoder: str, source: Siting) -> Siting:
    """The siting of frames for an encoder: the source's where it can be stated, else what decoders assume."""
    return source if encoder in _STATE_SITING else default_siting(encoder)


class ToRgb:
    """Turns decoded frames into RGB and luma; one object a stream (it keeps swscale's tables)."""

    def __init__(self, *, deep: bool, siting: str = "left") -> None:
        """``deep``: give uint16; ``siting``: where chroma samples lie ("left" or "center")."""
        self._site = _Siting(siting)
        self._format = "rgb48le" if deep else "rgb24"
        self._rgb = VideoReformatter()
        self._planar = VideoReformatter()

    def __call__(self, frame: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(rgb, luma)``: ``(H, W, 3)`` uint8 or uint16, and ``(H, W)`` uint8."""
        matrix = int(frame.colorspace)
        if not frame.format.is_rgb and matrix not in _MATRICES:
            frame.colorspace = UNSPECIFIED
        elif matrix == 10:
            frame.colorspace = 9
        converted = self._rgb.reformat(self._site(frame), format=self._format, interpolation=_FLAGS)
        rgb = np.array(converted.to_ndarray(), order="C")
        return rgb, self._luma(frame, rgb)

    def _luma(self, frame: Any, rgb: np.ndarray) -> np.ndarray:
        form = frame.format
        if form.is_rgb or form.has_palette or form.is_bayer or len(form.components) < 3:
            return luma_of_rgb(rgb)
        name, bits = form.name, form.components[0].bits
        if bits == 8 and form.is_planar:
            return _first_plane(frame, np.uint8).copy()
        if bits == 8:
            return _first_plane(self._planar.reformat(frame, format="yuv422p"), np.uint8).copy()
        # Deep luma is 8-bit luma with more digits (16 is black in both), so it is shifted, not scaled as RGB is.
        if name.startswith("yuv") and name.endswith("le") and form.is_planar:
            return (_first_plane(frame, np.uint16) >> (bits - 8)).astype(np.uint8)
        wide = self._planar.reformat(frame, format="yuv444p16le", interpolation=_FLAGS)
        return (_first_plane(wide, np.uint16) >> 8).astype(np.uint8)


class FromRgb:
    """Turns RGB arrays into frames for an encoder."""

    def __init__(self, pixel_format: str, colorspace: int, color_range: int, siting: str = "left") -> None:
        form = av.VideoFormat(pixel_format)
        self._format = pixel_format
        self._alpha = has_alpha(form) and not form.has_palette
        self._alpha_plane = self._alpha and is_planar(form)
        self._yuv = not form.is_rgb and len(form.components) >= 3
        self._matrix = _MATRICES.get(colorspace, _BT601)
        self._range = color_range if color_range in (LIMITED_RANGE, FULL_RANGE) else LIMITED_RANGE
        self._site = _Siting(siting)
        self._reformatter = VideoReformatter()

    def __call__(self, rgb: np.ndarray, alpha: np.ndarray | None = None) -> Any:
        """``(H, W, 3)`` uint8 or uint16 → an ``av.VideoFrame`` in the encoder's pixel format.

        ``alpha``, ``(H, W)`` of either type, is used where that has alpha; without, the picture is opaque.
        """
        if not self._alpha or alpha is None:
            return self._opaque(rgb)
        if not self._alpha_plane:
            packed = "rgba64le" if rgb.dtype == np.uint16 else "rgba"
            source = av.VideoFrame.from_ndarray(np.dstack([rgb, as_deep(alpha, rgb)]), format=packed)
            return self._reformatter.reformat(source, format=self._format, interpolation=_FLAGS)
        frame = self._opaque(rgb)
        write_alpha(frame, alpha)
        return frame

    def _opaque(self, rgb: np.ndarray) -> Any:
        if self._yuv and self._range == FULL_RANGE:
            return self._full_range(rgb)
        source = av.VideoFrame.from_ndarray(
            np.ascontiguousarray(rgb), format="rgb48le" if rgb.dtype == np.uint16 else "rgb24"
        )
        if not self._yuv:
            return self._reformatter.reformat(source, format=self._format, interpolation=_FLAGS)
        return self._reformatter.reformat(
            self._site(source),
            format=self._format,
            dst_colorspace=self._matrix,
            dst_color_range=self._range,
            interpolation=_FLAGS,
        )

    def _full_range(self, rgb: np.ndarray) -> Any:
        """RGB → full-range YUV in two steps: swscale's one step darkens chroma by half a level."""
        deep = rgb.dtype == np.uint16
        planes = cv2.transform(rgb, _full_range_matrix(self._matrix, 32768 if deep else 128))
        source: Any = av.VideoFrame(rgb.shape[1], rgb.shape[0], "yuv444p16le" if deep else "yuv444p")
        for number, plane in enumerate(source.planes):
            rows = np.frombuffer(plane, rgb.dtype).reshape(plane.height, -1)
            rows[:, : plane.width] = planes[..., number]
        source.color_range, source.colorspace = FULL_RANGE, self._matrix
        return self._reformatter.reformat(
            self._site(source),
            format=self._format,
            dst_colorspace=self._matrix,
            dst_color_range=FULL_RANGE,
            interpolation=_FLAGS,
        )


class _Siting:
    """Marks frames with the place of their chroma samples, which swscale heeds on both sides.

    PyAV has no attribute for it and decoders of some codecs leave it open, so that one direction would shift
    chroma by a quarter of its pixel against the other.
    """

    def __init__(self, siting: str) -> None:
        self._siting = siting
        self._key: tuple[str, int, int] | None = None
        self._graph: Any = None

    def __call__(self, frame: Any) -> Any:
        key = (frame.format.name, frame.width, frame.height)
        if key != self._key:
            self._key, self._graph = key, av.filter.Graph()
            begin = self._graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=_ANY_TIME_BASE
            )
            mark = self._graph.add("setparams", f"chroma_location={self._siting}")
            end = self._graph.add("buffersink")
            begin.link_to(mark)
            mark.link_to(end)
            self._graph.configure()
        self._graph.push(frame)
        return self._graph.pull()


def _full_range_matrix(colorspace: int, middle: int) -> np.ndarray:
    """The ``(3, 4)`` affine map from RGB to full-range Y, Cb, Cr; ``middle`` is the value of no chroma."""
    red, blue = _WEIGHTS[colorspace]
    luma = np.array([red, 1 - red - blue, blue])
    to_blue = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    to_red = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    offset = np.array([[0.0], [middle], [middle]])
    return np.hstack([np.stack([luma, to_blue, to_red]), offset])


def luma_of_rgb(rgb: np.ndarray) -> np.ndarray:
    """BT.601 luma, full range: ``(H, W, 3)`` uint8 or uint16 → ``(H, W)`` uint8."""
    return np.asarray(cv2.cvtColor(eight_bit(rgb), cv2.COLOR_RGB2GRAY))


def _first_plane(frame: Any, dtype: type) -> np.ndarray:
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, abs(plane.line_size))
    if plane.line_size < 0:  # bottom-up: the buffer starts at the lowest address
        rows = rows[::-1]
    return rows[:, : frame.width * np.dtype(dtype).itemsize].view(dtype)
