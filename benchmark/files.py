"""Files that are there whole or not at all, and tell when they were damaged since."""

import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmark.errors import Damaged, cannot_write

#: The checksums of a folder's files, written into it last.
SUMS = "sums.json"
#: The last field of a sealed JSON object.
SEAL = re.compile(rb',\n "check": "([0-9a-f]{8})"\n\}\s*$')
#: Names of unfinished files: host, process and a random end.
LEFTOVER = re.compile(r"\.tmp-([0-9a-f]{6})-(\d+)-[0-9a-f]{8}$")
#: An unfinished file of another machine is left to it for this long.
FOREIGN = 2 * 86400.0  # seconds


def write(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file so that readers see the old one or the new one, never a part."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: dict[str, Any], *, durable: bool = True) -> None:
    """Write an object with its checksum inside."""
    write(path, sealed(json.dumps(value, indent=1)), durable=durable)


def sealed(text: str) -> str:
    """A JSON object, indented by one, with a checksum of itself as its last field."""
    return f'{text[:-2]},\n "check": "{zlib.crc32(text.encode()):08x}"\n}}'


def unsealed(text: bytes) -> bytes:
    """The object without its checksum, if that is right; one without is taken as it is."""
    seal = SEAL.search(text)
    if seal is None:
        return text
    text = text[: seal.start()] + b"\n}"
    if zlib.crc32(text) != int(seal[1], 16):
        raise ValueError("its checksum is not that of its content")
    return text


def read_json(path: Path, **own: str) -> dict[str, Any]:
    """What `write_json` wrote; raises Damaged where it is not, or is another's by these fields."""
    try:
        found = json.loads(unsealed(path.read_bytes()))
    except ValueError as error:
        raise Damaged(f"{path} is damaged ({error}).") from error
    if not isinstance(found, dict):
        raise Damaged(f"{path} is damaged (it holds no object).")
    for name, value in own.items():
        if found.get(name) != value:
            raise Damaged(f"{path} is damaged (its {name} is {found.get(name)}).")
    return found


def sum_of(path: Path) -> str:
    """Size and checksum of a file; of the same file it is taken once per process."""
    facts = path.stat()
    return f"{facts.st_size}:{_crc(path, facts.st_size, facts.st_mtime_ns, facts.st_ino)}"


def is_whole(path: Path, expected: str) -> bool:
    """Whether a file is there with the size and checksum it was given."""
    try:
        return sum_of(path) == expected
    except OSError:
        return False


@lru_cache(maxsize=100_000)
def _crc(path: Path, size: int, changed: int, inode: int) -> str:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name at the end, flushed if it must last."""
    temporary = _unfinished(path)
    try:
        _make(path.parent)
        yield temporary
        if durable:
            _flush(temporary)
        temporary.replace(path)
        if durable:
            _flush(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from error
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def build_folder(
    final: Path, build: Callable[[Path], None], *, private: bool = False, durable: bool = True
) -> Path:
    """Make a folder whole or not at all; two builders at once do not meet, the first one wins."""
    if final.is_dir():
        return final
    temporary = _unfinished(final)
    try:
        _make(final.parent)
        for left in leftovers(final.parent, final.name):
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir(mode=0o700 if private else 0o777)
        build(temporary)
        for path in (*temporary.rglob("*"), temporary) if durable else ():
            _flush(path)
        try:
            temporary.rename(final)
        except OSError:
            if not final.is_dir():
                raise
        _flush(final.parent)
    except OSError as error:
        raise cannot_write(final, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def cached_folder(final: Path, build: Callable[[Path], None], *, private: bool = False) -> Path:
    """A folder that can be made again: one whose files are not what was built is built anew.

    A `private` one is its owner's alone.
    """

    def summed(folder: Path) -> None:
        build(folder)
        write_json(folder / SUMS, {"files": sums(folder)})

    if final.is_dir() and broken(final):
        aside = final.rename(_unfinished(final))  # others that have it open keep what they have
        shutil.rmtree(aside, ignore_errors=True)
    return build_folder(final, summed, private=private)


def sums(folder: Path) -> dict[str, str]:
    """The checksum of every file in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sum_of(path) for path in files}


def broken(folder: Path) -> str:
    """What is wrong with a cached folder, or an empty text."""
    try:
        wrong = differing(folder, read_json(folder / SUMS)["files"])
    except (OSError, Damaged, KeyError, AttributeError) as error:
        return str(error) or type(error).__name__
    return f"{wrong[0]} is gone or was changed" if wrong else ""


def differing(folder: Path, expected: dict[str, str]) -> list[str]:
    """The names of files in a folder that are gone or not what was written."""
    return [name for name, found in expected.items() if not is_whole(folder / name, found)]


def intact(path: Path) -> bool:
    """Whether a file of a cached folder is what was built, without a look at the others."""
    try:
        return is_whole(path, read_json(path.parent / SUMS)["files"][path.name])
    except (OSError, Damaged, KeyError, TypeError):
        return False


def leftovers(folder: Path, name: str = "") -> list[Path]:
    """Unfinished files in a folder, of anything or of one name, whose writers are gone."""
    found = []
    for path in folder.glob(f"{_escaped(name)}*.tmp-*"):
        match = LEFTOVER.search(path.name)
        if match is None:
            continue
        if match[1] == _host():
            gone = not Path(f"/proc/{match[2]}").exists() if Path("/proc").is_dir() else False
        else:
            gone = time.time() - path.stat().st_mtime > FOREIGN
        if gone:
            found.append(path)
    return found


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, where there is one that can be read."""
    with suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""


def remove(paths: Iterable[Path]) -> None:
    """Delete files and folders."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def born(pid: int) -> str:
    """Names a process beyond its number: which boot, and its tick in it; empty where unknown.

    No clock is asked: one that is set anew makes no living process look like another.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{boot}/{facts[19]}"  # the name before the last bracket may hold anything


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp-{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _make(folder: Path) -> None:
    """Make a folder and those above it, so that they last."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(exist_ok=True)
    _flush(folder.parent)


def _flush(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk; some file systems flush no folders."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(handle)
