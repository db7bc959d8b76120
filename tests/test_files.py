"""Whole-or-nothing writes, checksums, JSON files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from unsmear.errors import DataLayoutError, OutputError, WeightsError
from unsmear.files import WholeFile, read_json, settle_folder, sha256, whole_folder, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def one_line(raised: pytest.ExceptionInfo[BaseException], *words: str) -> None:
    assert "\n" not in str(raised.value) and all(word in str(raised.value) for word in words), raised.value


def test_a_file_is_written_and_replaced(tmp_path):
    for data in (b"one", b"two"):
        write_whole(tmp_path / "a", data)
        assert (tmp_path / "a").read_bytes() == data and names(tmp_path) == ["a"]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")
    with WholeFile(tmp_path / "a.bin", same_suffix=True) as partial:
        partial.write_bytes(b"half")
        assert partial.suffix == ".bin" and partial.name.startswith(".")
        assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert (tmp_path / "a.bin").read_bytes() == b"half" and names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("failure", [ValueError("odd"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_the_old_file_alone(tmp_path, failure):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(type(failure)), WholeFile(tmp_path / "a") as partial:
        partial.write_bytes(b"half")
        raise failure
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]


@pytest.mark.parametrize("step", ["write", "sync", "rename"])
def test_a_full_disk_leaves_the_old_file_alone(tmp_path, monkeypatch, step):
    (tmp_path / "a").write_bytes(b"old")
    if step == "write":
        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        monkeypatch.setattr(*{"sync": (os, "fsync"), "rename": (Path, "replace")}[step], full)
    with pytest.raises(OutputError) as raised:
        write_whole(tmp_path / "a", b"new")
    monkeypatch.undo()
    one_line(raised, str(tmp_path / "a"), "No space left")
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "missing" / "a", tmp_path / "file" / "a"):
        with pytest.raises(OutputError) as raised:
            write_whole(place, b"x")
        one_line(raised, f"{place}: cannot be written")
    with pytest.raises(OutputError) as raised, whole_folder(tmp_path / "file" / "a"):
        pass
    one_line(raised, "cannot be written")
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied") as raised:
            write_whole(tmp_path / "a", b"x")
    finally:
        tmp_path.chmod(0o700)
    one_line(raised)


def test_denied_permission_is_one_line(tmp_path, monkeypatch):
    def denied(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", denied)
    with pytest.raises(OutputError) as raised:
        write_whole(tmp_path / "a", b"x")
    one_line(raised, "cannot be written (Permission denied)")


def test_an_error_about_another_file_is_not_put_on_the_one_that_is_written(tmp_path):
    with pytest.raises(FileNotFoundError), WholeFile(tmp_path / "a") as partial:
        partial.write_bytes((tmp_path / "source").read_bytes())
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "b"):
        (tmp_path / "source").read_bytes()
    assert names(tmp_path) == []


def test_a_folder_takes_the_place_of_another(tmp_path):
    place = tmp_path / "a"
    for name in ("one", "two"):
        with whole_folder(place) as partial:
            (partial / name).write_text(name)
            assert place.exists() == (name == "two")
        assert names(place) == [name] and names(tmp_path) == ["a"]


def test_a_folder_that_fails_leaves_the_old_one_alone(tmp_path, monkeypatch):
    place = tmp_path / "a"
    place.mkdir()
    (place / "old").write_text("old")
    with pytest.raises(ValueError), whole_folder(place) as partial:
        (partial / "new").write_text("half")
        raise ValueError
    assert names(place) == ["old"] and names(tmp_path) == ["a"]
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: full() if path.name == ".a.partial" else rename(path, to))
    with pytest.raises(OutputError, match="No space left"), whole_folder(place) as partial:
        (partial / "new").write_text("new")
    assert names(place) == ["old"] and names(tmp_path) == ["a"]


def test_what_a_kill_left_behind_is_put_right(tmp_path):
    for name in (".a.partial", ".a.partial.replaced"):  # killed between the two renames
        (tmp_path / name).mkdir()
        (tmp_path / name / "left over").write_text(name)
    with pytest.raises(ValueError), whole_folder(tmp_path / "a") as partial:
        assert names(partial) == []
        raise ValueError
    assert names(tmp_path) == ["a"] and (tmp_path / "a" / "left over").read_text() == ".a.partial.replaced"
    (tmp_path / "a").rename(tmp_path / ".a.partial.replaced")
    settle_folder(tmp_path / "a")
    settle_folder(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_checksums_are_those_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_json_objects_are_read_and_everything_else_is_one_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1, 2]}))
    assert read_json(path, "make it again") == {"a": [1, 2]}
    for damage in (b"[1]", b"{", b"", b"\xff\xfe\x00", b"[" * 100_000):
        path.write_bytes(damage)
        with pytest.raises(DataLayoutError) as raised:
            read_json(path, "make it again")
        one_line(raised, str(path), "JSON object", "make it again")
    with pytest.raises(WeightsError) as raised:
        read_json(tmp_path / "missing.json", "import it again", WeightsError)
    one_line(raised, "missing.json", "No such file", "import it again")
