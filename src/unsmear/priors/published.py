"""Reader of the arrays that CPGD-Net's authors publish with their data sets, as priors.

One pair of files, of motion and of residual, for each frame but the first (names, layout and units as observed in the
authors' release; the papers do not state them):

============================================ ============================================
GoPro, DVD                                   ``MVs/CLIP/CLIP_00000_00001.npy``
BSD                                          ``CLIP/Blur/MVs/CLIP_00000000_00000001.npy``
flat                                         ``MVs/CLIP_00000_00001.npy``
============================================ ============================================

Residuals have the same names in ``resi`` instead of ``MVs``. The size of the cells depends on the codec:

================== ======================= ===================== ================================
coding             motion                  in units of           residual
================== ======================= ===================== ================================
``h264``, ``h265`` ``(2, h / 8, w / 8)``   a quarter pixel       8 bit, as ``(r + 1) / 255``
``vvc``            ``(2, h / 4, w / 4)``   a sixteenth           10 bit, as ``(r + 1) / 512``
================== ======================= ===================== ================================
"""

import re
from collections.abc import Mapping, Sequence
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
_MOTION, _RESIDUAL = "MVs", "resi"
_NAME = re.compile(r"(?P<clip>.+)_(?P<past>\d{5}|\d{8})_(?P<now>\d{5}|\d{8})\.npy")


def find_published(folder: Path) -> Mapping[str, Sequence[Path]]:
    """Folders of motion arrays in ``folder``, at any depth, by the clip in the names of their files.

    Raises:
        DataLayoutError: there are none.
    """
    top = folder.resolve()
    places = [folder] if top.parent.name == _MOTION else []
    for motion in [folder] if top.name == _MOTION else [] if places else sorted(folder.rglob(_MOTION)):
        places += [motion, *sorted(path for path in motion.iterdir() if path.is_dir())]
    found: dict[str, list[Path]] = {}
    for place in places:
        for clip in sorted({name["clip"] for path in place.iterdir() if (name := _NAME.fullmatch(path.name))}):
            found.setdefault(clip, []).append(place)
    if not found:
        raise DataLayoutError(
            f"{folder}: holds no {_MOTION}/CLIP/CLIP_00000_00001.npy; give the folder above {_MOTION}"
        )
    return found


class PublishedArrays(Sequence[Prior]):
    """Priors of one clip of the published arrays, with the interface of :class:`~unsmear.priors.archive.PriorArchive`.

    The arrays hold no validity and no motion to the next frame. All cells are valid except in the first frame, and
    ``motion_back`` is computed from the motion of the next frame (see :func:`reversed_motion`), similar to the
    authors' release.

    Attributes:
        coding: codec of the arrays. Those of H.264 and H.265 are alike: ``h264`` unless it was stated.
    """

    def __init__(self, folder: Path | str, clip: str, coding: Coding | None = None) -> None:
        """List the files of a clip.

        Args:
            folder: folder that contains its motion arrays, at any depth.
            clip: prefix of its file names.
            coding: codec of the arrays; None: according to the size of their cells.

        Raises:
            UsageError: an unknown coding.
            DataLayoutError: a folder or a file is missing; several folders hold a clip of this name.
        """
        if coding is not None and coding not in _CODINGS:
            raise UsageError(f"coding {coding!r} is unknown; choose one of {', '.join(get_args(Coding))}")
        self.folder, self.clip = Path(folder), clip
        places = find_published(self.folder).get(clip, [])
        if not places:
            raise DataLayoutError(f"{folder}: holds no {_MOTION} of a clip {clip}")
        if len(places) > 1:
            raise DataLayoutError(f"{places[0]} and {places[1]} both hold a clip {clip}; give one of them")
        [self._motion_folder] = places
        self._residual_folder = _beside(self._motion_folder)
        named = filter(None, (_NAME.fullmatch(path.name) for path in places[0].iterdir()))
        names = {int(name["past"]): name[0] for name in named if name["clip"] == clip}
        self._names = [names[t] for t in sorted(names)]
        digits = (len(self._names[0]) - len(f"{clip}__.npy")) // 2
        for t, name in enumerate(self._names, min(names)):
            expected = f"{clip}_{t:0{digits}d}_{t + 1:0{digits}d}.npy"
            if name != expected:
                raise DataLayoutError(f"{self._motion_folder / expected}: is missing; copy the clip again")
            if not (self._residual_folder / name).is_file():
                raise DataLayoutError(f"{self._residual_folder / name}: is missing; copy the clip again")
        self.coding: Coding = coding or self._coding_by_size()

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

    def _coding_by_size(self) -> Coding:
        return "vvc" if self._field(1).shape[-1] > self._plane(1).shape[-1] / 6 else "h264"

    def _field(self, t: int) -> npt.NDArray[Any]:
        field = self._load(_MOTION, t)
        if field.ndim != 3 or field.shape[0] != 2:
            raise self._wrong(_MOTION, t, f"is {field.shape}; expected (2, h/8, w/8), or (2, h/4, w/4) of VVC")
        return field

    def _plane(self, t: int) -> npt.NDArray[Any]:
        plane = np.squeeze(self._load(_RESIDUAL, t))
        if plane.ndim != 2:
            raise self._wrong(_RESIDUAL, t, f"is {plane.shape}; expected (h, w)")
        return plane

    def _motion(self, t: int, gh: int, gw: int) -> MotionGrid:
        cell, units, _, _ = _CODINGS[self.coding]
        quarter = np.moveaxis(self._field(t), 0, -1).astype(np.float64) * (4 / units)
        # Part of the padding may be missing; finer cells are averaged in groups of four.
        per = 8 // cell
        rows, columns = gh * per - quarter.shape[0], gw * per - quarter.shape[1]
        if not (0 <= rows < 3 * per and 0 <= columns < 3 * per):
            raise self._wrong(
                _MOTION,
                t,
                f"has {quarter.shape[:2]} cells of {cell} px, expected {gh * per, gw * per} for the residual",
            )
        quarter = np.pad(quarter, ((0, rows), (0, columns), (0, 0)), mode="edge")
        quarter = quarter.reshape(gh, per, gw, per, 2).mean((1, 3))
        return np.rint(quarter).clip(-32768, 32767).astype(np.int16)

    def _residual(self, t: int) -> npt.NDArray[np.uint8]:
        """Magnitude in 8-bit levels: integers are levels, floats are normalised levels."""
        _, _, divisor, bits = _CODINGS[self.coding]
        values = self._plane(t)
        levels = values.astype(np.float64)
        if values.dtype.kind == "f":
            levels = levels * divisor - 1
        return np.rint(np.abs(levels) / 2 ** (bits - 8)).clip(0, 255).astype(np.uint8)

    def _load(self, kind: str, t: int) -> npt.NDArray[Any]:
        path = self._path(kind, t)
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

    def _path(self, kind: str, t: int) -> Path:
        return (self._motion_folder if kind == _MOTION else self._residual_folder) / self._names[t - 1]

    def _wrong(self, kind: str, t: int, what: str) -> DataLayoutError:
        return DataLayoutError(f"{self._path(kind, t)}: {what}; copy the clip again")


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


def _beside(motion_folder: Path) -> Path:
    """Folder of the residuals that belong to a folder of motion arrays."""
    folder = motion_folder.resolve()
    return folder.with_name(_RESIDUAL) if folder.name == _MOTION else folder.parent.with_name(_RESIDUAL) / folder.name
