"""The front door: what the package exports, a clip in one call, and options that are declared once."""

import inspect
from dataclasses import fields, replace
from typing import Any, get_type_hints

import numpy as np
import pytest

import unsmear
from support.clips import make_clip, moving_frames
from support.restorers import Negative
from unsmear.models.cpgd.pipeline import Sampling
from unsmear.models.vdm.pipeline import VDMSampling
from unsmear.priors import chunk_priors
from unsmear.priors.duty import estimate_duty
from unsmear.restore.options import Options
from unsmear.restore.restorer import Clip, State
from unsmear.video import open_video, write_png
from unsmear.video.colour import luma_of_rgb

TYPES = {"Clip", "Frame", "Options", "Prior", "Progress", "Report", "Restorer"}


def test_the_types_of_signatures_are_exported():
    assert {*TYPES, "deblur", "load", "extract_priors"} <= set(unsmear.__all__) <= set(dir(unsmear))
    assert all(isinstance(getattr(unsmear, name), type) for name in TYPES)
    assert unsmear.Clip is Clip and unsmear.Options is Options
    with pytest.raises(AttributeError, match="no attribute 'Klip'"):
        _ = unsmear.Klip


def keywords(function: Any) -> dict[str, Any]:
    """Types of the parameters of a function that are None by default, by name."""
    hints = get_type_hints(function, vars(unsmear.api) | {name: getattr(unsmear, name) for name in TYPES})
    return {p.name: hints[p.name] for p in inspect.signature(function).parameters.values() if p.default is None}


def test_deblur_has_a_keyword_for_every_field_of_options():
    given, hints = keywords(unsmear.deblur), get_type_hints(Options)
    for field in fields(Options):
        assert given.pop(field.name) == hints[field.name] | None, field.name
    assert given.pop("options") == Options | None
    sampled = keywords(unsmear.load)
    assert {name: hint for name, hint in given.items() if name not in ("output", "progress")} == {
        name: sampled[name] for name in ("steps", "guidance", "prompt", "negative_prompt", "seed", "fidelity")
    }


def test_load_has_a_keyword_for_every_field_of_sampling():
    given = keywords(unsmear.load)
    for kind in (Sampling, VDMSampling):
        hints = get_type_hints(kind)
        for field in fields(kind):
            assert given[field.name] == hints[field.name] | None, field.name
    assert set(given) == {f.name for kind in (Sampling, VDMSampling) for f in fields(kind)} | {
        "prompt",
        "negative_prompt",
    }


def test_options_whole_or_one_by_one(tmp_path):
    source = make_clip(tmp_path / "a.mp4", frames=9)
    options = Options(window=8, frames=True, strength=0.5)
    report = unsmear.deblur(source, tmp_path / "whole", model=Negative(), options=options)
    again = unsmear.deblur(source, tmp_path / "single", model=Negative(), window=8, frames=True, strength=0.5)
    assert report.options == vars(options) == again.options
    over = unsmear.deblur(source, tmp_path / "over", model=Negative(), options=options, strength=1.0)
    assert over.options == vars(replace(options, strength=1.0))
    with pytest.raises(unsmear.UsageError, match=r"^`strength` 2: expected 0 to 1$"):
        unsmear.deblur(source, model=Negative(), strength=2)
    with pytest.raises(unsmear.UsageError, match="`steps`: the model is loaded already"):
        unsmear.deblur(source, model=Negative(), steps=2)
    with pytest.raises(TypeError, match="strenght"):
        unsmear.deblur(source, model=Negative(), strenght=1)  # type: ignore[call-arg]


