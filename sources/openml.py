"""Image sets of OpenML by their number: openml:44281 (of Meta-Album), openml:554 (MNIST), …"""

import math
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.parsers.expat import ExpatError

import numpy as np

from benchmark.api import (
    Augment,
    BenchError,
    DataMissing,
    Input,
    Recipe,
    Sample,
    Source,
    SourceCard,
    synthetic,
)
from sources._openml import library

if TYPE_CHECKING:
    import pandas as pd

#: openml-python's cache, below the data folder.
CACHE = "openml"
#: Where it keeps a set below its cache: the server's name turned round.
SERVER = "org/openml/www"
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
SMALLEST = 8  # pixels of a side, where each column is a pixel


class OpenML(Source):
    variants = ("44281", "*")  # the first: bacteria, the small version
    card = SourceCard(
        title="OpenML",
        origin="natural",
        classes=0,  # known when it is read
        images=0,
        license="the data set's own, named on its page",
        reference="https://www.openml.org",
        # A set never changes under its number: the number is its version.
        pretrain=Recipe(
            size=128,
            batch=64,
            lr=1e-3,
            epochs=50,
            schedule="step",
            milestones=(30,),
            augment=Augment(rotation=10, shift=0.1, horizontal=True),
            select="last",
        ),
    )

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        if not re.fullmatch(r"[1-9][0-9]{0,8}", variant, re.ASCII):
            raise BenchError(
                f"'{variant}' is not the number of an OpenML data set.",
                "Say for instance openml:44281; the number is in the address of the set's page.",
            )
        super().__init__(variant, given)
        self.card = replace(
            self.card,
            title=f"OpenML data set {variant}",
            reference=f"{self.card.reference}/d/{variant}",
            steps=f"`bench data prepare openml:{variant}` fetches it through openml-python.",
        )

    def place(self, data: Path, *, offline: bool = False) -> Path:
        """The data folder, with the set in openml-python's cache below it; fetched if need be."""
        if _cached(data / CACHE, self.variant) is None:
            if offline:
                raise DataMissing(
                    f"OpenML data set {self.variant} is not in {data / CACHE}, "
                    "and fetching is off.",
                    f"{self.card.steps} Or copy the folder {SERVER}/datasets/{self.variant} of "
                    f"another cache of openml-python into {data / CACHE}.",
                )
            _fetch(data / CACHE, self.variant)
        return data

    def records(self, root: Path) -> Iterator[Sample]:
        """The image that each row of the table names, or holds as pixels, with its class."""
        folder = _cached(self.place(root) / CACHE, self.variant)
        assert folder is not None
        yield from _records(folder)

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        """What openml-python leaves in its cache after fetching a set of Meta-Album."""
        import pandas as pd

        number, name, kinds = cls.variants[0], "BCT_Mini", ("cocci", "rods", "spirals", "vibrios")
        folder = root / SERVER / "datasets" / number
        labels = [i % len(kinds) for i in range(48)]
        rows = [(f"{i:06d}.png", kinds[label], "bacteria") for i, label in enumerate(labels)]
        table = pd.DataFrame(rows, columns=["FILE_NAME", "CATEGORY", "SUPER_CATEGORY"])
        images = synthetic.samples(labels, size=32, seed=seed)
        for (file, *_), image in zip(rows, images, strict=True):
            synthetic.save(image, folder / name / "images" / file)
        table.to_csv(folder / name / "labels.csv", index=False)
        table.to_parquet(folder / f"dataset_{number}.pq")
        (folder / "5f4dcc3b5aa765d61d8327deb882cf99").touch()  # the tag of the unpacked archive
        (folder / "description.xml").write_text(_DESCRIPTION.format(number=number, name=name))


