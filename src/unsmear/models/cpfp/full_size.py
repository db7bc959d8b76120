"""Operations of stage 1 on full-size planes: inputs made of the blurred frames, and the correction of a frame. Ours.

The network works at 1/4 of the frame's size and below. What surrounds it (deconvolution, samples along the motion line,
neighbours warped to the frame, gates) is done here, pixel by pixel, in two ways with equal results: ``AnyDevice`` with
torch, differentiable, and ``OnCPU`` with OpenCV in bands of rows, several times faster for one clip on a CPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unsmear.models.common.bands import Buffers, enlarged, in_bands
from unsmear.models.common.gather import fast, positions_of, read_pixels
from unsmear.models.common.warp import pixel_grid, sample, warp
from unsmear.models.cpfp.correction import box, box_plane, box_share, shuffled, without_pattern
from unsmear.models.cpfp.deconvolution import coarse_samples, deconvolved_pixels, richardson_lucy
from unsmear.models.cpfp.motion_line import stretched
from unsmear.models.cpfp.pyramid import doubled

if TYPE_CHECKING:
    from unsmear.models.cpfp.network import CPFP, PriorTensors

GRID = 4
"""Frame pixels per feature pixel, each way."""

INPUT_TAPS = (-1.0, -0.5, 0.5, 1.0)
"""Positions on the motion line, in blur lengths, at which the encoder samples each frame besides the pixel itself; the
exposure ends at ±0.5."""

TRUSTED_ERROR, ERROR_SIDE = 0.035, 5
"""Mean difference of blurred neighbours (values in [0, 1], over a window of ``ERROR_SIDE`` px) at which the weight of
the deconvolved neighbour falls to 1/e: near the best constant on real clips."""


class Heads(NamedTuple):
    """Predictions for one frame at 1/4 of its size."""

    pixels: Tensor
    """Additive correction (B, 3·16, h, w)."""
    gates: Tensor | None
    """Weights of the deconvolved frames, (B, K·16, h, w)."""
    neighbours: Tensor | None
    """Weights of the deconvolved neighbours, (B, 2·16, h, w)."""
    filters: Tensor | None
    """Filters along the motion line, (B, taps, h, w): those of the bank with the predicted change."""


class FullSize(ABC):
    """Full-size planes of one clip. Frames are asked for in order.

    Args:
        model: whose settings decide which inputs are made.
        frames: (B, T, 3, H, W), levels or values as ``CPFP.forward`` takes them.
        grid: priors on the grid of the features.
        blur: motion line of the exposure of every frame, (B, 2, h, w) frame pixels.
        samples: points per motion line in the deconvolution.
        look: of the frame before the first, (B, 6, H, W); None where there is none.
        keep: number of frames that will be corrected.
    """

    def __init__(
        self,
        model: CPFP,
        frames: Tensor,
        grid: PriorTensors,
        blur: Sequence[Tensor],
        samples: int,
        look: Tensor | None,
        keep: int,
    ):
        self.model, self.frames, self.grid, self.blur = model, frames, grid, blur
        self.samples, self.keep = samples, keep
        self._start(look)

    @abstractmethod
    def _start(self, look: Tensor | None) -> None: ...

    @abstractmethod
    def first(self, i: int, conv: nn.Conv2d, fields: Sequence[Tensor]) -> Tensor:
        """``conv`` of the unshuffled images of frame i and, where given, of ``fields`` (B, ·, h, w)."""

    @abstractmethod
    def cells(self, i: int) -> Tensor:
        """Input images of frame i: itself, at ``INPUT_TAPS`` along its motion line, and its deconvolutions.

        The others are differences from the frame. (B, h, w, n, GRID · GRID · 4): pixels of a cell by row, column and
        channel, with a fourth channel of zeros.
        """

    @abstractmethod
    def corrected(self, i: int, heads: Heads) -> Tensor:
        """Frame i with its correction, (B, 3, H, W) float32."""

    @abstractmethod
    def look(self, i: int) -> Tensor | None:
        """Frame i and its deconvolution, (B, 6, H, W) half precision: an input of the next clip's first frame."""


def full_size(model: CPFP, frames: Tensor) -> type[FullSize]:
    """Class that does it fastest for these frames."""
    alike = torch.empty(1, 2, 2, dtype=model.dtype, device=model.device)
    return OnCPU if frames.shape[0] == 1 and frames.device == model.device and fast(alike) else AnyDevice


