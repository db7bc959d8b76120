"""Import of foreign diffusion weights into a folder: of a known family, and all of it or nothing."""

import json
import resource
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from support import fake_transformers
from support.foreign_layouts import (
    TINY,
    TINY_UNET,
    TINY_VAE,
    UNET,
    diffbir,
    millions,
    original_text,
    original_vae,
    same,
    shaken,
    tiny_control,
    tiny_original,
    tiny_unet,
    tiny_vae,
)
from unsmear.cli.main import run
from unsmear.errors import OutputError, UsageError, WeightsError
from unsmear.models.convert.families import (
    agreed,
    family_by_probe,
    family_of_scheduler,
    scheduler,
)
from unsmear.models.convert.importer import import_weights
from unsmear.models.convert.stable_diffusion import Layout
from unsmear.models.cpgd.control import CPControlNet
from unsmear.models.zoo import ModelEntry, write_index
from unsmear.restore.load import load_restorer

# Families.


def test_schedulers_are_those_of_the_method():
    epsilon, v = scheduler("epsilon").config, scheduler("v-zero-snr").config
    for config in (epsilon, v):
        assert (config.beta_schedule, config.beta_start, config.beta_end) == ("scaled_linear", 0.00085, 0.012)
        assert not config.clip_sample
    assert (epsilon.prediction_type, epsilon.timestep_spacing, epsilon.rescale_betas_zero_snr) == (
        "epsilon",
        "linspace",
        False,
    )
    assert (v.prediction_type, v.timestep_spacing, v.rescale_betas_zero_snr) == ("v_prediction", "trailing", True)


def test_the_family_follows_from_the_scheduler(tmp_path):
    def said(**config: object) -> str | None:
        (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
        return family_of_scheduler(tmp_path)

    assert family_of_scheduler(tmp_path) is None
    assert said() == "epsilon"
    assert said(prediction_type="v_prediction", rescale_betas_zero_snr=True) == "v-zero-snr"
    with pytest.raises(WeightsError, match=r"v_prediction without zero terminal SNR"):
        said(prediction_type="v_prediction")
    (tmp_path / "scheduler_config.json").write_text("[1]")
    with pytest.raises(WeightsError, match="not a JSON object"):
        family_of_scheduler(tmp_path)


def test_a_contradiction_is_refused():
    assert agreed({"a": None, "b": "epsilon", "c": "epsilon"}) == "epsilon"
    assert agreed({"a": None}) is None
    with pytest.raises(UsageError, match=r"a states epsilon, b states v-zero-snr"):
        agreed({"a": "epsilon", "b": "v-zero-snr"})


def test_probing_with_noise_recognises_epsilon_only():
    assert family_by_probe(tiny_unet()) == "epsilon"
    torch.manual_seed(3)
    with pytest.raises(WeightsError, match="give epsilon or v-zero-snr as `family`"):
        family_by_probe(shaken(UNet2DConditionModel(**TINY_UNET)))


# Folders.


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> Path:
    """Stable Diffusion 2 in diffusers' layout, but small."""
    folder = tmp_path_factory.mktemp("sd") / "tiny"
    tiny_unet().save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    return folder


def test_a_folder_and_then_a_control_network_fill_one_directory(tmp_path, tiny_folder, capfd):
    control = tiny_control(guided=False)
    save_file(diffbir(control), tmp_path / "v2.safetensors")
    made = tmp_path / "made"
    assert run(["models", "import", str(tiny_folder), "-o", str(made)]) == 0
    said = capfd.readouterr().out.splitlines()
    assert "diffusers folder, epsilon; written to" in said[0]
    assert f"unet {millions(tiny_unet()):.2f} M" in said[0]
    [told] = [line for line in said if "prompts" in line]
    assert "no text_encoder and no tokenizer" in told
    assert f"copy CLIP's vocab.json and merges.txt, of any version, into {made / 'tokenizer'}" in told
    assert run(["models", "import", str(tmp_path / "v2.safetensors"), "-o", str(made)]) == 0
    assert "control network of DiffBIR, epsilon" in capfd.readouterr().out
    assert sorted(path.name for path in made.iterdir()) == [
        "control", "model_index.json", "scheduler", "unet", "vae",
    ]  # fmt: skip
    assert json.loads((made / "model_index.json").read_text())["control"] == ["unsmear", "CPControlNet"]
    assert same(UNet2DConditionModel.from_pretrained(made / "unet"), tiny_unet())
    assert same(AutoencoderKL.from_pretrained(made / "vae"), tiny_vae())
    loaded = CPControlNet.from_pretrained(made / "control").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in control.state_dict().items())
    assert DDPMScheduler.from_pretrained(made / "scheduler").config.timestep_spacing == "linspace"
    sampling = load_restorer(str(made), device="cpu", dtype="fp32").sampling
    assert (sampling.steps, sampling.guidance, sampling.start) == (50, 1.0, 1.0), "the paper's"
    assert not sampling.cancel_autoencoder, "which is ours"


