"""OpenML sets: openml-python's own cache format, and a server that answers as OpenML does."""

import hashlib
import io
import logging
import os
import pickle
import subprocess
import sys
import urllib.parse
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from stores import served

from benchmark import images, registry
from benchmark.api import Sample
from benchmark.errors import BenchError, DataMissing
from sources import _openml
from sources import openml as component
from sources.openml import OpenML

NUMBER = OpenML.variants[0]
PLACE = Path("openml/org/openml/www/datasets")


def load(number: str = NUMBER) -> OpenML:
    found = registry.load("source", f"openml:{number}")
    assert isinstance(found, OpenML)
    return found


def read(data: Path, number: str = NUMBER) -> list[Sample]:
    return list(load(number).records(data))


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with the miniature in its cache."""
    (tmp_path / "data" / "openml").mkdir(parents=True)
    OpenML.fake(tmp_path / "data" / "openml", 0)
    return tmp_path / "data"


def table_set(data: Path, table: pd.DataFrame, target: str = "class", number: str = "554") -> Path:
    """A data folder with a set that is a table alone."""
    folder = data / PLACE / number
    folder.mkdir(parents=True)
    table.to_parquet(folder / f"dataset_{number}.pq")
    text = component._DESCRIPTION.format(number=number, name="Table").replace("CATEGORY", target)
    (folder / "description.xml").write_text(text)
    return data


def pixels(count: int, *, first: int = 1, prefix: str = "pixel", high: int = 256) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    values = rng.integers(0, high, (6, count))
    table = pd.DataFrame(values, columns=[f"{prefix}{first + i}" for i in range(count)])
    table["class"] = pd.Categorical(["3", "5"] * 3)
    return table


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """openml-python, which must not write into the home nor reach the network."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "OPENML_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    (tmp_path / "data").mkdir(exist_ok=True)
    openml = _openml._imported(tmp_path / "data" / "openml")
    monkeypatch.setattr(openml.config, "server", "http://127.0.0.1:9/api/v1/xml")
    monkeypatch.setattr(openml.config, "connection_n_retries", 1)
    return openml


