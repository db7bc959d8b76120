"""Picture files to arrays and back, each format with a library that reads its full depth and prints nothing."""

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
from PIL import JpegImagePlugin, WebPImagePlugin

from unsmear.errors import DamagedVideo, OutputError, UnsupportedVideo
from unsmear.video.alpha import AlphaReader, divided, has_alpha, is_transparent
from unsmear.video.colour import ToRgb
from unsmear.video.contents import Contents, check_size, contents, mapped, max_pixels
from unsmear.video.ffmpeg import main_video_stream, open_input, reason
from unsmear.video.light import from_linear, to_linear
from unsmear.video.phototags import NO_TAGS, PictureTags, is_lossless_webp, tags_of_pillow, tags_of_png, tags_of_tiff
from unsmear.video.sidedata import known_side_data, left_out, profile_of
from unsmear.video.upright import Turn, turn_of_matrix, turned
from unsmear.video.walk import (
    Data,
    TiffPage,
    check_png,
    exr_is_whole,
    jpeg_end,
    only_page,
    orientation,
    png_chunk,
    tiff_pages,
)

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", module=r"PIL\.")  # about tags of the picture

# Decoders of FFmpeg that take a whole file for a packet.
_DECODERS = {
    "png": "png",
    "bmp": "bmp",
    "tga": "targa",
    "pnm": "ppm",
    "pfm": "pfm",
    "qoi": "qoi",
    "dpx": "dpx",
    "exr": "exr",
    "hdr": "hdr",
    "jp2": "jpeg2000",
}
_TURNS: dict[int, Turn] = {  # by the orientation of Exif and TIFF
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_NO_IMAGE = "cannot be decoded as an image; the file is damaged or is not an image"
_SEVERAL = "holds several pictures where one was expected; give it by itself"
_CUT = "the image is cut short or damaged; copy or download it again"


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        rgb: ``(H, W, 3)`` uint8, or uint16 over the full 16-bit range, upright.
        bits: bits a sample in the file, 16 for floating point.
        gray: whether the file holds a single channel.
        notes: content of the file that is not in this object, a phrase each.
        alpha: ``(H, W)`` of the type of ``rgb``, 0 for transparent; None without an alpha channel.
        tags: colour profile, camera data and the like.
    """

    rgb: np.ndarray
    bits: int
    gray: bool
    notes: tuple[str, ...] = ()
    alpha: np.ndarray | None = None
    tags: PictureTags = NO_TAGS

    @property
    def shows_through(self) -> bool:
        """Whether any of it is transparent."""
        return is_transparent(self.alpha)

    def turned(self, turn: Turn) -> "Picture":
        """The same picture, turned."""
        alpha = None if self.alpha is None else turned(self.alpha, turn)
        return replace(self, rgb=turned(self.rgb, turn), alpha=alpha)


def of_pixels(pixels: np.ndarray, tags: PictureTags = NO_TAGS) -> Picture:
    """A picture of ``(H, W, 3 or 4)`` uint8 or uint16, of which the fourth is alpha."""
    alpha = pixels[..., 3].copy() if pixels.shape[2] == 4 else None
    return Picture(np.ascontiguousarray(pixels[..., :3]), pixels.dtype.itemsize * 8, False, (), alpha, tags)


def read_picture(path: Path, held: Contents | None = None, page: TiffPage | None = None) -> Picture:
    """Read a picture.

    Args:
        path: of the file.
        held: result of ``contents``, where it is known already.
        page: page of a TIFF; the first by default.

    Raises:
        UnsupportedVideo: the file is missing, is not a single picture, is larger than ``max_pixels``, or has samples
            other than integers of up to 16 bits.
        DamagedVideo: the file cannot be decoded, or is truncated.
    """
    held = held or contents(path)
    if held is None or held.format == "heif":
        return _through_container(path)
    if held.holding != "picture" and page is None:
        raise UnsupportedVideo(f"{path}: {_SEVERAL if held.holding == 'pictures' else f'is a {held.format}'}")
    with mapped(path) as data:
        if held.format == "jpeg":
            return _jpeg(path, data)
        if held.format == "webp":
            return _webp(path, data)
        if held.format == "tiff":
            return _tiff(path, data, page or tiff_pages(data, path)[0][0])
        return _by_decoder(path, bytes(data), held.format)


def _jpeg(path: Path, data: Data) -> Picture:
    end = jpeg_end(data)
    if end is None:
        raise DamagedVideo(f"{path}: {_CUT}")
    image = pillow(path, JpegImagePlugin.JpegImageFile, bytes(data[:end]))
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    picture = Picture(np.asarray(image.convert("RGB")), 8, image.mode == "L", _trailer(data, end))
    return replace(picture.turned(_turn(orientation(exif))), tags=tags_of_pillow(image))


def _webp(path: Path, data: Data) -> Picture:
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise DamagedVideo(f"{path}: {_CUT}")
    image = pillow(path, WebPImagePlugin.WebPImageFile, bytes(data))
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    tags = replace(tags_of_pillow(image), lossless_webp=is_lossless_webp(data))
    return of_pixels(np.asarray(image), tags).turned(_turn(orientation(exif)))


def pillow(path: Path, plugin: Callable[..., Any], data: bytes) -> Any:
    """Picture decoded by a plugin of Pillow, which is called directly: Pillow's own limit of sizes does not apply."""
    try:
        image = plugin(io.BytesIO(data))
        check_size(path, *image.size)
        image.load()
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, struct.error) as error:
        raise DamagedVideo(f"{path}: {_NO_IMAGE}") from error
    return image


