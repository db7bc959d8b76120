"""What is published: one version everywhere, dependencies that the code has, pins for them, and all package data."""

import ast
import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import unsmear

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unsmear"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]

MODULES = {"opencv-python-headless": "cv2", "pyyaml": "yaml"}
"""Names to import by, where they are not those of the packages."""

BY_HAND = {"torchvision": "built for one torch; whoever wants RAFT installs the one that fits"}
"""Imported, if it is there, without being a dependency."""


def requirements(*extras: str) -> list[Requirement]:
    """What the package, or each of these extras, needs; references of an extra to the package itself left out."""
    optional = PROJECT["optional-dependencies"]
    lines = [line for extra in extras for line in optional[extra]] if extras else PROJECT["dependencies"]
    return [wanted for wanted in map(Requirement, lines) if wanted.name != PROJECT["name"]]


def modules(wanted: list[Requirement]) -> set[str]:
    return {MODULES.get(canonicalize_name(each.name), each.name) for each in wanted}


def imported() -> set[str]:
    """Top-level modules that the package imports, at its head or where they are used."""
    names = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"unsmear"}


def test_one_version():
    """In the code, in what is installed, on top of the changelog, and in the citation with the day of the changelog."""
    releases = re.findall(r"^## \[(\d\S*)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert unsmear.__version__ == version("unsmear") == releases[0][0] == citation["version"]
    assert releases[0][1] == str(citation["date-released"])
    assert releases == sorted(releases, key=lambda each: [int(n) for n in each[0].split(".")], reverse=True)


def test_the_changelog_begins_with_what_is_not_released():
    assert re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == "Unreleased"


def test_what_is_imported_is_a_dependency_and_what_is_a_dependency_is_imported():
    extras = [name for name in PROJECT["optional-dependencies"] if name != "dev"]
    assert imported() - set(BY_HAND) == modules(requirements()) | modules(requirements(*extras))


def test_every_dependency_has_a_pin_that_it_allows():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): number for name, number in (line.split("==") for line in lines)}
    assert len(pins) == len(lines)
    for wanted in requirements() + requirements(*PROJECT["optional-dependencies"]):
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), wanted


def test_every_file_of_the_package_is_in_the_wheel():
    patterns = SETTINGS["tool"]["setuptools"]["package-data"]["unsmear"]
    packed = {path for pattern in patterns for path in SOURCE.glob(pattern)}
    there = {path for path in SOURCE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert packed == there
    assert not [path for path in SOURCE.rglob("*.py") if not (path.parent / "__init__.py").exists()]
