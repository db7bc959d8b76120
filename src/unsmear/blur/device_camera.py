"""Virtual camera of :mod:`unsmear.blur.camera` on a device, with all sub-frames of a frame in one batch.

The same draws give the same geometry as there. Pixels differ by rounding, where photographs are shrunk (anti-aliased
cubic here, area averaging there), and in the noise, which the device draws. Frames are copied to the CPU, on which the
codec runs.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unsmear.blur.camera import (
    CameraRanges,
    Layer,
    Rendered,
    draw_noise,
    draw_shot,
    row_poses,
    shot_light,
)
from unsmear.blur.light import DARK_TOP, lamp_levels
from unsmear.video.light import Curve


class DeviceCamera:
    """Renderer of sequences from photographs in device memory; a :class:`unsmear.blur.pack.Camera`.

    On CUDA it uses a stream of its own, in parallel with training. Not thread-safe: callers must use a lock.

    Args:
        photos: sharp photographs, uint8 RGB (H, W, 3).
        device: device of the photographs and of rendering.
    """

    def __init__(self, photos: Sequence[np.ndarray], device: torch.device | str):
        self.device = torch.device(device)
        self.photos = [torch.from_numpy(photo).to(self.device).permute(2, 0, 1) for photo in photos]
        self.shapes = [photo.shape for photo in photos]
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @torch.inference_mode()
    def __call__(self, rng: np.random.Generator, ranges: CameraRanges, duty: float | None = None) -> Rendered:
        """Render one sequence; arguments as for :func:`unsmear.blur.camera.render`."""
        shot = draw_shot(self.shapes, rng, ranges, duty)
        sigmas = [draw_noise(rng, ranges.noise_levels) for _ in range(ranges.frames)]
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**63)))
        with torch.cuda.stream(self.stream):
            light_of, shown = (torch.from_numpy(part).to(self.device) for part in shot_light(shot, ranges.curve))
            layers = [_DeviceLayer.of(self.photos[layer.photo], layer, ranges.size_px) for layer in shot.layers]
            blurred, sharp = [], []
            for t, sigma in enumerate(sigmas):
                span = slice(t * shot.subframes, (t + 1) * shot.subframes)
                views = layers[0].views(span, ranges.size_px)[0]
                for layer in layers[1:]:
                    top, opaque = layer.views(span, ranges.size_px)
                    views = torch.lerp(views, top, opaque).round_()
                exposed = _from_linear(light_of[views.int()].mean(0), ranges.curve)
                if sigma:
                    noise = torch.randn(exposed.shape, generator=generator, device=self.device)
                    exposed = exposed + noise * (sigma * (0.3 + 0.7 * exposed / 128).sqrt())
                blurred.append(exposed)
                sharp.append(shown[views[shot.subframes // 2].int()].float())
            return Rendered(_frames(blurred), _frames(sharp), shot.duty)


class _DeviceLayer:
    """A layer in device memory: picture (1, 3, side, side), float32 levels, and mask (1, 1, side, side) in [0, 1]."""

    def __init__(self, picture: Tensor, mask: Tensor | None, poses: Tensor):
        self.picture, self.mask, self.poses = picture, mask, poses  # poses (n, 1 or size, 3, 3), per frame or row

    @classmethod
    def of(cls, photo: Tensor, layer: Layer, size: int) -> "_DeviceLayer":
        piece = photo[None, :, layer.y : layer.y + layer.take, layer.x : layer.x + layer.take].float()
        picture = F.interpolate(piece, (layer.side, layer.side), mode="bicubic", antialias=True).round_().clamp_(0, 255)
        if layer.lamps is not None:
            lamps = torch.from_numpy(lamp_levels(layer.lamps, layer.side)).to(photo.device).permute(2, 0, 1)
            picture = torch.maximum((picture * (DARK_TOP / 255)).add_(0.5).floor_(), lamps.float())
        mask = None if layer.mask is None else torch.from_numpy(layer.mask).to(photo.device)[None, None].float() / 255
        # To the coordinates of grid_sample: -1 and 1 are the outer edges of the first and the last pixel.
        unit = np.array([[2, 0, 1 - layer.side], [0, 2, 1 - layer.side], [0, 0, layer.side]]) / layer.side
        poses = unit @ layer.poses
        poses = poses[:, None] if poses.ndim == 3 else row_poses(poses, size)
        return cls(picture, mask, torch.from_numpy(poses.astype(np.float32)).to(photo.device))

    def views(self, span: slice, size: int) -> tuple[Tensor, Tensor]:
        """Views of sub-frames ``span``, (n, 3, size, size) in whole levels, and their opacity (n, 1, size, size)."""
        x = torch.arange(size, device=self.poses.device, dtype=torch.float32)[:, None]
        across, down, origin = self.poses[span, :, None].unbind(-1)  # not a matrix product, which may be rounded
        at = across * x + down * x[:, None] + origin
        grid = at[..., :2] / at[..., 2:]
        picture = self.picture.expand(len(grid), -1, -1, -1)
        views = F.grid_sample(picture, grid, "bicubic", "reflection", align_corners=False).round_().clamp_(0, 255)
        if self.mask is None:
            return views, torch.ones_like(views[:, :1])
        mask = self.mask.expand(len(grid), -1, -1, -1)
        return views, F.grid_sample(mask, grid, "bilinear", "zeros", align_corners=False)


def _from_linear(light: Tensor, curve: Curve) -> Tensor:
    """``video.light.from_linear`` on tensors."""
    x = light.clamp(0, 1)
    if curve == "srgb":
        return 255 * torch.where(x <= 0.0031308, x * 12.92, 1.055 * x ** (1 / 2.4) - 0.055)
    return 255 * x ** (1 / 2.2)


def _frames(levels: Sequence[Tensor]) -> np.ndarray:
    """Convert T frames (3, H, W) of float levels to uint8 (T, H, W, 3), rounded to nearest."""
    whole = torch.stack(list(levels)).clamp_(0, 255).add_(0.5).to(torch.uint8)
    return np.ascontiguousarray(whole.permute(0, 2, 3, 1).cpu().numpy())
