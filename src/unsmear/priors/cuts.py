"""Detection of scene cuts: a test for whether a new shot begins at a frame (ours).

Few predicted blocks or a large residual indicate that the codec did not find the motion, which fast motion causes as
well as a cut. Such frames are therefore only *suspect*, and the test compares the two frames, shrunk to about 90 rows:
blocks of the second are searched in the first, far beyond the range of the codec, by normalised correlation, which is
invariant to flashes and fades. Within a shot, neighbouring blocks have similar motion, and correlations are higher than
with a mirrored copy of the first frame. Across a cut, motion is random, and correlations are no higher than with the
mirrored copy, which has the same kind of content.

Both criteria are evaluated in both directions, with a higher threshold where few blocks can be searched. Only blocks
whose contrast exceeds the noise are used.

A frame that is flat, or below the noise, has no blocks to search. It belongs to the surrounding shot if the frames
before and after the flat ones match, as with a flash. For two flat frames the test compares their coarse distributions
of light, if these exceed the noise.
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
"""A frame with a smaller share of inter-coded cells is suspect."""
SUSPECT_RESIDUAL = 8.0
"""A frame with a larger mean residual, in luma levels, is suspect."""
SUSPECT_SHARE = 0.2
"""A frame whose mean residual exceeds this share of its contrast (standard deviation of luma) is suspect."""
UNSUSPECT_SHARE = 0.1
"""A frame whose mean residual does not exceed this share of its contrast is never suspect."""
_LEAST_CONTRAST = 4.0  # levels: lower bound of the contrast in these shares

CUT_COVERAGE = 0.5
"""In frames too small for the search, a smaller share of inter-coded cells is a cut."""
CUT_RESIDUAL = 12.0
"""In frames too small for the search, a larger mean residual, in luma levels, is a cut."""

KINSHIP = 0.25
"""Least :func:`kinship` of two frames of one shot, where at least half of the blocks can be searched."""
KINSHIP_OF_FEW = 0.6
"""Increase of that threshold where no block can be searched; linear in between."""

_ROWS = 90  # approximate length of the shorter side of shrunk frames
_BLOCK, _STEP, _REACH = 16, 12, 24  # shrunk pixels: block side, distance between blocks, search range each way
_TEXTURE, _FAINT = 2.0, 0.7  # levels: least contrast of searched blocks; the same where too few reach it
_NOISE = 2.0  # times the noise: least contrast of searched blocks
_LEAST_ACROSS = 6  # least number of blocks across and down for the search
_FEW = 6  # least number of blocks of a frame that is not flat
_SURE = 0.95  # agreement from which the mirrored frame is not searched
_LAYOUT = 0.4  # least correlation of the coarse light of two flat frames of one shot
_SAME_LAYOUT = 0.8  # correlation of coarse light that indicates one shot where few blocks exceed the noise
_TOLERANCE = 2  # shrunk pixels: largest difference of motions that agree
_BLOWN = 230.0  # levels: white, in full range and in video range
_WHITE = 200.0  # levels: least mean of a flat frame that is a flash rather than a blank
_FULL = 12.0  # levels: least contrast of a frame that is not part of a fade from or to a blank


def is_suspect(coverage: float, residual: float, luma: Luma) -> bool:
    """Whether a frame must be tested for a cut.

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
    """Result of the search of a frame's blocks in another frame.

    Attributes:
        motion: ``(rows, columns, 2)`` float32, (dx, dy) to the best match, in shrunk pixels.
        score: ``(rows, columns)`` float32, correlation of the match, in [-1, 1].
        weight: ``(rows, columns)`` float32, weight of a block: its contrast, zero where it is flat.
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
        """Weighted share, in [0, 1], of neighbouring blocks with the same motion."""
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
        shrink: frame pixels per shrunk pixel.
        picture: shrunk frame, ``(h, w)`` float32, levels.
        noise: standard deviation of the noise in the shrunk frame, levels.
    """

    def __init__(self, luma: Luma) -> None:
        """Shrink ``(H, W)`` uint8 luma by an integer factor."""
        height, width = luma.shape
        self.shrink = max(1, round(min(height, width) / _ROWS))
        size = (max(1, width // self.shrink), max(1, height // self.shrink))
        self.picture: _Float32 = np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.float32)
        self.noise = noise_level(luma) / self.shrink

    @property
    def searchable(self) -> bool:
        """Whether the frame is large enough for the search."""
        return all(len(places) >= _LEAST_ACROSS for places in self.places)

    @cached_property
    def contrast(self) -> _Float32:
        """Standard deviation of the block at each position: ``(h - 15, w - 15)`` float32, levels."""
        centred = self.picture - self.picture.mean()
        mean, square = (cv2.blur(x, (_BLOCK, _BLOCK), anchor=(0, 0)) for x in (centred, centred * centred))
        inside = (slice(None, 1 - _BLOCK), slice(None, 1 - _BLOCK))
        return np.sqrt(np.maximum(square - mean * mean, 0))[inside]

    @cached_property
    def places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """First rows and columns of the blocks."""
        rows, columns = (
            np.rint(np.linspace(0, side - _BLOCK, max(0, -(-(side - _BLOCK) // _STEP) + 1))).astype(np.int64)
            for side in self.picture.shape
        )
        return rows, columns

    @cached_property
    def weight(self) -> _Float32:
        """Weight of each block, see :class:`Search`."""
        contrast = self.contrast[np.ix_(*self.places)]
        for least in (_TEXTURE, _FAINT):
            textured = contrast >= max(least, _NOISE * self.noise)
            if textured.sum() >= _FEW:
                return np.where(textured, np.minimum(contrast, 20), 0).astype(np.float32)
        return np.zeros_like(contrast)

    @property
    def flat(self) -> bool:
        """Whether there are no blocks to search."""
        return not self.weight.any()

    @property
    def blown(self) -> bool:
        """Whether most of the frame is white."""
        return bool((self.picture >= _BLOWN).mean() > 0.5)

    def mirrored(self) -> "Glimpse":
        """Copy with left and right exchanged."""
        other = copy(self)
        for derived in ("contrast", "weight"):
            other.__dict__.pop(derived, None)
        other.picture = np.ascontiguousarray(self.picture[:, ::-1])
        return other

    def found_in(self, past: "Glimpse") -> Search:
        """Search each block in ``past``, of the same size, within 24 shrunk pixels of its position."""
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
                # Contrast of at least one level, so that flat parts have a low correlation.
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
    rows = luma[:: max(1, luma.shape[0] // 90)]  # a subset of rows; the filter is horizontal
    second = 2 * rows[:, 1:-1].astype(np.int16) - rows[:, :-2] - rows[:, 2:]
    return float(np.median(np.abs(second))) / 0.6745 / 6**0.5


def kinship(past: Glimpse, now: Glimpse) -> float:
    """Similarity of two frames as parts of one shot: about 0 for unrelated ones, 1 to 2 for consecutive frames.

    It is the agreement of the motion of neighbouring blocks plus twice the excess of their mean correlation over that
    with the mirrored frame. It is computed for ``now`` in ``past`` and the reverse, and the smaller value has three
    times the weight of the larger, since objects may enter or leave the frame.
    """
    both = _one_way(past, now), _one_way(now, past)
    return 0.75 * min(both) + 0.25 * max(both)


def _one_way(there: Glimpse, here: Glimpse) -> float:
    search = here.found_in(there)
    if search.agreement >= _SURE:
        return search.agreement
    return search.agreement + 2 * (search.mean_score - here.found_in(there.mirrored()).mean_score)


def searched(past: Glimpse, now: Glimpse) -> float:
    """Share of the blocks that can be searched, the smaller one of the two frames."""
    return min(np.count_nonzero(past.weight), np.count_nonzero(now.weight)) / now.weight.size


def are_kin(past: Glimpse, now: Glimpse) -> bool:
    """Whether two frames, neither of them flat, belong to one shot."""
    return kinship(past, now) >= KINSHIP + KINSHIP_OF_FEW * max(0.0, 1 - 2 * searched(past, now))


def likeness_of_light(past: Glimpse, now: Glimpse) -> float | None:
    """Correlation of the coarse distributions of light of two frames; None where one is below the noise."""
    coarse = []
    for glimpse in (past, now):
        height, width = glimpse.picture.shape
        small = cv2.resize(glimpse.picture, (max(1, width // 8), max(1, height // 8)), interpolation=cv2.INTER_AREA)
        if small.std() < _FAINT + _NOISE * glimpse.noise / 8:
            return None
        coarse.append(small.ravel())
    return float(np.corrcoef(coarse[0], coarse[1])[0, 1])


class CutTest:
    """Cut test for a sequence of frames.

    Attributes:
        lumas: the frames, ``(H, W)`` uint8 luma each.
    """

    def __init__(self, lumas: Sequence[Luma]) -> None:
        """Store the frames; nothing is computed yet."""
        self.lumas = lumas
        self._glimpses: dict[int, Glimpse] = {}

    def glimpse(self, t: int) -> Glimpse:
        """Shrunk frame ``t``, cached."""
        if t not in self._glimpses:
            self._glimpses[t] = Glimpse(self.lumas[t])
        return self._glimpses[t]

    def __call__(self, t: int, coverage: float, residual: float, *, alone: bool = False) -> bool:
        """Whether frame ``t`` begins a new shot.

        Args:
            t: index of a frame, not the first.
            coverage: share of inter-coded cells, in [0, 1].
            residual: mean residual in luma levels.
            alone: use frames ``t - 1`` and ``t`` only.
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
        # In a dark, noisy frame a few blocks exceed the noise by chance, others in each frame.
        if searched(past, now) < 0.5 and light is not None and light >= _SAME_LAYOUT:
            return False
        if plain and not (past.blown or now.blown):
            return True
        if not alone:
            before, after = t - 1, t
            while before >= 0 and self._is_blank(before):
                before -= 1
            while after < len(self.lumas) and self._is_blank(after):
                after += 1
            if before >= 0 and after < len(self.lumas):
                return not are_kin(self.glimpse(before), self.glimpse(after))
        if plain:
            return True
        flat, other = (past, now) if past.flat else (now, past)
        return bool(flat.picture.mean() < _WHITE and other.picture.std() >= _FULL)

    def _is_blank(self, t: int) -> bool:
        return self.glimpse(t).flat or self.glimpse(t).blown
