"""Fetches open data sets, and finds where a set lies."""

import hashlib
import http.client
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.data.unpack import unpack
from benchmark.errors import BenchError, DataMissing
from benchmark.files import build_folder

if TYPE_CHECKING:
    from benchmark.api import Source

CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without a byte
#: Only these may be asked without encryption.
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all where known


@dataclass(frozen=True)
class File:
    """One open download."""

    name: str  # of the file as it is saved
    url: str  # empty: it cannot be fetched without a person
    hash: str = ""  # "md5:…" or "sha256:…"; empty where none is published
    unpack: bool = False
    note: str = ""
    limit: int = 20 << 30  # bytes at most
    sums: str = ""  # of an archive: its member that has the sha256 of every other


def fetch(file: File, folder: Path, *, progress: Progress | None = None) -> Path:
    """Download a file into a folder, going on where an earlier try stopped.

    What came so far stays in NAME.part, and nothing that is there is replaced by less. Where no
    hash is published, the first download's is written to NAME.sha256 and binds later ones.
    """
    target = folder / file.name
    if target.exists():
        return _checked(target, target, file)
    if not _secure(file.url):
        raise DataMissing(
            f"{file.name} cannot be fetched automatically.",
            file.note or f"Put it into {folder} yourself.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _alone(folder):
        if not target.exists():  # another process may have fetched it while this one waited
            _resume(file, part, progress)
            _checked(part, target, file).replace(target)
    return target


def find_root(
    component: "Source", data: Path, *, offline: bool = False, progress: Progress | None = None
) -> Path:
    """The folder a set lies in; fetches the set if it is open and not there."""
    card = component.card
    if component.given is not None:
        if not component.given.path.exists():
            raise DataMissing(f"There is no {component.given.path}.", "Check the path.")
        return component.given.path
    if not card.folders:
        return component.place(data, offline=offline)
    for folder in (*(data / name for name in card.folders), data):
        if folder.is_dir() and (folder != data or _holds(component, data)):
            return folder
    steps = _steps(component, data)
    if not card.files or not all(file.url for file in card.files):
        raise DataMissing(f"{card.title} is not in {data}.", steps)
    if offline:
        raise DataMissing(f"{card.title} is not in {data}, and fetching is off.", steps)
    try:
        return _obtain(card.files, data / card.folders[0], progress)
    except DataMissing as error:
        raise DataMissing(error.what, f"{error.todo} Or do it by hand. {steps}") from error


def locate(root: Path, *marks: str) -> Path:
    """The folder that holds all the marks: `root`, or one just below it as archives have it."""
    for folder in (root, *sorted(path for path in root.glob("*") if path.is_dir())):
        if all((folder / mark).exists() for mark in marks):
            return folder
    raise DataMissing(
        f"{root} does not hold {' and '.join(marks)}.",
        "Check that the set was unpacked there whole, with its own folders.",
    )


def _obtain(files: tuple[File, ...], root: Path, progress: Progress | None) -> Path:
    """Fetch and unpack into a folder of its own; `root` appears when all is there."""
    store = root.with_name(root.name + ".download")  # stays: nothing is fetched twice
    fetched = [(file, fetch(file, store, progress=progress)) for file in files]

    def build(folder: Path) -> None:
        for file, path in fetched:
            if not file.unpack:
                shutil.copy2(path, folder / file.name)
                continue
            inner = unpack(path, folder / f"{file.name}.inner", sums=file.sums)
            for child in inner.iterdir():
                child.rename(folder / child.name)
            inner.rmdir()

    return build_folder(root, build)


def _holds(component: "Source", folder: Path) -> bool:
    """Whether the data folder is itself the set."""
    if folder.name in component.card.folders:
        return True
    try:
        return next(component.records(folder), None) is not None
    except BenchError:
        return False


def _steps(component: "Source", data: Path) -> str:
    card = component.card
    files = "".join(f" {file.name} ({file.hash or 'no hash is published'});" for file in card.files)
    return (
        f"{card.steps or f'Get it from {card.reference}.'}"
        + (f" Files:{files.rstrip(';')}." if files else "")
        + f" Put it into {data / card.folders[0]}."
    )


def _resume(file: File, part: Path, progress: Progress | None) -> None:
    """Read the rest of a file from its server; errors of the network become DataMissing."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "transfer-bench", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(file.url, headers=headers)
    try:
        response = urllib.request.build_opener(_Encrypted).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        size = error.headers.get("Content-Range", "").rpartition("/")[2]
        if error.code == 416 and size == str(start):  # all of it is here already
            return
        raise _unreachable(file, part, f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(file, part, str(error)) from error
    with response:
        if response.status != 206:  # a server that knows no ranges sends it all again
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        if (total or 0) > file.limit:
            raise _too_large(file)
        with part.open("ab" if start else "wb") as out:
            done = start
            while chunk := _read(response, file, part):
                out.write(chunk)
                done += len(chunk)
                if done > file.limit:
                    raise _too_large(file)
                if progress:
                    progress(done, total)
    if total is not None and done < total:
        raise _unreachable(file, part, f"the connection ended after {done} of {total} bytes")


class _Encrypted(urllib.request.HTTPRedirectHandler):
    """Follows no server that leads to an open connection."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not _secure(newurl):
            raise urllib.error.HTTPError(newurl, code, "leads away from https", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _secure(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


def _too_large(file: File) -> DataMissing:
    return DataMissing(
        f"{file.name} is larger than the {file.limit:,} bytes it may have.",
        "It is not what its card describes: get it from its official page.",
    )


def _read(response: http.client.HTTPResponse, file: File, part: Path) -> bytes:
    """A chunk; apart from writing it, so that a full disk is not taken for a broken network."""
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(file, part, str(error)) from error


def _unreachable(file: File, part: Path, why: str) -> DataMissing:
    kept = f" What came so far is kept in {part}." if part.exists() else ""
    return DataMissing(
        f"{file.name} could not be fetched from {file.url}: {why}.",
        f"Run the command again to go on.{kept}",
    )


def _checked(path: Path, target: Path, file: File) -> Path:
    """The path, if its bytes are the published ones or those of the first download."""
    note = target.with_name(target.name + ".sha256")
    expected = file.hash or (f"sha256:{note.read_text().split()[0]}" if note.exists() else "")
    kind, _, digest = (expected or "sha256:").partition(":")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, kind).hexdigest()
    if not expected:
        note.write_text(f"{found}  {target.name}\n", encoding="ascii")
    elif found != digest.lower():
        _refuse(path, target, f"its {kind} is {found}, and {digest} was expected")
    return path


def _refuse(path: Path, target: Path, why: str) -> None:
    if path != target:  # a finished download that is wrong: going on from it cannot mend it
        path = path.replace(target.with_name(target.name + ".wrong"))
    raise DataMissing(f"{path} is not the published file: {why}.", "Move it away and try again.")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time write into a folder of downloads."""
    with (folder / ".lock").open("w") as lock:
        with suppress(ImportError):  # Windows has no such locks
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sys.stderr.write(f"Another process writes into {folder}; waiting for it.\n")
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