_DESCRIPTION = """<oml:data_set_description xmlns:oml="http://openml.org/openml">
  <oml:id>{number}</oml:id>
  <oml:name>Meta_Album_{name}</oml:name>
  <oml:version>1</oml:version>
  <oml:description>A miniature for tests.</oml:description>
  <oml:description_version>1</oml:description_version>
  <oml:format>arff</oml:format>
  <oml:upload_date>2022-10-28T19:11:57</oml:upload_date>
  <oml:licence>CC BY-NC 4.0</oml:licence>
  <oml:url>https://api.openml.org/data/v1/download/22110923/Meta_Album_{name}.arff</oml:url>
  <oml:parquet_url>https://data.openml.org/datasets/0004/{number}/dataset_{number}.pq</oml:parquet_url>
  <oml:file_id>22110923</oml:file_id>
  <oml:default_target_attribute>CATEGORY</oml:default_target_attribute>
  <oml:visibility>public</oml:visibility>
  <oml:status>active</oml:status>
</oml:data_set_description>
"""


# --- the cache ------------------------------------------------------------------------------------


def _cached(cache: Path, number: str) -> Path | None:
    """The folder of a set, whichever server it came from."""
    found = [
        path.parent
        for depth in range(1, 5)
        for path in cache.glob("*/" * depth + f"datasets/{number}/description.xml")
    ]
    if len(found) > 1:
        raise BenchError(
            f"{cache} holds data sets {number} of {len(found)} servers.", "Move all but one away."
        )
    return found[0] if found else None


def _fetch(cache: Path, number: str) -> None:
    """Let openml-python fetch a set into a folder of its own; it joins the cache when it is whole.

    The library deletes a set's folder when a request fails, so it never gets to work on ours.
    """
    import urllib3.exceptions
    from minio.error import MinioException

    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".openml-", dir=cache.parent) as made:
        fresh = Path(made)
        with library(cache, fresh) as openml:
            try:
                openml.datasets.get_dataset(
                    int(number), download_data=True, download_all_files=True
                )
            except openml.exceptions.OpenMLPrivateDatasetError as error:
                raise BenchError(
                    f"OpenML data set {number} is private.",
                    "Put a key that may read it into openml-python's settings.",
                ) from error
            except openml.exceptions.OpenMLServerNoResult as error:
                raise BenchError(
                    f"OpenML has no data set {number}: {error.message}.", "Check the number."
                ) from error
            except (
                openml.exceptions.PyOpenMLError,
                urllib3.exceptions.HTTPError,
                MinioException,
                zipfile.BadZipFile,
                ExpatError,
                OSError,
                ValueError,
                KeyError,
            ) as error:
                raise DataMissing(
                    f"OpenML data set {number} could not be fetched: {error}.",
                    "Run the command again where the server can be reached.",
                ) from error
        folder = _cached(fresh, number)
        assert folder is not None
        try:
            for _ in _records(folder):  # what is not whole, or no images, does not join the cache
                pass
        except DataMissing as error:
            raise DataMissing(error.what, "Run the command again.") from error
        final = cache / folder.relative_to(fresh)
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(final)
        except OSError as error:
            if _cached(cache, number) is None:  # else another process was first
                raise _damaged(final, str(error)) from error


# --- reading, without the library: its own copy of a table is a pickle ----------------------------


def _records(folder: Path) -> Iterator[Sample]:
    table, target = _table(folder), _target(folder)
    if target not in table.columns:
        raise BenchError(
            f"OpenML data set {folder.name} has no column of classes ('{target}').",
            "Take a set with one default target.",
        )
    labels = _labels(table[target], folder.name)
    others = table.drop(columns=target)
    for column in others:
        if not _are_files(_texts(others[column][:1])):  # a quick look: there may be many columns
            continue
        if _are_files(names := _texts(others[column])):
            for path, name, label in zip(_images(folder, names), names, labels, strict=True):
                yield Sample(path, label, name)
            return
    pixels = _pixels(others)
    if pixels is None:
        raise BenchError(
            f"OpenML data set {folder.name} holds no images: no column names image files, and "
            "the columns are not numbered pixels of a square with values from 0 to 255.",
            "Take an image set, such as one of Meta-Album.",
        )
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        yield Sample(image, label, f"row-{i:07d}")


