"""Values of a network that are not finite end a run with a line that names file and frame, and are no picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import unsmear
from support.clips import make_clip
from support.command import unsmear as command
from unsmear.models.cpgd.pipeline import Sampling
from unsmear.models.vdm.pipeline import VDMSampling
from unsmear.models.zoo import WEIGHTS_FILE
from unsmear.restore.restorer import Clip, Restorer, State
from unsmear.restore.tensors import frames_to_levels, levels_to_unit, tensor_to_frames


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_frame_is_named(value, dtype):
    frames = torch.full((3, 3, 4, 5), 0.5, dtype=dtype)
    assert (tensor_to_frames(frames, np.dtype(np.uint8), 7) == 128).all()
    frames[2, 1, 3, 0] = value
    with pytest.raises(unsmear.WeightsError, match=r"^frame 9: values of the network are not finite"):
        tensor_to_frames(frames, np.dtype(np.uint8), 7)


class Overflowing(Restorer):
    """Gives frames back, and for frame 20 what a network gives whose sums overflow."""

    name = "overflowing"

    def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        unit = levels_to_unit(frames_to_levels(clip.frames[: clip.wanted], 1))
        for i in range(clip.wanted):
            if clip.first + i == 20:
                unit[i, 0, 0, 0] = torch.inf
        return tensor_to_frames(unit, clip.frames.dtype, clip.first), {}


def test_a_run_ends_with_file_and_frame(tmp_path):
    source = make_clip(tmp_path / "a.mp4", frames=30)
    with pytest.raises(unsmear.WeightsError, match=r"a\.mp4: frame 20: values of the network are not finite"):
        unsmear.deblur(source, model=Overflowing(), window=8)
    assert not (tmp_path / "a.deblurred.mp4").exists()
    assert unsmear.deblur(source, model=Overflowing(), window=8, end_s=0.6).frames == 15


def test_damaged_weights_are_one_line(tiny_model, tmp_path):
    source, model = make_clip(tmp_path / "a.mp4", frames=9), tmp_path / "model"
    model.mkdir()
    for path in tiny_model.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    weights = load_file(model / WEIGHTS_FILE)
    weights["to_pixels.bias"] = weights["to_pixels.bias"] * torch.nan
    save_file(weights, model / WEIGHTS_FILE)
    done = command("deblur", source, "--model", model, "--device", "cpu", "--dtype", "fp32")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "a.mp4: frame 0: values of the network are not finite; try --dtype fp32" in done.complaint
    assert not (tmp_path / "a.deblurred.mp4").exists()


@pytest.mark.parametrize("kind", [Sampling, VDMSampling])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_guidance_is_a_number(kind, value):
    with pytest.raises(ValueError, match=r"`guidance` (nan: expected 0 or more|inf: expected a finite number)"):
        kind(guidance=value)
    with pytest.raises(ValueError, match="start"):
        kind(start=value)


@pytest.mark.parametrize("name", ["fidelity", "carry_detail", "still_px"])
def test_shares_and_lengths_are_numbers(name):
    for value in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match=name):
            Sampling(**{name: value})


@pytest.mark.parametrize("model", ["cpgd", "vdm"])
def test_the_command_refuses_guidance_that_is_no_number(model, tmp_path):
    source = make_clip(tmp_path / "a.mp4", frames=4)
    done = command("deblur", source, "--model", model, "--guidance", "nan", "--device", "cpu")
    assert done.exit_code == 2 and "--guidance nan: expected 0 or more" in done.complaint
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
