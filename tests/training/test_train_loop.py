"""The training loop on a recipe that is computed by hand: gradients that are averaged over batches, and pictures."""

import json

import numpy as np
import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from safetensors.torch import load_file
from torch import nn

from unsmear.errors import UsageError, WeightsError
from unsmear.training.config import LoopConfig, OptimiserConfig
from unsmear.training.loop import train
from unsmear.video.images import read_image

SAMPLES = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))


class Line(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))


class Fit:
    """A line through points; batch n is the n-th handful of them, so two halves are the whole."""

    def __init__(self, model: Line, batch: int):
        self.model, self.batch = model, batch
        self.numbers: list[int] = []

    def parameter_groups(self):
        return [{"params": list(self.model.parameters())}]

    def batches(self, steps):
        for n in steps:
            self.numbers.append(n)
            yield SAMPLES[n * self.batch : (n + 1) * self.batch]

    def loss(self, model, batch):
        found = batch @ model.weight
        return (found - batch.sum(1) ** 2).square().mean(), {"seen": float(batch.mean())}

    def validate(self, model):
        return {"score": 1.0}


class Shown(Fit):
    def pictures(self, model):
        return [("flat", np.full((4, 6, 3), 9, np.uint8))]


def run(folder, steps, batch, accumulate, *, kind=Fit, resume=False, clip_norm=None):
    model = Line()
    recipe = kind(model, batch)
    optimiser = OptimiserConfig(lr=0.05, clip_norm=clip_norm)
    loop = LoopConfig(
        steps, batch, accumulate=accumulate, checkpoint_every=3, validate_every=2, log_every=1, optimiser=optimiser
    )
    train(model, recipe, loop, folder, resume=resume)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return load_file(folder / "last" / "model.safetensors")["weight"], [r for r in rows if "loss" in r], recipe


@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_two_accumulated_half_batches_equal_one_batch(clip_norm, tmp_path):
    whole, of_whole, _ = run(tmp_path / "whole", 5, 8, 1, clip_norm=clip_norm)
    halves, of_halves, recipe = run(tmp_path / "halves", 5, 4, 2, clip_norm=clip_norm)
    assert recipe.numbers == list(range(10)) and len(of_whole) == len(of_halves) == 5
    torch.testing.assert_close(halves, whole)
    for one, other in zip(of_whole, of_halves, strict=True):
        for name in ("loss", "seen", *(["gradient_norm"] if clip_norm else [])):
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6)
    other, _, _ = run(tmp_path / "other", 5, 4, 1, clip_norm=clip_norm)
    assert not torch.allclose(other, whole, atol=1e-4), "half of the batches are not the whole"


def test_a_resumed_accumulating_run_equals_an_uninterrupted_one(tmp_path):
    whole, _, _ = run(tmp_path / "whole", 5, 2, 3)
    run(tmp_path / "parts", 2, 2, 3)
    parts, _, recipe = run(tmp_path / "parts", 5, 2, 3, resume=True)
    assert recipe.numbers == list(range(6, 15))
    assert torch.equal(whole, parts)


def test_each_validation_writes_pictures(tmp_path):
    run(tmp_path, 3, 2, 1, kind=Shown)
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["000002-flat.png", "000003-flat.png"]
    assert (read_image(tmp_path / "pictures" / "000002-flat.png") == 9).all()


def test_a_step_takes_a_batch_at_least():
    with pytest.raises(UsageError, match="`accumulate` 0: expected 1 or more"):
        LoopConfig(accumulate=0)


class Diverging(Fit):
    """Its fifth loss is not a number."""

    def loss(self, model, batch):
        loss, figures = super().loss(model, batch)
        return loss * (float("nan") if len(self.numbers) == 5 else 1.0), figures


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(tmp_path):
    good, _, _ = run(tmp_path / "good", 3, 2, 1)
    with pytest.raises(WeightsError, match=r"step 5: the loss is nan; .*last holds the last good checkpoint"):
        run(tmp_path / "bad", 8, 2, 1, kind=Diverging)
    assert torch.equal(load_file(tmp_path / "bad" / "last" / "model.safetensors")["weight"], good)
    assert not (tmp_path / "bad" / "last.new").exists()


def test_an_existing_run_is_not_overwritten(tmp_path):
    run(tmp_path, 3, 2, 1)
    before = (tmp_path / "log.jsonl").read_text()
    with pytest.raises(UsageError, match="holds a run already: give `resume`"):
        run(tmp_path, 3, 2, 1)
    assert (tmp_path / "log.jsonl").read_text() == before