def test_the_miniature_is_what_the_library_reads(
    data: Path, library: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(library.config, "server", "https://www.openml.org/api/v1/xml")
    monkeypatch.setattr("requests.Session.get", lambda *a, **k: pytest.fail("asks the network"))
    with _openml.library(data / "openml", data / "openml"):
        found = library.datasets.get_dataset(int(NUMBER), download_data=True)
        table, labels, _, _ = found.get_data(target=found.default_target_attribute)
    assert found.name == "Meta_Album_BCT_Mini"
    assert list(table.columns) == ["FILE_NAME", "SUPER_CATEGORY"]
    records = read(data)
    assert [record.label for record in records] == list(labels)
    assert [record.name for record in records] == list(table["FILE_NAME"])
    folder = data / PLACE / NUMBER / "BCT_Mini" / "images"
    assert [record.image for record in records] == [folder / name for name in table["FILE_NAME"]]


def test_a_pickle_in_the_cache_is_never_read(data: Path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(data / "evil"),)

    for name in (f"dataset_{NUMBER}.pkl.py3", "features.xml.pkl", "dataset.pkl.py3"):
        (data / PLACE / NUMBER / name).write_bytes(pickle.dumps(Evil()))
    assert len(read(data)) == 48
    assert not (data / "evil").exists()


@pytest.mark.parametrize("name", ["mnist", "", "0", "-1", "044281", "1.5", "١", "1/../2", "9" * 10])
def test_a_name_that_is_no_number(name: str):
    with pytest.raises(BenchError, match="is not the number of an OpenML data set"):
        OpenML(name)


def test_the_card_names_the_set():
    card = load("554").card
    assert card.title == "OpenML data set 554"
    assert card.reference == "https://www.openml.org/d/554"
    assert not card.given
    assert "bench data prepare openml:554" in card.steps


def test_a_set_that_is_not_there_and_fetching_is_off(data: Path, tmp_path: Path):
    assert load().place(data, offline=True) == data
    with pytest.raises(DataMissing, match=r"554 is not in .*fetching is off.*bench data prepare"):
        load("554").place(data, offline=True)
    with pytest.raises(DataMissing, match="copy the folder org/openml/www/datasets/44281"):
        load().place(tmp_path / "absent", offline=True)
    assert not (tmp_path / "absent").exists()


def test_the_same_number_of_two_servers(data: Path):
    other = data / "openml" / "org" / "openml" / "test" / "datasets"
    other.mkdir(parents=True)
    (data / PLACE / NUMBER).rename(other / NUMBER)
    assert len(read(data)) == 48
    OpenML.fake(data / "openml", 1)
    with pytest.raises(BenchError, match="holds data sets 44281 of 2 servers"):
        read(data)


# --- image files ----------------------------------------------------------------------------------


def change_table(data: Path, change: dict[str, Any]) -> None:
    path = data / PLACE / NUMBER / f"dataset_{NUMBER}.pq"
    pd.read_parquet(path).assign(**change).to_parquet(path)


@pytest.mark.parametrize(
    "name", ["../../../secret.png", "/etc/secret.png", "images/../../../../secret.png", "link.png"]
)
def test_a_file_outside_of_the_set_is_refused(name: str, data: Path):
    folder = data / PLACE / NUMBER / "BCT_Mini" / "images"
    outside = data / PLACE / "secret.png"
    outside.write_bytes((folder / "000000.png").read_bytes())
    (folder / "link.png").symlink_to(outside)
    names = [f"{i:06d}.png" for i in range(47)]
    change_table(data, {"FILE_NAME": [*names, name]})
    with pytest.raises(BenchError, match=f"names a file outside of it: '{name}'"):
        read(data)


def test_missing_images_are_counted(data: Path):
    for i in (3, 40):
        (data / PLACE / NUMBER / "BCT_Mini" / "images" / f"{i:06d}.png").unlink()
    with pytest.raises(DataMissing, match=r"2 of 48 images are missing, 000003\.png first.*Delete"):
        read(data)


def test_names_in_bytes_and_below_the_set(data: Path):
    folder = data / PLACE / NUMBER
    change_table(data, {"FILE_NAME": [f"BCT_Mini/images/{i:06d}.png".encode() for i in range(48)]})
    records = read(data)
    assert records[7].image == folder / "BCT_Mini" / "images" / "000007.png"
    assert records[7].name == "BCT_Mini/images/000007.png"


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("description.xml", b"<oml:data", r"not whole: description\.xml cannot be read"),
        (f"dataset_{NUMBER}.pq", b"PAR1", "not whole: its table cannot be read"),
        (f"dataset_{NUMBER}.pq", None, "not whole: its table is missing"),
    ],
)
def test_a_damaged_cache(file: str, content: bytes | None, match: str, data: Path):
    path = data / PLACE / NUMBER / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataMissing, match=match):
        read(data)


# --- tables ---------------------------------------------------------------------------------------


def test_grey_pixels_lie_row_by_row(tmp_path: Path):
    table = pixels(784)
    records = read(table_set(tmp_path, table), "554")
    assert [record.label for record in records] == ["3", "5"] * 3
    assert [record.name for record in records][:2] == ["row-0000000", "row-0000001"]
    image, _ = load("554").decode(records[2], 28)
    assert image.shape == (28, 28, 3)
    for row, column in ((0, 0), (1, 0), (27, 27), (5, 9)):
        expected = table.iloc[2][f"pixel{28 * row + column + 1}"]
        assert image[row, column].tolist() == [expected] * 3


def test_colour_pixels_lie_plane_by_plane(tmp_path: Path):
    table = pixels(3072, first=0, prefix="a").astype({"a5": float})
    records = read(table_set(tmp_path, table), "554")
    image = images.decode(records[4].image)
    assert image.shape == (32, 32, 3)
    for row, column, channel in ((0, 0, 0), (0, 1, 0), (3, 7, 1), (31, 31, 2)):
        number = 1024 * channel + 32 * row + column
        assert image[row, column, channel] == table.iloc[4][f"a{number}"]