def test_a_folder_keeps_the_sampling_that_it_states(tmp_path, tiny_folder):
    save_file(diffbir(tiny_control(guided=False)), tmp_path / "v2.safetensors")
    made = tmp_path / "made"
    import_weights(tiny_folder, made)
    write_index(made, {"steps": 4, "cancel_autoencoder": True})
    import_weights(tmp_path / "v2.safetensors", made)
    assert ModelEntry("made", made).index["sampling"] == {"steps": 4, "cancel_autoencoder": True}


def test_a_folder_with_older_names_text_encoder_and_tokenizer(tmp_path, monkeypatch):
    fake_transformers.uninstall(monkeypatch)
    folder = tmp_path / "sd"
    tiny_unet().save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    for now, then in older.items():
        state = {k.replace(f"attentions.0.{now}", f"attentions.0.{then}"): v for k, v in state.items()}
    save_file(state, path)
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "config.json").write_text(json.dumps({"hidden_size": 1024}))
    torch.save({"text_model.final_layer_norm.bias": torch.ones(1024)}, folder / "text_encoder" / "pytorch_model.bin")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    scheduler("v-zero-snr").save_pretrained(folder / "scheduler")
    made = import_weights(folder, tmp_path / "made")
    assert made.family == "v-zero-snr"
    assert [note.split(":")[0] for note in made.notes] == ["the empty prompt was not stored"]
    assert same(AutoencoderKL.from_pretrained(tmp_path / "made" / "vae"), tiny_vae())
    assert load_file(tmp_path / "made" / "text_encoder" / "model.safetensors")["text_model.final_layer_norm.bias"].sum()
    assert (tmp_path / "made" / "tokenizer" / "vocab.json").read_text() == "{}"
    with pytest.raises(UsageError, match=r"states v-zero-snr, `family` states epsilon"):
        import_weights(folder, tmp_path / "other", "epsilon")


@pytest.mark.parametrize("kind", ["ckpt", "safetensors"])
def test_an_original_checkpoint_of_diffbir_v1_gives_all_its_parts(tmp_path, kind):
    control = tiny_control(guided=False)
    vae = original_vae(tiny_vae().state_dict(), blocks=2)
    encoder = {key: value for key, value in vae.items() if key.startswith(("encoder.", "quant_conv."))}
    state = {
        **tiny_original(),
        **diffbir(control, "control_model."),
        **{f"cond_encoder.{key}": value.clone() for key, value in encoder.items()},
        "preprocess_model.conv_first.weight": torch.zeros(3),
    }
    path, out = tmp_path / f"full.{kind}", tmp_path / "made"
    write = {
        "ckpt": lambda: torch.save({"state_dict": state, "global_step": 3}, path),
        "safetensors": lambda: save_file({key: value.contiguous() for key, value in state.items()}, path),
    }[kind]
    write()
    made = import_weights(path, out, layout=TINY)
    assert made.found == "Stable Diffusion 2, original checkpoint with a control network"
    assert made.family == "epsilon"
    assert "by the prediction for pure noise" in made.notes[-1]
    assert list(made.parameters) == ["unet", "vae", "control", "scheduler"]
    assert len({file.stat().st_mode for file in out.rglob("*.*")}) == 1  # who may read one file may read all
    assert same(UNet2DConditionModel.from_pretrained(out / "unet"), tiny_unet())
    assert same(AutoencoderKL.from_pretrained(out / "vae"), tiny_vae())
    assert CPControlNet.from_pretrained(out / "control").config.guided
    state["cond_encoder.quant_conv.bias"] += 1
    write()
    with pytest.raises(WeightsError, match=r"cond_encoder\.quant_conv\.bias other than first_stage_model"):
        import_weights(path, tmp_path / "other", layout=TINY)


def test_parts_missing_for_prompts_are_named_with_their_place(tmp_path):
    layout, out = Layout(TINY_UNET, TINY_VAE, text_blocks=2), tmp_path / "made"
    save_file({**tiny_original(), **original_text(1024, 2, 16, 4)}, tmp_path / "sd.safetensors")
    [told] = [n for n in import_weights(tmp_path / "sd.safetensors", out, layout=layout).notes if "prompts" in n]
    assert told == (
        "the source has no tokenizer, which prompts need: "
        f"copy CLIP's vocab.json and merges.txt, of any version, into {out / 'tokenizer'}"
    )
    (out / "tokenizer").mkdir()
    again = import_weights(tmp_path / "sd.safetensors", out, layout=layout, overwrite=True)
    assert not [note for note in again.notes if "prompts need" in note]