def _tiff(path: Path, data: Data, page: TiffPage) -> Picture:
    check_size(path, page.width, page.height)
    tags = tags_of_tiff(bytes(data))
    if page.alpha:  # OpenCV multiplies the colours by it
        found = _decoded(path, only_page(data, page), "tiff")
        if page.associated and found.alpha is not None:
            found = replace(found, rgb=divided(found.rgb, found.alpha))
        return replace(found.turned(_turn(page.orientation)), tags=tags)
    whole = np.frombuffer(data, np.uint8)
    try:
        for flags in (cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, cv2.IMREAD_UNCHANGED):
            _, pixels = cv2.imdecodemulti(whole, flags, range=(page.number, page.number + 1))
            if pixels:
                break
    except cv2.error as error:
        raise DamagedVideo(f"{path}: {_NO_IMAGE}") from error
    finally:
        del whole  # it keeps the map open
    if not pixels:
        raise DamagedVideo(f"{path}: {_NO_IMAGE}")
    if pixels[0].dtype not in (np.uint8, np.uint16) or pixels[0].ndim != 3:
        raise UnsupportedVideo(f"{path}: samples are {pixels[0].dtype}; convert the image to 8 or 16 bit")
    rgb = cv2.cvtColor(pixels[0], cv2.COLOR_BGR2RGB)
    return Picture(rgb, pixels[0].dtype.itemsize * 8, page.gray, tags=tags)


def _by_decoder(path: Path, data: bytes, form: str) -> Picture:
    notes: tuple[str, ...] = ()
    turn, tags = 1, NO_TAGS
    if form == "png":
        end = check_png(data)
        if end is None:
            raise DamagedVideo(f"{path}: {_CUT}")
        notes = _trailer(data, end)
        turn, tags = orientation(png_chunk(data, b"eXIf")), tags_of_png(data)
    elif (form == "exr" and not exr_is_whole(data)) or (form == "qoi" and bytes(7) + b"\1" not in data):
        raise DamagedVideo(f"{path}: {_CUT}")
    found = _decoded(path, data, _DECODERS[form])
    return replace(found.turned(_turn(turn)), notes=found.notes + notes, tags=tags)


