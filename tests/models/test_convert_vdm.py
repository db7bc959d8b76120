"""Video models from outside: every key has its place, numbers arrive unchanged, what does not fit is named."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
from safetensors.torch import load_file, save_file

from support.foreign_layouts import (
    TINY,
    diffbir,
    image_condition,
    millions,
    same,
    shaken,
    tiny_control,
    tiny_original,
    tiny_unet,
    tiny_vae,
    vgen_unet,
)
from unsmear.cli.main import run
from unsmear.errors import OutputError, UsageError, WeightsError
from unsmear.models.convert.families import scheduler
from unsmear.models.convert.importer import import_weights
from unsmear.models.convert.vgen import UNET3D_CONFIG, convert_vgen, is_vgen
from unsmear.models.loading import load_model
from unsmear.models.vdm.conditions import ImageTokens
from unsmear.models.vdm.pipeline import VDMSampling
from unsmear.models.zoo import ModelEntry

SMALL = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "cross_attention_dim": 1024,
    "attention_head_dim": 8,
}
OTHERS = {"sketch_embedding.0.weight": torch.zeros(8, 1, 3, 3), "local_image_embedding_after.layers.0": torch.zeros(3)}


def unet3d(channels: int = 4) -> UNet3DConditionModel:
    torch.manual_seed(0)
    return shaken(UNet3DConditionModel(**{**SMALL, "in_channels": channels}))


def small(channels: int = 4) -> dict[str, torch.Tensor]:
    return vgen_unet(unet3d(channels).state_dict(), depth=1, plain=(1,))


def tf_t2v() -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    return small(12) | image_condition(1024)


# Full size, shapes only.


@pytest.fixture(scope="module", params=[4, 12])
def full(request) -> tuple[int, dict[str, torch.Tensor]]:
    with torch.device("meta"):
        unet = UNet3DConditionModel(**{**UNET3D_CONFIG, "in_channels": request.param})
    return request.param, vgen_unet(unet.state_dict())


def test_the_published_names_are_those_that_are_converted(full):
    channels, state = full
    for key, shape in {
        "input_blocks.0.0.weight": (320, channels, 3, 3),
        "input_blocks.0.1.proj_in.weight": (512, 320, 1),
        "input_blocks.1.0.temopral_conv.conv1.2.weight": (320, 320, 3, 1, 1),
        "input_blocks.1.0.temopral_conv.conv4.3.bias": (320,),
        "input_blocks.3.op.weight": (320, 320, 3, 3),
        "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight": (1280, 1024),
        "input_blocks.8.2.transformer_blocks.0.attn2.to_k.weight": (1280, 1280),
        "middle_block.2.proj_out.weight": (1280, 1280, 1),
        "middle_block.3.temopral_conv.conv1.0.weight": (1280,),
        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.8.3.conv.weight": (640, 640, 3, 3),
        "output_blocks.11.2.proj_in.weight": (320, 320, 1),
        "out.2.weight": (4, 320, 3, 3),
    }.items():
        assert tuple(state[key].shape) == shape, key


@pytest.mark.parametrize("prefix", ["", "module.", "unet.", "module.unet."])
def test_a_full_size_checkpoint_leaves_no_key(full, prefix):
    channels, state = full
    made = convert_vgen({prefix + key: value for key, value in state.items()})
    assert len(made.unet.state_dict()) == 1480
    assert millions(made.unet) == (1411.23 if channels == 4 else 1411.26)
    assert made.image_tokens is None
    assert made.family == (None if channels == 4 else "v-zero-snr")


def test_tf_t2vs_image_condition_at_full_size(full):
    _, state = full
    made = convert_vgen(state | image_condition(1024, device="meta"))
    assert made.image_tokens is not None and made.family == "v-zero-snr"
    assert dict(made.image_tokens.config)["tokens"] == 4 and made.image_tokens.empty_prompt.shape == (77, 1024)
    assert millions(made.image_tokens) == 5.25


# Numbers, on small networks.


@pytest.mark.parametrize("channels", [4, 12])
def test_converted_weights_are_unchanged(channels):
    made = convert_vgen(small(channels), SMALL)
    assert same(made.unet, unet3d(channels))


def test_image_tokens_are_unchanged_and_unused_conditions_are_logged(caplog):
    state = tf_t2v()
    made = convert_vgen(state | OTHERS, SMALL)
    assert "2 tensors are unused" in caplog.text and "_embedding" in caplog.text
    for n in (0, 2):
        for kind in ("weight", "bias"):
            got = made.image_tokens.state_dict()[f"pre_image_condition.{n}.{kind}"]
            assert torch.equal(got, state[f"pre_image_condition.{n}.{kind}"])
    assert not made.image_tokens.empty_prompt.any()


def test_only_video_models_of_vgen_are_taken_for_one():
    assert is_vgen(tf_t2v())
    assert not is_vgen(tiny_original()) and not is_vgen(diffbir(tiny_control(guided=False)))


# What does not fit is named.


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("middle_block.0.temopral_conv.conv2.3.weight", r"mid_block\.temp_convs\.0\.conv2\.3\.weight"),
        ("input_blocks.2.op.bias", r"down_blocks\.0\.downsamplers\.0\.conv\.bias"),
        ("input_blocks.0.1.norm.weight", r"transformer_in\.norm\.weight"),
        ("pre_image_condition.2.bias", r"pre_image_condition\.2\.bias"),
    ],
)
def test_a_missing_key_is_named(key, named):
    state = tf_t2v()
    del state[key]
    with pytest.raises(WeightsError, match=rf"lacks what becomes {named}"):
        convert_vgen(state, SMALL)


@pytest.mark.parametrize(
    "key", ["input_blocks.1.3.gate.weight", "fps_embedding.0.weight", "pre_image_condition.4.bias"]
)
def test_an_unknown_key_is_named(key):
    with pytest.raises(WeightsError, match=f"has unknown {key}"):
        convert_vgen(tf_t2v() | {key: torch.zeros(2)}, SMALL)


def test_a_wrong_shape_is_named_with_both_shapes():
    with pytest.raises(WeightsError, match=r"out\.2\.weight of shape \(6, 32, 3, 3\), expected \(4, 32, 3, 3\)"):
        convert_vgen(small() | {"out.2.weight": torch.zeros(6, 32, 3, 3)}, SMALL)
    with pytest.raises(WeightsError, match=r"reads 9 channels, expected 4 .* or 12"):
        convert_vgen(small(9), SMALL)


# Folders.


def test_tf_t2v_and_then_stable_diffusion_make_a_model(tmp_path):
    torch.save({"state_dict": tf_t2v(), "step": 512000}, tmp_path / "tft2v.pth")
    torch.save({"state_dict": tiny_original()}, tmp_path / "sd.ckpt")
    out = tmp_path / "made"
    made = import_weights(tmp_path / "tft2v.pth", out, video=SMALL)
    assert (made.found, made.family) == ("TF-T2V, checkpoint of VGen", "v-zero-snr")
    assert list(made.parameters) == ["unet", "image_tokens", "scheduler"]
    assert "Stable Diffusion 2: import that into the same folder" in made.notes[0]
    made = import_weights(tmp_path / "sd.ckpt", out, layout=TINY)
    assert made.family == "v-zero-snr" and list(made.parameters) == ["vae", "scheduler"]
    assert same(UNet3DConditionModel.from_pretrained(out / "unet"), unet3d(12))
    assert same(AutoencoderKL.from_pretrained(out / "vae"), tiny_vae())
    settings = DDIMScheduler.from_pretrained(out / "scheduler").config
    assert (settings.timestep_spacing, settings.rescale_betas_zero_snr) == ("trailing", True)
    parts = load_model(ModelEntry("made", out))
    sampling = VDMSampling(**parts.config["sampling"])
    assert (sampling.steps, sampling.guidance) == (50, 9.0), "the paper's steps, TF-T2V's guidance"
    assert not (sampling.cancel_autoencoder or sampling.colour), "which are ours"
    assert parts.model.unet.config.in_channels == 4
    wide = unet3d(12).conv_in.weight
    assert torch.equal(parts.model.unet.conv_in.weight, wide[:, :4])
    assert torch.equal(parts.model.blur_encoder.last.weight, wide[:, 4:])
    loaded = ImageTokens.from_pretrained(out / "image_tokens").state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in parts.model.image_tokens.state_dict().items())


@pytest.fixture(scope="module")
def modelscope(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ms") / "text-to-video"
    unet3d().save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    scheduler("epsilon", video=True).save_pretrained(folder / "scheduler")
    return folder


def test_modelscope_in_diffusers_form(modelscope, tmp_path, capsys):
    out = tmp_path / "made"
    assert run(["models", "import", str(modelscope), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "ModelScopeT2V, diffusers folder, epsilon; written to" in said
    assert same(UNet3DConditionModel.from_pretrained(out / "unet"), unet3d())
    assert same(AutoencoderKL.from_pretrained(out / "vae"), tiny_vae())
    assert DDIMScheduler.from_pretrained(out / "scheduler").config.prediction_type == "epsilon"
    parts = load_model(ModelEntry("made", out))
    encoder = parts.vae.encoder.state_dict()
    assert all(torch.equal(v, encoder[k]) for k, v in parts.model.blur_encoder.encoder.state_dict().items())
    with pytest.raises(OutputError, match="unet exists already"):
        import_weights(modelscope, out)
    torch.save(diffbir(tiny_control(guided=False)), tmp_path / "v2.pth")
    with pytest.raises(WeightsError, match=r"v2\.pth controls Stable Diffusion, and .*made holds a video model"):
        import_weights(tmp_path / "v2.pth", out)


def test_an_unknown_family_must_be_given(modelscope, tmp_path):
    import shutil

    bare, path = tmp_path / "bare", tmp_path / "ms.safetensors"
    shutil.copytree(modelscope, bare)
    shutil.rmtree(bare / "scheduler")
    save_file({k: v.contiguous() for k, v in small().items()}, path)
    for source in (bare, path):
        with pytest.raises(WeightsError, match=r"give epsilon \(ModelScopeT2V\) or v-zero-snr"):
            import_weights(source, tmp_path / "made", video=SMALL)
    assert not (tmp_path / "made").exists()
    assert import_weights(path, tmp_path / "made", "epsilon", video=SMALL).family == "epsilon"
    torch.save(tf_t2v(), tmp_path / "tf.pth")
    with pytest.raises(UsageError, match="TF-T2V states v-zero-snr, `family` states epsilon"):
        import_weights(tmp_path / "tf.pth", tmp_path / "other", "epsilon", video=SMALL)


def test_folders_that_do_not_fit_are_refused_in_one_line(modelscope, tmp_path):
    import shutil

    folder = tmp_path / "ms"
    shutil.copytree(modelscope, folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    good = load_file(path)
    for wrong, words in (
        ({k: v for k, v in good.items() if k != "transformer_in.norm.bias"}, r"transformer_in\.norm\.bias"),
        (good | {"extra.weight": torch.zeros(1)}, r"has unknown extra\.weight"),
    ):
        save_file(wrong, path, metadata={"format": "pt"})
        with pytest.raises(WeightsError, match=words) as refused:
            import_weights(folder, tmp_path / "made")
        assert "\n" not in str(refused.value)
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 768}))
    with pytest.raises(WeightsError, match="768 wide"):
        import_weights(folder, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_stable_diffusion_in_an_empty_folder_keeps_its_denoiser(tmp_path):
    """A folder of Stable Diffusion beside no video model gives its own denoiser."""
    folder = tmp_path / "sd"
    tiny_unet().save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    made = import_weights(folder, tmp_path / "made", "epsilon")
    assert made.found.startswith("Stable Diffusion 2") and "unet" in made.parameters
    assert ModelEntry("made", tmp_path / "made").kind == "CPGDPipeline"
