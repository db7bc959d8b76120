"""Both diffusion pipelines by diffusers' own rules: folders, words of a call, callbacks, devices."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
)
from diffusers.utils import BaseOutput
from PIL import Image

import unsmear
from support import tiny_pipeline, tiny_vdm
from unsmear.cli.main import run
from unsmear.errors import WeightsError
from unsmear.models import zoo
from unsmear.models.cpgd.pipeline import CPCPipeline, CPGDPipeline, Sampling
from unsmear.models.loading import load_model, sampling_defaults
from unsmear.models.vdm.pipeline import VDMPipeline, VDMSampling
from unsmear.models.zoo import ModelEntry, write_index

WEIGHTS = Path(unsmear.__file__).parent / "weights"
BOTH = pytest.mark.parametrize("name", ["cpgd", "vdm"])


def tiny(name: str, scheduler=None):
    pipe = (tiny_pipeline if name == "cpgd" else tiny_vdm).pipeline(scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def frames(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def priors(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    return torch.randn(count, 2, 4, 4, generator=g), torch.rand(count, 1, 8, 8, generator=g)


def call(pipe, given=None, **options):
    """A call with what the pipeline needs besides frames."""
    given = frames() if given is None else given
    more = {}
    if isinstance(pipe, CPGDPipeline):
        more = dict(zip(("motion", "residual"), priors(), strict=True))
        if isinstance(given, torch.Tensor) and given.ndim == 5:
            more = {key: value.expand(len(given), *value.shape) for key, value in more.items()}
    return pipe(given, **more, **{"num_inference_steps": 2, **options})


# Folders.


@BOTH
def test_all_loaders_give_the_same_weights(name):
    own = getattr(unsmear, {"cpgd": "CPGDPipeline", "vdm": "VDMPipeline"}[name])
    by_zoo = load_model(zoo.find(name))
    assert type(by_zoo) is own and by_zoo.sampling == by_zoo.settings_class(**by_zoo.config["sampling"])
    for made in (own.from_pretrained(WEIGHTS / name), DiffusionPipeline.from_pretrained(WEIGHTS / name)):
        assert type(made) is own and made.sampling == by_zoo.sampling and made.sampling.steps == 2
        for part in zoo.find(name).parts:
            state, other = getattr(made, part).state_dict(), getattr(by_zoo, part).state_dict()
            assert state.keys() == other.keys() and all(torch.equal(state[k].float(), other[k]) for k in state), part


def test_diffusers_finds_the_class_in_a_process_of_its_own():
    script = (
        "import unsmear, sys\nassert 'diffusers' not in sys.modules\nfrom unsmear import VDMPipeline\n"
        f"from diffusers import DiffusionPipeline\n"
        f"print(type(DiffusionPipeline.from_pretrained({str(WEIGHTS / 'vdm')!r})))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "<class 'unsmear.VDMPipeline'>"


@BOTH
def test_an_index_names_library_and_class(name, tmp_path):
    tiny(name).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == {"cpgd": "CPGDPipeline", "vdm": "VDMPipeline"}[name]
    ours = {value[1] for value in index.values() if isinstance(value, list) and value[0] == "unsmear"}
    assert ours == {"cpgd": {"CPControlNet"}, "vdm": {"BlurEncoder", "ImageTokens"}}[name]
    (tmp_path / "model_index.json").unlink()
    write_index(tmp_path)
    written = json.loads((tmp_path / "model_index.json").read_text())
    assert {key: value for key, value in written.items() if key != "_diffusers_version"} == {
        key: index[key] for key in written if key != "_diffusers_version"
    }


@BOTH
def test_folders_without_an_index_load_as_before(name, tmp_path):
    place = (tiny_pipeline if name == "cpgd" else tiny_vdm).folder(tmp_path / "x")
    entry = ModelEntry("x", place)
    assert not (place / "model_index.json").exists() and entry.kind in zoo.PIPELINES
    checksum, made = entry.checksum(), load_model(entry)
    torch.testing.assert_close(call(made).frames, call(tiny(name)).frames)
    write_index(place, {"steps": 1})
    assert entry.checksum() == checksum and load_model(entry).sampling.steps == 1


def test_folders_that_the_former_class_saved_load(tmp_path):
    pipe = tiny("cpgd")
    pipe.save_pretrained(tmp_path)
    path = tmp_path / "model_index.json"
    index = json.loads(path.read_text())
    old = {"_class_name": "CPCPipeline", "control": ["unsmear.models.cpc.control", "CPControlNet"]}
    path.write_text(json.dumps({k: v for k, v in (index | old).items() if k not in ("empty_prompt", "sampling")}))
    for made in (CPGDPipeline.from_pretrained(tmp_path), load_model(ModelEntry("x", tmp_path))):
        made.set_progress_bar_config(disable=True)
        assert type(made) is CPGDPipeline is CPCPipeline
        torch.testing.assert_close(call(made).frames, call(pipe).frames)


def test_former_module_names_warn_and_work():
    script = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as told:\n"
        "    warnings.simplefilter('always')\n"
        "    from unsmear.models.cpc.pipeline import CPCPipeline, Sampling\n"
        "    from unsmear.models.cpc.noise import frame_generator\n"
        "    import unsmear.models.cpc.colour, unsmear.models.cpc.heat\n"
        "    from unsmear.restore.cpc import CPCRestorer\n"
        "told = [str(w.message) for w in told if w.category is DeprecationWarning and 'unsmear' in str(w.message)]\n"
        "assert len(told) == 2, told\n"
        "from unsmear.models.cpgd.pipeline import CPGDPipeline\n"
        "assert CPCPipeline is CPGDPipeline and callable(unsmear.models.cpc.colour.transfer_colour)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_former_training_name_is_accepted_with_a_note(tmp_path, capfd):
    assert run(["train", "cpc", str(tmp_path / "none.yaml"), "-o", str(tmp_path / "run")]) != 0
    said = capfd.readouterr().err
    assert "`unsmear train cpc` is `unsmear train cpgd` now" in said and "none.yaml" in said


def test_an_unknown_class_is_refused_by_name(tmp_path):
    place = tiny_pipeline.folder(tmp_path / "x")
    (place / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(WeightsError, match=r"model_index.json describes a 'FluxPipeline'"):
        load_model(ModelEntry("x", place))
    with pytest.raises(WeightsError, match="FluxPipeline"):
        unsmear.load(str(place), device="cpu")
    with pytest.raises(WeightsError, match="holds no pipeline"):
        write_index(tmp_path)


def test_the_stored_empty_prompt_survives_saving(tmp_path):
    stored, parts = torch.randn(1, 5, 16), tiny("cpgd").components
    pipe = CPGDPipeline(**{**parts, "empty_prompt": stored})
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / zoo.EMPTY_PROMPT_FILE).is_file() and not (tmp_path / "empty_prompt").exists()
    wanted = call(pipe).frames
    assert not torch.equal(wanted, call(tiny("cpgd")).frames)
    for made in (
        CPGDPipeline.from_pretrained(tmp_path),
        DiffusionPipeline.from_pretrained(tmp_path),
        load_model(ModelEntry("x", tmp_path)),
    ):
        made.set_progress_bar_config(disable=True)
        assert torch.equal(made.embed(), stored)
        torch.testing.assert_close(call(made).frames, wanted)


def test_sampling_of_a_folder(tmp_path, caplog):
    place = tiny_pipeline.folder(tmp_path / "x")
    entry = ModelEntry("x", place)
    write_index(place, {"steps": 3, "start": 0.5})
    (place / "sampling.json").write_text('{"steps": 1, "carry_latent": 0.5}')
    assert sampling_defaults(entry, Sampling) == {"steps": 1, "start": 0.5} and "carry_latent" in caplog.text
    assert load_model(entry).sampling == Sampling(steps=1, start=0.5)
    write_index(place)
    assert entry.index["sampling"] == {"steps": 3, "start": 0.5}, "it keeps what it does not know anew"
    with pytest.raises(ValueError, match="expected fields of VDMSampling"):
        VDMPipeline(**tiny("vdm").components, sampling={"stepz": 1})


# Words of a call.


@BOTH
def test_arguments_take_precedence_over_options(name):
    pipe = tiny(name)
    kind = Sampling if name == "cpgd" else VDMSampling
    a = call(pipe, options=kind(steps=9, guidance=1.0, seed=3), num_inference_steps=2, guidance_scale=2.0)
    b = call(pipe, options=kind(steps=2, guidance=2.0, seed=3), num_inference_steps=None)
    assert torch.equal(a.frames, b.frames)
    seeds = [call(pipe, generator=torch.Generator().manual_seed(n)).frames for n in (1, 1, 2)]
    assert torch.equal(seeds[0], seeds[1]) and not torch.equal(seeds[0], seeds[2])


@BOTH
def test_outputs_are_diffusers(name):
    pipe, given = tiny(name), frames()
    made = call(pipe, given)
    assert isinstance(made, BaseOutput) and made[0] is made.frames and made["frames"] is made.frames
    assert torch.equal(call(pipe, given, return_dict=False)[0], made.frames)
    array = call(pipe, given, output_type="np").frames
    np.testing.assert_array_equal(array, made.frames.clamp(0, 1).movedim(1, -1).numpy())
    pictures = call(pipe, given, output_type="pil").frames
    assert [type(p) for p in pictures] == [Image.Image] * 3
    np.testing.assert_array_equal(np.stack([np.asarray(p) for p in pictures]), (array * 255).round().astype("uint8"))
    with pytest.raises(ValueError, match="output_type 'latents' is unknown: expected pt, np, pil"):
        call(pipe, given, output_type="latents")


@BOTH
def test_pictures_and_arrays_are_taken(name):
    pipe = tiny(name)
    levels = (frames().movedim(1, -1) * 255).round().to(torch.uint8).numpy()
    wanted = call(pipe, torch.from_numpy(levels).movedim(-1, 1).float() / 255).frames
    for given in ([Image.fromarray(x) for x in levels], levels, list(levels), (levels / np.float32(255))):
        torch.testing.assert_close(call(pipe, given).frames, wanted)
    with pytest.raises(ValueError, match="frames is empty"):
        call(pipe, [])
    with pytest.raises(ValueError, match=r"expected \(T, 3, H, W\)"):
        call(pipe, frames()[:, :2])


@BOTH
def test_a_batch_equals_its_clips_sampled_singly(name):
    pipe, a, b = tiny(name), frames(), frames().flip(0)
    made = call(pipe, torch.stack([a, b]))
    assert torch.equal(made.frames, torch.stack([call(pipe, x).frames for x in (a, b)])) and made.carried is None
    g = [torch.Generator().manual_seed(n) for n in (1, 2)]
    again = call(pipe, torch.stack([a, a]), generator=g).frames
    assert not torch.equal(again[0], again[1])
    assert torch.equal(again[1], call(pipe, a, generator=torch.Generator().manual_seed(2)).frames)
    with pytest.raises(ValueError, match="1 generators for 2 clips"):
        call(pipe, torch.stack([a, b]), generator=g[:1])
    with pytest.raises(ValueError, match="carried is for a single clip"):
        call(pipe, torch.stack([a, b]), carried=call(pipe, a).carried)


# Callbacks.


@BOTH
def test_a_callback_follows_every_step_and_may_change_it(name):
    pipe, seen = tiny(name), []

    def watch(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep), tuple(tensors)))
        return {}

    plain = call(pipe).frames
    assert torch.equal(call(pipe, callback_on_step_end=watch).frames, plain)
    groups = 3 if name == "cpgd" else 1
    assert [step for step, *_ in seen] == [0, 1] * groups and {names for *_, names in seen} == {("latents",)}
    assert seen[0][1] > seen[1][1] and pipe.num_timesteps == 2
    changed = call(pipe, callback_on_step_end=lambda p, i, t, tensors: {"latents": tensors["latents"] * 0}).frames
    assert not torch.equal(changed, plain)
    with pytest.raises(ValueError, match="'prompts' is unknown: expected some of latents"):
        call(pipe, callback_on_step_end=watch, callback_on_step_end_tensor_inputs=["prompts"])


@BOTH
def test_a_callback_stops_at_step_two(name):
    pipe, given, asked = tiny(name), frames(), []

    def stop(pipeline, step, timestep, tensors):
        asked.append(step)
        pipeline._interrupt = step == 1
        return tensors

    def half(pipeline, step, timestep, tensors):
        if step == 1:
            kept.append(tensors["latents"].clone())
        return {}

    kept: list[torch.Tensor] = []
    whole = call(pipe, given, num_inference_steps=5, callback_on_step_end=half)
    cut = call(pipe, given, num_inference_steps=5, callback_on_step_end=stop)
    assert asked == [0, 1] and cut.frames.shape == whole.frames.shape and cut.frames.isfinite().all()
    begun = 1 if name == "cpgd" else 3
    assert torch.equal(cut.frames[begun:], given[begun:]), "what was not begun comes back as it was given"
    assert not torch.equal(cut.frames[:begun], whole.frames[:begun])
    assert torch.equal(call(pipe, given, num_inference_steps=5).frames, whole.frames), "the next call is whole"


@BOTH
def test_the_progress_bar_can_be_enabled(name, capfd):
    pipe = tiny(name)
    call(pipe)
    assert not capfd.readouterr().err
    pipe.set_progress_bar_config(disable=False)
    call(pipe)
    total = 6 if name == "cpgd" else 2
    assert f"{total}/{total}" in capfd.readouterr().err


@BOTH
@pytest.mark.parametrize("kind", [DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler])
def test_schedulers_can_be_swapped(name, kind, tmp_path):
    pipe = tiny(name)
    plain = call(pipe).frames
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    made = call(pipe).frames
    assert made.isfinite().all() and not torch.equal(made, plain)
    pipe.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is kind
    torch.testing.assert_close(call(again).frames, made, atol=1e-4, rtol=1e-4)
    pipe.scheduler = DDIMScheduler.from_config(tiny(name).scheduler.config)
    assert torch.equal(call(pipe).frames, plain)


@BOTH
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_model_cpu_offload_moves_one_part_at_a_time(name, device):
    """On a CPU the same hooks move parts from it to itself."""
    pipe, wanted = tiny(name), call(tiny(name).to(device)).frames
    pipe.enable_model_cpu_offload(device=device)
    for _ in range(2):
        assert pipe._execution_device.type == device
        torch.testing.assert_close(call(pipe).frames, wanted, atol=1e-3, rtol=1e-3)
        assert pipe.unet.device.type == pipe.vae.device.type == "cpu"
