"""Files that are whole or not there, tell damage, and leave nothing behind."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark import files
from benchmark.errors import BenchError, Damaged, DiskFull, cannot_write


def build(folder: Path) -> None:
    (folder / "array.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "inner").mkdir()
    (folder / "inner" / "table.csv").write_text("a,b\n1,2\n")


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "zeroed tail": lambda path: path.write_bytes(path.read_bytes()[:-7] + bytes(7)),
    "a bit": lambda path: path.write_bytes(b"\x01" + path.read_bytes()[1:]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "another": lambda path: path.write_bytes(path.with_name("sums.json").read_bytes())
    if path.name != "sums.json"
    else path.write_text("{}"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["array.bin", "sums.json"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_cache_that_was_damaged_is_made_again(tmp_path: Path, name: str, damage):
    final = tmp_path / "cache" / "abc"
    built = []

    def counted(folder: Path) -> None:
        built.append(folder)
        build(folder)

    files.cached_folder(final, counted)
    whole = {p.name: p.read_bytes() for p in final.rglob("*") if p.is_file()}
    files.cached_folder(final, counted)
    assert len(built) == 1
    damage(final / name)
    files.cached_folder(final, counted)
    assert len(built) == 2
    assert {p.name: p.read_bytes() for p in final.rglob("*") if p.is_file()} == whole
    assert [p.name for p in final.parent.iterdir()] == ["abc"]


@pytest.mark.parametrize("position", range(0, 80, 3))
def test_an_object_whose_bytes_changed_is_told(tmp_path: Path, position: int):
    path = tmp_path / "grid.json"
    value = {"grid": "abc", "began": 12.5, "cells": ["run/1", "run/2"]}
    files.write_json(path, value)
    assert files.read_json(path) == value
    text = bytearray(path.read_bytes())
    text[position % len(text)] ^= 4
    path.write_bytes(text)
    try:
        found = files.read_json(path)
    except Damaged:
        return
    assert {k: found[k] for k in value} == value  # only the name of the checksum itself was hit


def test_an_object_written_before_checksums_is_read(tmp_path: Path):
    (tmp_path / "old.json").write_text(json.dumps({"a": 1}, indent=1))
    assert files.read_json(tmp_path / "old.json") == {"a": 1}


@pytest.mark.parametrize("ahead", [0.0, 3600.0])
def test_what_a_dead_writer_left_goes_and_a_living_ones_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
):
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + ahead)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = files._host()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f"abc.tmp-{host}-{pid}-01234567").mkdir()
    (tmp_path / f"abc.tmp-ffffff-{dead.pid}-01234567").mkdir()  # of another machine, just now
    files.cached_folder(tmp_path / "abc", build)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 3
    assert not any(f"{host}-{dead.pid}-" in name for name in left)


def test_a_full_disk_has_a_kind_of_its_own(tmp_path: Path):
    full = cannot_write(tmp_path, OSError(errno.ENOSPC, "No space left on device"))
    assert isinstance(full, DiskFull)
    assert full.kind == "disk_full"
    denied = cannot_write(tmp_path, OSError(errno.EACCES, "Permission denied"))
    assert type(denied) is BenchError


def test_files_and_their_folders_are_flushed_before_they_count(tmp_path, monkeypatch):
    """A name that appears before the bytes, or an entry that is lost, would be a false 'done'."""
    flushed = []
    real = os.fsync

    def watched(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink())
        real(handle)

    monkeypatch.setattr(os, "fsync", watched)
    files.write(tmp_path / "runs" / "3f" / "outcome.json", "{}")
    names = [path.name.partition(".tmp-")[0] for path in flushed]
    assert names[-2:] == ["outcome.json", "3f"]
    assert names.index("runs") < names.index("outcome.json")  # the new folder lasts as well
    flushed.clear()
    files.cached_folder(tmp_path / "features" / "abc", build)
    names = [path.name.partition(".tmp-")[0] for path in flushed]
    assert {"array.bin", "table.csv", "inner", "sums.json", "abc"} <= set(names)
    assert names[-1] == "features"