def test_a_table_as_arff(tmp_path: Path):
    table = pixels(64)
    folder = table_set(tmp_path, table) / PLACE / "554"
    (folder / "dataset_554.pq").unlink()
    (folder / "dataset.arff").write_text(as_arff(table))
    records = read(tmp_path, "554")
    expected = table.drop(columns="class").to_numpy().reshape(6, 8, 8)
    assert all(np.array_equal(np.asarray(r.image)[..., 0], x) for r, x in zip(records, expected, strict=True))  # fmt: skip # noqa: E501
    assert [record.label for record in records] == ["3", "5"] * 3


def as_arff(table: pd.DataFrame) -> str:
    lines = ["@RELATION digits"]
    lines += [f"@ATTRIBUTE {name} INTEGER" for name in table.columns if name != "class"]
    lines += ["@ATTRIBUTE class {3,5}", "@DATA"]
    lines += [",".join(str(value) for value in row) for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "table",
    [
        pixels(16),  # 4 x 4
        pixels(70),  # no square
        pixels(64, high=17),  # not the range of an image
        pixels(64, high=400),
        pixels(64).assign(pixel3=-1),
        pixels(64).assign(pixel3=0.5),
        pixels(64).assign(pixel3=np.nan),
        pixels(64).assign(pixel3="x"),
        pixels(64).rename(columns={"pixel9": "pixel99"}),
        pixels(64).rename(columns={"pixel9": "dot9"}),
        pixels(63).assign(age=40),
        pd.DataFrame({"sepal": [1.5, 2.5], "class": ["a", "b"]}),
        pd.DataFrame({"class": ["a", "b"]}),
        pd.DataFrame({"file": ["a.png", ""], "class": ["a", "b"]}),
    ],
)
def test_a_table_without_images(table: pd.DataFrame, tmp_path: Path):
    with pytest.raises(BenchError, match="OpenML data set 554 holds no images"):
        read(table_set(tmp_path, table), "554")


def test_targets_that_are_no_classes(tmp_path: Path):
    table = pixels(64)
    with pytest.raises(BenchError, match=r"has no column of classes \('kind'\)"):
        read(table_set(tmp_path / "a", table, target="kind"), "554")
    measured = table.assign(**{"class": np.linspace(0, 1, 6)})
    with pytest.raises(BenchError, match="gives numbers to predict"):
        read(table_set(tmp_path / "b", measured), "554")
    whole = table.assign(**{"class": [0.0, 1.0, np.nan, 0.0, 1.0, 1.0]})
    labels = [record.label for record in read(table_set(tmp_path / "c", whole), "554")]
    assert labels == ["0", "1", "", "0", "1", "1"]


# --- the server -----------------------------------------------------------------------------------


@dataclass
class Server:
    """What OpenML's two servers answer: the REST calls in XML, and the objects of the store."""

    url: str
    descriptions: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # key in the bucket -> content
    tags: dict[str, str] = field(default_factory=dict)  # key -> tag, where it is not the md5
    files: dict[str, bytes] = field(default_factory=dict)  # other paths
    asked: list[str] = field(default_factory=list)

    @property
    def api(self) -> str:
        return f"{self.url}/api/v1/xml"

    def offer(self, data: Path, archive: bytes | None = None) -> None:
        """The miniature: its table, and its images in an archive beside."""
        folder = data / PLACE / NUMBER
        table = f"0004/{NUMBER}/dataset_{NUMBER}.pq"
        zipped = f"0004/{NUMBER}/BCT_Mini.zip"
        text = (folder / "description.xml").read_text()
        self.descriptions[NUMBER] = text.replace("https://data.openml.org", self.url)
        self.objects[table] = (folder / f"dataset_{NUMBER}.pq").read_bytes()
        self.objects[zipped] = packed(folder, "BCT_Mini") if archive is None else archive
        (mark,) = (p.name for p in folder.iterdir() if p.is_file() and not p.suffix)
        self.tags[zipped] = mark

    def tag(self, key: str) -> str:
        return self.tags.get(key) or hashlib.md5(self.objects[key]).hexdigest()

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if path.startswith("/api/v1/xml/data/"):
            return self._describe(path.rpartition("/")[2])
        if path.rstrip("/") == "/datasets" and query.get("list-type") == "2":
            return 200, self._list(query["prefix"]).encode(), {"Content-Type": "application/xml"}
        key = path.removeprefix("/datasets/")
        if key in self.objects:
            date = "Wed, 12 Oct 2022 17:50:00 GMT"
            return 200, self.objects[key], {"ETag": f'"{self.tag(key)}"', "Last-Modified": date}
        if path in self.files:
            return 200, self.files[path], {}
        error = "<Error><Code>NoSuchKey</Code><Message>Object does not exist</Message></Error>"
        return 404, error.encode(), {"Content-Type": "application/xml"}

    def _describe(self, number: str) -> tuple[int, bytes, dict[str, str]]:
        if number in self.descriptions:
            return 200, self.descriptions[number].encode(), {"Content-Type": "text/xml"}
        code, message = (112, "No access granted") if number == "45" else (111, "Unknown dataset")
        error = (
            '<oml:error xmlns:oml="http://openml.org/openml">'
            f"<oml:code>{code}</oml:code><oml:message>{message}</oml:message></oml:error>"
        )
        return 412, error.encode(), {"Content-Type": "text/xml"}

    def _list(self, prefix: str) -> str:
        rows = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2022-10-12T17:50:00.000Z</LastModified>"
            f"<ETag>&quot;{self.tag(key)}&quot;</ETag><Size>{len(content)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key, content in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>datasets</Name><Prefix>{prefix}</Prefix><KeyCount>{len(self.objects)}</KeyCount>"
            f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
        )


