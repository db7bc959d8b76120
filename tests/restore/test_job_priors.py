"""Priors from an archive in place of a re-encode: used frame by frame, and refused where they are those of others."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import unsmear
from support.clips import make_clip, moving_frames, write_published
from support.command import unsmear as command
from support.restorers import Negative
from unsmear.datasets.pairs import find_pairs
from unsmear.errors import DataLayoutError
from unsmear.evaluation.evaluate import Evaluator, Settings
from unsmear.priors.extract import extract
from unsmear.priors.published import PublishedArrays
from unsmear.priors.settings import PriorSettings
from unsmear.restore.restorer import Clip, State
from unsmear.video import open_video, write_png


class Witness(Negative):
    """Also remembers the priors that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, unsmear.Prior] = {}

    def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
        self.seen |= {clip.first + i: prior for i, prior in enumerate(clip.priors)}
        return super().restore(clip, state, tile_px)


@pytest.fixture
def source(tmp_path) -> Path:
    return make_clip(tmp_path / "a.mp4", frames=21)


def frames_of(path: Path) -> list[bytes]:
    with open_video(path) as reader:
        return [frame.rgb.tobytes() for frame in reader]


def test_an_archive_of_the_same_re_encode_changes_nothing(source, tmp_path, tiny):
    archive = tmp_path / "a.priors.npz"
    extract(source, archive, PriorSettings(mode="reencode", chunk_frames=8))
    plain = unsmear.deblur(source, tmp_path / "plain", model=tiny, window=8, frames=True)
    given = unsmear.deblur(source, tmp_path / "given", model=tiny, window=8, frames=True, priors=str(archive))
    assert frames_of(tmp_path / "plain") == frames_of(tmp_path / "given")
    assert given.options["priors"] == str(archive) and plain.options["priors"] is None


def test_every_frame_gets_its_own_prior(source, tmp_path, tiny):
    arrays = tmp_path / "arrays"
    for t in range(20):
        write_published(arrays, "a", t, np.full((2, 8, 12), 4 * t, np.int16), np.full((64, 96), t, np.int16))
    archive = tmp_path / "a.priors.npz"
    extract(source, archive, PublishedArrays(arrays, "a"))
    whole, part = Witness(), Witness()
    report = unsmear.deblur(source, tmp_path / "o.mkv", model=whole, window=8, priors=str(archive))
    assert report.prior_origin == "published" and sorted(whole.seen) == list(range(21))
    for t, prior in whole.seen.items():
        assert (prior.residual == max(t - 1, 0)).all() and (prior.motion_q == 4 * max(t - 1, 0)).all()
    unsmear.deblur(source, tmp_path / "p.mkv", model=part, window=8, priors=str(archive), start_s=0.5)
    assert min(part.seen) == 8 and all((p.residual == t - 1).all() for t, p in part.seen.items())
    unsmear.deblur(source, tmp_path / "x", model=tiny, window=8, frames=True)
    unsmear.deblur(source, tmp_path / "y", model=tiny, window=8, frames=True, priors=str(archive))
    assert frames_of(tmp_path / "x") != frames_of(tmp_path / "y")


def test_priors_of_other_frames_are_refused(source, tmp_path):
    others = {
        "size": (
            make_clip(tmp_path / "size.mp4", frames=21, size=(64, 64)),
            "holds priors of 64x64 where the clip is 96x64",
        ),
        "length": (make_clip(tmp_path / "length.mp4", frames=20), "holds priors of 20 frames where the clip has 21"),
        "frames": (
            make_clip(tmp_path / "frames.mp4", frames=21, options={"crf": "45"}),
            "was made of other frames from frame 0 on",
        ),
    }
    before = set(tmp_path.iterdir())
    for name, (other, words) in others.items():
        archive = tmp_path / f"{name}.npz"
        extract(other, archive)
        with pytest.raises(DataLayoutError, match=words) as raised:
            unsmear.deblur(source, tmp_path / "o.mkv", model=Negative(), priors=str(archive))
        assert "\n" not in str(raised.value)
        archive.unlink()
    with pytest.raises(DataLayoutError, match="cannot be opened as an archive"):
        unsmear.deblur(source, tmp_path / "o.mkv", model=Negative(), priors=str(tmp_path / "none.npz"))
    assert set(tmp_path.iterdir()) == before, "nothing is left behind"


def test_the_command_takes_an_archive_of_one_input(source, tmp_path, tiny_model):
    archive = tmp_path / "a.priors.npz"
    assert command("priors", source, "-o", tmp_path, "--motion", "none", "--quiet").exit_code == 0
    shutil.copy(source, tmp_path / "b.mp4")
    several = command("deblur", source, tmp_path / "b.mp4", "--priors", archive)
    assert several.exit_code == 2 and f"--priors {archive} belongs to a single input" in several.complaint
    report = tmp_path / "r.json"
    done = command("deblur", source, "-o", tmp_path / "o.mp4", "--model", tiny_model, "--device", "cpu", "--dtype",
                   "fp32", "--priors", archive, "--report", report, "--quiet")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(report.read_text())[0]["options"]["priors"] == str(archive)


# Evaluation.


def pairs(place: Path) -> Path:
    sharp = moving_frames((96, 64), 9, step_px=(3, 1))
    for kind in ("blur", "sharp"):
        (place / "one" / kind).mkdir(parents=True)
        for i in range(8):
            mean = (sharp[i].astype(int) + sharp[i + 1]) // 2
            write_png(place / "one" / kind / f"{i:06d}.png", mean.astype(np.uint8) if kind == "blur" else sharp[i])
    return place


def test_data_sets_are_evaluated_with_their_own_priors(tmp_path):
    """The blurred clips, that is: those of sharp clips, where they are restored too, are made as ever."""
    clips = find_pairs(pairs(tmp_path / "set"))
    given: list[str] = []

    class Sources(Negative):
        def restore(self, clip: Clip, state: State | None, tile_px: int | None) -> tuple[np.ndarray, State]:
            given.append(clip.priors[3].motion_source)
            return super().restore(clip, state, tile_px)

    def archive(motion: str) -> None:
        how = PriorSettings(motion=motion, motion_back=motion)
        extract(clips[0].source, clips[0].archive, how, overwrite=True)

    def run(settings: Settings) -> None:
        Evaluator(clips, "set", tmp_path / "out", settings).run(Sources())

    settings = Settings(metrics=("psnr",), pictures=0, sharp=True)
    archived = replace(settings, archived_priors=True)
    with pytest.raises(DataLayoutError, match="has no priors beside it; run `unsmear data augment` first"):
        run(archived)
    archive("none")
    run(archived)
    assert given == ["none", "codec"]
    run(archived)
    assert len(given) == 2, "finished clips are kept"
    archive("dis")
    run(archived)
    run(settings)
    assert given[2:] == ["flow", "codec", "codec", "codec"]
    command_line = ["evaluate", "--data", tmp_path / "set", "--model", "identity", "--metrics", "psnr"]
    assert command(*command_line, "--archived-priors").exit_code == 0
    clips[0].archive.unlink()
    refused = command(*command_line, "--archived-priors")
    assert refused.exit_code == 1 and "has no priors beside it" in refused.complaint
