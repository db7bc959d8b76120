"""The empty prompt: stored by an import, verified, and enough to run without transformers."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import unsmear
from support import fake_transformers, tiny_vdm
from support.clips import moving_frames
from support.fake_transformers import TOKENS, embedding, text_folders
from support.foreign_layouts import diffbir, tiny_control, tiny_unet, tiny_vae
from support.tiny_pipeline import folder
from unsmear.models.common.text import store_empty_prompt
from unsmear.models.convert.importer import import_weights
from unsmear.models.loading import load_model
from unsmear.models.zoo import EMPTY_PROMPT_FILE, find
from unsmear.restore.restorer import Clip

WIDTH = 16
CONTEXT = 1024


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    made = folder(tmp_path_factory.mktemp("weights") / "tiny", opened=True)
    (made / "sampling.json").write_text(json.dumps({"steps": 1, "start": 0.5}))
    return made


@pytest.fixture
def weights(bare, tmp_path):
    return shutil.copytree(bare, tmp_path / "tiny")


def clip() -> Clip:
    return Clip.of(moving_frames((48, 32), 2))


def test_a_stored_empty_prompt_replaces_the_text_encoder(weights, monkeypatch):
    silent = unsmear.load(str(weights), dtype="fp32")(clip())
    text_folders(weights, WIDTH)
    fake_transformers.install(monkeypatch)
    read = unsmear.load(str(weights), dtype="fp32")(clip())
    said = unsmear.load(str(weights), dtype="fp32", prompt="ab")(clip())
    refused = "`negative_prompt` has no effect without guidance; set `guidance` above 1"
    with pytest.raises(unsmear.UsageError, match=refused):
        unsmear.load(str(weights), dtype="fp32", negative_prompt="ab")
    against = unsmear.load(str(weights), dtype="fp32", negative_prompt="ab", guidance=3.0)(clip())
    assert not np.array_equal(against, read)
    before = find(str(weights)).checksum()
    assert store_empty_prompt(weights) == ""
    assert torch.equal(load_file(weights / EMPTY_PROMPT_FILE)["empty_prompt"], embedding("", WIDTH))
    assert find(str(weights)).checksum() != before

    assert np.array_equal(unsmear.load(str(weights), dtype="fp32", prompt="ab")(clip()), said)
    fake_transformers.uninstall(monkeypatch)
    stored = unsmear.load(str(weights), dtype="fp32")
    assert stored.pipe.text_encoder is None
    assert np.array_equal(stored(clip()), read)
    assert not np.array_equal(read, silent) and not np.array_equal(read, said)
    for option in ("prompt", "negative_prompt"):
        with pytest.raises(unsmear.UsageError, match=r"has a text encoder, which needs the extra .*unsmear\[text\]"):
            unsmear.load(str(weights), **{option: "ab"})
    shutil.rmtree(weights / "text_encoder")
    assert np.array_equal(unsmear.load(str(weights), dtype="fp32")(clip()), read)
    for option in ("prompt", "negative_prompt"):
        with pytest.raises(unsmear.UsageError, match=f"^{option}: tiny has no text encoder"):
            unsmear.load(str(weights), **{option: "ab"})


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (
            {"empty_prompt": torch.zeros(1, 77, 8)},
            r"holds empty_prompt \(1, 77, 8\): expected .*\(1, tokens, 16\) alone",
        ),
        ({"empty_prompt": torch.zeros(77, 16)}, r"holds empty_prompt \(77, 16\): expected"),
        ({"empty_prompt": torch.zeros(2, 77, 16)}, r"holds empty_prompt \(2, 77, 16\): expected"),
        ({"empty_prompt": torch.zeros(1, 0, 16)}, r"holds empty_prompt \(1, 0, 16\): expected"),
        ({"prompt": torch.zeros(1, 77, 16)}, r"holds prompt \(1, 77, 16\): expected empty_prompt"),
        ({"empty_prompt": torch.zeros(1, 7, 16), "x": torch.zeros(1)}, r"\(1, 7, 16\), x \(1,\): expected"),
        ({"empty_prompt": torch.full((1, 77, 16), torch.nan)}, "not finite"),
        (b"prompt", "is no safetensors file"),
    ],
)
def test_other_files_in_place_of_the_empty_prompt_give_a_one_line_error(held, message, weights):
    path = weights / EMPTY_PROMPT_FILE
    if isinstance(held, bytes):
        path.write_bytes(held)
    else:
        save_file(held, path)
    with pytest.raises(unsmear.WeightsError, match=message) as refused:
        load_model(find(str(weights)), prompts=False)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Stable Diffusion 2 in diffusers' layout, but small, with what reads prompts."""
    place = tmp_path_factory.mktemp("sd") / "base"
    tiny_unet().save_pretrained(place / "unet")
    tiny_vae().save_pretrained(place / "vae")
    return text_folders(place, CONTEXT)


