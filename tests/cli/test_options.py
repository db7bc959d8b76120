"""Options: declared once, the same on every command, and named by the command line alone."""

import subprocess
import sys
from dataclasses import fields

import pytest

from support.command import unsmear
from unsmear.blur.camera import CameraRanges
from unsmear.blur.degrade import DegradeRanges
from unsmear.blur.pairs import BlurSettings
from unsmear.blur.shards import ShardSettings
from unsmear.cli import errors
from unsmear.cli.choices import docstrings
from unsmear.cli.main import COMMANDS, load
from unsmear.options import Limits, OptionError, check, described, limits_of
from unsmear.priors.settings import PriorSettings
from unsmear.restore.options import Options

LEAVES = {
    (name, sub): command
    for name in COMMANDS
    for sub, command in getattr(load(name), "commands", {"": load(name)}).items()
}


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_shows_tracebacks_and_short_help(path):
    assert "--debug" in {option for parameter in LEAVES[path].params for option in parameter.opts}
    answer = unsmear(*(word for word in path if word), "-h")
    assert answer.exit_code == 0 and "Usage: unsmear" in answer.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_they_say(name):
    assert load(name).help.splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        (("data", "blur"), (BlurSettings,)),
        (("data", "degrade"), (DegradeRanges,)),
        (("data", "pack"), (CameraRanges,)),
        (("data", "shards"), (ShardSettings,)),
        (("data", "augment"), (PriorSettings,)),
        (("priors", ""), (PriorSettings,)),
        (("evaluate", ""), (Options,)),
        (("deblur", ""), (Options,)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) else "",
)
def test_defaults_are_those_of_the_dataclass(path, kinds):
    defaults = {parameter.name: parameter.default for parameter in LEAVES[path].params}
    shared = [(kind, f.name) for kind in kinds for f in fields(kind) if f.name in defaults]
    assert len(shared) >= 3
    for kind, name in shared:
        own = getattr(kind, name)
        assert str(defaults[name]) == str(own), name


def test_help_is_the_first_sentence_below_a_field():
    known = docstrings(ShardSettings)
    assert known["permissive_only"] == "Leave out files under a copyleft licence: GPL, LGPL, CC-BY-SA."
    assert docstrings(BlurSettings)["crf"].startswith("Constant rate factor of the H.264 encode")


def test_fields_become_options_of_the_command_that_runs():
    answer = unsmear("data", "degrade", "x", "-o", "y", "--sigma", 2, 1)
    assert answer.exit_code == 2
    assert answer.complaint == "unsmear: --sigma 2 1: expected 0.01 <= MIN <= MAX <= 100"
    errors.name_options(LEAVES["data", "blur"])
    assert errors.in_options("`motion_px`, `overwrite` and `nothing`; `unsmear data blur`") == (
        "--motion, --overwrite and `nothing`; `unsmear data blur`"
    )
    errors.name_options(None)
    assert errors.in_options("`overwrite`") == "`overwrite`"


def test_limits():
    pair = (1.0, 2.0)
    assert Limits(0, 1).allow(1) and not Limits(0, 1, above=True).allow(0)
    assert Limits(ordered=True).allow(pair) and not Limits(ordered=True).allow(pair[::-1])
    assert Limits(16, step=16).allow(32) and not Limits(16, step=16).allow(40)
    assert Limits(1).allow(None) and not Limits(1).allow((2, 0)) and not Limits(0).allow(float("nan"))
    assert str(Limits(0, above=True, unit="pixels")) == "a number above 0 (pixels)"
    assert described(tuple[int, ...] | None) == "a list of whole numbers or null"
    with pytest.raises(OptionError, match="`quality` 101: expected 1 to 100") as caught:
        ShardSettings(quality=101)
    assert (caught.value.field, caught.value.value) == ("quality", 101)
    assert limits_of(int) is None
    check(ShardSettings())


def test_models_by_name_or_by_command(tiny_model, tmp_path):
    listed = unsmear("models")
    assert listed == unsmear("models", "list") and "cpfp" in listed.stdout
    shown = unsmear("models", tiny_model)
    assert shown == unsmear("models", "show", tiny_model) and "SHA-256" in shown.stdout
    missing = unsmear("models", "wonder")
    assert missing.exit_code == 2 and "wonder" in missing.complaint


def test_training_takes_changes_and_refuses_a_run_that_is_there(tmp_path):
    (tmp_path / "c.yaml").write_text("data: {packs: [nowhere]}\n")
    (tmp_path / "run" / "last").mkdir(parents=True)
    there = unsmear("train", "cpfp", tmp_path / "c.yaml", "-o", tmp_path / "run")
    assert there.exit_code == 2 and "holds a run already: give --resume" in there.complaint
    wrong = unsmear("train", "cpfp", tmp_path / "c.yaml", "-o", tmp_path / "new", "loop.steps=many")
    assert wrong.exit_code == 2 and "loop.steps many: expected a whole number" in wrong.complaint
    changed = unsmear("train", "cpfp", tmp_path / "c.yaml", "-o", tmp_path / "new", "data.packs=[elsewhere]")
    assert changed.exit_code == 1 and "elsewhere is not a finished pack" in changed.complaint


def test_help_of_a_command_loads_no_torch():
    lines = ["import sys", "from unsmear.cli.main import COMMANDS, load", "for name in COMMANDS: load(name)"]
    script = "\n".join([*lines, "sys.exit('torch' in sys.modules)"])
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=120).returncode == 0
