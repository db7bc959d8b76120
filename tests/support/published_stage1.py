"""The released stage 1 a second time, from the facts of its published layout and by the release's names; no speed."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

RIM = [(y, x) for y in (8, -8) for x in (8, 4, 0, -4, -8)] + [(4, 8), (4, -8), (0, 8), (0, -8), (-4, 8), (-4, -8)]
INNER = [(4, 4), (4, 0), (4, -4), (0, 4), (0, -4), (-4, 4), (-4, 0), (-4, -4)]
"""(down, right), pixels."""


class Published:
    """Args: state: weights by the release's names; heads, window: of the transformer; groups: of offsets."""

    def __init__(self, state: dict[str, Tensor], heads: int, window: tuple[int, int, int], groups: int):
        self.state, self.heads, self.window, self.groups = state, heads, window, groups

    def __call__(self, frames: Tensor, forward: Tensor, backward: Tensor, residual: Tensor) -> Tensor:
        """Restored frames (T, 3, H, W).

        Args:
            frames: (T, 3, H, W).
            forward: motion from frame t + 1 to t, (T − 1, 2, H/4, W/4), pixels of this grid.
            backward: from frame t to t + 1, likewise.
            residual: magnitudes over 255 levels (T, 1, H/4, W/4).
        """
        full = self.attended("concat.2", lrelu(self.conv("concat.0", frames)))
        half = self.two("encoder_level1", lrelu(self.conv("down01.0", full, 2)))
        least, most = residual.min(), residual.max()
        maps = (residual - least) / (most - least + 0.0025) + 0.002
        feats = {"spatial": self.two("encoder_level2", lrelu(self.conv("down12.0", half, 2)))}
        for number, way in product((1, 2), ("backward", "forward")):
            feats[f"{way}_{number}"] = self.propagated(f"{way}_{number}", feats, forward, backward, maps)
        x = self.conv("reconstruction.main.1", torch.cat(list(feats.values()), 1), groups=3)
        x = self.norm("reconstruction.main.3", x, 1e-5)
        for i in range(2):
            y, name = x, f"reconstruction.main.5.{i}"
            for j in range(2):
                y = self.windowed(f"{name}.residual_group.blocks.{j}", y, shifted=j == 1)
            x = x + self.linear(f"{name}.linear", y)
        x = self.norm("reconstruction.main.7", x, 1e-5)
        x = self.gated("cabattn.1", self.gated("cabattn.0", torch.cat([x, torch.zeros_like(x)], 1)))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.conv("up21.up.1", x) + self.attended("skip_attn1", half)
        for block in ("decoder_level1", "decoder_level1_1"):
            for k, name in enumerate(("encoder_level1", "encoder_level1_1", "encoder_level1_2", "encoder_level1_3")):
                x = exchanged(x, from_the_past=k % 2 == 0)
                x = self.gated(f"{block}.{name}.1", self.gated(f"{block}.{name}.0", x))
        x = self.conv("conv_hr0", lrelu(F.pixel_shuffle(self.conv("upsample0.upsample_conv", x), 2)))
        x = self.attended("out_conv", x + self.attended("skip_conv", full))
        return frames + self.conv("last_conv", x)

    def propagated(
        self, name: str, feats: dict[str, Tensor], forward: Tensor, backward: Tensor, maps: Tensor
    ) -> Tensor:
        count, before = len(maps), list(feats.values())[-1]
        back = name.startswith("backward")
        # to[t]: motion from frame t to the one before it in the pass; fro[t]: from that one to t
        to, fro = (backward, forward) if back else (forward, backward)
        step, at = (1, lambda t: t) if back else (-1, lambda t: t - 1)
        out: dict[int, Tensor] = {}
        for k, t in enumerate(reversed(range(count)) if back else range(count)):
            moved = torch.zeros_like(before[:1])
            if k:
                u, w = t + step, t + 2 * step
                near, check = to[at(t)][None], fro[at(t)][None]
                far, far_check = torch.zeros_like(near), None
                second = torch.zeros_like(moved)
                maps_far = agree_far = torch.zeros_like(maps[:1])
                if k > 1:
                    second = out[w]
                    far = near + warped(to[at(u)][None], near)
                    far_check = check + warped(fro[at(u)][None], check)
                    maps_far, agree_far = warped(maps[w][None], far), agreeing(far, far_check)
                maps_near, agree_near = warped(maps[u][None], near), agreeing(near, check)
                given = [warped(out[u], near), before[t][None], warped(second, far)]
                given += [maps_near, maps[t][None], maps_far, agree_near, agree_far, near, far]
                x = torch.cat(given, 1)
                for layer in (0, 2, 4):
                    x = lrelu(self.conv(f"deform_align.{name}.conv_offset.{layer}", x))
                x = self.conv(f"deform_align.{name}.conv_offset.6", x)
                offsets, logits = x[:, : x.shape[1] // 3 * 2], x[:, x.shape[1] // 3 * 2 :]
                pushes = [0.1 * (2 * m * a - 1) for m, a in ((maps_near, agree_near), (maps_far, agree_far))]
                moved = self.deformed(f"deform_align.{name}", [out[u], second], [near, far], offsets, logits, pushes)
            x = torch.cat([*(f[t][None] for f in feats.values()), moved], 1)
            out[t] = moved + self.gated(f"backbone.{name}.2", lrelu(self.conv(f"backbone.{name}.0", x)))
        return torch.cat([out[t] for t in range(count)])

    def deformed(
        self,
        name: str,
        sources: list[Tensor],
        motions: list[Tensor],
        offsets: Tensor,
        logits: Tensor,
        pushes: list[Tensor],
    ) -> Tensor:
        weight, each = self.state[f"{name}.weight"], self.groups // 2
        share = sources[0].shape[1] // each
        total = self.state[f"{name}.bias"][None, :, None, None]
        for g, k in product(range(self.groups), range(9)):
            one, place = g // each, g * 9 + k
            tap = torch.tensor([k % 3 - 1.0, k // 3 - 1.0])[None, :, None, None]
            learnt = 5 * torch.tanh(offsets[:, [2 * place + 1, 2 * place]])
            part = sources[one][:, g % each * share : (g % each + 1) * share]
            read = warped(part, motions[one] + tap + learnt)
            mask = torch.sigmoid(logits[:, place : place + 1] + pushes[one])
            kernel = weight[:, g * share : (g + 1) * share, k // 3, k % 3, None, None]
            total = total + F.conv2d(read * mask, kernel)
        return total

    def windowed(self, name: str, x: Tensor, shifted: bool) -> Tensor:
        size = (len(x), *x.shape[-2:])
        shift = [w // 2 if shifted and n > w else 0 for w, n in zip(self.window, size, strict=True)]
        more = [-n % w for w, n in zip(self.window, size, strict=True)]
        y = self.norm(f"{name}.norm1", x, 1e-5).permute(0, 2, 3, 1)
        y = F.pad(y, (0, 0, 0, more[2], 0, more[1], 0, more[0])).roll([-s for s in shift], (0, 1, 2))
        table = self.state[f"{name}.attn.relative_position_bias_table"]
        out = torch.zeros_like(y)
        for corner in product(*(range(0, n, w) for n, w in zip(y.shape[:3], self.window, strict=True))):
            box = tuple(slice(c, c + w) for c, w in zip(corner, self.window, strict=True))
            places = list(product(*map(range, self.window)))
            # what came around the border is another region
            around = [
                tuple(s > 0 and c + p >= n - s for c, p, n, s in zip(corner, place, y.shape[:3], shift, strict=True))
                for place in places
            ]
            q, k, v = self.linear(f"{name}.attn.qkv_self", y[box].flatten(0, 2).T[None]).squeeze(0).T.chunk(3, 1)
            q, k, v = (t.unflatten(1, (self.heads, -1)).transpose(0, 1) for t in (q, k, v))
            scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
            for (i, a), (j, b) in product(enumerate(places), repeat=2):
                row = 0
                for p, r, w in zip(a, b, self.window, strict=True):
                    row = row * (2 * w - 1) + p - r + w - 1
                scores[:, i, j] += table[row] - 100.0 * (around[i] != around[j])
            mixed = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
            out[box] = self.linear(f"{name}.attn.proj", mixed.T[None]).squeeze(0).T.reshape(out[box].shape)
        out = out.roll(shift, (0, 1, 2))[: size[0], : size[1], : size[2]]
        x = x + out.permute(0, 3, 1, 2)
        y = self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm2", x, 1e-5))
        return x + self.linear(f"{name}.mlp.fc2", F.gelu(y))

    def two(self, name: str, x: Tensor) -> Tensor:
        return self.attended(f"{name}_1", self.attended(name, x))

    def attended(self, name: str, x: Tensor) -> Tensor:
        return x + self.scaled(f"{name}.CA", self.conv(f"{name}.body.2", lrelu(self.conv(f"{name}.body.0", x))))

    def gated(self, name: str, x: Tensor) -> Tensor:
        gain = self.state[f"{name}.beta"]
        own, extra = x[:, : gain.shape[1]], x[:, gain.shape[1] :]
        if extra.shape[1]:
            x = torch.cat([own, self.conv(f"{name}.conv1", extra, groups=extra.shape[1])], 1)
        y = self.conv(f"{name}.body.0", self.norm(f"{name}.norm", x, 1e-6))
        first, second = (y + self.conv(f"{name}.body.1.conv_2", y, groups=y.shape[1])).chunk(2, 1)
        y = first * second
        y = y + sum(self.conv(f"{name}.body.3.conv_{i}", y, groups=y.shape[1]) for i in (1, 2))
        first, second = self.conv(f"{name}.body.4", y).chunk(2, 1)
        y = self.scaled(f"{name}.body.6", first * torch.sigmoid(second))
        return own + gain * self.conv(f"{name}.body.7", y)

    def scaled(self, name: str, x: Tensor) -> Tensor:
        means = F.relu(self.conv(f"{name}.conv_du.0", x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.conv(f"{name}.conv_du.2", means))

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        """Over channels."""
        x = x - x.mean(1, keepdim=True)
        x = x / (x.square().mean(1, keepdim=True) + eps).sqrt()
        return x * self.wide(f"{name}.weight") + self.wide(f"{name}.bias")

    def wide(self, name: str) -> Tensor:
        return self.state[name][None, :, None, None]

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Over axis 1."""
        made = self.state[f"{name}.weight"] @ x.flatten(2) + self.state[f"{name}.bias"][:, None]
        return made.reshape(len(x), -1, *x.shape[2:])

    def conv(self, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        weight = weight.squeeze(2) if weight.ndim == 5 else weight
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), stride, weight.shape[-1] // 2, groups=groups)


def lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


def exchanged(x: Tensor, from_the_past: bool) -> Tensor:
    """(T, C, H, W) → (T, 3/2 C, H, W): half of the channels from a neighbour in time, then those shifted in space."""
    half, out = x.shape[1] // 2, []
    share = half // 8
    far = (share - 1) // 2
    ways = [way for way in RIM for _ in range(far)] + [way for way in INNER for _ in range(share - 2 * far)]
    for t in range(len(x)):
        other = x[t - 1][half:] if from_the_past else x[(t + 1) % len(x)][:half]
        kept = x[t][:half] if from_the_past else x[t][half:]
        shifted = torch.zeros_like(other)
        height, width = other.shape[-2:]
        for channel, (down, right) in enumerate(ways):
            for i, j in product(range(height), range(width)):
                if 0 <= i - down < height and 0 <= j - right < width:
                    shifted[channel, i, j] = other[channel, i - down, j - right]
        out.append(torch.cat([other, kept, shifted] if from_the_past else [kept, other, shifted]))
    return torch.stack(out)


def warped(x: Tensor, motion: Tensor) -> Tensor:
    """``x`` at p + motion(p), zeros outside."""
    height, width = x.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    across, down = (columns + motion[:, 0]) / (width - 1), (rows + motion[:, 1]) / (height - 1)
    grid = torch.stack([across, down], -1).to(x) * 2 - 1
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), "bilinear", "zeros", align_corners=True)


def agreeing(motion: Tensor, inverse: Tensor) -> Tensor:
    there = warped(inverse, motion)
    apart, lengths = ((a**2).sum(1, keepdim=True) for a in (motion + there, torch.cat([motion, there], 1)))
    return (apart < 0.01 * lengths + 0.5).to(motion)
