"""The virtual camera: what it draws for strong blur, with answers known beforehand, on the CPU and on its twin."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from support.clips import texture
from unsmear.blur.camera import ROW_KNOTS, CameraRanges, Layer, Rendered, Shot, draw_shot, render, row_poses
from unsmear.blur.device_camera import DeviceCamera
from unsmear.blur.light import LAMPS_FROM, bright_light, lamp_light
from unsmear.video.light import to_linear

Camera = Callable[..., Rendered]
CAMERAS = [
    pytest.param(lambda photos, ranges: render(photos, np.random.default_rng(0), ranges), id="opencv"),
    pytest.param(lambda photos, ranges: DeviceCamera(photos, "cpu")(np.random.default_rng(0), ranges), id="torch"),
]
PLAIN = CameraRanges(size_px=64, frames=1, noise_levels=(0, 0))


def fixed(monkeypatch: pytest.MonkeyPatch, shot: Shot) -> None:
    for module in ("camera", "device_camera"):
        monkeypatch.setattr(f"unsmear.blur.{module}.draw_shot", lambda *_: shot)


def sliding(travel_px: float, count: int, rows: float = 0.0) -> np.ndarray:
    """Poses of a view 64 px wide at (48, 48) that slides to the right; the last row is ``rows`` px ahead."""
    x = 48 + np.linspace(-travel_px / 2, travel_px / 2, count)[:, None] + rows * np.linspace(-0.5, 0.5, ROW_KNOTS)
    poses = np.tile(np.eye(3), (count, ROW_KNOTS, 1, 1))
    poses[..., 0, 2], poses[..., 1, 2] = x, 48
    return poses if rows else poses[:, ROW_KNOTS // 2]


def test_draws_of_a_seed_are_unchanged():
    """Numbers of the camera before it learnt to be fast."""
    rng = np.random.default_rng(7)
    shot = draw_shot([(400, 300, 3), (300, 500, 3)], rng, CameraRanges())
    assert shot.light is None and [layer.lamps for layer in shot.layers] == [None] * len(shot.layers)
    assert (shot.subframes, shot.duty) == (19, pytest.approx(0.9280496606787028))
    assert [(k.photo, k.y, k.x, k.take, k.side) for k in shot.layers] == [(0, 22, 4, 296, 276), (1, 8, 186, 287, 276)]
    back = [
        [1.14393385099, 0.022275455653, 42.889116577876],
        [-0.010229327152, 1.131481938757, 20.212726449424],
        [9.8597843e-05, 8.877207e-06, 0.991401995954],
    ]
    front = [
        [1.033582956679, -0.056940467843, 72.459055115445],
        [0.037261707074, 1.004841242207, 58.477875074734],
        [3.591007e-05, -0.000164502224, 1.010287372272],
    ]
    assert np.allclose([layer.poses[7] for layer in shot.layers], [back, front], rtol=1e-9, atol=1e-12)
    assert shot.layers[1].mask.sum() == 1069313
    assert rng.random() == pytest.approx(0.9678280510488214), "so many draws and no more"


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_streak_of_a_lamp_is_saturated_over_its_line(camera, monkeypatch):
    lamp = np.array([[80.0, 80.0, 2.0, 255, 255, LAMPS_FROM]])
    layer = Layer(0, 0, 0, 160, 160, sliding(16, 17), lamps=lamp)
    fixed(monkeypatch, Shot(1.0, 17, (layer,), lamp_light(0.05, 40.0)))
    shot = camera([np.full((160, 160, 3), 60, np.uint8)], PLAIN)
    row, line = shot.blurred[0, 32], slice(32 - 8, 32 + 9)  # the lamp is at (32, 32) in the middle of the exposure
    assert np.all(row[line, :2] == 255), "40 times white over 16 px is still brighter than white"
    assert np.all(row[:18] < 60) and np.all(row[47:] < 60)
    assert np.all(row[line, 2] < 128), "a lamp without blue leaves no blue streak"
    assert np.all(shot.sharp[0, 32, 31:34, :2] == 255) and np.all(shot.sharp[0, 32, :28] < 60)


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("kind", ["lamp_share", "bright_share"])
def test_zero_exposure_is_sharp_in_any_light(camera, kind):
    ranges = replace(PLAIN, frames=3, duty=(0, 0), sharp_share=0, shutter_share=1.0, fast=True, **{kind: 1.0})
    shot = camera([texture((400, 300))], ranges)
    assert np.array_equal(shot.blurred, shot.sharp)
    assert (shot.sharp == 255).any() == (kind == "lamp_share") or kind == "bright_share"


def test_headroom_changes_bright_parts_only():
    plain = to_linear(np.arange(256, dtype=np.uint8))
    light = bright_light(1.0, 8.0)
    start = int(np.searchsorted(plain, 0.85))
    assert np.allclose(light[: start + 1], plain[: start + 1])
    assert light[255] == pytest.approx(8) and np.all(np.diff(light) > 0)
    dark = lamp_light(0.1, 40.0)
    assert dark[190] == pytest.approx(0.1) and dark[255] == pytest.approx(40, abs=0.5) and np.all(np.diff(dark) > 0)


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_rolling_shutter_slants_an_upright_edge(camera, monkeypatch):
    """At 20 px a frame and 0.6 of a frame from the first row to the last: 12 px."""
    photo = np.zeros((160, 160, 3), np.uint8)
    photo[:, 80:] = 255
    fixed(monkeypatch, Shot(0.0, 1, (Layer(0, 0, 0, 160, 160, sliding(0, 1, rows=20 * 0.6)),)))
    shot = camera([photo], PLAIN)
    edge = 64 - shot.sharp[0, :, :, 0].astype(float).sum(1) / 255  # column at which a row turns bright
    assert edge[0] - edge[-1] == pytest.approx(12, abs=0.1)
    assert np.abs(np.diff(edge) + 12 / 63).max() < 0.1, "continuous: no step between rows"
    assert edge[31:33].mean() == pytest.approx(32, abs=0.1), "the middle row is as without it"


def test_later_rows_are_exposed_later():
    ranges = CameraRanges(size_px=64, frames=3, fast=True, shutter_share=1.0, shutter=(0.5, 0.5), duty=(1.0, 1.0))
    shot = draw_shot([(600, 900, 3)], np.random.default_rng(3), ranges, 1.0)
    poses = shot.layers[0].poses
    times = (np.arange(3)[:, None] - 1 + np.linspace(-0.5, 0.5, shot.subframes)).ravel()
    middle, last = poses[:, ROW_KNOTS // 2, 0, 2], poses[:, -1, 0, 2]
    inner = times < 1.2
    assert np.abs(last - np.interp(times + 0.25, times, middle))[inner].max() < 0.5
    rows = row_poses(poses, 64)
    assert rows.shape == (len(times), 64, 3, 3)
    assert np.allclose(rows[:, 0], poses[:, 0]) and np.allclose(rows[:, -1], poses[:, -1])


@pytest.mark.parametrize("camera", CAMERAS)
def test_later_pieces_cover_earlier_ones(camera, monkeypatch):
    photos = [np.full((160, 160, 3), value, np.uint8) for value in (20, 90, 160, 230)]
    layers = [Layer(0, 0, 0, 160, 160, sliding(0, 1))]
    for k, end in ((1, 104), (2, 96), (3, 72)):
        mask = np.zeros((160, 160), np.uint8)
        mask[48 + 8 * k : 48 + 8 * k + 8, :end] = 255
        mask[48 + 40 :, :end] = 255
        layers.append(Layer(k, 0, 0, 160, 160, sliding(0, 1), mask))
    fixed(monkeypatch, Shot(0.0, 1, tuple(layers)))
    view = camera(photos, PLAIN).sharp[0, ..., 0]
    assert view[50, [0, 23, 24, 47, 48, 55, 56, 63]].tolist() == [230, 230, 160, 160, 90, 90, 20, 20]
    assert view[[0, 12, 20, 28], 0].tolist() == [20, 90, 160, 230]


def test_up_to_three_pieces_move_on_their_own():
    ranges = replace(PLAIN, frames=3, foregrounds=3, foreground_share=1.0, fast=True)
    counts = [len(draw_shot([(500, 700)], np.random.default_rng(seed), ranges).layers) - 1 for seed in range(24)]
    assert set(counts) == {1, 2, 3}


def test_turning_moves_corners():
    calm, strong = (replace(PLAIN, frames=3, fast=True, turning=(k, k), speed_px=(4, 4)) for k in (1.001, 8.0))
    turns = []
    for ranges in (calm, strong):
        shots = [draw_shot([(900, 900)], np.random.default_rng(seed), ranges, 0.5) for seed in range(12)]
        turns.append(np.mean([np.abs(s.layers[0].poses[-1] - s.layers[0].poses[0])[:2, :2].mean() for s in shots]))
    assert turns[1] == pytest.approx(8 * turns[0], rel=0.2)


def test_fast_motion_is_dense_and_stays_within_photographs():
    ranges = CameraRanges(size_px=256, frames=5, speed_px=(20, 72), duty=(0.05, 1.0), fast=True, turning=(0.5, 4.0))
    ranges = replace(ranges, shutter_share=0.5, shutter=(0.1, 0.7))
    counts = []
    for seed in range(24):
        shot = draw_shot([(300, 400), (1080, 1920)], np.random.default_rng(seed), ranges)
        back = shot.layers[0]
        assert back.take >= back.side, "nothing is enlarged"
        poses = back.poses if back.poses.ndim == 4 else back.poses[:, None]
        last = ranges.size_px - 1
        for corner in ((0, 0, 1), (last, 0, 1), (0, last, 1), (last, last, 1)):
            at = poses[:, :: poses.shape[1] - 1 or 1] @ np.array(corner, float)
            at = at[..., :2] / at[..., 2:]
            assert at.min() >= 0 and at.max() <= back.side - 1, "nothing is mirrored"
            step = np.linalg.norm(np.diff(at[:, 0].reshape(5, shot.subframes, 2), axis=1), axis=-1)
            assert step.max() < (1.05 if shot.subframes < 65 else 2.0)
        counts.append(shot.subframes)
    assert max(counts) == 65 and min(counts) < 20


def test_photographs_that_are_too_small_are_mirrored_not_enlarged():
    ranges = CameraRanges(size_px=256, frames=5, speed_px=(64, 64), fast=True)
    shot = draw_shot([(300, 400)], np.random.default_rng(0), ranges)
    assert shot.layers[0].take == shot.layers[0].side == 300


KINDS = {
    "lamps": {"lamp_share": 1.0},
    "bright": {"bright_share": 1.0},
    "rolling": {"shutter_share": 1.0, "shutter": (0.4, 0.7)},
    "pieces": {"foregrounds": 3, "foreground_share": 1.0},
    "all": {"lamp_share": 0.5, "bright_share": 0.5, "shutter_share": 0.5, "foregrounds": 3, "turning": (0.5, 6.0)},
}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_device_camera_equals_the_cpu_camera(kind, device):
    photos = [texture((400, 300), seed=1), texture((300, 500), seed=2)]
    ranges = CameraRanges(size_px=96, frames=3, speed_px=(4, 30), noise_levels=(0, 0), fast=True, **KINDS[kind])
    camera = DeviceCamera(photos, device)
    for seed in range(3):
        a, b = render(photos, np.random.default_rng(seed), ranges), camera(np.random.default_rng(seed), ranges)
        for part in ("sharp", "blurred"):
            mean = cv2.absdiff(getattr(a, part), getattr(b, part)).mean()
            assert mean < 3, f"seed {seed}: {part}"
