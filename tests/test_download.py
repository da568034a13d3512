"""Fetching, unpacking and finding data sets, against a server in a thread of this process."""

import gzip
import hashlib
import io
import itertools
import stat
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import served

from benchmark.api import Input, Sample, Source, SourceCard
from benchmark.data.download import File, fetch, find_root, locate
from benchmark.data.unpack import SMALL, unpack
from benchmark.errors import BenchError, DataMissing

BODY = bytes(range(256)) * 300  # 76,800 bytes


@dataclass
class Server:
    """What the server sends, and what it was asked."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes to send before cutting, per request
    asked: list[str | None] = field(default_factory=list)  # the Range of each request
    leads: dict[str, str] = field(default_factory=dict)  # path -> where it redirects

    def file(self, name: str, body: bytes, **more: Any) -> File:
        self.files[f"/{name}"] = body
        return replace(File(name, f"{self.url}/{name}"), **more)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            body = state.files.get(self.path)
            if self.path in state.leads:
                self.send_response(302)
                self.send_header("Location", state.leads[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if body is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if start >= len(body) and start:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            cut = state.cuts.pop(0) if state.cuts else len(body)
            self.wfile.write(body[start : start + cut])

    with served(Handler) as url:
        state = Server(url)
        yield state


def md5(body: bytes) -> str:
    return "md5:" + hashlib.md5(body).hexdigest()


def test_fetch_checks_the_hash_and_reports_progress(server: Server, tmp_path: Path) -> None:
    seen = []
    file = server.file("a.bin", BODY, hash="sha256:" + hashlib.sha256(BODY).hexdigest())
    path = fetch(file, tmp_path / "in", progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "in" / "a.bin"
    assert path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert fetch(file, tmp_path / "in") == path  # and the second time nothing is asked
    assert server.asked == [None]


def test_a_cut_connection_keeps_what_came_and_goes_on(server: Server, tmp_path: Path) -> None:
    file = server.file("a.bin", BODY, hash=md5(BODY))
    server.cuts = [30_000]
    with pytest.raises(DataMissing, match="ended after 30000 of 76800 bytes"):
        fetch(file, tmp_path)
    assert (tmp_path / "a.bin.part").read_bytes() == BODY[:30_000]
    assert not (tmp_path / "a.bin").exists()
    assert fetch(file, tmp_path).read_bytes() == BODY
    assert server.asked == [None, "bytes=30000-"]
    assert not (tmp_path / "a.bin.part").exists()


def test_a_server_without_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    file = server.file("a.bin", BODY, hash=md5(BODY))
    server.ranges, server.cuts = False, [30_000]
    with pytest.raises(DataMissing):
        fetch(file, tmp_path)
    assert fetch(file, tmp_path).read_bytes() == BODY


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(st.integers(0, 40_000), max_size=4), ranges=st.booleans())
def test_any_cuts_end_in_the_same_bytes(
    server: Server, tmp_path_factory: pytest.TempPathFactory, cuts: list[int], ranges: bool
) -> None:
    folder = tmp_path_factory.mktemp("cuts")
    file = server.file("a.bin", BODY)
    server.cuts, server.ranges = list(cuts), ranges
    for _ in range(len(cuts) + 1):
        try:
            fetch(file, folder)
            break
        except DataMissing:
            continue
    assert (folder / "a.bin").read_bytes() == BODY


def test_a_whole_part_is_recognised(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(BODY)
    assert fetch(server.file("a.bin", BODY, hash=md5(BODY)), tmp_path).read_bytes() == BODY


def test_a_part_longer_than_the_file_is_an_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(BODY + b"more")
    with pytest.raises(DataMissing, match="416"):
        fetch(server.file("a.bin", BODY, hash=md5(BODY)), tmp_path)


def test_a_wrong_file_is_set_aside_and_fetched_anew(server: Server, tmp_path: Path) -> None:
    file = server.file("a.bin", b"bad" + BODY, hash=md5(BODY))
    with pytest.raises(DataMissing, match="is not the published file: its md5 is"):
        fetch(file, tmp_path)
    assert sorted(p.name for p in tmp_path.glob("a*")) == ["a.bin.wrong"]
    server.files["/a.bin"] = BODY
    assert fetch(file, tmp_path).read_bytes() == BODY
    assert server.asked == [None, None]


def test_without_a_published_hash_the_first_download_binds(server: Server, tmp_path: Path) -> None:
    file = server.file("a.bin", BODY)
    path = fetch(file, tmp_path)
    note = tmp_path / "a.bin.sha256"
    assert note.read_text() == f"{hashlib.sha256(BODY).hexdigest()}  a.bin\n"
    path.unlink()
    server.files["/a.bin"] = BODY[:-1]
    with pytest.raises(DataMissing, match="is not the published file"):
        fetch(file, tmp_path)


def test_a_file_put_there_by_hand_is_checked_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"other")
    with pytest.raises(DataMissing, match="not the published file"):
        fetch(File("a.bin", "http://127.0.0.1:1/a.bin", md5(BODY)), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"other"


def test_no_server_and_no_file_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"so far")
    with pytest.raises(DataMissing, match="could not be fetched") as error:
        fetch(File("a.bin", "http://127.0.0.1:1/a.bin"), tmp_path)
    assert "Run the command again" in error.value.todo
    assert (tmp_path / "a.bin.part").read_bytes() == b"so far"
    with pytest.raises(DataMissing, match="404"):
        fetch(File("b.bin", f"{server.url}/b.bin"), tmp_path)


@pytest.mark.parametrize("url", ["", "file:///etc/hostname", "ftp://127.0.0.1/a"])
def test_what_is_no_web_address_is_not_opened(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"a\.bin cannot be fetched automatically"):
        fetch(File("a.bin", url), tmp_path)


def test_a_full_disk_is_not_called_a_network_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        fetch(server.file("a.bin", BODY), tmp_path)


def zipped(*names: str, mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as box, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name may be there twice
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            box.writestr(info, f"text of {name}")
    return buffer.getvalue()


def taped(
    *names: str,
    kind: bytes = tarfile.REGTYPE,
    mode: Literal["w:", "w:gz", "w:xz"] = "w:gz",
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tape:
        for name in names:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "target"
            text = f"text of {name}".encode() if kind == tarfile.REGTYPE else b""
            info.size = len(text)
            tape.addfile(info, io.BytesIO(text))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.zip", zipped("one/a.txt", "b.txt")),
        ("a.tar", taped("one/a.txt", "b.txt", mode="w:")),
        ("a.tar.gz", taped("one/a.txt", "b.txt")),
        ("a.tar.xz", taped("one/a.txt", "./b.txt", mode="w:xz")),
        ("a.tgz", taped("one/a.txt", "b.txt")),
    ],
)
def test_unpack(name: str, body: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(body)
    into = unpack(tmp_path / name, tmp_path / "into")
    assert (into / "one" / "a.txt").read_text() == "text of one/a.txt"
    assert (into / "b.txt").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "into"])
    with pytest.raises(BenchError, match="already there"):
        unpack(tmp_path / name, into)


def test_unpack_a_single_gz(tmp_path: Path) -> None:
    (tmp_path / "x.h5.gz").write_bytes(gzip.compress(BODY))
    assert (unpack(tmp_path / "x.h5.gz", tmp_path / "into") / "x.h5").read_bytes() == BODY


@pytest.mark.parametrize(
    ("name", "body", "why"),
    [
        ("a.zip", zipped("../a.txt"), "leads out"),
        ("a.zip", zipped("one/../../a.txt"), "leads out"),
        ("a.zip", zipped("/a.txt"), "leads out"),
        ("a.zip", zipped("C:a.txt"), "leads out"),
        ("a.zip", zipped("..\\a.txt"), "leads out"),
        ("a.zip", zipped("a.txt", mode=stat.S_IFLNK | 0o777), "no plain file"),
        ("a.zip", zipped("a.txt", "a.txt"), "is there twice"),
        ("a.tar.gz", taped("../a.txt"), "leads out"),
        ("a.tar.gz", taped("/a.txt"), "leads out"),
        ("a.tar.gz", taped("a.txt", kind=tarfile.SYMTYPE), "a link or a device"),
        ("a.tar.gz", taped("a.txt", kind=tarfile.LNKTYPE), "a link or a device"),
        ("a.tar.gz", taped("a.txt", kind=tarfile.CHRTYPE), "a link or a device"),
        ("a.tar.gz", taped("a.txt", kind=tarfile.FIFOTYPE), "a link or a device"),
        ("a.tar.gz", taped("a.txt")[:-20], "cannot be unpacked"),
        ("a.zip", zipped("a.txt")[:-30], "cannot be unpacked"),
        ("a.gz", gzip.compress(BODY)[:-20], "cannot be unpacked"),
        ("a.gz", b"no gzip at all", "cannot be unpacked"),
        ("a.tar.xz", b"no tar at all", "cannot be unpacked"),
        ("a.gz", gzip.compress(bytes(2 * SMALL)), "grow more than 200-fold"),
    ],
    ids=map(str, itertools.count()),  # an archive holds the time it was made: no name for a test
)
def test_unpack_refuses(name: str, body: bytes, why: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(body)
    with pytest.raises(BenchError, match=why):
        unpack(folder / name, folder / "into")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [folder / name]
    assert not (folder / "into").exists()


def test_a_zip_that_lies_about_its_size_is_stopped(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as box:
        for i in range(3):  # each is below the bound, all are not
            box.writestr(f"{i}", bytes(SMALL // 2))
    with pytest.raises(BenchError, match="member '2' makes it grow"):
        unpack(tmp_path / "a.zip", tmp_path / "into")


class Toy(Source):
    card = SourceCard(
        title="Toy", origin="natural", classes=2, images=2, folders=("toy", "toy-1.0"),
        reference="https://example.org/toy",
    )  # fmt: skip

    def records(self, root: Path) -> Iterator[Sample]:
        yield Sample(locate(root, "a.txt") / "a.txt", "a", "a")


def toy(**changes: Any) -> Toy:
    component = Toy()
    component.card = replace(Toy.card, **changes)
    return component


def test_find_root_takes_the_first_folder_there_is(tmp_path: Path) -> None:
    (tmp_path / "toy-1.0").mkdir()
    assert find_root(Toy(), tmp_path) == tmp_path / "toy-1.0"
    (tmp_path / "toy").mkdir()
    assert find_root(Toy(), tmp_path) == tmp_path / "toy"


def test_find_root_takes_a_data_folder_that_is_the_set(tmp_path: Path) -> None:
    (tmp_path / "mine" / "inner").mkdir(parents=True)
    (tmp_path / "mine" / "inner" / "a.txt").write_text("")
    assert find_root(Toy(), tmp_path / "mine") == tmp_path / "mine"
    (tmp_path / "toy-1.0").mkdir()
    assert find_root(Toy(), tmp_path / "toy-1.0") == tmp_path / "toy-1.0"


def test_find_root_of_a_set_that_needs_no_folder(tmp_path: Path) -> None:
    assert find_root(toy(folders=()), tmp_path / "absent") == tmp_path / "absent"


def test_find_root_of_a_users_own_folder(tmp_path: Path) -> None:
    component = Toy(given=Input(path=tmp_path))
    assert find_root(component, Path("data")) == tmp_path
    with pytest.raises(DataMissing, match="There is no"):
        find_root(Toy(given=Input(path=tmp_path / "absent")), Path("data"))


def test_find_root_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="Toy is not in") as error:
        find_root(Toy(), tmp_path)
    assert error.value.todo == (
        f"Get it from https://example.org/toy. Put it into {tmp_path / 'toy'}."
    )
    files = (File("a.zip", "http://127.0.0.1:1/a.zip", "md5:12"), File("b.csv", ""))
    with pytest.raises(DataMissing) as error:
        find_root(toy(files=files, steps="Ask them."), tmp_path)
    assert error.value.todo == (
        "Ask them. Files: a.zip (md5:12); b.csv (no hash is published). "
        f"Put it into {tmp_path / 'toy'}."
    )


def test_find_root_fetches_an_open_set(server: Server, tmp_path: Path) -> None:
    files = (
        server.file("a.zip", zipped("one/a.txt"), unpack=True),
        server.file("b.h5.gz", gzip.compress(BODY), unpack=True),
        server.file("c.csv", b"x\n"),
    )
    component = toy(files=files)
    with pytest.raises(DataMissing, match="fetching is off"):
        find_root(component, tmp_path, offline=True)
    server.cuts = [10**9, 20]
    with pytest.raises(DataMissing, match=r"b\.h5\.gz could not be fetched") as error:
        find_root(component, tmp_path)
    assert "Or do it by hand. Get it from" in error.value.todo
    assert not (tmp_path / "toy").exists()
    root = find_root(component, tmp_path)
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()) == [
        "b.h5", "c.csv", "one/a.txt",
    ]  # fmt: skip
    assert len(server.asked) == 4  # the first archive was not fetched twice
    assert find_root(component, tmp_path, offline=True) == root


def test_two_archives_that_overlap_leave_nothing(server: Server, tmp_path: Path) -> None:
    files = tuple(server.file(f"{n}.zip", zipped("x/a.txt"), unpack=True) for n in "ab")
    with pytest.raises(BenchError, match="Could not write"):
        find_root(toy(files=files), tmp_path)
    assert not (tmp_path / "toy").exists()


def test_locate_names_what_is_lost(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"does not hold a\.csv and images"):
        locate(tmp_path, "a.csv", "images")


def test_an_open_connection_is_never_asked(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="cannot be fetched automatically"):
        fetch(File("a.bin", "http://example.org/a.bin"), tmp_path)
    assert not server.asked


def test_a_server_that_leads_to_an_open_connection_is_not_followed(
    server: Server, tmp_path: Path
) -> None:
    server.leads["/a.bin"] = "http://example.org/a.bin"
    with pytest.raises(DataMissing, match="leads away from https"):
        fetch(File("a.bin", f"{server.url}/a.bin"), tmp_path)
    server.leads["/b.bin"] = f"{server.url}/there.bin"
    server.files["/there.bin"] = BODY
    assert fetch(File("b.bin", f"{server.url}/b.bin"), tmp_path).read_bytes() == BODY


def test_a_file_larger_than_it_may_be_is_not_kept_coming(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="larger than the 1,000 bytes"):
        fetch(server.file("a.bin", BODY, limit=1000), tmp_path)
    assert not (tmp_path / "a.bin").exists()


def summed_zip(path: Path, *, wrong: str = "", named: str = "SHA256SUMS.txt") -> Path:
    files = {"set/a.dat": b"one", "set/sub/b.dat": b"two"}
    lines = [
        f"{hashlib.sha256(b'other' if name == wrong else body).hexdigest()} {name[4:]}"
        for name, body in files.items()
    ]
    with zipfile.ZipFile(path, "w") as box:
        for name, body in files.items():
            box.writestr(name, body)
        box.writestr(f"set/{named}", "\n".join(lines) + "\n")
    return path


def test_every_member_is_held_against_the_list_that_came_along(tmp_path: Path) -> None:
    whole = unpack(summed_zip(tmp_path / "a.zip"), tmp_path / "a", sums="SHA256SUMS.txt")
    assert (whole / "set" / "sub" / "b.dat").read_bytes() == b"two"
    for name, more in (("b", {"wrong": "set/sub/b.dat"}), ("c", {"named": "SUMS"})):
        archive = summed_zip(tmp_path / f"{name}.zip", **more)
        with pytest.raises(BenchError, match=r"b\.dat|SHA256SUMS"):
            unpack(archive, tmp_path / name, sums="SHA256SUMS.txt")
        assert not (tmp_path / name).exists()


def test_an_archive_of_too_many_members_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.data.unpack.MEMBERS", 2)
    with pytest.raises(BenchError, match="one of more than 2"):
        unpack(summed_zip(tmp_path / "a.zip"), tmp_path / "a")
    assert not (tmp_path / "a").exists()
