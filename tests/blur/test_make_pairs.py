"""Blur whose answer is known, and the data sets made with it."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from support.clips import make_clip, make_yuv, moving_frames, texture
from support.command import unsmear
from unsmear.blur.camera import CameraRanges, render
from unsmear.blur.compress import h264_round_trip
from unsmear.blur.exposure import (
    Neighbourhood,
    average_stream,
    blur_between,
    blur_by_averaging,
    blur_by_flow,
    fitted_duty,
    subframe_times,
)
from unsmear.blur.light import expose
from unsmear.blur.pack import (
    PackConfig,
    Sources,
    SpedUp,
    draw_sequence,
    finish_sequence,
    load_sources,
    open_pack,
    read_clip,
)
from unsmear.blur.pairs import BlurSettings, clip_generator, make_pairs
from unsmear.blur.pairset import upright_frames
from unsmear.errors import DataLayoutError, OutputError
from unsmear.video import eight_bit, open_video, write_png
from unsmear.video.light import from_linear, quantise, to_linear


def level(value: int) -> np.ndarray:
    return np.full((4, 4, 3), value, np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(np.float32) - b) ** 2))))


@pytest.mark.parametrize(("curve", "expected"), [("srgb", 187.516), ("2.2", 255 * 0.5 ** (1 / 2.2))])
def test_black_and_white_average_to_half_the_light(curve, expected):
    # IEC 61966-2-1: linear 0.5 is 1.055 · 0.5^(1/2.4) − 0.055 = 0.735357 of full scale.
    assert expose([level(0), level(255)], curve) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("curve", ["srgb", "2.2"])
def test_linear_light_round_trip_is_exact(curve):
    ramp = np.arange(256, dtype=np.uint8)
    assert np.array_equal(quantise(from_linear(to_linear(ramp, curve), curve)), ramp)


def test_an_exposure_needs_a_frame():
    with pytest.raises(ValueError, match="at least one"):
        expose([])


@pytest.mark.parametrize(("duty", "fastest"), [(0.0, 20.0), (0.4, 3.0), (1.0, 12.3), (1.0, 500.0)])
def test_subframes_are_odd_centred_and_dense(duty, fastest):
    times = subframe_times(duty, fastest)
    assert len(times) % 2 == 1
    assert times[len(times) // 2] == pytest.approx(0, abs=1e-12)
    assert times[-1] - times[0] == pytest.approx(duty)
    assert len(times) == 65 or len(times) > duty * fastest


def test_no_exposure_is_the_frame_itself():
    frames = moving_frames(frames=3)
    [(blurred, sharp)] = blur_by_flow(frames, duty=0.0)
    assert np.array_equal(blurred, sharp)
    assert np.array_equal(sharp, frames[1])


@pytest.mark.parametrize("size", [(8, 8), (1, 20), (16, 11)])
def test_frames_too_small_for_flow_are_averaged_where_they_are(size):
    frames = [frame[: size[1], : size[0]] for frame in moving_frames(frames=3)]
    [(blurred, sharp)] = blur_by_flow(frames, duty=0.5)
    assert np.array_equal(sharp, frames[1])
    least, most = np.min(frames, 0).astype(int), np.max(frames, 0).astype(int)
    assert ((least - 1 <= blurred) & (blurred <= most + 1)).all() and (blurred != sharp).any()


def test_an_exposure_cannot_outlast_the_frame_step():
    with pytest.raises(ValueError, match=r"duty 1\.2"):
        list(blur_by_flow(moving_frames(frames=3), duty=1.2))


def box_along_x(image: np.ndarray, length: float) -> np.ndarray:
    """Exact average in linear light over shifts of ±length/2, from shifted copies of the known picture."""
    h, w = image.shape[:2]
    shifts = np.linspace(-length / 2, length / 2, 65)
    moved = (cv2.warpAffine(image, np.float32([[1, 0, s], [0, 1, 0]]), (w, h), flags=cv2.INTER_CUBIC) for s in shifts)
    return expose(moved)


@pytest.mark.parametrize("duty", [0.5, 1.0])
def test_a_moving_pattern_is_box_blurred_by_duty_times_its_speed(duty):
    speed = 8
    frames = moving_frames((192, 96), 3, step_px=(speed, 0), smooth_px=2.5)
    [(blurred, sharp)] = blur_by_flow(frames, duty)
    inner = (slice(12, -12), slice(24, -24))
    right = psnr(blurred[inner], box_along_x(sharp, duty * speed)[inner])
    assert right > 36
    for wrong in (0.5, 1.5):
        assert psnr(blurred[inner], box_along_x(sharp, duty * speed * wrong)[inner]) < right - 4


@pytest.mark.parametrize("duty", [0.3, 0.7])
def test_the_fitted_duty_is_that_of_the_blur(duty):
    frames = moving_frames((192, 96), 1, smooth_px=2.5)
    blurred = quantise(box_along_x(frames[0], duty * 20))
    line = np.float32([20, 0])[:, None, None] * np.ones((2, 12, 24), np.float32)
    assert fitted_duty(blurred, frames[0], line) == pytest.approx(duty, abs=0.06)
    assert fitted_duty(frames[0], frames[0], line) == pytest.approx(0, abs=0.03)


def test_blur_is_centred_on_its_target():
    frames = moving_frames((192, 96), 3, step_px=(8, 0), smooth_px=2.5)
    [(blurred, sharp)] = blur_by_flow(frames, 1.0)
    a, b = (cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(np.float32)[12:-12, 24:-24] for f in (blurred, sharp))
    (dx, dy), _ = cv2.phaseCorrelate(a, b, cv2.createHanningWindow(a.shape[::-1], cv2.CV_32F))
    assert abs(dx) < 0.3
    assert abs(dy) < 0.3


def test_interpolated_frames_match_the_true_ones():
    every = moving_frames((128, 96), 5, step_px=(3, 1), smooth_px=2.5)
    near = Neighbourhood.of(*every[::2])
    inner = (slice(16, -16), slice(16, -16))
    assert near.at(0) is every[2]
    for s, truth in ((-1, every[0]), (1, every[4])):
        assert np.array_equal(near.at(s), truth)
    for s, truth in ((-0.5, every[1]), (0.5, every[3])):
        assert psnr(near.at(s)[inner], truth[inner]) > 36
    assert near.fastest_px() == pytest.approx(np.hypot(6, 2), abs=1)


def test_averaging_takes_real_frames_around_the_target():
    frames = [level(v) for v in (0, 10, 20, 30, 40, 50, 60, 200)]
    pairs = list(blur_by_averaging(frames, window=3, step=4))
    assert [int(sharp[0, 0, 0]) for _, sharp in pairs] == [10, 50]
    assert np.array_equal(pairs[0][0], quantise(expose(frames[:3])))
    with pytest.raises(ValueError, match="odd"):
        list(blur_by_averaging(frames, window=4, step=4))
    with pytest.raises(ValueError, match="no longer"):
        list(blur_by_averaging(frames, window=5, step=4))


@pytest.mark.parametrize("duty", [0.5, 1.0])
def test_a_sped_up_clip_is_box_blurred_along_its_whole_path(duty):
    """Four frames of 5 px are a step of 20 px, of which the real frames in between are a part."""
    frames = moving_frames((192, 96), 13, step_px=(5, 0), smooth_px=2.5)
    pairs = list(blur_between(frames, 4, duty))
    first = {0.5: 1, 1.0: 2}[duty]
    assert [np.array_equal(s, frames[first + 4 * i]) for i, (_, s) in enumerate(pairs)] == [True] * len(pairs)
    assert len(pairs) == 3
    inner = (slice(12, -12), slice(32, -32))
    for blurred, target in pairs:
        right = psnr(blurred[inner], box_along_x(target, duty * 20)[inner])
        assert right > 36
        for wrong in (0.6, 1.4):
            assert psnr(blurred[inner], box_along_x(target, duty * 20 * wrong)[inner]) < right - 4


def test_exposures_follow_a_curved_path_between_targets():
    """Flow over the whole step would cut the corner: right for two frames, then down for two."""
    big = texture((160, 160), smooth_px=2.5)
    places = [(40, 40), (46, 40), (52, 40), (52, 46), (52, 52)]
    frames = [np.ascontiguousarray(big[y : y + 64, x : x + 64]) for x, y in places]
    [(blurred, target)] = blur_between(frames, 4, 1.0)
    assert np.array_equal(target, frames[2])
    way = [(x, 40) for x in range(40, 53)] + [(52, y) for y in range(41, 53)]
    wanted = expose([big[y : y + 64, x : x + 64] for x, y in way])
    assert psnr(blurred[16:-16, 16:-16], wanted[16:-16, 16:-16]) > 34


def test_sped_up_without_exposure_frames_are_left_alone():
    frames = moving_frames(frames=7)
    pairs = list(blur_between(frames, 3, 0.0))
    assert len(pairs) == 3
    for i, (blurred, target) in enumerate(pairs):
        assert np.array_equal(blurred, target) and np.array_equal(target, frames[3 * i])
    with pytest.raises(ValueError, match=r"duty 1\.1, step 3"):
        next(blur_between(frames, 3, 1.1))


SMALL = CameraRanges(size_px=64, frames=3, speed_px=(4, 8))


def test_the_camera_follows_its_seed():
    photo = texture((240, 200))
    a, b, other = (render([photo], np.random.default_rng(seed), SMALL) for seed in (1, 1, 2))
    assert np.array_equal(a.blurred, b.blurred)
    assert np.array_equal(a.sharp, b.sharp)
    assert not np.array_equal(a.sharp, other.sharp)
    assert a.sharp.shape == a.blurred.shape == (3, 64, 64, 3)


def test_a_camera_with_zero_exposure_is_sharp():
    still = CameraRanges(size_px=64, frames=3, duty=(0, 0), sharp_share=0, noise_levels=(0, 0))
    shot = render([texture((240, 200))], np.random.default_rng(0), still)
    assert np.abs(shot.blurred.astype(int) - shot.sharp).max() <= 1


def test_an_unfinished_pack_is_refused(tmp_path):
    with pytest.raises(DataLayoutError, match="not a finished pack"):
        open_pack(tmp_path)


@pytest.fixture(scope="module")
def sharp(tmp_path_factory) -> Path:
    """A video, a folder of frames and a photograph."""
    folder = tmp_path_factory.mktemp("sharp")
    make_clip(folder / "video.mkv", content=moving_frames((96, 64), 6, step_px=(5, 0)), options={"crf": "12"})
    for i, frame in enumerate(moving_frames((80, 64), 6, step_px=(0, 4), seed=1)):
        (folder / "frames").mkdir(exist_ok=True)
        write_png(folder / "frames" / f"{i:03d}.png", frame)
    write_png(folder / "photo.png", texture((220, 200), seed=2))
    return folder


def run(*args: object):
    return unsmear("data", "blur", *map(str, args))


def read(folder: Path) -> list[np.ndarray]:
    return [cv2.imread(str(p)) for p in sorted(folder.iterdir())]


def test_blur_makes_pairs_of_videos_folders_and_photographs(sharp, tmp_path):
    out = tmp_path / "set"
    inputs = [sharp / "video.mkv", sharp / "frames", sharp / "photo.png"]
    result = run(*inputs, "-o", out, "--duty", 0.6, 0.8, "--workers", 2)
    assert result.exit_code == 0, result.output
    manifest = json.loads((out / "manifest.json").read_text())
    clips = {c["name"]: c for c in manifest["clips"]}
    assert {n: (c["source"], c["method"], c["frames"], c["width"], c["height"]) for n, c in clips.items()} == {
        "video": ("video.mkv", "flow", 4, 96, 64),
        "frames": ("frames", "flow", 4, 80, 64),
        "photo": ("photo.png", "camera", 12, 112, 112),
    }
    assert sorted(p.name for p in out.iterdir()) == ["frames", "manifest.json", "photo", "video"]
    for name, clip in clips.items():
        assert 0.6 <= clip["duty"] <= 0.8
        blurred, target = read(out / name / "blur"), read(out / name / "sharp")
        assert len(blurred) == len(target) == clip["frames"]
        measured = np.mean([psnr(b, s) for b, s in zip(blurred, target, strict=True)])
        assert clip["input_psnr_db"] == pytest.approx(measured, abs=0.01)
        assert 15 < measured < 40
    mean = np.mean([c["input_psnr_db"] for c in clips.values()])
    assert manifest["mean_input_psnr_db"] == pytest.approx(mean, abs=1e-3)
    source = read(sharp / "frames")[1:-1]
    assert all(np.array_equal(a, b) for a, b in zip(source, read(out / "frames" / "sharp"), strict=True))


def test_a_clip_does_not_depend_on_other_clips_or_the_workers(sharp, tmp_path):
    alone = make_pairs([sharp / "frames"], tmp_path / "a").manifest["clips"]
    together = make_pairs([sharp / "photo.png", sharp / "frames"], tmp_path / "b", workers=2).manifest["clips"]
    assert alone[0] in together
    draws = {(s, n): clip_generator(s, n).random() for s in (0, 1) for n in ("a", "b")}
    assert len(set(draws.values())) == 4


def test_no_exposure_and_no_codec_leave_the_frames_alone(sharp, tmp_path):
    assert run(sharp / "frames", "-o", tmp_path, "--duty", 0, 0, "--crf", "none").exit_code == 0
    pairs = zip(read(tmp_path / "frames" / "blur"), read(tmp_path / "frames" / "sharp"), strict=True)
    assert all(np.array_equal(b, s) for b, s in pairs)


@pytest.mark.parametrize(("step", "method"), [((1, 0), "average"), ((5, 0), "flow")])
def test_a_streamed_clip_equals_one_blurred_as_a_whole(tmp_path, step, method):
    frames = moving_frames((64, 48), 24, step_px=step)
    (tmp_path / "clip").mkdir()
    for i, frame in enumerate(frames):
        write_png(tmp_path / "clip" / f"{i}.png", frame)
    [clip] = make_pairs([tmp_path / "clip"], tmp_path / "set", BlurSettings(crf=None)).manifest["clips"]
    assert clip["method"] == method
    if method == "average":  # what is stated is the exposure of whole frames, one in seven kept
        window = round(clip["duty"] * 7)
        assert clip["duty"] * 7 == pytest.approx(window, abs=1e-4)
        whole = list(blur_by_averaging(frames, window, 7))
    else:
        whole = list(blur_by_flow(frames, clip["duty"]))
    for kind, expected in zip(("blur", "sharp"), zip(*whole, strict=True), strict=True):
        written = read(tmp_path / "set" / "clip" / kind)
        assert len(written) == len(expected)
        assert all(np.abs(w[..., ::-1].astype(int) - e).max() <= 1 for w, e in zip(written, expected, strict=True))


def grays(folder: Path, count: int) -> list[np.ndarray]:
    frames = [np.full((16, 16, 3), 5 + 8 * i, np.uint8) for i in range(count)]
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        write_png(folder / f"{i + 1:06d}.png", frame)
    return frames


@pytest.mark.parametrize("curve", ["srgb", "2.2"])
@pytest.mark.parametrize(("options", "window", "step"), [("7", 7, 7), ("name", 11, 11), ("3 --step 5", 3, 5)])
def test_real_frames_are_averaged_as_gopro_was_made(tmp_path, curve, options, window, step):
    frames = grays(tmp_path / "GOPR0384_11_00", 24)
    options = ["--average", *options.split(), "--gamma", curve, "--crf", "none"]
    result = run(tmp_path / "GOPR0384_11_00", "-o", tmp_path / "set", *options)
    assert result.exit_code == 0, result.output
    clip = json.loads((tmp_path / "set" / "manifest.json").read_text())["clips"][0]
    assert (clip["method"], clip["window"], clip["target_every"]) == ("average", window, step)
    assert clip["duty"] == pytest.approx(window / step, abs=1e-6)
    starts = range(0, 24 - window + 1, step)
    blurred, sharp = (read(tmp_path / "set" / "GOPR0384_11_00" / kind) for kind in ("blur", "sharp"))
    assert len(blurred) == len(sharp) == len(starts)
    for start, b, s in zip(starts, blurred, sharp, strict=True):
        assert np.array_equal(b, quantise(expose(frames[start : start + window], curve)))
        assert np.array_equal(s, frames[start + window // 2])
    assert average_stream([], 3, 3) is not None
    with pytest.raises(ValueError, match="odd"):
        list(average_stream(frames, 5, 3))


def test_windows_are_drawn_for_each_clip_and_clips_too_short_are_named(tmp_path):
    for i in range(8):
        grays(tmp_path / "raw" / f"clip{i}", 14)
    folders = sorted((tmp_path / "raw").iterdir())
    settings = BlurSettings(average=(7, 9, 11, 13), crf=None)
    clips = make_pairs(folders, tmp_path / "a", settings).manifest["clips"]
    assert {clip["window"] for clip in clips} <= {7, 9, 11, 13} and len({clip["window"] for clip in clips}) > 1
    assert make_pairs(folders[:2], tmp_path / "b", settings).manifest["clips"] == clips[:2]
    assert not make_pairs(folders[:2], tmp_path / "b", settings).failures
    changed = make_pairs(folders[:1], tmp_path / "b", BlurSettings(average=(7, 9), crf=None))
    assert "was made with average [7, 9, 11, 13], not [7, 9]" in str(changed.failures[0][1])
    plain = make_pairs(folders[:1], tmp_path / "b", BlurSettings(crf=None))
    assert "not None" in str(plain.failures[0][1])
    write_png(tmp_path / "photo.png", texture((80, 80)))
    failed = make_pairs([*folders[:1], tmp_path / "photo.png"], tmp_path / "c", BlurSettings(average=(15,))).failures
    assert "fewer frames than are to be averaged" in str(failed[0][1])
    assert "one image has no frames to average" in str(failed[1][1])
    [(_, error)] = make_pairs(folders[:1], tmp_path / "c", BlurSettings(average="name")).failures
    assert "as GOPR0384_11_00 does" in str(error)


def test_the_manifest_entry_of_default_settings_has_fixed_keys(sharp, tmp_path):
    assert run(sharp / "frames", "-o", tmp_path, "--duty", 0.4, 1, "--seed", 0, "--crf", 18).exit_code == 0
    [clip] = json.loads((tmp_path / "manifest.json").read_text())["clips"]
    keys = "name source method duty duty_range seed gamma crf max_frames frames width height input_psnr_db sha256"
    assert list(clip) == keys.split()
    assert clip["crf"] == 18


def test_drawn_codec_quality_and_noise_do_not_change_the_blur(sharp, tmp_path):
    plain = make_pairs([sharp / "frames"], tmp_path / "a", BlurSettings(crf=None)).manifest["clips"][0]
    drawn = BlurSettings(crf=(15, 28))
    coded = make_pairs([sharp / "frames", sharp / "video.mkv"], tmp_path / "b", drawn).manifest["clips"]
    assert all(15 <= clip["crf"] <= 28 and clip["crf_range"] == [15, 28] for clip in coded)
    assert coded[0]["crf"] != coded[1]["crf"] and coded[0]["duty"] == plain["duty"]
    assert not make_pairs([sharp / "frames"], tmp_path / "b", drawn).failures
    assert make_pairs([sharp / "frames"], tmp_path / "b", BlurSettings(crf=18)).failures
    noise = BlurSettings(crf=None, noise=(4, 4))
    [noisy] = make_pairs([sharp / "frames"], tmp_path / "c", noise).manifest["clips"]
    assert noisy["noise_level"] == 4
    pairs = zip(read(tmp_path / "a/frames/blur"), read(tmp_path / "c/frames/blur"), strict=True)
    added = [b.astype(float) - a for a, b in pairs]
    assert 2.5 < np.std(added) < 5.5 and not np.array_equal(added[0], added[1])
    assert [s.tobytes() for s in read(tmp_path / "a/frames/sharp")] == [
        s.tobytes() for s in read(tmp_path / "c/frames/sharp")
    ]


@pytest.mark.parametrize("name", ["clip_64x48_30_8bit.yuv", "clip.yuv", "clip_64x48_30_10bit.yuv", "clip.y4m"])
def test_raw_video_is_blurred_and_cut_files_are_refused(tmp_path, name):
    frames = moving_frames((64, 48), 6, step_px=(5, 0))
    if name == "clip.y4m":
        path = make_clip(tmp_path / name, codec="wrapped_avframe", content=frames)
    else:
        path, _ = make_yuv(tmp_path / name, frames, pix_fmt="yuv420p10le" if "10" in name else "yuv420p")
    options = ["--yuv", "64x48_30_8bit"] if name == "clip.yuv" else []
    result = run(path, "-o", tmp_path / "set", *options)
    assert result.exit_code == 0, result.output
    assert len(read(tmp_path / "set" / path.stem / "blur")) == 4
    path.write_bytes(path.read_bytes()[:-10])
    result = run(path, "-o", tmp_path / "other", *options)
    assert result.exit_code == 1
    assert str(path) in result.output and not (tmp_path / "other" / path.stem).exists()


def test_clips_are_sped_up_to_the_requested_motion(tmp_path):
    for name, step in (("slow", 2), ("fast", 6)):
        (tmp_path / name).mkdir()
        for i, frame in enumerate(moving_frames((96, 64), 34, step_px=(step, 0), smooth_px=2.5)):
            write_png(tmp_path / name / f"{i:03d}.png", frame)
    out = tmp_path / "set"
    options = ["-o", out, "--motion", 12, 12, "--duty", 0.8, 0.8, "--crf", "none", "--workers", 1]
    result = run(tmp_path / "slow", tmp_path / "fast", *options)
    assert result.exit_code == 0, result.output
    clips = {c["name"]: c for c in json.loads((out / "manifest.json").read_text())["clips"]}
    # Twelve pixels are six frames of the slow one, of which eight output frames must be left.
    assert {n: (c["method"], c["target_every"]) for n, c in clips.items()} == {
        "slow": ("between", 4),
        "fast": ("between", 2),
    }
    assert clips["slow"]["frames"] == 8 and clips["fast"]["frames"] == 16
    assert clips["fast"]["motion_p90_px"] == pytest.approx(12, abs=1)
    assert clips["fast"]["motion_range_px"] == [12, 12]
    again = run(tmp_path / "fast", "-o", out, "--duty", 0.8, 0.8, "--crf", "none")
    assert "made with motion_range_px [12.0, 12.0], not None" in again.output


def test_max_frames_limits_a_clip(sharp, tmp_path):
    settings = BlurSettings(max_frames=4)
    [clip] = make_pairs([sharp / "video.mkv"], tmp_path, settings).manifest["clips"]
    assert clip["frames"] == 2


def test_finished_clips_are_kept_and_checked_against_the_settings(sharp, tmp_path):
    first = run(sharp / "frames", "-o", tmp_path)
    stamp = (tmp_path / "frames" / "clip.json").stat().st_mtime_ns
    (tmp_path / ".partial" / "video" / "blur").mkdir(parents=True)  # as a killed run leaves it
    again = run(sharp / "frames", sharp / "video.mkv", "-o", tmp_path)
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert "frames: already there" in again.output
    assert (tmp_path / "frames" / "clip.json").stat().st_mtime_ns == stamp
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames", "manifest.json", "video"]

    other = run(sharp / "frames", "-o", tmp_path, "--seed", 1)
    assert other.exit_code == 1
    assert "made with seed 0, not 1" in other.output
    assert run(sharp / "frames", "-o", tmp_path, "--seed", 1, "--overwrite").exit_code == 0
    assert json.loads((tmp_path / "frames" / "clip.json").read_text())["seed"] == 1


def test_a_bad_input_gives_a_one_line_error_and_the_others_are_made(sharp, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"not a video" * 100)
    write_png(tmp_path / "tiny.png", texture((40, 40)))
    make_clip(tmp_path / "short.mp4", frames=2)
    bad = [tmp_path / n for n in ("missing.mp4", "broken.mp4", "tiny.png", "short.mp4")]
    result = run(*bad, sharp / "frames", "-o", tmp_path / "set", "--workers", 1)
    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if line.startswith("unsmear: ")]
    assert len(lines) == 4
    for path in bad:
        assert sum(path.name in line for line in lines) == 1
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == ["frames", "manifest.json"]


def test_two_inputs_of_one_name_are_refused(sharp, tmp_path):
    make_clip(tmp_path / "photo.mp4", frames=3)
    with pytest.raises(DataLayoutError, match="both become the clip 'photo'"):
        make_pairs([sharp / "photo.png", tmp_path / "photo.mp4"], tmp_path / "set")


def test_a_foreign_folder_is_not_changed(sharp, tmp_path):
    (tmp_path / "frames").mkdir()
    made = make_pairs([sharp / "frames"], tmp_path)
    assert "was not made by" in str(made.failures[0][1])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        make_pairs([sharp / "frames"], tmp_path / "file")


def test_a_foreign_folder_is_not_replaced_either(sharp, tmp_path):
    """Such as the input itself, beside which its pairs would be: their folders have one name."""
    frames = shutil.copytree(sharp / "frames", tmp_path / "frames")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    made = make_pairs([frames], tmp_path, overwrite=True)
    assert "is no clip of such a set, so it stays" in str(made.failures[0][1])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before
    make_pairs([frames], tmp_path / "set")
    assert not make_pairs([frames], tmp_path / "set", overwrite=True).failures


@pytest.mark.parametrize(
    ("name", "status"), [("nothing", 1), ("bad.mp4", 1), ("", 2), ("https://example.com/a.mp4", 1)]
)
def test_where_nothing_is_made_nothing_is_left(name, status, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    done = unsmear("data", "blur", name, "-o", "set")
    assert done.exit_code == status and name in done.complaint
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--duty", "0.5", "1.5"], "--duty 0.5 1.5"),
        (["--duty", "0.9", "0.5"], "--duty 0.9 0.5"),
        (["--crf", "high"], "--crf high"),
        (["--crf", "60"], "--crf 60"),
        (["--seed", "-1"], "--seed -1"),
        (["--max-frames", "2"], "--max-frames 2"),
        (["--crf", "20-70"], "--crf 70"),
        (["--crf", "28-15"], "--crf 28-15"),
        (["--average", "8"], "--average 8"),
        (["--average", "1"], "--average 1"),
        (["--average", "7,x"], "--average 7,x"),
        (["--average", "7", "--step", "5"], "--step 5: shorter than --average 7"),
        (["--step", "5"], "together with --average"),
        (["--noise", "3", "1"], "--noise 3 1"),
        (["--motion", "30", "10"], "--motion 30 10"),
        (["--motion", "10", "30", "--average", "7"], "leave --average out"),
        (["--yuv", "large"], "--yuv large"),
    ],
)
def test_options_out_of_range_are_named(sharp, tmp_path, options, words):
    result = run(sharp / "frames", "-o", tmp_path / "set", *options)
    assert result.exit_code == 2
    assert words in result.complaint
    assert not (tmp_path / "set").exists()


def test_an_invalid_pack_configuration_is_refused(tmp_path):
    def refused(*args: object) -> str:
        result = unsmear("data", "pack", "-o", str(tmp_path / "pack"), *map(str, args))
        assert result.exit_code in (1, 2)
        return result.complaint

    assert "--photos" in refused()
    assert "nowhere is not a folder" in refused("--photos", tmp_path / "nowhere")
    assert "--size 72" in refused("--photos", tmp_path, "--size", 72)
    assert "--speed 9 3" in refused("--photos", tmp_path, "--speed", 9, 3)
    assert "--duty 0.5 2" in refused("--photos", tmp_path, "--duty", 0.5, 2)
    assert "--clip-motion 9 3" in refused("--photos", tmp_path, "--clip-motion", 9, 3)
    assert "--turning 0 1" in refused("--photos", tmp_path, "--turning", 0, 1)
    assert "add up to 1" in refused("--photos", tmp_path, "--bright", 0.6, "--lamps", 0.6)
    assert "--psnr 30 20" in refused("--photos", tmp_path, "--psnr", 30, 20)
    assert "holds no file" in refused("--photos", tmp_path)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "pack.json").write_text("{}")
    assert "finished pack" in refused("--photos", tmp_path)


def test_material_can_be_left_out_and_clips_shortened(tmp_path):
    for name, count in (("a.mkv", 130), ("b.mkv", 12), ("c.mkv", 5)):
        make_clip(tmp_path / name, content=[np.full((48, 64, 3), min(2 * i, 255), np.uint8) for i in range(count)])
    sources = load_sources(None, tmp_path, exclude=["c.mkv"], clip_frames=120)
    assert [len(run) for run in sources.clips] == [60, 60, 12]
    levels = [[float(frame.mean()) / 2 for frame in (run[0], run[-1])] for run in sources.clips[:2]]
    assert levels == [pytest.approx([2, 61], abs=2), pytest.approx([68, 127], abs=2)]
    middle = load_sources(None, tmp_path, exclude=["b.mkv", "c.mkv"], clip_frames=20).clips
    assert len(middle) == 1 and len(middle[0]) == 20 and middle[0][0].mean() / 2 == pytest.approx(55, abs=2)
    with pytest.raises(DataLayoutError, match=r"`exclude` d\.mkv: no photograph or clip"):
        load_sources(None, tmp_path, exclude=["d.mkv"])


def test_clips_are_read_upright_and_hdr_is_refused(tmp_path):
    content = [np.repeat(np.uint8([20] * 32 + [220] * 32)[None, :, None], 48, 0).repeat(3, 2)] * 2
    plain, turned = (make_clip(tmp_path / f"{turn}.mp4", content=content, rotation=turn) for turn in (0, 90))
    upright, sideways = (next(read_clip(path, 960)) for path in (turned, plain))
    assert upright.shape == (64, 48, 3) and sideways.shape == (48, 64, 3)
    with open_video(turned) as reader:
        assert np.abs(next(upright_frames(reader, 1)).astype(int) - upright).max() <= 2
    hdr = make_clip(tmp_path / "hdr.mkv", content=content, colour=(9, 16, 9, 1))
    with pytest.raises(DataLayoutError, match=r"hdr\.mkv: HDR"):
        next(read_clip(hdr, 960))


def test_clips_of_any_format_are_material_and_cut_ones_are_named(tmp_path):
    content = [frame.astype(np.uint16) * 257 for frame in moving_frames((48, 32), 3)]
    deep = make_clip(tmp_path / "deep.m4v", content=content, pix_fmt="yuv420p10le")
    make_clip(tmp_path / "broadcast.ts", size=(48, 32), frames=3)
    sources = load_sources(None, tmp_path)
    assert [(len(run), run[0].shape, run[0].dtype) for run in sources.clips] == [(3, (32, 48, 3), np.uint8)] * 2
    with open_video(deep) as reader:
        expected = [eight_bit(frame.rgb) for frame in reader]
    assert np.array_equal(np.stack(list(read_clip(deep, 960))), np.stack(expected))
    assert np.array_equal(np.stack(list(read_clip(deep, 960, {0, 2}))), np.stack(expected[::2]))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(make_clip(tmp_path / "whole.mkv", frames=12).read_bytes()[:-2000])
    (tmp_path / "text.mp4").write_text("no video")
    for broken in (cut, tmp_path / "text.mp4"):
        with pytest.raises(DataLayoutError, match=broken.name) as raised:
            list(read_clip(broken, 960))
        assert "\n" not in str(raised.value)
    with pytest.raises(DataLayoutError, match=r"text\.mp4"):
        load_sources(None, tmp_path, exclude=["cut.mkv"], clip_frames=10)


def test_a_pack_of_strong_blur(tmp_path):
    (tmp_path / "photos").mkdir()
    for seed in range(2):
        write_png(tmp_path / "photos" / f"{seed}.png", texture((240, 220), seed=seed, smooth_px=1.0))
    asked = "--size 64 --frames 3 --sequences 2 --speed 8 24 --duty 0.5 1 --fast --turning 1 4 --foregrounds 3"
    asked += " --rolling 0.5 --bright 0.5 --lamps 0.5 --psnr 8 38 --sharp-share 0 --exclude 0.png --workers 1"
    where = ["--photos", str(tmp_path / "photos"), "-o", str(tmp_path / "pack")]
    result = unsmear("data", "pack", *where, *asked.split())
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "pack" / "pack.json").read_text())
    shares = {key: config["camera"][key] for key in ("fast", "foregrounds", "turning", "shutter_share", "lamp_share")}
    assert shares == {"fast": True, "foregrounds": 3, "turning": [1, 4], "shutter_share": 0.5, "lamp_share": 0.5}
    assert (config["psnr_range"], config["clip_motion_px"]) == ([8, 38], [8, 24])
    rows = open_pack(tmp_path / "pack")
    assert all(8 < psnr(b[1], s[1]) < 38 for b, s in zip(rows["blurred"], rows["sharp"], strict=True))


def test_rows_of_a_pack_depend_on_seed_and_number_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    write_png(tmp_path / "photos" / "a.png", texture((200, 180), seed=3, smooth_px=1.0))
    packs = []
    for name, rows, seed, workers in (("a", 3, 5, 1), ("b", 2, 5, 2), ("c", 2, 6, 2)):
        options = f"--size 64 --frames 3 --sequences {rows} --seed {seed} --workers {workers}".split()
        # A process of its own: packs are built by forking, which threads that OpenCV has started do not bear.
        start = [sys.executable, "-m", "unsmear", "data", "pack"]
        where = ["--photos", str(tmp_path / "photos"), "--interpolated", "0.5", "-o", str(tmp_path / name)]
        subprocess.run([*start, *where, *options], check=True, timeout=120)
        packs.append(open_pack(tmp_path / name))
    assert packs[0]["blurred"].shape == (3, 3, 64, 64, 3)
    for key, values in packs[0].items():
        assert np.array_equal(values[:2], packs[1][key]), key
    assert not np.array_equal(packs[1]["sharp"], packs[2]["sharp"])
    assert not np.array_equal(packs[0]["sharp"][0], packs[0]["sharp"][1])


def test_fast_clips_are_exposed_over_the_frames_between():
    """Five frames of 4 px are a step of 20 px; a step of 2 frames would be 8 px, and is not wanted."""
    clip = moving_frames((160, 140), 45, step_px=(4, 0), smooth_px=2.0)
    camera = CameraRanges(size_px=64, frames=3, sharp_share=0.0, noise_levels=(0.0, 0.0), fast=True, duty=(1, 1))
    wanted = {"clip_motion_px": (10.0, 40.0), "psnr_range": (5.0, 60.0)}
    config = PackConfig(camera=camera, photo_share=0.0, uncompressed_share=1.0, **wanted)
    for seed in range(4):
        blurred, sharp, duty, priors = draw_sequence(Sources([], [clip]), np.random.default_rng(seed), config)
        assert blurred.shape == sharp.shape == (3, 64, 64, 3) and duty == 1 and len(priors) == 3
        inner = (slice(4, -4), slice(20, -20))
        scores = [psnr(blurred[1][inner], box_along_x(sharp[1], px)[inner]) for px in range(0, 41, 2)]
        assert 8 <= 2 * int(np.argmax(scores)) <= 40 and max(scores) > 30
    cut = clip[:20] + [255 - frame for frame in clip[20:]]
    config = PackConfig(camera=camera, photo_share=0.0, **wanted)
    drawn = SpedUp([cv2.resize(f, (112, 112)) for f in cut[10:31]], 8)
    assert finish_sequence(drawn, np.random.default_rng(0), config) is None
    sent = pickle.loads(pickle.dumps(drawn))  # as training sends it to its workers
    assert (type(sent), sent.step, len(sent)) == (SpedUp, 8, 21)


def test_photographs_may_be_exposed_along_flow():
    photo = texture((400, 360), seed=3, smooth_px=1.0)
    camera = CameraRanges(size_px=64, frames=3, sharp_share=0.0, noise_levels=(0.0, 0.0), speed_px=(4.0, 8.0))
    config = PackConfig(camera=camera, interpolated_share=1.0, uncompressed_share=1.0)
    blurred, sharp, duty, priors = draw_sequence(Sources([photo], []), np.random.default_rng(1), config)
    assert blurred.shape == sharp.shape == (3, 64, 64, 3) and len(priors) == 3
    assert 0.3 <= duty <= 1
    assert all(12 < psnr(b, s) < 40 for b, s in zip(blurred, sharp, strict=True))


@pytest.mark.parametrize("size", [(64, 48), (160, 90), (200, 120)])
def test_an_encode_of_small_frames_gives_the_same_bits_each_time(size):
    frames = moving_frames(size, 10)
    first, *others = (np.stack(list(h264_round_trip(frames, 18.0))) for _ in range(6))
    assert all(np.array_equal(first, other) for other in others)