def test_a_full_disk_leaves_the_folder_unchanged(tmp_path, tiny_folder):
    out, new = tmp_path / "made", tmp_path / "new"
    import_weights(tiny_folder, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        for folder in (out, new):
            with pytest.raises(OutputError, match="cannot be written"):
                import_weights(tiny_folder, folder, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_folders_that_do_not_fit_are_refused(tmp_path):
    folder, out = tmp_path / "sd", tmp_path / "made"
    folder.mkdir()
    with pytest.raises(WeightsError, match=r"unet/config\.json: cannot be read .*expected a diffusers folder"):
        import_weights(folder, out)
    tiny_unet().save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    good = load_file(path)
    for wrong, words in (
        ({k: v for k, v in good.items() if k != "conv_in.bias"}, r"conv_in\.bias"),
        (good | {"extra.weight": torch.zeros(1)}, r"has unknown extra\.weight"),
        (good | {"conv_in.bias": torch.zeros(5)}, r"does not fit|conv_in\.bias"),
    ):
        save_file(wrong, path, metadata={"format": "pt"})
        with pytest.raises(WeightsError, match=words) as refused:
            import_weights(folder, out)
        assert "\n" not in str(refused.value)
    config = json.loads((folder / "unet" / "config.json").read_text())
    for key, value, words in (
        ("cross_attention_dim", 768, r"sd has a text context 768 wide"),
        ("in_channels", 9, r"9 input channels, expected the autoencoder's 4"),
    ):
        (folder / "unet" / "config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(WeightsError, match=words):
            import_weights(folder, out)
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["sd"]


def test_a_control_network_alone_needs_the_family(tmp_path, tiny_folder, capfd):
    path, made = tmp_path / "v2.1.pt", tmp_path / "made"
    torch.save({"state_dict": diffbir(tiny_control(guided=False))}, path)
    assert run(["models", "import", str(tiny_folder), "-o", str(tmp_path / "base")]) == 0
    (tmp_path / "unfamilied").mkdir()
    (tmp_path / "base" / "unet").rename(tmp_path / "unfamilied" / "unet")
    capfd.readouterr()
    assert run(["models", "import", str(path), "-o", str(tmp_path / "unfamilied")]) == 1
    assert "epsilon (DiffBIR v1, v2) or v-zero-snr (DiffBIR v2.1) as --family" in capfd.readouterr().err
    assert [part.name for part in (tmp_path / "unfamilied").iterdir()] == ["unet"]
    wanted = ["models", "import", str(path), "-o", str(tmp_path / "unfamilied"), "--family"]
    assert run([*wanted, "sideways"]) == 2
    assert run([*wanted, "v-zero-snr"]) == 0
    assert run([*wanted, "v-zero-snr"]) == 1  # it is there already
    assert "use --overwrite" in capfd.readouterr().err
    assert run([*wanted, "epsilon", "--overwrite"]) == 0
    assert not DDPMScheduler.from_pretrained(tmp_path / "unfamilied" / "scheduler").config.rescale_betas_zero_snr
    assert not made.exists()


def test_a_family_that_the_directory_does_not_have_is_refused(tmp_path, tiny_folder):
    import_weights(tiny_folder, tmp_path / "made")
    path = tmp_path / "v2.1.safetensors"
    save_file(diffbir(tiny_control(guided=False)), path)
    with pytest.raises(UsageError, match="holds epsilon and this is v-zero-snr"):
        import_weights(path, tmp_path / "made", "v-zero-snr")
    released = tmp_path / "cpgd.safetensors"
    save_file(diffbir(tiny_control(shared_query=True)), released)
    with pytest.raises(UsageError, match=r"CPGD-Net's release states epsilon, `family` states v-zero-snr"):
        import_weights(released, tmp_path / "made", "v-zero-snr")
    assert not (tmp_path / "made" / "control").exists()


def test_other_files_are_refused_in_one_line(tmp_path, capfd):
    save_file({"layers.0.weight": torch.zeros(1)}, tmp_path / "swinir.safetensors")
    save_file(
        {f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(320, 768)},
        tmp_path / "sd15.safetensors",
    )
    for name, words in (
        ("swinir", "it has keys such as layers.0.weight"),
        ("sd15", "sd15.safetensors has a text context 768 wide"),
    ):
        assert run(["models", "import", str(tmp_path / f"{name}.safetensors"), "-o", str(tmp_path / "made")]) == 1
        said = capfd.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert run(["models", "cpfp", "--family", "epsilon"]) == 2
    assert not (tmp_path / "made").exists()