def _decoded(path: Path, data: bytes, name: str) -> Picture:
    """Decode a file as one packet with a decoder of FFmpeg."""
    decoder: Any = av.CodecContext.create(name, "r")
    strict = {} if name == "tiff" else {"err_detect": "explode+crccheck"}  # it takes harmless tags of TIFF for errors
    decoder.options = {"max_pixels": str(max_pixels())} | strict
    decoder.thread_count = 1
    try:
        frames = decoder.decode(av.Packet(data)) + decoder.decode(None)
    except av.error.FFmpegError as error:
        raise DamagedVideo(f"{path}: {_NO_IMAGE}") from error
    if not frames:
        raise DamagedVideo(f"{path}: {_NO_IMAGE}")
    return _of_frame(frames[0])


def _through_container(path: Path) -> Picture:
    """Decode a picture through FFmpeg's demuxers, such as HEIC, AVIF and PSD."""
    try:
        container = open_input(path)
    except DamagedVideo as error:
        raise DamagedVideo(f"{path}: {_NO_IMAGE}") from error
    with container:
        stream = main_video_stream(container, path)
        try:
            frames = (frame for packet in container.demux(stream) for frame in packet.decode())
            frame = next(frames, None)
            if frame is not None and next(frames, None) is not None:
                raise UnsupportedVideo(f"{path}: {_SEVERAL}")
        except av.error.FFmpegError as error:
            raise DamagedVideo(f"{path}: cannot be decoded as an image ({reason(error)})") from error
        if frame is None:
            raise DamagedVideo(f"{path}: {_NO_IMAGE}")
        found = replace(_of_frame(frame), tags=PictureTags(profile_of(frame)))
        matrix = known_side_data(frame).get("DISPLAYMATRIX")
        if matrix is None:
            return found
        return found.turned(turn_of_matrix([int(value) for value in np.frombuffer(bytes(matrix), np.int32)]))


def _of_frame(frame: Any) -> Picture:
    """Picture from a frame decoded by FFmpeg."""
    form = frame.format
    gray = not form.is_rgb and not form.has_palette and len([p for p in form.components if not p.is_alpha]) == 1
    if form.name.endswith(("f32le", "f32be", "f16le", "f16be")):
        return _of_light(frame, gray, ("the alpha channel is dropped",) if has_alpha(form) else ())
    bits = 8 if form.has_palette else max(int(part.bits) for part in form.components if not part.is_alpha)
    rgb, _ = ToRgb(deep=bits > 8)(frame)
    alpha = AlphaReader()(frame, deep=bits > 8)
    if form.has_palette and alpha is not None and alpha.min() == 255:
        alpha = None
    return Picture(rgb, bits, gray and alpha is None, (), alpha)


def _of_light(frame: Any, gray: bool, notes: tuple[str, ...]) -> Picture:
    """Picture of linear light, in which white is 1: gamma-encoded in 16 bits and clipped, with a note."""
    name = "grayf32le" if gray else "gbrpf32le"
    light = frame.to_ndarray() if frame.format.name == name else frame.to_ndarray(format=name)
    light = np.nan_to_num(np.repeat(light[..., None], 3, 2) if light.ndim == 2 else light, posinf=np.inf)
    beyond = float(np.mean((light > 1) | (light < 0)))
    if beyond:
        notes = (*notes, f"light brighter than white or below black, {_share(beyond)} of the samples, is clipped")
    encoded = from_linear(light).astype(np.float32) * np.float32(65535 / 255)
    return Picture(np.rint(encoded).astype(np.uint16), 16, gray, notes)


def _share(part: float) -> str:
    return f"{100 * part:.2g} %" if part > 0.0001 else "less than 0.01 %"


def _turn(orientation: int) -> Turn:
    return _TURNS.get(orientation, (False, False, False))


def _trailer(data: Data, end: int) -> tuple[str, ...]:
    """Note for bytes after the end of a picture; none where all are zero."""
    size = len(data) - end
    if size <= 0 or not data[end:].strip(b"\0"):
        return ()
    return (f"{size} bytes after the end of the picture, such as a video or a second picture, are left out",)


