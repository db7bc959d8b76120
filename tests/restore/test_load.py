"""Folders of weights to restorers, by the tables that name the classes."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

import unsmear
from support import tiny_pipeline
from support.clips import moving_frames
from unsmear.errors import WeightsError
from unsmear.files import sha256
from unsmear.models.loading import NETWORKS
from unsmear.models.zoo import WEIGHTS_FILE
from unsmear.restore.load import KINDS, Kind


class Gain(ModelMixin, ConfigMixin):
    config_name = "config.json"

    @register_to_config
    def __init__(self, start: float = 1.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(start))


class GainRestorer(unsmear.Restorer):
    def __init__(self, model: Gain, name: str, device: torch.device, dtype: torch.dtype, fingerprint: str):
        self.network, self.name, self.fingerprint = model, name, fingerprint
        self.on(device, dtype)

    def restore(self, clip, state, tile_px):
        return np.rint(clip.frames[: clip.wanted] * self.network.gain.item()).astype(clip.frames.dtype), {}


def test_two_lines_make_a_new_class_a_model(tmp_path, monkeypatch):
    folder = tmp_path / "half"
    model = Gain()
    nn.init.constant_(model.gain, 0.5)
    model.save_pretrained(folder)
    with pytest.raises(unsmear.WeightsError, match="holds a 'Gain': expected one of CPFP"):
        unsmear.load(str(folder))
    monkeypatch.setitem(NETWORKS, "Gain", __name__)
    monkeypatch.setitem(KINDS, "Gain", Kind(f"{__name__}:GainRestorer", "model"))
    restorer = unsmear.load(str(folder), device="cpu", dtype="fp32")
    assert repr(restorer) == "GainRestorer('half', cpu, float32)"
    assert restorer.fingerprint == sha256(folder / WEIGHTS_FILE)
    frames = np.stack(moving_frames((48, 32), 2))
    assert np.array_equal(restorer(unsmear.Clip.of(frames, 0.5)), np.rint(frames * 0.5))


def test_another_network_is_no_stage_1(tmp_path):
    folder = tiny_pipeline.folder(tmp_path / "cpgd")
    shutil.copytree(folder / "unet", folder / "cpfp")
    with pytest.raises(WeightsError, match="holds a 'UNet2DConditionModel': expected a stage 1, CPFP"):
        unsmear.load(str(folder), device="cpu", dtype="fp32")
