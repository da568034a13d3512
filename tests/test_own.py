"""Data of one's own: how tables are spelt, what a record may not hold, what is said of both."""

from pathlib import Path

import pytest

from benchmark.api import read_table
from benchmark.errors import BenchError, DataMissing

ROWS = [{"image": "a", "age": "3.5", "note": "x, y"}, {"image": "b", "age": "", "note": "1"}]


@pytest.mark.parametrize(
    "text",
    [
        'image,age,note\na,3.5,"x, y"\nb,,1\n',
        "image;age;note\na;3,5;x, y\nb;;1\n",
        "\ufeffimage\tage\tnote\r\na\t3.5\tx, y\r\nb\t\t1\r\n",
        '"image";age;"note"\na;3,5;"x, y"\nb;;1\n',
    ],
)
def test_tables_are_read_whatever_parts_their_cells(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    assert read_table(path, need=("age",)) == ROWS


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image,ä\n".encode("utf-16"), r"t\.csv is UTF-16 text"),
        ("image,a\n".encode("utf-16-le"), r"t\.csv is UTF-16 text"),
        ("image,a\nx,Müller\n".encode("latin-1"), r"probably Latin-1 .*from line 2"),
        (b"PK\x03\x04\0\0", r"t\.csv is a spreadsheet"),
        (b"image,a\nx,3,5\n", r"Row 1 of t\.csv has more cells than its 2 columns"),
    ],
)
def test_other_tables_are_told_by_name(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=said):
        read_table(path)
    with pytest.raises(DataMissing, match="is not there"):
        read_table(tmp_path)