# Formats that can be written by FFmpeg: encoder, and pixel formats by bits of a sample, for colour and for gray.
_ENCODERS: dict[str, tuple[str, dict[int, str], dict[int, str]]] = {
    ".ppm": ("ppm", {8: "rgb24", 16: "rgb48be"}, {}),
    ".pgm": ("pgm", {}, {8: "gray", 16: "gray16be"}),
    ".pam": ("pam", {8: "rgb24", 16: "rgb48be"}, {8: "gray", 16: "gray16be"}),
    ".tga": ("targa", {8: "bgr24"}, {8: "gray"}),
    ".qoi": ("qoi", {8: "rgb24"}, {}),
    ".dpx": ("dpx", {8: "rgb24", 10: "gbrp10be", 12: "gbrp12be", 16: "rgb48be"}, {8: "gray", 16: "gray16be"}),
    ".exr": ("exr", {32: "gbrpf32le"}, {32: "grayf32le"}),
    ".pfm": ("pfm", {32: "gbrpf32le"}, {32: "grayf32le"}),
    ".hdr": ("hdr", {32: "gbrpf32le"}, {}),
}
# The same with alpha, of those that have it.
_WITH_ALPHA = {".pam": {8: "rgba", 16: "rgba64be"}, ".tga": {8: "bgra"}, ".qoi": {8: "rgba"}}
_PLAIN = {(2, 1): "gray", (2, 2): "gray16le", (3, 1): "rgb24", (3, 2): "rgb48le"}
_HOLDS_ALPHA = frozenset((".png", ".tif", ".tiff", ".webp", ".avif", *_WITH_ALPHA))
_TO_BGR = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
_LOSSLESS_WEBP = [cv2.IMWRITE_WEBP_QUALITY, 101]
_OPENCV: dict[str, list[int]] = {
    ".png": [],
    ".tif": [],
    ".tiff": [],
    ".bmp": [],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 97],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 97],
    ".jpe": [cv2.IMWRITE_JPEG_QUALITY, 97],
    ".jfif": [cv2.IMWRITE_JPEG_QUALITY, 97],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 97],
    ".avif": [cv2.IMWRITE_AVIF_QUALITY, 97],
}
_OPENCV_DEEP = {".png", ".tif", ".tiff"}


def is_written(suffix: str, bits: int = 8) -> bool:
    """Whether pictures with this suffix and depth can be written."""
    suffix = suffix.lower()
    if suffix in _ENCODERS:
        return max((*_ENCODERS[suffix][1], *_ENCODERS[suffix][2])) >= bits
    return suffix in _OPENCV and (bits <= 8 or suffix in _OPENCV_DEEP)


_ENDINGS = {"jpeg": ".jpg", "png": ".png", "tiff": ".tif", "webp": ".webp", "bmp": ".bmp", "tga": ".tga", "pfm": ".pfm"}
_ENDINGS |= {"qoi": ".qoi", "dpx": ".dpx", "exr": ".exr", "hdr": ".hdr"}


def picture_suffix(path: Path, form: str, picture: Picture) -> str:
    """The ending of a file that holds a picture like this one.

    Args:
        path: of the picture, whose own ending it is where such files can be written.
        form: its format.
        picture: the pictures's depth decides, too.
    """
    for suffix in (path.suffix.lower(), _ENDINGS.get(form, "")):
        if is_written(suffix, picture.bits) and (suffix != ".pgm" or picture.gray):
            return suffix
    return ".png"


def holds_alpha(suffix: str) -> bool:
    """Whether pictures of names that end so have alpha."""
    return suffix.lower() in _HOLDS_ALPHA


def not_held(suffix: str, bits: int, alpha: bool, tags: PictureTags) -> list[str]:
    """What a picture loses in a file of a format that cannot hold it, a phrase each.

    Args:
        suffix: of the file.
        bits: of a sample.
        alpha: whether any of it is transparent.
        tags: of the picture.
    """
    suffix, notes = suffix.lower(), []
    if not is_written(suffix, bits):
        notes.append(f"{suffix} holds 8 bits a channel; choose a .png output to keep {bits}")
    if alpha and not holds_alpha(suffix):
        notes.append(f"the alpha channel is dropped: {suffix} has none; choose a .png output to keep it")
    deep = bits > 8 and is_written(suffix, bits)
    return notes + [left_out(kind) for kind in tags.left_out(suffix, deep=deep)]