def test_a_clip_is_one_call():
    pictures = moving_frames((192, 128), 5, step_px=(6, 2))
    lumas = [luma_of_rgb(picture) for picture in pictures]
    priors = chunk_priors(lumas, before=None, after=None)
    for frames in (pictures, np.stack(pictures)):
        clip = Clip.of(frames, output_frames=3, first=7)
        assert np.array_equal(clip.frames, np.stack(pictures)) and (clip.wanted, clip.first) == (3, 7)
        assert all(np.array_equal(a.motion_q, b.motion_q) for a, b in zip(clip.priors, priors, strict=True))
        assert clip.duty == estimate_duty(lumas, priors)
    assert Clip.of(pictures, 0.25).duty == 0.25
    deep = Clip.of([picture.astype(np.uint16) * np.uint16(257) for picture in pictures])
    assert deep.frames.dtype == np.uint16 and deep.duty == clip.duty
    assert str(replace(deep, duty=None)) == "Clip(5 frames of 192x128, uint16, duty unknown)"


def test_frames_of_a_reader_bring_their_own_luma(tmp_path):
    with open_video(make_clip(tmp_path / "a.mp4", frames=3)) as reader:
        frames = list(reader)
    clip = Clip.of(frames)
    expected = chunk_priors([frame.luma for frame in frames], before=None, after=None)
    assert np.array_equal(clip.frames, np.stack([frame.rgb for frame in frames]))
    assert all(np.array_equal(a.residual, b.residual) for a, b in zip(clip.priors, expected, strict=True))


@pytest.mark.parametrize(
    ("frames", "duty", "message"),
    [
        ([], None, "frames none: expected pictures"),
        (np.zeros((2, 32, 32), np.uint8), None, r"frames \(32, 32\) uint8"),
        (np.zeros((2, 32, 32, 3), np.float32), None, "float32: expected"),
        ([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 48, 3), np.uint8)], None, "of one size"),
        (np.zeros((2, 32, 32, 3), np.uint8), 1.5, "`duty` 1.5: expected 0 to 1"),
    ],
)
def test_what_is_no_clip_is_refused(frames, duty, message):
    with pytest.raises(unsmear.UsageError, match=message):
        Clip.of(frames, duty)


class Half(unsmear.Restorer):
    """The least that a model of one's own needs."""

    name = "half"

    def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        return clip.frames[: clip.wanted] // 2, {}


def test_a_restorer_of_ones_own(tmp_path):
    clip = Clip.of(moving_frames((64, 48), 3), output_frames=2)
    half = Half()
    assert np.array_equal(half(clip), clip.frames[:2] // 2) and repr(half) == "Half('half', cpu, float32)"
    report = unsmear.deblur(make_clip(tmp_path / "a.mp4", frames=9), model=half, window=8)
    assert (report.model, report.frames, report.tile_px) == ("half", 9, None)


def test_priors_print_on_one_short_line():
    clip = Clip.of(moving_frames((128, 96), 3, step_px=(3, 0)))
    first, middle, last = map(repr, clip.priors)
    assert middle.startswith("Prior(128x96, motion 3.") and middle.endswith("% found, reencode)")
    assert "no past" in first and "no future" in last
    assert repr(unsmear.Prior.empty(16, 16)) == "Prior(16x16, neither past nor future, reencode)"


@pytest.mark.parametrize("images", [False, True], ids=["videos", "both"])
def test_a_folder_of_videos_is_said_to_be_many_inputs(images, tmp_path, caplog):
    """The command takes each of them; in Python one call is one input, and one report."""
    folder = tmp_path / "holiday"
    folder.mkdir()
    for name in ("b.mp4", "a.mp4"):
        make_clip(folder / name, frames=3)
    if images:
        write_png(folder / "thumb.png", moving_frames(frames=1)[0])
    for call in (lambda: unsmear.deblur(folder, model=Half()), lambda: next(unsmear.extract_priors(folder))):
        with pytest.raises(unsmear.UsageError, match=r"holiday holds 2 videos, .*give .*a\.mp4 and so on one by one"):
            call()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["holiday"] and not caplog.records


def test_names_of_nothing_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = make_clip(tmp_path / "a.mp4", frames=3)
    for output in ("", " "):
        with pytest.raises(unsmear.UsageError, match="`output` is empty"):
            unsmear.deblur(source, output, model=Half())
    for given in ("", "-", "https://example.com/a.mp4"):
        with pytest.raises(unsmear.UnsmearError, match=r"no name|standard input|addresses"):
            unsmear.deblur(given, model=Half())
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