def packed(folder: Path, name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as box:
        for path in sorted((folder / name).rglob("*")):
            box.write(path, path.relative_to(folder))
    return buffer.getvalue()


@pytest.fixture
def server(data: Path) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            state.asked.append(f"{self.command} {url.path}")
            status, body, headers = state.answer(url.path, dict(urllib.parse.parse_qsl(url.query)))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

    with served(Handler) as url:
        state = Server(url)
        state.offer(data)
        yield state


@pytest.fixture
def reached(server: Server, library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, being the one of the library's settings."""
    monkeypatch.setattr(library.config, "server", server.api)
    return server


def fetched(root: Path) -> Path:
    (found,) = root.rglob("description.xml")
    return found.parent


def test_fetching_leaves_what_the_miniature_has(
    data: Path, reached: Server, library: ModuleType, tmp_path: Path
):
    before = library.config.get_config_as_dict(), logging.root.handlers[:], dict(os.environ)
    new = tmp_path / "new"
    assert load().place(new) == new
    found, made = tree(fetched(new)), tree(data / PLACE / NUMBER)
    assert found.pop("description.xml").decode() == reached.descriptions[NUMBER]
    made.pop("description.xml")
    assert found == made
    asked = len(reached.asked)
    assert {"GET /api/v1/xml/data/44281", "GET /datasets/0004/44281/BCT_Mini.zip"} <= {
        *reached.asked
    }
    assert [r.label for r in read(new)] == [r.label for r in read(data)]
    assert load().place(new, offline=True) == new
    assert len(reached.asked) == asked  # what is in the cache asks nobody
    assert [path.name for path in new.iterdir()] == ["openml"]
    assert (library.config.get_config_as_dict(), logging.root.handlers, dict(os.environ)) == before


def test_records_fetch_what_is_not_there(reached: Server, tmp_path: Path):
    assert len(read(tmp_path / "new")) == 48


def test_a_set_without_parquet_is_fetched_as_arff(
    reached: Server, library: ModuleType, tmp_path: Path
):
    text = as_arff(pixels(64))
    lines = component._DESCRIPTION.format(number="554", name="digits").replace("CATEGORY", "class")
    lines = "\n".join(line for line in lines.splitlines() if "parquet" not in line)
    md5 = hashlib.md5(text.encode()).hexdigest()
    url = f"{reached.url}/data/v1/download/52667/digits.arff"
    lines = lines.replace("https://api.openml.org/data/v1/download/22110923/Meta_Album_digits.arff", url)  # fmt: skip # noqa: E501
    lines = lines.replace("</oml:status>", f"</oml:status><oml:md5_checksum>{md5}</oml:md5_checksum>")  # fmt: skip # noqa: E501
    reached.descriptions["554"] = lines
    reached.files["/data/v1/download/52667/digits.arff"] = text.encode()
    assert len(read(tmp_path / "new", "554")) == 6
    reached.files["/data/v1/download/52667/digits.arff"] = text.replace("5\n", "3\n").encode()
    with pytest.raises(DataMissing, match="could not be fetched: Checksum of downloaded file"):
        read(tmp_path / "other", "554")


def test_sets_that_the_server_does_not_give(reached: Server, tmp_path: Path):
    with pytest.raises(BenchError, match="OpenML has no data set 999: Unknown dataset"):
        read(tmp_path, "999")
    with pytest.raises(BenchError, match="OpenML data set 45 is private"):
        read(tmp_path, "45")
    assert not any((tmp_path / "openml").iterdir())


def test_a_server_that_cannot_be_reached_takes_nothing_away(
    data: Path, library: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    before = tree(data)
    with pytest.raises(DataMissing, match=r"554 could not be fetched.*Run the command again"):
        read(data, "554")
    assert tree(data) == before
    assert len(read(data)) == 48


@pytest.mark.parametrize("broken", ["cut", "lacking", "absent"])
def test_a_set_that_comes_in_part_does_not_join_the_cache(
    broken: str, reached: Server, tmp_path: Path
):
    key = f"0004/{NUMBER}/BCT_Mini.zip"
    whole = reached.objects[key]
    if broken == "cut":
        reached.objects[key] = whole[:-300]
    elif broken == "lacking":
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(whole)) as box, zipfile.ZipFile(buffer, "w") as out:
            for name in box.namelist()[:-5]:
                out.writestr(name, box.read(name))
        reached.objects[key] = buffer.getvalue()
    else:
        del reached.objects[key]
    new = tmp_path / "new"
    with pytest.raises(DataMissing, match="44281"):
        load().place(new)
    assert not list(new.rglob("*.png")) and not list(new.rglob("description.xml"))
    reached.objects[key] = whole
    assert len(read(new)) == 48  # the next try starts anew


def test_a_table_that_is_fetched_in_vain_does_not_join_the_cache(reached: Server, tmp_path: Path):
    buffer = io.BytesIO()
    pd.DataFrame({"FILE_NAME": [1, 2], "CATEGORY": ["a", "b"]}).to_parquet(buffer)
    reached.objects[f"0004/{NUMBER}/dataset_{NUMBER}.pq"] = buffer.getvalue()
    with pytest.raises(BenchError, match="holds no images"):
        load().place(tmp_path / "new")
    assert not list((tmp_path / "new").rglob("*.xml"))


def test_the_command_honours_the_users_settings_and_leaves_the_home_alone(
    server: Server, tmp_path: Path
):
    """A process of its own: the library reads its settings, and makes folders, on its import."""
    home = tmp_path / "home"
    (home / ".config" / "openml").mkdir(parents=True)
    settings = f"server = {server.api}\napikey = 0123\nconnection_n_retries = 1\n"
    (home / ".config" / "openml" / "config").write_text(settings)
    ours = ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "OPENML_CACHE_DIR")
    found = subprocess.run(
        [sys.executable, "-m", "benchmark.cli", "data", "prepare", f"openml:{NUMBER}",
         "--size", "16", "--data", "data", "--store", "store", "--workers", "1"],
        cwd=tmp_path / "home" / "..",
        env={**{k: v for k, v in os.environ.items() if k not in ours},
             "HOME": str(home), "NO_PROXY": "*"},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert '"images": 48' in found.stdout
    assert "WARNING" not in found.stderr
    assert [str(p.relative_to(home)) for p in home.rglob("*") if p.is_file()] == [".config/openml/config"]  # fmt: skip # noqa: E501
    assert sorted(p.name for p in home.iterdir()) == [".config"]


def test_without_settings_the_import_makes_nothing_in_the_home(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from sources import _openml as openml\n"
        "made = openml._imported(Path(sys.argv[1]) / 'openml')\n"
        "print(made.__version__, made.config.server)"
    )
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "data").mkdir()
    ours = ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "OPENML_CACHE_DIR")
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data")],
        env={**{k: v for k, v in os.environ.items() if k not in ours}, "HOME": str(home)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.split()[1] == "https://www.openml.org/api/v1/xml"
    assert not list(home.rglob("*"))
