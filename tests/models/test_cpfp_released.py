"""The released stage 1: its published layout, a second computation of it, and the import of its weights."""

import logging

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import unsmear
from support.clips import moving_frames
from support.published_stage1 import Published
from support.tiny_released import SIZES, network, released
from unsmear.cli.main import run
from unsmear.errors import WeightsError
from unsmear.models.convert.cpfp_released import convert_cpfp
from unsmear.models.convert.importer import import_weights
from unsmear.models.cpfp.network import PriorTensors
from unsmear.models.cpfp_released.network import ReleasedCPFP
from unsmear.models.zoo import find
from unsmear.restore.load import load_restorer
from unsmear.restore.restorer import Clip


def priors(frames: int, height: int, width: int) -> PriorTensors:
    g = torch.Generator().manual_seed(3)
    motion = torch.randn(2, 1, frames, 2, height // 8, width // 8, generator=g) * 6
    reset = torch.zeros(2, 1, frames, dtype=torch.bool)
    reset[0, :, 0] = reset[1, :, -1] = True
    residual = torch.rand(1, frames, 1, height // 4, width // 4, generator=g)
    return PriorTensors(motion[0], motion[1], residual, *reset, torch.full((1, frames), -1.0))


def test_the_published_sizes_and_names():
    with torch.device("meta"):
        model = ReleasedCPFP()
    assert sum(p.numel() for p in model.parameters()) == 23_360_392  # the other 8.27 M of the release are never used
    state = {key: tuple(value.shape) for key, value in released(model).items()}
    for key, shape in {
        "concat.2.CA.conv_du.2.weight": (64, 64, 1, 1),
        "encoder_level2_1.body.2.weight": (192, 192, 3, 3),
        "deform_align.backward_1.weight": (192, 384, 3, 3),
        "deform_align.forward_2.conv_offset.0.weight": (192, 585, 3, 3),
        "deform_align.backward_2.conv_offset.6.bias": (432,),
        "backbone.forward_2.0.weight": (192, 960, 3, 3),
        "backbone.forward_1.2.body.1.conv_2.weight": (384, 1, 3, 3),
        "reconstruction.main.1.weight": (192, 320, 1, 3, 3),
        "reconstruction.main.5.1.residual_group.blocks.1.attn.relative_position_bias_table": (675, 6),
        "reconstruction.main.5.0.residual_group.blocks.0.mlp.fc1.weight": (384, 192),
        "cabattn.0.conv1.weight": (192, 1, 3, 3),
        "cabattn.0.norm.weight": (384,),
        "up21.up.1.weight": (64, 192, 1, 1),
        "decoder_level1.encoder_level1.0.body.0.weight": (128, 96, 1, 1),
        "decoder_level1_1.encoder_level1_3.1.beta": (1, 64, 1, 1),
        "upsample0.upsample_conv.weight": (256, 64, 3, 3),
        "last_conv.weight": (3, 64, 3, 3),
    }.items():
        assert state[key] == shape, key


@pytest.mark.parametrize("frames", [2, 5])
def test_it_equals_the_published_network(frames):
    model, given = network(0.05).double(), priors(frames, 40, 56)
    g = torch.Generator().manual_seed(5)
    x = torch.rand(frames, 3, 40, 56, generator=g).double()
    smooth = torch.randn(2, frames, 2, 2, 2, generator=g) * 2
    forward, noise = (F.interpolate(m, (10, 14), mode="bilinear", align_corners=True) for m in smooth)
    backward = torch.cat([-forward[1:], forward[:1]]) + 0.3 * noise  # so that the two agree in places
    given = PriorTensors(
        4 * forward[None], 4 * backward[None], given.residual, *([given.reset & False] * 2), given.duty
    )
    published = Published(released(model), SIZES["heads"], SIZES["window"], SIZES["offset_groups"])
    with torch.no_grad():
        mine = model(x[None].float(), given).frames[0]
        theirs = published(
            x.float().double(),
            *(m.double() for m in (forward[1:], backward[:-1])),
            given.residual[0].double() * 32 / 255,
        )
    assert (theirs - x).abs().mean() > 0.01
    torch.testing.assert_close(mine.double(), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("what", ["motion", "motion_back", "residual"])
def test_every_prior_and_every_frame_counts(what):
    model, x = network(), torch.rand(1, 4, 3, 32, 40)
    given = priors(4, 32, 40)
    other = given._replace(**{what: getattr(given, what) * 0.5})
    if what == "residual":
        other = other._replace(residual=given.residual.flip(-1))
    with torch.inference_mode():
        made = model(x, given).frames
        assert made.shape == x.shape and (model(x, other).frames - made).abs().max() > 1e-6
        changed = x.clone()
        changed[:, 3] = 1 - changed[:, 3]
        assert ((model(changed, given).frames - made).abs().amax((0, 2, 3, 4)) > 1e-6).all()
        levels = (x * 255).round().byte()
        torch.testing.assert_close(model(levels, given).frames, model(levels / 255, given).frames)


def test_what_has_no_residual_is_given_that_of_the_next_frame_moved_back():
    given = priors(3, 32, 32)
    still = given._replace(motion_back=torch.zeros_like(given.motion_back))
    filled = still.residual.clone()
    filled[:, 0] = filled[:, 1]
    with torch.inference_mode():
        model, x = network(), torch.rand(1, 3, 3, 32, 32)
        first = still._replace(residual=filled, reset=torch.zeros_like(still.reset))
        assert torch.equal(model(x, still).frames, model(x, first).frames)


def test_one_step_of_training_reaches_every_parameter_but_the_unused_half():
    model = network().train()
    model(torch.rand(1, 3, 3, 32, 32), priors(3, 32, 32)).frames.square().mean().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == ["refine.0.extra.weight"]


def test_weights_of_the_release_are_imported_as_stage_1(tmp_path, caplog, capfd):
    model = network()
    save_file(released(model), tmp_path / "cpfp.safetensors")
    with caplog.at_level(logging.WARNING):
        made = import_weights(tmp_path / "cpfp.safetensors", tmp_path / "out", stage_1=SIZES)
    assert "4 tensors are unused" in caplog.text and made.family is None
    restorer = load_restorer(str(tmp_path / "out" / "cpfp"), device="cpu", dtype="fp32")
    assert find(str(tmp_path / "out" / "cpfp")).kind == "ReleasedCPFP"
    for key, value in model.state_dict().items():
        assert torch.equal(restorer.model.state_dict()[key], value), key
    clip = Clip.of(moving_frames((48, 32), 3), 0.5)
    assert restorer(clip).shape == clip.frames.shape and isinstance(restorer, unsmear.Restorer)
    assert run(["models", "import", str(tmp_path / "cpfp.safetensors"), "-o", str(tmp_path / "full")]) == 1
    assert "of shape" in capfd.readouterr().err and not (tmp_path / "full").exists()


def test_what_the_release_was_made_from_is_refused():
    state = released(network())
    with pytest.raises(WeightsError, match=r"has unknown transsqattn\.weight"):
        convert_cpfp(state | {"transsqattn.weight": torch.zeros(1)}, SIZES)
    with pytest.raises(WeightsError, match=r"lacks last_conv\.weight"):
        convert_cpfp({key: value for key, value in state.items() if key != "last_conv.weight"}, SIZES)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="channels 32: expected a multiple of 3"):
        ReleasedCPFP(channels=32)
    with pytest.raises(ValueError, match="shallow 24: expected a multiple of 16"):
        ReleasedCPFP(shallow=24)
