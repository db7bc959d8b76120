"""The control network of CPGD-Net's release on varying priors, against a computation of its own, written from facts.

V over the largest magnitude of the group and the residual over 255 levels; both bilinear with aligned corners to the
latent's grid, from there bilinear to a layer's; A = L_m(V, R) without bias; L_qm is L_q; attention over all tokens of
the group's frames.
"""

import numpy as np
import torch

from support.tiny_pipeline import control, pipeline
from unsmear.models.convert.diffbir import RELEASED_OPTIONS
from unsmear.models.cpgd.pipeline import Sampling


def resized(field: np.ndarray, size: tuple[int, int], aligned: bool) -> np.ndarray:
    """Bilinear over the last two axes, in float64."""
    for axis, count in zip((-2, -1), size, strict=True):
        field = np.moveaxis(field, axis, -1)
        length = field.shape[-1]
        at = (
            np.arange(count) * (length - 1) / (count - 1)
            if aligned
            else (np.arange(count) + 0.5) * length / count - 0.5
        )
        at = at.clip(0, length - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, length - 1)
        field = np.moveaxis(field[..., low] * (1 - (at - low)) + field[..., high] * (at - low), -1, axis)
    return field


def prior_tensor(motion: torch.Tensor, residual: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Of one group (T, …): (T, 3, h, w)."""
    v, r = motion.double().numpy(), residual.double().numpy() * 32 / 255
    return resized(np.concatenate([v / np.abs(v).max(), r], 1), size, aligned=True)


def attended(layer: torch.nn.Module, x: torch.Tensor, prior: torch.Tensor, heads: int) -> torch.Tensor:
    """Output of a guided self-attention for the tokens (T, N, C) of one group, in float64."""
    weights = {name: value.double() for name, value in layer.state_dict().items()}
    x, a = x.double(), prior @ weights["mask.weight"].T
    q = x @ weights["to_q.weight"].T + (x * a) @ weights["to_q.weight"].T
    k, v = (x @ weights[f"to_{name}.weight"].T for name in "kv")
    q, k, v = (t.reshape(1, -1, heads, t.shape[-1] // heads).transpose(1, 2) for t in (q, k, v))
    mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
    mixed = mixed.transpose(1, 2).reshape(x.shape)
    return mixed @ weights["to_out.0.weight"].T + weights["to_out.0.bias"]


def opened(model: torch.nn.Module) -> torch.nn.Module:
    for name, parameter in model.named_parameters():
        if ".mask." in name:
            torch.nn.init.normal_(parameter, std=3.0)
    return model


def priors(frames: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(8)
    return torch.randn(frames, 2, height, width, generator=g) * 9, torch.rand(frames, 1, height, width, generator=g)


def test_every_guided_attention_is_that_of_the_release_on_varying_priors():
    model, frames, size = opened(control(**RELEASED_OPTIONS)), 3, (16, 12)
    motion, residual = priors(2 * frames, 40, 28)
    g = torch.Generator().manual_seed(9)
    latent, hint = torch.randn(2, 2 * frames, 4, *size, generator=g)
    seen = {}
    for name, layer in model.named_modules():
        if name.endswith("attn1"):
            layer.register_forward_hook(
                lambda layer, given, _, out, name=name: seen.update({name: (layer, given[0], out)}), with_kwargs=True
            )
    with torch.inference_mode():
        given = model.prior_tensor(motion, residual, frames)
        model(latent, torch.tensor(400), torch.randn(2 * frames, 3, 16, generator=g), hint, given, frames=frames)
        of_priors = [(*recorded, recorded[0](recorded[1], frames=frames)) for recorded in list(seen.values())]
    assert [x.shape[1] for _, x, _, _ in of_priors] == [16 * 12, 8 * 6]
    for (layer, x, out, unguided), grid in zip(of_priors, (size, (8, 6)), strict=True):
        for group in (slice(0, frames), slice(frames, 2 * frames)):
            prior = resized(prior_tensor(motion[group], residual[group], size), grid, aligned=False)
            expected = attended(layer, x[group], torch.from_numpy(prior).flatten(2).transpose(1, 2), layer.heads)
            torch.testing.assert_close(out[group].double(), expected, atol=1e-5, rtol=1e-5)
            assert (unguided[group] - out[group]).abs().max() > 1e-2, "priors matter"


def test_the_sampler_cuts_tiles_from_the_group_s_priors(monkeypatch):
    pipe = pipeline(**RELEASED_OPTIONS)
    motion, residual = priors(7, 6, 4)
    taken, forward = [], type(pipe.control).forward
    monkeypatch.setattr(
        type(pipe.control),
        "forward",
        lambda self, sample, t, text, hint, prior, **others: (
            taken.append((prior, others["frames"])) or forward(self, sample, t, text, hint, prior, **others)
        ),
    )
    side = pipe.cell
    frames = torch.rand(7, 3, 24 * side, 16 * side)
    pipe(frames, motion, residual, options=Sampling(steps=1, tile=16, stride=8, cancel_autoencoder=False))
    assert [(len(prior), count) for prior, count in taken] == [(6, 6)] * 2 + [(1, 1)] * 2
    for first, part in ((0, slice(0, 6)), (2, slice(6, 7))):
        whole = torch.from_numpy(prior_tensor(motion[part], residual[part], (24, 16))).float()
        for (prior, _), top in zip(taken[first : first + 2], (0, 8), strict=True):
            torch.testing.assert_close(prior, whole[..., top : top + 16, :], atol=1e-6, rtol=1e-5)


def test_where_nothing_moves_the_motion_stays_zero():
    given = control(**RELEASED_OPTIONS).prior_tensor(torch.zeros(2, 2, 4, 4), torch.ones(2, 1, 4, 4))
    assert given[:, :2].abs().max() == 0 and torch.equal(given[:, 2:], torch.full((2, 1, 4, 4), 32 / 255))
