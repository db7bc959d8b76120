"""Detection of losslessly coded video."""

import re
from typing import Any

from unsmear.video.sidedata import known_side_data

# Uncompressed, or palettes: outputs in other codecs need not be lossless.
_UNCOMPRESSED = frozenset(
    ("rawvideo", "wrapped_avframe", "v210", "v410", "v308", "v408", "r210", "r10k", "y41p", "yuv4", "ayuv", "gif")
)
_SPS_HIGH_444 = re.compile(rb"[\x07\x27\x47\x67]\xf4")  # a NAL unit that is an SPS, of profile 244


def is_lossless(stream: Any, frame: Any) -> bool:
    """Whether the codec is lossless, or H.264 or HEVC (x265) was coded losslessly; ``frame`` is the first one."""
    context = stream.codec_context
    codec = context.codec
    if codec.canonical_name == "h264":
        return _h264_bypasses_transform(context.extradata or b"")
    if codec.canonical_name == "hevc":
        return any(b"x265" in text and b" lossless " in text for text in map(bytes, known_side_data(frame)))
    return bool(codec.lossless and not codec.lossy and codec.canonical_name not in _UNCOMPRESSED)


def _h264_bypasses_transform(headers: bytes) -> bool:
    """``qpprime_y_zero_transform_bypass_flag`` of the first SPS (ITU-T H.264, 7.3.2.1.1), set by lossless coding."""
    found = _SPS_HIGH_444.search(headers)
    if found is None:
        return False
    begin = found.end() + 2  # after constraints and level
    bits = "".join(f"{byte:08b}" for byte in headers[begin : begin + 16])
    bits += "1" * len(bits)  # so that codes that are cut short end, too
    at = 0

    def unsigned() -> int:
        nonlocal at
        zeros = max(bits.find("1", at), at) - at
        at += 2 * zeros + 1
        return int("0" + bits[at - zeros - 1 : at], 2) - 1

    unsigned()  # identifier
    if unsigned() == 3:  # 4:4:4
        at += 1  # separate planes
    unsigned()  # bit depths of luma and chroma
    unsigned()
    return bits[at : at + 1] == "1"
