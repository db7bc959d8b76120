"""The configurations at the papers' sizes are as large as they say, and hold the papers' numbers."""

import re
import runpy
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from unsmear.cli.main import run
from unsmear.errors import UsageError
from unsmear.training.config import read_config
from unsmear.training.cpfp import CPFPTraining
from unsmear.training.cpgd import CPGDTraining
from unsmear.training.loop import PROCESS_COUNTS, refuse_processes
from unsmear.training.vdm import VDMTraining

ROOT = Path(__file__).parents[2]
FULL = ("cpfp-paper", "cpgd-paper", "cpgd-release", "vdm-paper-encoder", "vdm-paper-all")


def config(name: str) -> Path:
    return ROOT / "configs" / f"{name}.yaml"


@pytest.fixture(scope="module")
def tool() -> dict:
    return runpy.run_path(str(ROOT / "tools" / "training_size.py"))


@pytest.mark.parametrize("name", FULL)
def test_the_papers_networks_are_as_large_as_said(name, tool):
    size = tool["size_of"](config(name))
    head, _, _ = config(name).read_text().partition("\n\n")
    stated = re.search(r"(\d+\.\d\d) M parameters", head)
    assert stated and f"{size.parameters / 1e6:.2f}" == stated[1]
    row = next(line for line in (ROOT / "docs" / "training.md").read_text().splitlines() if f"`{name}`" in line)
    assert f"| {stated[1]} M |" in row
    if not name.startswith("cpfp"):  # these take seconds
        assert row.endswith(f"| {tool['step_bytes'](size) / 1e9:.0f} GB |")


def test_the_numbers_are_those_of_the_papers():
    cpfp = read_config(CPFPTraining, config("cpfp-paper"))
    assert (cpfp.loop.batch * cpfp.loop.accumulate, cpfp.data.crop_px, cpfp.loss.name) == (8, 256, "l1")
    assert (cpfp.loop.optimiser.lr, cpfp.loop.optimiser.betas) == (1e-4, (0.9, 0.999))
    paper, release = (read_config(CPGDTraining, config(f"cpgd-{name}")) for name in ("paper", "release"))
    for cpgd, batch in ((paper, 8), (release, 4)):
        assert (cpgd.loop.batch, cpgd.data.crop_px, cpgd.loop.optimiser.lr) == (batch, 512, 1e-5)
        assert not cpgd.cancel_autoencoder
    assert paper.control.stated() == {}
    own = {"shared_query": True, "joint_time_attention": True, "prior_form": "released"}
    assert release.control.stated() == own
    for stage in ("encoder", "all"):
        vdm = read_config(VDMTraining, config(f"vdm-paper-{stage}"))
        assert (vdm.stage, vdm.coherence, vdm.data.frames, vdm.data.crop_px) == (stage, 0.1, 16, 256)
        optimiser = vdm.loop.optimiser
        assert (optimiser.name, optimiser.lr, optimiser.betas) == ("adamw", 5e-5, (0.9, 0.999))


@pytest.mark.parametrize("count", [1, 8])
def test_accelerate_reads_its_configurations(count):
    assert load_config_from_file(str(config(f"accelerate-{count}"))).num_processes == count


def test_several_processes_are_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    for name in PROCESS_COUNTS:
        monkeypatch.delenv(name, raising=False)
    refuse_processes()
    refuse_processes(1)
    with pytest.raises(UsageError, match="training in 2 processes"):
        refuse_processes(2)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert run(["train", "cpfp", str(config("cpfp-paper")), "-o", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err.strip()
    assert "training in 8 processes is not supported yet" in told and len(told.splitlines()) == 1
    assert not (tmp_path / "run").exists()
