"""Foreign diffusion weights: every key has its place, numbers arrive unchanged, what does not fit is named."""

import logging

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from support import foreign_layouts as foreign
from support.foreign_layouts import (
    TINY,
    TINY_UNET,
    UNET,
    VAE,
    diffbir,
    millions,
    same,
    tiny_control,
    tiny_original,
    tiny_unet,
    tiny_vae,
)
from unsmear.errors import WeightsError
from unsmear.models.convert.diffbir import RELEASED_OPTIONS, convert_control
from unsmear.models.convert.stable_diffusion import UNET_CONFIG, VAE_CONFIG, from_original
from unsmear.models.convert.text_encoder import convert_text_encoder
from unsmear.models.cpgd.control import CPControlNet

# Full size, shapes only.


@pytest.fixture(scope="module")
def full() -> dict[str, Tensor]:
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**UNET_CONFIG), AutoencoderKL(**VAE_CONFIG)
    return {
        **foreign.original_unet(unet.state_dict(), UNET),
        **foreign.original_vae(vae.state_dict(), VAE),
        **foreign.original_text(1024, 24, 49408, 77, device="meta"),
        **foreign.leftovers("meta"),
    }


@pytest.fixture(scope="module")
def full_control() -> dict[str, Tensor]:
    with torch.device("meta"):
        return foreign.original_unet(CPControlNet(guided=False).state_dict())


def test_the_published_names_are_those_that_are_converted(full, full_control):
    for key, shape in {
        f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
        f"{UNET}input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        f"{UNET}input_blocks.6.0.op.weight": (640, 640, 3, 3),
        f"{UNET}input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight": (1280, 1024),
        f"{UNET}middle_block.1.proj_in.weight": (1280, 1280),
        f"{UNET}output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        f"{UNET}output_blocks.8.2.conv.weight": (640, 640, 3, 3),
        f"{UNET}output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        f"{VAE}encoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
        f"{VAE}decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        f"{VAE}decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
    }.items():
        assert tuple(full[key].shape) == shape, key
    assert tuple(full_control["input_blocks.0.0.weight"].shape) == (320, 8, 3, 3)
    assert [key for key in full_control if key.startswith("zero_convs.")][-1] == "zero_convs.11.0.bias"
    assert "middle_block_out.0.weight" in full_control


def test_stable_diffusion_at_full_size_leaves_no_key(full):
    made = from_original(full)
    assert (millions(made.unet), millions(made.vae)) == (865.91, 83.65)
    assert len(made.unet.state_dict()) == 686
    assert made.text_encoder is not None
    assert made.text_encoder.config["num_hidden_layers"] == 23
    assert round(sum(value.numel() for value in made.text_encoder.state.values()) / 1e6, 2) == 340.39


@pytest.mark.parametrize("prefix", ["", "control_model.", "module.", "module.controlnet."])
def test_diffbirs_control_network_at_full_size_leaves_no_key(full_control, prefix):
    made = convert_control({prefix + key: value for key, value in full_control.items()})
    ours = sum(value.numel() for key, value in made.state_dict().items() if ".mask." in key or ".to_qm." in key)
    assert round((sum(p.numel() for p in made.parameters()) - ours) / 1e6, 2) == 363.15
    assert made.config.guided
    assert not made.config.shared_query


def test_cpgd_nets_control_network_at_full_size_leaves_no_key(full_control):
    masks = {
        key.replace("to_q", "mask"): torch.empty(value.shape[0], 3, device="meta")
        for key, value in full_control.items()
        if "to_q." in key
    }
    assert len(masks) == 14  # self- and cross-attention of seven blocks
    made = convert_control(full_control | masks)
    assert (made.config.guided, made.config.shared_query, made.config.joint_time_attention) == (True, True, True)
    assert millions(made) == 363.17


# Numbers, on small networks.


def test_converted_weights_are_unchanged():
    made = from_original(tiny_original(), TINY)
    assert same(made.unet, tiny_unet())
    assert same(made.vae, tiny_vae())
    assert made.text_encoder is None


def test_dtypes_are_those_of_the_file():
    made = from_original({key: value.half() for key, value in tiny_original().items()}, TINY)
    assert {value.dtype for value in made.unet.state_dict().values()} == {torch.float16}


