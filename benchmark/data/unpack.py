"""Unpacks archives of others safely: whole or not at all, and nothing outside its folder."""

import gzip
import hashlib
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, cast

from benchmark.errors import BenchError
from benchmark.files import build_folder

CHUNK = 1 << 20  # bytes
#: What an archive may unpack to: this many times its own size, but always SMALL bytes.
RATIO = 200
SMALL = 10 << 20
#: Members of an archive at most: ImageNet has 1.3 million images.
MEMBERS = 3_000_000

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
)


def unpack(archive: Path, into: Path, *, sums: str = "") -> Path:
    """Unpack a zip, tar or gz into a new folder, which appears only when it is whole.

    Refused are members that lead out of the folder, links, devices, more of them than MEMBERS,
    archives that grow beyond RATIO times their size, and members that are not what `sums` says.
    """
    if into.exists():
        raise BenchError(f"{into} is already there.", "Move it away and try again.")

    def build(folder: Path) -> None:
        left = max(RATIO * archive.stat().st_size, SMALL)
        try:
            for count, (name, stream) in enumerate(_members(archive), start=1):
                if count > MEMBERS:
                    raise _unsafe(archive, name, f"is one of more than {MEMBERS:,}")
                with stream:
                    left -= _write(stream, _inside(folder, name, archive), left, archive)
        except _DAMAGE as error:
            raise BenchError(
                f"The archive {archive} cannot be unpacked: {error}.",
                "Delete it and download it again.",
            ) from error
        if sums:
            _check_members(folder, sums, archive)

    return build_folder(into, build)


def _check_members(folder: Path, sums: str, archive: Path) -> None:
    """Hold every file against the list that came with it."""
    (listing,) = sorted(folder.rglob(sums))[:1] or (None,)
    if listing is None:
        raise _unsafe(archive, sums, "is not there")
    for line in listing.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.strip().partition(" ")
        path = listing.parent / name.strip().lstrip("*")
        if not path.is_relative_to(listing.parent) or not path.is_file():
            raise _unsafe(archive, name.strip(), f"is named in {sums} and not there")
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest.lower():
                raise _unsafe(archive, name.strip(), f"is not the file that {sums} names")


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and bytes of every plain file in an archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as box:
            for info in box.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if info.flag_bits & 1 or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _unsafe(archive, info.filename, "is encrypted or no plain file")
                if not info.is_dir():
                    yield info.filename, box.open(info)
    elif archive.suffix == ".gz" and not archive.name.endswith(".tar.gz"):
        with gzip.open(archive) as stream:
            yield archive.stem, cast("IO[bytes]", stream)
    else:
        with tarfile.open(archive) as tape:
            for member in tape:
                stream = tape.extractfile(member) if member.isreg() else None
                if stream is not None:
                    yield member.name, stream
                elif not member.isdir():
                    raise _unsafe(archive, member.name, "is a link or a device")


def _inside(folder: Path, name: str, archive: Path) -> Path:
    """Where a member goes, if that is below the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or PureWindowsPath(name).drive:
        raise _unsafe(archive, name, "leads out of the folder")
    return folder / path


def _write(stream: IO[bytes], target: Path, left: int, archive: Path) -> int:
    """Copy a member, stopping where the archive becomes too large; gives the bytes written."""
    if target.exists():
        raise _unsafe(archive, target.name, "is there twice")
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as out:
        while chunk := stream.read(CHUNK):
            written += len(chunk)
            if written > left:
                raise _unsafe(archive, target.name, f"makes it grow more than {RATIO}-fold")
            out.write(chunk)
    return written


def _unsafe(archive: Path, member: str, why: str) -> BenchError:
    return BenchError(
        f"The archive {archive} was not unpacked: its member '{member}' {why}.",
        "Get it from its official page, or unpack it by hand if you trust it.",
    )
