"""Scene cuts: a test for whether a new shot begins at a frame (ours).

Codec evidence, few predicted blocks or much residual, says that motion was not followed. Fast motion looks the
same as a cut there. So it only makes a frame *suspect*, and pictures of the two frames, shrunk to about 90 rows,
decide: blocks of the second are searched in the first, far beyond the reach of the codec, by normalised
correlation, which neither a flash nor a fade changes. Within a shot neighbouring blocks are found side by side,
and better than in a mirrored copy of the first frame. Across a cut, each block is found where chance has it, and
no better than in the mirror image, which holds the same kind of content.

Both are asked in both directions, and of few blocks more is asked. A block counts that stands out of the noise.

Where one of two frames is flat, or lost in noise, there is nothing to find. Such a frame is part of the shot around
it if the pictures before and after the flat ones match, as with a flash. Of two flat frames the rough distribution
of light decides, if there is any.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from unsmear.priors.steps import Luma

_Float32 = npt.NDArray[np.float32]

SUSPECT_COVERAGE = 0.65
"""A frame with a smaller share of inter-coded cells is suspect,"""
SUSPECT_RESIDUAL = 8.0
"""and so is one with a larger mean residual, in luma levels,"""
SUSPECT_SHARE = 0.2
"""and one whose mean residual exceeds this share of its contrast (standard deviation of luma)."""
UNSUSPECT_SHARE = 0.1
"""But whatever it is, a frame whose mean residual does not exceed this share of its contrast is not suspect."""
_LEAST_CONTRAST = 4.0  # levels, that these shares are taken of

CUT_COVERAGE = 0.5
"""For pictures too small to search in: below this share of inter-coded cells a frame starts a new shot."""
CUT_RESIDUAL = 12.0
"""For pictures too small to search in: above this mean residual, in luma levels, a frame starts a new shot."""

KINSHIP = 0.25
"""Two pictures of less kinship (:func:`kinship`) are of two shots. Where few blocks can be searched it takes more:"""
KINSHIP_OF_FEW = 0.6
"""that much more for no block at all, and linearly less until half of the blocks can be."""

_ROWS = 90  # of the shrunk pictures, roughly; of the shorter side
_BLOCK, _STEP, _REACH = 16, 12, 24  # shrunk pixels: a side, between blocks, of the search each way
_TEXTURE, _FAINT = 2.0, 0.7  # levels: contrast of a block worth searching; of one where nothing better is there
_NOISE = 2.0  # times the noise: contrast of a block worth searching
_LEAST_ACROSS = 6  # blocks across and down of a picture that is searched at all
_FEW = 6  # blocks that make a picture more than flat
_SURE = 0.95  # agreement that needs no mirror image
_LAYOUT = 0.4  # correlation of the rough pictures of two flat frames of one shot
_SAME_LAYOUT = 0.8  # the same, which tells one shot where few blocks stand out of the noise
_TOLERANCE = 2  # shrunk pixels between motions that agree
_BLOWN = 230.0  # levels: white, in full range and in video range
_WHITE = 200.0  # levels: a flat picture of this mean and more is a flash rather than a blank
_FULL = 12.0  # levels: contrast of a picture that is not about to fade to a blank, or just out of it


def is_suspect(coverage: float, residual: float, luma: Luma) -> bool:
    """Whether it takes a closer look to tell if a frame continues its shot.

    Args:
        coverage: share of inter-coded cells, in [0, 1].
        residual: mean residual in luma levels.
        luma: ``(H, W)`` uint8, the frame.
    """
    if residual <= UNSUSPECT_SHARE * _LEAST_CONTRAST:
        return False
    share = residual / max(_LEAST_CONTRAST, float(luma[::4, ::4].std()))
    if coverage < SUSPECT_COVERAGE or residual > SUSPECT_RESIDUAL:
        return share > UNSUSPECT_SHARE
    return share > SUSPECT_SHARE


@dataclass(frozen=True)
class Search:
    """Blocks of a picture, searched in another.

    Attributes:
        motion: ``(rows, columns, 2)`` float32, (dx, dy) to the best place, in shrunk pixels.
        score: ``(rows, columns)`` float32, correlation there, in [-1, 1].
        weight: ``(rows, columns)`` float32, what a block counts: its contrast, zero where it is flat.
    """

    motion: _Float32
    score: _Float32
    weight: _Float32

    @property
    def mean_score(self) -> float:
        """Weighted mean correlation."""
        return float((self.weight * self.score).sum() / max(self.weight.sum(), 1e-6))

    @cached_property
    def agreement(self) -> float:
        """Weighted share, in [0, 1], of the neighbours of blocks that moved as the blocks did."""
        ok = self.weight > 0
        neighbours, agreeing = np.zeros(ok.shape, np.float32), np.zeros(ok.shape, np.float32)
        later, earlier, every = slice(1, None), slice(None, -1), slice(None)
        for one, other in (((later, every), (earlier, every)), ((every, later), (every, earlier))):
            both = ok[one] & ok[other]
            close = both & (np.abs(self.motion[one] - self.motion[other]).max(-1) <= _TOLERANCE)
            for side in (one, other):
                neighbours[side] += both
                agreeing[side] += close
        share = agreeing / np.maximum(neighbours, 1)
        return float((self.weight * share).sum() / max(self.weight.sum(), 1e-6))


class Glimpse:
    """A frame shrunk to about 90 rows, and its blocks.

    Attributes:
        shrink: pixels of the frame for one of the picture.
        picture: ``(h, w)`` float32, levels.
        noise: standard deviation of the noise in the picture, levels.
    """

    def __init__(self, luma: Luma) -> None:
        """Shrink ``(H, W)`` uint8 luma by a whole number."""
        height, width = luma.shape
        self.shrink = max(1, round(min(height, width) / _ROWS))
        size = (max(1, width // self.shrink), max(1, height // self.shrink))
        self.picture: _Float32 = np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.float32)
        self.noise = noise_level(luma) / self.shrink

    @property
    def searchable(self) -> bool:
        """Whether there is room for more than a few blocks across and down."""
        return all(len(places) >= _LEAST_ACROSS for places in self.places)

    @cached_property
    def contrast(self) -> _Float32:
        """Standard deviation of the block that begins at each position: ``(h - 15, w - 15)`` float32, levels."""
        centred = self.picture - self.picture.mean()
        mean, square = (cv2.blur(x, (_BLOCK, _BLOCK), anchor=(0, 0)) for x in (centred, centred * centred))
        inside = (slice(None, 1 - _BLOCK), slice(None, 1 - _BLOCK))
        return np.sqrt(np.maximum(square - mean * mean, 0))[inside]

    @cached_property
    def places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows and columns at which blocks begin."""
        rows, columns = (
            np.rint(np.linspace(0, side - _BLOCK, max(0, -(-(side - _BLOCK) // _STEP) + 1))).astype(np.int64)
            for side in self.picture.shape
        )
        return rows, columns

    @cached_property
    def weight(self) -> _Float32:
        """What each block counts in a comparison; see :class:`Search`."""
        contrast = self.contrast[np.ix_(*self.places)]
        for least in (_TEXTURE, _FAINT):
            textured = contrast >= max(least, _NOISE * self.noise)
            if textured.sum() >= _FEW:
                return np.where(textured, np.minimum(contrast, 20), 0).astype(np.float32)
        return np.zeros_like(contrast)

    @property
    def flat(self) -> bool:
        """Whether there is nothing in the picture that could be found again."""
        return not self.weight.any()

    @property
    def blown(self) -> bool:
        """Whether most of the picture is as bright as can be."""
        return bool((self.picture >= _BLOWN).mean() > 0.5)

    def mirrored(self) -> "Glimpse":
        """The same, left and right exchanged."""
        other = copy(self)
        for derived in ("contrast", "weight"):
            other.__dict__.pop(derived, None)
        other.picture = np.ascontiguousarray(self.picture[:, ::-1])
        return other

    def found_in(self, past: "Glimpse") -> Search:
        """Search each block within 24 shrunk pixels of its place in ``past``, a picture of the same size."""
        rows, columns = self.places
        motion = np.zeros((len(rows), len(columns), 2), np.float32)
        score = np.zeros((len(rows), len(columns)), np.float32)
        for i, y in enumerate(rows):
            top, bottom = max(0, y - _REACH), min(past.contrast.shape[0], y + _REACH + 1)
            for j, x in enumerate(columns):
                if not self.weight[i, j]:
                    continue
                left, right = max(0, x - _REACH), min(past.contrast.shape[1], x + _REACH + 1)
                block = self.picture[y : y + _BLOCK, x : x + _BLOCK]
                block = (block - block.mean()) / (block.std() * _BLOCK**2)
                window = past.picture[top : bottom + _BLOCK - 1, left : right + _BLOCK - 1]
                # A floor of one level: flat parts are like nothing, rather than like everything.
                likeness = cv2.matchTemplate(window, block, cv2.TM_CCORR) / np.maximum(
                    past.contrast[top:bottom, left:right], 1
                )
                _, best, _, (px, py) = cv2.minMaxLoc(likeness)
                score[i, j], motion[i, j] = min(best, 1.0), (left + px - x, top + py - y)
        return Search(motion, score, self.weight)


def noise_level(luma: Luma) -> float:
    """Standard deviation of the noise in ``(H, W)`` uint8 luma, levels (Immerkaer, 1996, with a median)."""
    if min(luma.shape) < 3:
        return 0.0
    rows = luma[:: max(1, luma.shape[0] // 90)]  # every so many; three taps across are enough
    second = 2 * rows[:, 1:-1].astype(np.int16) - rows[:, :-2] - rows[:, 2:]
    return float(np.median(np.abs(second))) / 0.6745 / 6**0.5


def kinship(past: Glimpse, now: Glimpse) -> float:
    """How much says that two pictures show one shot: about 0 for unrelated ones, 1 to 2 for neighbouring frames.

    It is the agreement of blocks with their neighbours on where they came from, plus twice what their correlation
    there exceeds that with the mirrored picture by. Of that of ``now`` in ``past`` and the reverse, the smaller counts
    three times what the larger does: something may have come into the picture, or gone.
    """
    ways = _found(past, now), _found(now, past)
    return 0.75 * min(ways) + 0.25 * max(ways)


def _found(there: Glimpse, here: Glimpse) -> float:
    search = here.found_in(there)
    if search.agreement >= _SURE:
        return search.agreement
    return search.agreement + 2 * (search.mean_score - here.found_in(there.mirrored()).mean_score)


def searched(past: Glimpse, now: Glimpse) -> float:
    """Share of the blocks that can be searched, of the two pictures the smaller."""
    return min(np.count_nonzero(past.weight), np.count_nonzero(now.weight)) / now.weight.size


def are_kin(past: Glimpse, now: Glimpse) -> bool:
    """Whether two pictures, neither of them flat, are of one shot."""
    return kinship(past, now) >= KINSHIP + KINSHIP_OF_FEW * max(0.0, 1 - 2 * searched(past, now))


def likeness_of_light(past: Glimpse, now: Glimpse) -> float | None:
    """Correlation of the rough distributions of light in two pictures; None where one of them has none but noise."""
    rough = []
    for glimpse in (past, now):
        height, width = glimpse.picture.shape
        small = cv2.resize(glimpse.picture, (max(1, width // 8), max(1, height // 8)), interpolation=cv2.INTER_AREA)
        if small.std() < _FAINT + _NOISE * glimpse.noise / 8:
            return None
        rough.append(small.ravel())
    return float(np.corrcoef(rough[0], rough[1])[0, 1])


class CutTest:
    """Tells cuts in a run of frames.

    Attributes:
        lumas: the frames, ``(H, W)`` uint8 luma each.
    """

    def __init__(self, lumas: Sequence[Luma]) -> None:
        """Take the frames; nothing is computed yet."""
        self.lumas = lumas
        self._glimpses: dict[int, Glimpse] = {}

    def glimpse(self, t: int) -> Glimpse:
        """Frame ``t``, shrunk."""
        if t not in self._glimpses:
            self._glimpses[t] = Glimpse(self.lumas[t])
        return self._glimpses[t]

    def __call__(self, t: int, coverage: float, residual: float, *, alone: bool = False) -> bool:
        """Whether frame ``t`` begins a new shot.

        Args:
            t: number of a frame but the first.
            coverage: share of inter-coded cells, in [0, 1].
            residual: mean residual in luma levels.
            alone: look at frames ``t - 1`` and ``t`` only.
        """
        past, now = self.glimpse(t - 1), self.glimpse(t)
        if not now.searchable:
            return coverage < CUT_COVERAGE or residual > CUT_RESIDUAL
        light = likeness_of_light(past, now)
        if past.flat and now.flat:
            return light is not None and light < _LAYOUT
        plain = not past.flat and not now.flat
        if plain and are_kin(past, now):
            return False
        # Of a dark picture in noise a few blocks are found by chance, in one frame these and in the next one others.
        if searched(past, now) < 0.5 and light is not None and light >= _SAME_LAYOUT:
            return False
        if plain and not (past.blown or now.blown):
            return True
        if not alone:
            before, after = t - 1, t
            while before >= 0 and self._says_nothing(before):
                before -= 1
            while after < len(self.lumas) and self._says_nothing(after):
                after += 1
            if before >= 0 and after < len(self.lumas):
                return not are_kin(self.glimpse(before), self.glimpse(after))
        if plain:
            return True
        flat, other = (past, now) if past.flat else (now, past)
        return bool(flat.picture.mean() < _WHITE and other.picture.std() >= _FULL)

    def _says_nothing(self, t: int) -> bool:
        return self.glimpse(t).flat or self.glimpse(t).blown