class AnyDevice(FullSize):
    """With torch: for training, and for accelerators."""

    def _start(self, look: Tensor | None) -> None:
        self.points: Tensor | None = None
        """Positions along the line in blur lengths, in place of ``samples``."""
        self.coarse_points: Tensor | None = None
        self.deconvolved: dict[int, list[Tensor]] = {}  # half precision: all are kept until decoding
        self.looks: dict[int, Tensor | None] = {-1: look}

    def first(self, i: int, conv: nn.Conv2d, fields: Sequence[Tensor]) -> Tensor:
        images, differences = (
            [F.pixel_unshuffle(x.to(conv.weight.dtype), GRID) for x in group] for group in self._images(i)
        )
        x = torch.cat([*images, *fields, *differences], 1)
        return conv(x.contiguous(memory_format=torch.channels_last) if x.dtype == torch.bfloat16 else x)

    def cells(self, i: int) -> Tensor:
        images, differences = self._images(i)
        planes = F.pad(torch.stack([*images, *differences], 1), (0, 0, 0, 0, 0, 1))  # (B, n, 4, H, W)
        b, n, _, height, width = planes.shape
        by_cell = planes.reshape(b, n, 4, height // GRID, GRID, width // GRID, GRID).permute(0, 3, 5, 1, 4, 6, 2)
        return by_cell.flatten(4)

    def _images(self, i: int) -> tuple[list[Tensor], list[Tensor]]:
        """Frame i with its differences along the line, and its deconvolutions, (B, 3, H, W) each."""
        frame = unit(self.frames[:, i])
        differences = self._deconvolved(frame, i)
        if i < self.keep:
            self.deconvolved[i] = [x.half() for x in differences]
        if self.model.neighbours and i <= self.keep:
            plain = len(self.model.deconvolve)
            best = frame + differences[plain - 1] if plain else frame
            self.looks[i] = torch.cat([frame, best], 1).half()
        return [frame, *(self._along_line(frame, i) if self.model.prior_inputs else [])], differences

    def corrected(self, i: int, heads: Heads) -> Tensor:
        frame = unit(self.frames[:, i])
        change = shuffled(heads.pixels.float(), GRID)
        if heads.gates is not None:
            gates = shuffled(heads.gates.float(), GRID)
            for k, difference in enumerate(self.deconvolved.pop(i)):
                change = change + gates[:, k : k + 1] * difference.float()
        if heads.neighbours is not None:
            gates = shuffled(heads.neighbours.float(), GRID)
            looks = [self.looks.get(t) for t in (i - 1, i, i + 1)]
            for k, difference in enumerate(neighbour_changes(looks, self.grid, i)):
                change = change + gates[:, k : k + 1] * difference
            self.looks.pop(i - 1, None)
        if heads.filters is not None:
            assert self.model.line is not None
            blur = resized(self.blur[i], heads.filters.shape[-2:])
            change = change + self.model.line(frame, blur, heads.filters.float())
        return frame + change

    def look(self, i: int) -> Tensor | None:
        return self.looks.get(i)

    def _deconvolved(self, frame: Tensor, i: int) -> list[Tensor]:
        """Deconvolved minus blurred frame, (B, 3, H, W), for each number of iterations."""
        blur, out = self.blur[i], []
        if self.model.deconvolve:
            at = self.samples if self.points is None else self.points
            out = [x - frame for x in richardson_lucy(frame, blur, at, self.model.deconvolve)]
        if self.model.coarse_deconvolve:
            half = F.avg_pool2d(frame, 2)
            at = coarse_samples(self.samples) if self.coarse_points is None else self.coarse_points
            results = richardson_lucy(half, blur / 2, at, self.model.coarse_deconvolve)
            out += [doubled(x - half) for x in results]
        return out

    def _along_line(self, frame: Tensor, i: int) -> list[Tensor]:
        """Differences between the frame at ``INPUT_TAPS`` along its motion line and at the pixel itself."""
        size = frame.shape[-2:]
        blur = resized(self.blur[i], size)
        here = pixel_grid(size[0], size[1], blur)
        return [sample(frame, here + a * blur, "border") - frame for a in INPUT_TAPS]


def neighbour_changes(looks: Sequence[Tensor | None], grid: PriorTensors, i: int) -> list[Tensor]:
    """Differences between frame i and its neighbours, all deconvolved, the neighbours warped along V.

    They are weighted by the match of the blurred frames: two of (B, 3, H, W), zero where there is no neighbour.

    Args:
        looks: of frames i − 1, i and i + 1; None where there is no frame.
        grid: priors on any grid.
        i: number of the frame.
    """
    before, here, after = looks
    assert here is not None
    own = here.float()
    out = []
    for look, motion, cut in ((before, grid.motion, grid.reset), (after, grid.motion_back, grid.reset_back)):
        if look is None:
            out.append(torch.zeros_like(own[:, 3:]))
            continue
        moved = warp(look.float(), resized(motion[:, i], own.shape[-2:]), "border")
        error = box((moved[:, :3] - own[:, :3]).abs().mean(1, keepdim=True), ERROR_SIDE)
        trust = torch.exp(-((error / TRUSTED_ERROR) ** 2)) * (~cut[:, i, None, None, None])
        out.append(trust * (moved[:, 3:] - own[:, 3:]))
    return out


class OnCPU(FullSize):
    """With OpenCV: one clip on a CPU, without gradients.

    Images are (H, W, 4) float32 with a fourth channel of zeros, which OpenCV samples fastest. Unshuffling then moves
    runs of 16 values, and the first convolution has weights of zero for the fourth channel.
    """

    def _start(self, look: Tensor | None) -> None:
        self.motion, self.motion_back = self.grid.motion[0].numpy(), self.grid.motion_back[0].numpy()
        self.lines = [line[0].numpy() for line in self.blur]
        self.height, self.width = self.frames.shape[-2:]
        self.x, self.y = positions_of(self.height, self.width)
        self.scale = self.width // self.motion.shape[-1]
        self.differences: dict[int, list[Tensor]] = {}
        self.ready: tuple[int, np.ndarray, np.ndarray] | None = None
        self.before: tuple[np.ndarray, np.ndarray] | None = None
        if look is not None:
            frame, best = (interleaved(part.float().numpy()) for part in look[0].split(3))
            self.before = frame, best
        self.packed: Tensor | None = None
        self.weights: tuple[Tensor, Tensor] | None = None
        self.dtype = self.model.dtype
        self.buffers, self.coarse_buffers = Buffers(), Buffers()

    def first(self, i: int, conv: nn.Conv2d, fields: Sequence[Tensor]) -> Tensor:
        cells = self.cells(i)
        if self.weights is None:
            self.weights = packed_weights(conv, len(self.model.deconvolve) + len(self.model.coarse_deconvolve))
        return convolved(cells, self.weights, conv, fields)

    def cells(self, i: int) -> Tensor:
        pixels = self._pixels(i)
        taps = INPUT_TAPS if self.model.prior_inputs else ()
        deconvolved = self._deconvolved(pixels, i)
        images = 1 + len(taps)
        h, w = self.height // GRID, self.width // GRID
        if self.packed is None:  # one for all frames: it is large
            self.packed = torch.empty(h, w, images + len(deconvolved), GRID * GRID * 4, dtype=self.dtype)
        packed = self.packed

        def store(rows: slice, number: int, image: np.ndarray) -> None:
            """Write rows of an image as cells of GRID × GRID pixels."""
            cells = torch.from_numpy(image).reshape(-1, GRID, w, GRID * 4).permute(0, 2, 1, 3)
            into = packed[rows.start // GRID : rows.stop // GRID, :, number]
            into.unflatten(-1, (GRID, -1)).copy_(cells)

        kept = i <= self.keep
        halves = [torch.empty(self.height, self.width, 4, dtype=torch.half) for _ in deconvolved] if kept else []

        def work(rows: slice) -> None:
            here = pixels[rows]
            store(rows, 0, here)
            dx, dy = (enlarged(part, rows, self.scale, self.height) for part in self.lines[i])
            x, y = self.x[rows], self.y[rows]
            read = self.buffers.take("read", *here.shape)
            for k, tap in enumerate(taps):
                read_pixels(pixels, cv2.scaleAdd(dx, tap, x), cv2.scaleAdd(dy, tap, y), read)
                store(rows, 1 + k, np.subtract(read, here, out=read))
            for k, difference in enumerate(deconvolved):
                store(rows, images + k, difference[rows])
                if kept:
                    halves[k][rows] = torch.from_numpy(difference[rows])

        in_bands(self.height, self.width, work, self.scale)
        if kept:
            self.differences[i] = halves
        return packed[None]

    def corrected(self, i: int, heads: Heads) -> Tensor:
        here, best = self._frame_and_best(i)
        cells, gates, trusts = (
            [] if values is None else list(without_pattern(values.float(), GRID)[0].unflatten(0, (-1, GRID**2)).numpy())
            for values in (heads.pixels, heads.gates, heads.neighbours)
        )
        differences = self.differences[i]
        sides = self._sides(i) if trusts else []
        filters = None if heads.filters is None else heads.filters[0].float().numpy()
        line = None if filters is None else stretched(resized(self.blur[i], filters.shape[-2:]))[0].numpy()
        out = np.empty((3, self.height, self.width), np.float32)

        def work(rows: slice) -> None:
            own, part = here[rows], slice(rows.start // GRID, rows.stop // GRID)
            total = cv2.merge([*(spread(plane[:, part]) for plane in cells), np.zeros(own.shape[:2], np.float32)])
            for gate, difference in zip(gates, differences, strict=True):
                added = self.buffers.take("difference", *own.shape)
                torch.from_numpy(added).copy_(difference[rows])
                cv2.accumulateProduct(added, four(spread(gate[:, part])), total)
            for gate, (neighbour, motion) in zip(trusts, sides, strict=True):
                if neighbour is not None:
                    trust, moved = self._neighbour(rows, here, *neighbour, motion)
                    cv2.subtract(moved, best[rows], dst=moved)
                    cv2.accumulateProduct(moved, four(cv2.multiply(trust, spread(gate[:, part]))), total)
            if line is not None and filters is not None:
                self._along_line(rows, here, line, filters, total)
            cv2.add(total, own, dst=total)
            for plane, channel in zip(out, cv2.split(total)[:3], strict=True):
                plane[rows] = channel

        in_bands(self.height, self.width, work, self.scale)
        self.before = here, best
        self.differences.pop(i)
        return torch.from_numpy(out)[None]

    def look(self, i: int) -> Tensor | None:
        if not self.model.neighbours or self.before is None:
            return None
        planes = [channel for image in self.before for channel in cv2.split(image)[:3]]
        return torch.from_numpy(np.stack(planes))[None].half()

    def _pixels(self, i: int) -> np.ndarray:
        """Frame i, (H, W, 4) in [0, 1]."""
        frame = self.frames[0, i].numpy()
        if frame.dtype == np.float32:
            return interleaved(frame)
        most = 255 if frame.dtype == np.uint8 else 65535
        image = interleaved(frame.astype(np.uint16) if most > 255 else frame).astype(np.float32)
        return np.divide(image, np.float32(most), out=image)

    def _frame_and_best(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame i and the last of its deconvolutions at full size."""
        if self.ready is None or self.ready[0] != i:
            frame, plain = self._pixels(i), len(self.model.deconvolve)
            best = cv2.add(frame, self.differences[i][plain - 1].float().numpy()) if plain else frame
            self.ready = i, frame, best
        return self.ready[1:]

    def _deconvolved(self, pixels: np.ndarray, i: int) -> list[np.ndarray]:
        """Deconvolved minus blurred frame, (H, W, 4), for each number of iterations."""
        out = []
        size = self.width, self.height
        blur = [cv2.resize(part, size, interpolation=cv2.INTER_LINEAR) for part in self.lines[i]]
        if self.model.deconvolve:
            out = deconvolved_pixels(pixels, blur[0], blur[1], self.samples, self.model.deconvolve, self.buffers)
            out = [np.subtract(x, pixels, out=x) for x in out]
        if self.model.coarse_deconvolve:
            half = cv2.resize(pixels, (self.width // 2, self.height // 2), interpolation=cv2.INTER_AREA)
            dx, dy = (cv2.resize(part, half.shape[1::-1], interpolation=cv2.INTER_LINEAR) / 2 for part in self.lines[i])
            fewer, after = coarse_samples(self.samples), self.model.coarse_deconvolve
            results = deconvolved_pixels(half, dx, dy, fewer, after, self.coarse_buffers)
            out += [cv2.resize(np.subtract(x, half, out=x), size, interpolation=cv2.INTER_LINEAR) for x in results]
        return out

    def _sides(self, i: int) -> list[tuple[tuple[np.ndarray, np.ndarray] | None, np.ndarray]]:
        """Frame and deconvolved frame of both neighbours of frame i, None where there is none, and motion to them."""
        before = self.before if not self.grid.reset[0, i] else None
        after = self._frame_and_best(i + 1) if i + 1 in self.differences and not self.grid.reset_back[0, i] else None
        return [(before, self.motion[i]), (after, self.motion_back[i])]

    def _neighbour(
        self, rows: slice, here: np.ndarray, frame: np.ndarray, best: np.ndarray, motion: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weight (n, W), and ``best`` of a neighbour warped to these rows, (n, W, 4)."""
        rim = ERROR_SIDE // 2
        more = slice(max(rows.start - rim, 0), min(rows.stop + rim, self.height))
        inside = slice(rows.start - more.start, rows.stop - more.start)
        dx, dy = (enlarged(part, more, self.scale, self.height) for part in motion)
        at_x, at_y = cv2.add(dx, self.x[more]), cv2.add(dy, self.y[more])
        apart, moved = (self.buffers.take(name, *here[part].shape) for name, part in (("apart", more), ("moved", rows)))
        read_pixels(frame, at_x, at_y, apart)
        cv2.absdiff(apart, here[more], dst=apart)
        error = cv2.transform(apart, np.full((1, 4), 1 / 3 / TRUSTED_ERROR, np.float32))
        error = box_plane(error, ERROR_SIDE, box_share(error.shape, ERROR_SIDE), np.empty_like(error))[inside]
        trust = cv2.exp(cv2.multiply(error, error, scale=-1))
        return trust, read_pixels(best, at_x[inside], at_y[inside], moved)

    def _along_line(
        self, rows: slice, pixels: np.ndarray, line: np.ndarray, filters: np.ndarray, total: np.ndarray
    ) -> None:
        """Add Σ w_k (frame(p + a_k s) − frame(p)) to ``total`` of these rows."""
        assert self.model.line is not None
        dx, dy = (enlarged(part, rows, GRID, self.height) for part in line)
        whole = np.zeros_like(dx)
        read = self.buffers.take("read", *total.shape)
        for part, coarse in zip(self.model.line.positions.tolist(), filters, strict=True):
            if part:
                weight = enlarged(coarse, rows, GRID, self.height)
                read_pixels(pixels, cv2.scaleAdd(dx, part, self.x[rows]), cv2.scaleAdd(dy, part, self.y[rows]), read)
                cv2.accumulateProduct(read, four(weight), total)
                cv2.subtract(whole, weight, dst=whole)
        cv2.accumulateProduct(np.ascontiguousarray(pixels[rows]), four(whole), total)


def unit(frame: Tensor) -> Tensor:
    """Convert a frame to float32; levels (uint8, or 16 bits in int32) are scaled to [0, 1]."""
    if frame.is_floating_point():
        return frame.float()
    return frame.float() / (255 if frame.dtype == torch.uint8 else 65535)


def resized(field: Tensor, size: Sequence[int]) -> Tensor:
    """(B, 2, h, w) → (B, 2, *size), bilinear; values stay as they are."""
    return F.interpolate(field, tuple(size), mode="bilinear", align_corners=False)


def interleaved(planes: np.ndarray) -> np.ndarray:
    """(3, H, W) → (H, W, 4) of the same type, the fourth channel zero."""
    return cv2.merge([*planes, np.zeros_like(planes[0])])


def spread(cells: np.ndarray) -> np.ndarray:
    """Pixel shuffle (GRID², n, w) → (n·GRID, w·GRID)."""
    _, n, w = cells.shape
    out = np.empty((n, GRID, w * GRID), np.float32)
    for y in range(GRID):
        out[:, y] = cv2.merge(list(cells[y * GRID : (y + 1) * GRID])).reshape(n, -1)
    return out.reshape(n * GRID, -1)


def convolved(cells: Tensor, weights: tuple[Tensor, Tensor], conv: nn.Conv2d, fields: Sequence[Tensor]) -> Tensor:
    """``conv`` of ``FullSize.cells`` and, where given, of ``fields``, by weights that ``packed_weights`` made of it."""
    of_images, of_fields = weights
    rows = cells.flatten(3)
    if conv.kernel_size == (1, 1):  # many times faster than a convolution of so many channels
        x = F.linear(rows, of_images[..., 0, 0], conv.bias).permute(0, 3, 1, 2)
    else:
        x = F.conv2d(rows.permute(0, 3, 1, 2), of_images, conv.bias, padding=conv.padding)
    return x + F.conv2d(torch.cat(list(fields), 1), of_fields, padding=conv.padding) if fields else x


def four(plane: np.ndarray) -> np.ndarray:
    """(H, W) → (H, W, 4) equal channels."""
    return cv2.merge([plane] * 4)


def packed_weights(conv: nn.Conv2d, differences: int) -> tuple[Tensor, Tensor]:
    """Weights of ``conv`` for ``FullSize.cells``, and those for the fields that lie before the last ``differences``."""
    weight = conv.weight.detach()
    per = 3 * GRID * GRID
    images = weight.shape[1] // per - differences  # fields are fewer channels than an image
    fields = weight.shape[1] - (images + differences) * per
    first, between, last = weight.split([images * per, fields, differences * per], 1)
    cells = torch.cat([first, last], 1).unflatten(1, (images + differences, 3, GRID, GRID))
    cells = F.pad(cells.permute(0, 1, 3, 4, 2, 5, 6), (0, 0, 0, 0, 0, 1)).flatten(1, 4)  # (O, image·(y, x, channel), …)
    return cells.contiguous(memory_format=torch.channels_last), between
