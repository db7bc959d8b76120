"""The rules that keep the house in order: which way imports go, what is heavy, what prints, how long files are."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unsmear
import unsmear.errors

SOURCE = Path(unsmear.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# Top to bottom; a package may import from the lines below its own, not from its neighbours on the line.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"__init__", "api"},
    {"evaluation"},
    {"training"},
    {"restore", "blur"},
    {"datasets"},
    {"models"},
    {"metrics"},
    {"priors"},
    {"video"},
    {"options", "files", "processes"},
    {"errors", "version"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
LONGEST_FILE = 450
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "cv2", "av"}


def part_of(path: Path) -> str:
    """The package (or module) right below ``unsmear`` that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere in a file, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def inner_imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, part of unsmear) of the imports that stay within the package."""
    for line, name in imports(path):
        first, *rest = name.split(".")
        if first == "unsmear":
            below = rest[0] if rest else "__init__"
            yield line, below if below in LEVEL or (SOURCE / below).exists() else "__init__"


def shown(path: Path, line: int) -> str:
    return f"{path.relative_to(SOURCE.parent)}:{line}"


def test_every_part_has_its_place():
    parts = {part_of(path) for path in FILES}
    assert parts <= set(LEVEL), f"no layer is named for {sorted(parts - set(LEVEL))}"


def test_imports_point_downwards():
    wrong = []
    for path in FILES:
        own = part_of(path)
        for line, other in inner_imports(path):
            same_level_init = {own, other} == {"__init__", "api"}
            if other != own and not same_level_init and LEVEL[other] <= LEVEL[own]:
                wrong.append(f"{shown(path, line)}: {own} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_the_parts_make_no_cycle():
    needs: dict[str, set[str]] = {name: set() for name in LEVEL}
    for path in FILES:
        needs[part_of(path)] |= {other for _, other in inner_imports(path)} - {part_of(path)}
    while free := {name for name, others in needs.items() if not others}:
        needs = {name: others - free for name, others in needs.items() if name not in free}
    assert not needs, f"these import each other in a ring: {needs}"


def test_restoring_needs_no_data_set():
    wrong = [
        shown(path, line)
        for path in FILES
        if part_of(path) == "restore"
        for line, other in inner_imports(path)
        if other == "datasets"
    ]
    assert not wrong


@pytest.mark.parametrize("part", ["video", "priors"])
def test_files_and_priors_know_no_torch(part):
    wrong = [
        shown(path, line)
        for path in FILES
        if part_of(path) == part
        for line, name in imports(path)
        if name.split(".")[0] in {"torch", "torchvision", "diffusers", "transformers", "accelerate"}
    ]
    assert not wrong
    assert not loaded_by(f"import unsmear.{part}") & {"torch", "diffusers"}


def test_models_know_no_video_files():
    wrong = [
        shown(path, line)
        for path in FILES
        if part_of(path) == "models"
        for line, name in imports(path)
        if (name.startswith("unsmear.video") and not name.startswith("unsmear.video.frame"))
        or name.split(".")[0] == "av"
    ]
    assert not wrong


def test_only_the_command_line_prints():
    wrong = [
        shown(path, node.lineno)
        for path in FILES
        if part_of(path) != "cli"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong, "log, or report through a callback"


def test_one_place_opens_media_files():
    """``video/ffmpeg.py``: it sees to it that nothing is read but what the user named."""
    readers = {"VideoCapture", "imread", "imreadmulti", "imreadanimation"}
    wrong = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            writes = any(isinstance(given, ast.Constant) and given.value == "w" for given in node.args[1:2])
            opens = ast.unparse(node.func) in ("av.open", "Image.open") and not writes
            if (opens or node.func.attr in readers) and path != SOURCE / "video" / "ffmpeg.py":
                wrong.append(shown(path, node.lineno))
    assert not wrong


def test_files_stay_short():
    lengths = {str(p.relative_to(SOURCE)): len(p.read_text().splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_every_error_is_exported():
    kinds = {
        name
        for name, value in vars(unsmear.errors).items()
        if isinstance(value, type) and issubclass(value, unsmear.errors.UnsmearError)
    }
    assert kinds <= set(unsmear.__all__)
    assert all(getattr(unsmear, name) is getattr(unsmear.errors, name) for name in kinds)


def test_every_exported_name_is_there():
    assert [name for name in unsmear.__all__ if not hasattr(unsmear, name)] == []


def modules_after(code: str) -> set[str]:
    """Modules, by their full names, that are loaded after running ``code`` in an interpreter of its own."""
    script = f"{code}\nimport sys\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stderr.split())


def loaded_by(code: str) -> set[str]:
    """Top-level modules that are loaded after running ``code`` in an interpreter of its own."""
    return {name.split(".")[0] for name in modules_after(code)}


HELP = "import unsmear.cli.main as m, contextlib\nwith contextlib.suppress(SystemExit): m.app(['--help'])"


@pytest.mark.parametrize("code", ["import unsmear", HELP], ids=["import", "help"])
def test_starting_is_light(code):
    assert not loaded_by(code) & HEAVY


def test_starting_loads_little():
    """What is loaded decides how long starting takes, on any machine."""
    bare = modules_after("import contextlib")
    by_import = modules_after("import unsmear") - bare
    own = {name for name in by_import if name.partition(".")[0] == "unsmear"}
    assert own == {"unsmear", "unsmear.api", "unsmear.errors", "unsmear.version"}
    assert len(by_import) < 100, "so many modules of the standard library take time"
    by_help = {name for name in modules_after(HELP) if name.partition(".")[0] == "unsmear"}
    assert {name for name in by_help - own if not name.startswith("unsmear.cli")} == set()


WAYS_TO_TORCH = {
    "load": "import unsmear; unsmear.load('cpfp', device='cpu')",
    "deblur": "import unsmear; unsmear.deblur('missing.mp4')",
    "training": "from unsmear.training.loop import train",
    "network": "from unsmear.models.cpfp.network import CPFP",
    "metric": "from unsmear.metrics.lpips import LPIPS",
    "command": "from unsmear.cli.main import run; run(['benchmark', '--size', '64x64'])",
}

SPY = """
import os, sys

class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.stderr.write("policy " + os.environ.get("OMP_WAIT_POLICY", "none"))
            sys.stderr.flush()
            os._exit(0)

sys.meta_path.insert(0, Spy())
"""


def said_by(code: str, policy: str | None = None) -> str:
    """What ``code`` writes to stderr in an interpreter of its own, begun with this wait policy."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120).stderr


@pytest.mark.parametrize("code", WAYS_TO_TORCH.values(), ids=WAYS_TO_TORCH)
def test_threads_are_told_to_sleep_before_torch_is_loaded(code):
    assert said_by(SPY + code) == "policy PASSIVE"


def test_the_users_own_wait_policy_is_kept():
    assert said_by(f"{SPY}import unsmear, torch", "ACTIVE") == "policy ACTIVE"
    loaded = "import sys, types; sys.modules['torch'] = types.ModuleType('torch'); import unsmear, os"
    assert said_by(f"{loaded}; sys.stderr.write(str(os.environ.get('OMP_WAIT_POLICY')))") == "None"