def encode_picture(
    pixels: np.ndarray,
    suffix: str,
    bits: int = 16,
    alpha: np.ndarray | None = None,
    tags: PictureTags = NO_TAGS,
) -> bytes:
    """A picture as a file.

    Args:
        pixels: ``(H, W, 3)`` RGB or ``(H, W)`` gray, uint8, or uint16 over the full 16-bit range.
        suffix: suffix of the file name, which selects the format.
        bits: bits a sample to keep of uint16 pixels, where the format has that depth.
        alpha: ``(H, W)`` of the same type, for RGB; it and ``tags`` are written where the format supports them (see
            ``not_held``).

    Raises:
        OutputError: the format is unknown, or does not support this size or depth.
    """
    suffix, deep = suffix.lower(), pixels.dtype == np.uint16
    if alpha is not None and holds_alpha(suffix):
        pixels = np.dstack([pixels, alpha])
    if suffix in _ENCODERS:
        return _encoded(pixels, suffix, bits if deep else 8)
    if not is_written(suffix, 16 if deep else 8):
        raise OutputError(f"{suffix or 'no suffix'} is no image format that can be written; use .png")
    whole = np.ascontiguousarray(pixels)
    if suffix in (".tif", ".tiff") and (tags.side_data or pixels.shape[2:] == (4,)) and not deep:
        return tags.encoded_tiff(whole)
    if suffix in (".tif", ".tiff") and pixels.shape[2:] == (4,):  # of which OpenCV does not say what the fourth is
        return _by_encoder("tiff", "rgba64le", av.VideoFrame.from_ndarray(whole, format="rgba64le"), suffix)
    bgr = whole if whole.ndim == 2 else cv2.cvtColor(whole, _TO_BGR[whole.shape[2]])
    quality = _LOSSLESS_WEBP if suffix == ".webp" and tags.lossless_webp else _OPENCV[suffix]
    try:
        data = tags.encoded(".jpg" if suffix == ".jfif" else suffix, bgr, quality)
    except cv2.error:
        data = None
    if data is None:
        raise OutputError(f"a picture of {pixels.shape[1]}x{pixels.shape[0]} cannot be encoded as {suffix}; use .png")
    return data.tobytes()


def _encoded(pixels: np.ndarray, suffix: str, bits: int) -> bytes:
    name, colour, gray = _ENCODERS[suffix]
    if pixels.ndim == 3 and not colour:
        raise OutputError(f"{suffix} holds gray pictures alone; use .png")
    if pixels.ndim == 2 and not gray:
        pixels = np.repeat(pixels[..., None], 3, 2)
    forms = gray if pixels.ndim == 2 else colour if pixels.shape[2] == 3 else _WITH_ALPHA[suffix]
    depth = min((depth for depth in forms if depth >= bits), default=0)
    if not depth:
        raise OutputError(f"{suffix} holds {max(forms)} bits a sample, not {bits}; use .png")
    if depth == 32:
        frame = av.VideoFrame.from_ndarray(to_linear(pixels), format=forms[depth])
    else:
        plain = _PLAIN[pixels.ndim, pixels.dtype.itemsize]
        plain = {"rgb24": "rgba", "rgb48le": "rgba64le"}[plain] if pixels.shape[2:] == (4,) else plain
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=plain)
    return _by_encoder(name, forms[depth], frame, suffix)


def _by_encoder(name: str, form: str, frame: Any, suffix: str) -> bytes:
    encoder: Any = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, form
    encoder.time_base = Fraction(1, 25)
    try:
        packets = encoder.encode(frame.reformat(format=form)) + encoder.encode(None)
    except av.error.FFmpegError as error:
        size = f"{frame.width}x{frame.height}"
        raise OutputError(f"a picture of {size} cannot be encoded as {suffix} ({reason(error)}); use .png") from error
    return b"".join(bytes(packet) for packet in packets)
