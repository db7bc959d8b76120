"""Reader of the arrays that CPGD-Net's authors publish with their data sets, as priors.

``MVs/`` and ``resi/`` hold ``{clip}_{t:05d}_{t+1:05d}.npy``, one pair of files for each frame but the first
(layout and units as observed in the authors' release; the papers do not state them):

========= ======================= ===================== ================================
coding    motion                  in units of           residual
========= ======================= ===================== ================================
``h264``  ``(2, h / 8, w / 8)``   a quarter pixel       8 bit, as ``(r + 1) / 255``
``h265``  the same                the same              the same
``vvc``   ``(2, h / 4, w / 4)``   a sixteenth           10 bit, as ``(r + 1) / 512``
========= ======================= ===================== ================================
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from unsmear.errors import DataLayoutError, UsageError
from unsmear.priors.grid import MotionGrid, fill_holes, grid_shape
from unsmear.priors.prior import Prior

Coding = Literal["h264", "h265", "vvc"]

# (pixels a cell, units a pixel, divisor of a normalised residual, bits of the samples)
_CODINGS: dict[str, tuple[int, int, float, int]] = {
    "h264": (8, 4, 255.0, 8),
    "h265": (8, 4, 255.0, 8),
    "vvc": (4, 16, 512.0, 10),
}
_MAX_BYTES = 1 << 30


class PublishedArrays(Sequence[Prior]):
    """Priors of one clip of the published arrays, with the interface of :class:`~unsmear.priors.archive.PriorArchive`.

    The arrays hold no validity and no motion to the next frame. All cells are valid except in the first frame, and
    ``motion_back`` is computed from the motion of the next frame (see :func:`reversed_motion`), similar to the
    authors' release.
    """

    def __init__(self, folder: Path | str, clip: str, coding: Coding = "vvc") -> None:
        """List the files of a clip.

        Args:
            folder: folder that contains ``MVs`` and ``resi``.
            clip: prefix of its file names.
            coding: codec of the arrays.

        Raises:
            UsageError: an unknown coding.
            DataLayoutError: a folder or a file is missing.
        """
        if coding not in _CODINGS:
            raise UsageError(f"coding {coding!r} is unknown; choose one of {', '.join(get_args(Coding))}")
        self.folder, self.clip, self.coding = Path(folder), clip, coding
        self._names = sorted(path.name for path in (self.folder / "MVs").glob(f"{_escaped(clip)}_?????_?????.npy"))
        if not self._names:
            raise DataLayoutError(f"{self.folder}: holds no MVs/{clip}_*.npy; give the folder above MVs and resi")
        start = int(self._names[0][-15:-10])
        for t, name in enumerate(self._names, start):
            expected = f"{clip}_{t:05d}_{t + 1:05d}.npy"
            if name != expected or not (self.folder / "resi" / name).is_file():
                missing = f"MVs/{expected}" if name != expected else f"resi/{name}"
                raise DataLayoutError(f"{self.folder}: {missing} is missing; copy the clip again")

    def __len__(self) -> int:
        return len(self._names) + 1

    @overload
    def __getitem__(self, t: int) -> Prior: ...
    @overload
    def __getitem__(self, t: slice) -> list[Prior]: ...
    def __getitem__(self, t: int | slice) -> Prior | list[Prior]:
        """Prior of frame ``t``, counted from 0. Raises IndexError, or DataLayoutError for a damaged file."""
        if isinstance(t, slice):
            return [self[i] for i in range(*t.indices(len(self)))]
        if not -len(self) <= t < len(self):
            raise IndexError(f"frame {t} of {len(self)}")
        t %= len(self)
        residual = self._residual(max(t, 1))
        if t == 0:
            residual = np.zeros_like(residual)
        gh, gw = grid_shape(*residual.shape)
        zero, full = np.zeros((gh, gw, 2), np.int16), np.ones((gh, gw), np.bool_)
        last = t == len(self) - 1
        return Prior(
            motion_q=zero if t == 0 else self._motion(t, gh, gw),
            motion_back_q=zero if last else reversed_motion(self._motion(t + 1, gh, gw)),
            valid=full & (t > 0),
            valid_back=full & (not last),
            residual=residual,
            reset=t == 0,
            reset_back=last,
            origin="published",
            motion_source="none" if t == 0 else "codec",
            motion_back_source="none" if last else "codec",
        )

    def _motion(self, t: int, gh: int, gw: int) -> MotionGrid:
        cell, units, _, _ = _CODINGS[self.coding]
        field = self._load("MVs", t)
        if field.ndim != 3 or field.shape[0] != 2:
            raise self._wrong("MVs", t, f"is {field.shape}; expected (2, h/{cell}, w/{cell})")
        quarter = np.moveaxis(field, 0, -1).astype(np.float64) * (4 / units)
        # Part of the padding may be missing; finer cells are averaged in groups of four.
        per = 8 // cell
        rows, columns = gh * per - quarter.shape[0], gw * per - quarter.shape[1]
        if not (0 <= rows < 3 * per and 0 <= columns < 3 * per):
            raise self._wrong(
                "MVs", t, f"has {quarter.shape[:2]} cells of {cell} px, expected {gh * per, gw * per} for the residual"
            )
        quarter = np.pad(quarter, ((0, rows), (0, columns), (0, 0)), mode="edge")
        quarter = quarter.reshape(gh, per, gw, per, 2).mean((1, 3))
        return np.rint(quarter).clip(-32768, 32767).astype(np.int16)

    def _residual(self, t: int) -> npt.NDArray[np.uint8]:
        """Magnitude in 8-bit levels: integers are levels, floats are normalised levels."""
        _, _, divisor, bits = _CODINGS[self.coding]
        values = np.squeeze(self._load("resi", t))
        if values.ndim != 2:
            raise self._wrong("resi", t, f"is {values.shape}; expected (h, w)")
        levels = values.astype(np.float64)
        if values.dtype.kind == "f":
            levels = levels * divisor - 1
        return np.rint(np.abs(levels) / 2 ** (bits - 8)).clip(0, 255).astype(np.uint8)

    def _load(self, kind: str, t: int) -> npt.NDArray[Any]:
        path = self.folder / kind / self._names[t - 1]
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise self._wrong(kind, t, f"has {path.stat().st_size} bytes")
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            raise self._wrong(kind, t, f"cannot be read ({str(error).splitlines()[0]})") from error
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
            raise self._wrong(kind, t, "holds no numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise self._wrong(kind, t, "holds values that are not finite")
        return array

    def _wrong(self, kind: str, t: int, what: str) -> DataLayoutError:
        return DataLayoutError(f"{self.folder / kind / self._names[t - 1]}: {what}; is the coding {self.coding}?")


def reversed_motion(motion_q: MotionGrid) -> MotionGrid:
    """Motion to the next frame, from the motion of the next frame: vectors are moved to their target and negated.

    Args:
        motion_q: ``(gh, gw, 2)`` int16 of frame t+1, quarter pixels.

    Returns:
        ``(gh, gw, 2)`` int16 of frame t. Cells without a vector take the nearest one, and of several vectors
        for a cell the longest is used. Less accurate than re-encoding the reversed frames.
    """
    gh, gw = motion_q.shape[:2]
    rows, columns = np.mgrid[:gh, :gw]
    x = columns + np.rint(motion_q[..., 0] / 32).astype(np.int64)
    y = rows + np.rint(motion_q[..., 1] / 32).astype(np.int64)
    inside = (x >= 0) & (x < gw) & (y >= 0) & (y < gh)
    vectors = motion_q[inside].clip(-32767, 32767)
    order = np.argsort(
        np.hypot(*vectors.T.astype(np.float64)), kind="stable"
    )  # the last one assigned to a cell is kept
    y, x = y[inside][order], x[inside][order]
    grid, hit = np.zeros_like(motion_q), np.zeros((gh, gw), np.bool_)
    grid[y, x], hit[y, x] = -vectors[order], True
    return fill_holes(grid, hit)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