def _target(folder: Path) -> str:
    try:
        root = ElementTree.parse(folder / "description.xml").getroot()
    except ElementTree.ParseError as error:
        raise _damaged(folder, f"description.xml cannot be read ({error})") from error
    return (root.findtext("{*}default_target_attribute") or "").strip()


def _table(folder: Path) -> "pd.DataFrame":
    import arff
    import pandas as pd

    try:
        for name in (f"dataset_{folder.name}.pq", "dataset.pq"):
            if (folder / name).is_file():
                return pd.read_parquet(folder / name)
        with (folder / "dataset.arff").open(encoding="utf-8") as file:
            found = arff.load(file)
    except FileNotFoundError as error:
        raise _damaged(folder, "its table is missing") from error
    except (OSError, ValueError, arff.ArffException) as error:
        raise _damaged(folder, f"its table cannot be read ({error})") from error
    return pd.DataFrame(found["data"], columns=[name for name, _ in found["attributes"]])


def _labels(column: "pd.Series", number: str) -> list[str]:
    if column.dtype.kind == "f" and (column.dropna() % 1 != 0).any():
        raise BenchError(
            f"OpenML data set {number} gives numbers to predict, and this benchmark classifies.",
            "Take a set whose target names classes.",
        )
    return _texts(column)


def _texts(column: "pd.Series") -> list[str]:
    """Cells as text: some tables hold bytes, and classes that are numbers may be floats."""
    found = []
    for value, missing in zip(column, column.isna(), strict=True):
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, float) and not missing and value.is_integer():
            value = int(value)
        found.append("" if missing else str(value).strip())
    return found


def _are_files(names: Sequence[str]) -> bool:
    return bool(names) and all(name.lower().endswith(ENDINGS) for name in names)


def _images(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files that a column names, all below the set's folder: NAME, */NAME or */images/NAME."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    places = [folder, *inner, *(path / "images" for path in inner)]
    base = max(places, key=lambda place: sum((place / name).is_file() for name in names[:50]))
    found, root = list[Path](), folder.resolve()
    for name in names:
        found.append((base / name.replace("\0", "")).resolve())
        if not found[-1].is_relative_to(root):
            raise BenchError(
                f"The table of OpenML data set {folder.name} names a file outside of it: '{name}'.",
                "Do not use this set.",
            )
    missing = [name for name, path in zip(names, found, strict=True) if not path.is_file()]
    if missing:
        raise _damaged(
            folder, f"{len(missing)} of {len(names)} images are missing, {missing[0]} first"
        )
    return found


def _pixels(table: "pd.DataFrame") -> np.ndarray | None:
    """Images uint8 (n, side, side, 1 or 3) where the columns are their pixels, else None.

    As mnist_784 and CIFAR_10 are: pixel1, pixel2, … row by row; of colours all red comes first.
    """
    found = [re.fullmatch(r"(\D*)(\d+)", str(name), re.ASCII) for name in table.columns]
    named = {match[1] for match in found if match}
    numbers = [int(match[2]) for match in found if match]
    sides = {c: math.isqrt(len(found) // c) for c in (1, 3)}
    channels = next((c for c, side in sides.items() if side * side * c == len(found)), 0)
    if len(numbers) < len(found) or len(named) != 1 or not channels or sides[channels] < SMALLEST:
        return None
    if numbers != [*range(numbers[0], numbers[0] + len(found))]:
        return None
    values = np.empty((len(table), len(found)), np.uint8)
    for i, name in enumerate(table.columns):
        if table[name].dtype.kind not in "iuf":
            return None
        column = table[name].to_numpy(float)
        if not ((column >= 0) & (column <= 255) & (column % 1 == 0)).all():
            return None
        values[:, i] = column
    if values.max(initial=0) < 128:  # not the range of an image
        return None
    shape = (-1, channels, sides[channels], sides[channels])
    return values.reshape(shape).transpose(0, 2, 3, 1)


def _damaged(folder: Path, why: str) -> DataMissing:
    return DataMissing(
        f"OpenML data set {folder.name} is not whole: {why}.",
        f"Delete {folder} and run again; it will be fetched anew.",
    )
