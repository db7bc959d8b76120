"""Clips that players turn and mirror."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

from support.clips import make_clip

ONE = 1 << 16

# Display matrices, as FFmpeg orders them (a, b, u, c, d, v, x, y, w), and what a player makes of a picture.
ORIENTATIONS: dict[str, tuple[tuple[int, ...], Any]] = {
    "as it is": ((ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), lambda picture: picture),
    "a quarter to the left": ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), np.rot90),
    "half": ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), lambda picture: np.rot90(picture, 2)),
    "a quarter to the right": ((0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), lambda picture: np.rot90(picture, 3)),
    "mirrored": ((-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), lambda picture: picture[:, ::-1]),
    "upside down": ((ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), lambda picture: picture[::-1]),
    "transposed": ((0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), lambda picture: picture.swapaxes(0, 1)),
    "the other diagonal": (
        (0, -ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30),
        lambda picture: np.rot90(picture, 2).swapaxes(0, 1),
    ),
}


def turned_clip(path: Path, matrix: tuple[int, ...], **options: Any) -> Path:
    """A clip as ``make_clip`` makes it, with a display matrix."""
    plain = make_clip(path.with_name(f"plain{path.suffix}"), **options)
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        stream.set_display_matrix(matrix)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    plain.unlink()
    return path