def test_the_text_encoder_is_converted_without_transformers():
    text = foreign.original_text(64, 24, 50, 7)
    made = convert_text_encoder(text, width=64, blocks_held=24)
    source = text["cond_stage_model.model.transformer.resblocks.3.attn.in_proj_weight"]
    for n, name in enumerate("qkv"):
        got = made.state[f"text_model.encoder.layers.3.self_attn.{name}_proj.weight"]
        assert torch.equal(got, source[64 * n : 64 * (n + 1)])
    assert made.config["num_hidden_layers"] == 23
    assert not any(".layers.23." in key for key in made.state)
    with pytest.raises(WeightsError, match="a text encoder 64 wide, expected 1024"):
        convert_text_encoder(text, width=1024, blocks_held=24)
    with pytest.raises(WeightsError, match=r"lacks cond_stage_model\.model\.ln_final\.bias"):
        convert_text_encoder({k: v for k, v in text.items() if "ln_final.bias" not in k}, 64, 24)


def test_cpgd_nets_release_keeps_its_priors(caplog):
    control = tiny_control(shared_query=True, joint_time_attention=True)
    state = diffbir(control)
    idle = {key.replace("attn1", "attn2"): torch.zeros(()) for key in state if "attn1.mask" in key}
    with caplog.at_level(logging.WARNING):
        made = convert_control(state | idle, TINY_UNET)
    assert same(made, control)
    assert all(made.config[name] == value for name, value in RELEASED_OPTIONS.items())
    assert "attn2.mask.weight" in caplog.text
    assert f"{len(idle)} tensors are unused" in caplog.text


def test_diffbirs_prior_layers_have_no_effect_and_are_reproducible():
    plain = tiny_control(guided=False)
    made, again = convert_control(diffbir(plain), TINY_UNET), convert_control(diffbir(plain), TINY_UNET)
    assert same(made, again)
    latents, text, priors = torch.randn(2, 1, 4, 8, 8), torch.randn(1, 5, 1024), torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = plain(latents[0], 500, text, latents[1])
        got = made(latents[0], 500, text, latents[1], priors=priors)
    assert torch.allclose(got.mid_block_res_sample, expected.mid_block_res_sample)


# What does not fit is named.


def test_stable_diffusion_1_is_refused():
    narrow = {
        k: v[..., :768] if k.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) else v
        for k, v in tiny_original().items()
    }
    with pytest.raises(WeightsError, match=r"768 wide \(Stable Diffusion 1\.x\), expected 1024"):
        from_original(narrow, TINY)
    with pytest.raises(WeightsError, match=r"768 wide"):
        convert_control({"input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(320, 768)})


@pytest.mark.parametrize(
    ("key", "named"),
    [
        (f"{UNET}middle_block.0.in_layers.0.weight", r"mid_block\.resnets\.0\.norm1\.weight"),
        (f"{UNET}input_blocks.2.0.op.bias", r"input_blocks\.2\.0\.op\.bias|downsamplers\.0\.conv\.bias"),
        (f"{VAE}quant_conv.weight", r"quant_conv\.weight"),
        (f"{VAE}decoder.mid.attn_1.q.weight", r"decoder\.mid_block\.attentions\.0\.to_q\.weight"),
    ],
)
def test_a_missing_key_is_named(key, named):
    with pytest.raises(WeightsError, match=rf"lacks .*({named})"):
        from_original({k: v for k, v in tiny_original().items() if k != key}, TINY)


@pytest.mark.parametrize(
    "key",
    [
        f"{UNET}input_blocks.1.0.gate.weight",
        f"{UNET}label_emb.0.0.weight",
        f"{VAE}encoder.mid.attn_2.q.weight",
        "something.else",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    ],
)
def test_an_unknown_key_is_named(key):
    with pytest.raises(WeightsError, match=rf"has unknown {key}|lacks cond_stage_model"):
        from_original(tiny_original() | {key: torch.zeros(4, 4)}, TINY)


def test_a_wrong_shape_is_named_with_both_shapes():
    wide = tiny_original() | {f"{UNET}input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}
    with pytest.raises(WeightsError, match=r"input_blocks\.0\.0\.weight of shape \(32, 9, 3, 3\), expected \(32, 4,"):
        from_original(wide, TINY)


def test_a_control_network_for_pixels_is_refused():
    state = diffbir(tiny_control(guided=False))
    with pytest.raises(WeightsError, match=r"unknown input_hint_block\.0\.weight"):
        convert_control(state | {"input_hint_block.0.weight": torch.zeros(16, 3, 3, 3)}, TINY_UNET)