def test_an_import_stores_the_empty_prompt(base, tmp_path, monkeypatch):
    fake_transformers.install(monkeypatch)
    path = tmp_path / "made" / EMPTY_PROMPT_FILE
    assert import_weights(base, tmp_path / "made").notes[:-1] == []  # the last one is on the family
    assert torch.equal(load_file(path)["empty_prompt"], embedding("", CONTEXT))
    assert path.stat().st_mode == (tmp_path / "made" / "vae" / "config.json").stat().st_mode
    assert sorted(p.name for p in path.parent.iterdir()) == [
        EMPTY_PROMPT_FILE, "model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae",
    ]  # fmt: skip

    fake_transformers.uninstall(monkeypatch)
    notes = import_weights(base, tmp_path / "made", overwrite=True).notes
    assert any("the empty prompt was not stored" in note and "unsmear[text]" in note for note in notes)
    assert not path.exists(), "what another text encoder read is not kept"
    fake_transformers.install(monkeypatch)
    save_file(diffbir(tiny_control(guided=False)), tmp_path / "v2.safetensors")
    import_weights(tmp_path / "v2.safetensors", tmp_path / "made")
    assert path.exists(), "the next import makes up for it"
    path.write_bytes(b"kept")
    import_weights(tmp_path / "v2.safetensors", tmp_path / "made", overwrite=True)
    assert path.read_bytes() == b"kept", "a control network has no text encoder"


def test_an_incomplete_text_encoder_is_refused(base, tmp_path, monkeypatch):
    fake_transformers.install(monkeypatch)
    place = shutil.copytree(base, tmp_path / "sd")
    (place / "tokenizer" / "vocab.json").write_text("not\nJSON")
    [told] = [n for n in import_weights(place, tmp_path / "a").notes if "empty prompt" in n]
    assert "cannot be read" in told and "\n" not in told
    shutil.copytree(base / "tokenizer", place / "tokenizer", dirs_exist_ok=True)
    save_file({"other": torch.ones(1)}, place / "text_encoder" / "model.safetensors")
    [told] = [n for n in import_weights(place, tmp_path / "b").notes if "empty prompt" in n]
    assert "text_encoder lacks scale" in told
    assert not list(tmp_path.glob("[ab]/*empty_prompt*"))


def test_the_video_model_uses_the_empty_prompt(tmp_path, monkeypatch):
    place = tiny_vdm.folder(tmp_path / "vdm")
    tiny_vdm.tokens(prompt_tokens=TOKENS).save_pretrained(place / "image_tokens")
    text_folders(place, WIDTH)
    fake_transformers.install(monkeypatch)
    entry = find(str(place))
    read = load_model(entry).model.image_tokens.empty_prompt
    assert torch.equal(read[None], embedding("", WIDTH))
    store_empty_prompt(place)
    fake_transformers.uninstall(monkeypatch)
    assert torch.equal(load_model(entry).model.image_tokens.empty_prompt, read)
    save_file({"empty_prompt": torch.zeros(1, 3, WIDTH)}, place / EMPTY_PROMPT_FILE)
    with pytest.raises(unsmear.WeightsError, match="an empty prompt of 3 tokens, expected 8 as in its"):
        load_model(entry)
