"""Decodes a data set once into a mapped uint8 array with a table beside it."""

import csv
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import images, registry
from benchmark.api import Sample, Source
from benchmark.data import label_sets
from benchmark.data.download import find_root
from benchmark.data.tables import LONGEST
from benchmark.errors import BenchError, Died, private
from benchmark.files import cached_folder, write
from benchmark.images import WHITE
from benchmark.spec import Runtime, Size, canonical, seed_of
from benchmark.store import Store

#: Below this many images one process decodes faster than several start.
FEW = 1500
CHUNK = 64

Progress = Callable[[int, int], None]
#: How a prepared set names what was done to its colours.
CONSTANCY = {False: False, True: "before resizing"}
MADE = ("version", "constancy", "drawn")  # in meta.json: by what and how it was decoded
META = "meta__"  # prefix of a metadata column in the table


@dataclass(frozen=True)
class Prepared:
    """A decoded data set: `images` is mapped, the rest is in memory; row i is one image."""

    name: str
    images: np.ndarray  # uint8 (N, H, W, 3)
    names: np.ndarray  # str (N,)
    labels: np.ndarray  # int64 (N,), index into classes; of a multi-label set uint8 (N, K)
    classes: tuple[str, ...]
    groups: np.ndarray  # int64 (N,), anonymous
    parts: np.ndarray  # str (N,), the official split or ""
    hashes: np.ndarray  # str (N,), of the decoded pixels before resizing
    metadata: dict[str, np.ndarray]  # column -> str (N,), as written in the source
    digest: str
    white: int = WHITE  # what images of 16 bits counted as white
    unit: str = "group"  # what a group is, in the card's word; empty: every image stands alone
    made: tuple[str, ...] = ()  # version of what decoded it, and what was done to its colours

    @property
    def multilabel(self) -> bool:
        """Whether an image bears any number of the labels."""
        return self.labels.ndim == 2

    def frame(self, columns: Sequence[str], rows: np.ndarray):
        """The patient's record as a table of text."""
        import pandas as pd

        self.need(columns)
        return pd.DataFrame({name: self.metadata[name][rows] for name in columns}, dtype=object)

    def need(self, columns: Sequence[str]) -> None:
        """Refuse columns that the set does not have."""
        for name in columns:
            if name not in self.metadata:
                raise BenchError(
                    f"{self.name} has no column '{name}'.",
                    f"Its columns are: {', '.join(self.metadata) or '(none)'}.",
                )


def source_of(name: str, runtime: Runtime) -> Source:
    """The component that reads a data set, be it a source or a target."""
    component = registry.load("source", name, **runtime.where(name))
    assert isinstance(component, Source)
    return component


def prepare(
    name: str,
    size: Size,
    runtime: Runtime,
    *,
    constancy: bool = False,
    drawn: str = "",
    progress: Progress | None = None,
) -> Prepared:
    """The decoded set, from the cache or made now; several processes may ask at once."""
    component = source_of(name, runtime)
    component.drawn = drawn
    root = find_root(component, runtime.data, offline=runtime.offline)
    height, width = (size, size) if isinstance(size, int) else size
    # The place is part of the cache's name, never of a key: two copies do not mix. So is what is
    # done to the colours, by a word that changes with how it is done.
    made = {
        "version": registry.version("source", name, **runtime.where(name)),
        "constancy": CONSTANCY[constancy],
        **({"drawn": drawn} if drawn else {}),
    }
    place = {**made, "root": str(root.resolve())}
    mark = hashlib.sha256(canonical(place).encode()).hexdigest()[:8]
    label = "".join(c if c.isalnum() else "-" for c in name)[:60]
    store = Store(runtime.store)
    final = store.root / "prepared" / f"{label}-{height}x{width}-{mark}"

    def build(folder: Path) -> None:
        workers = runtime.workers or os.cpu_count() or 1
        how = folder, (height, width), constancy, drawn, workers
        _decode_all(_Job(name, runtime.where(name), *how), component, root, made, progress)

    return load(cached_folder(final, build, private=not store.shared), name)


def load(folder: Path, name: str) -> Prepared:
    """Map a prepared set."""
    meta = json.loads((folder / "meta.json").read_text())
    csv.field_size_limit(LONGEST)
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    header, *body = rows
    columns = dict(zip(header, (np.array(c) for c in zip(*body, strict=True)), strict=True))
    multilabel = "multilabel" in meta
    return Prepared(
        name=name,
        images=np.load(folder / "images.npy", mmap_mode="r"),
        names=columns["name"],
        labels=label_sets.from_cells(columns["label"], len(meta["classes"]), multilabel=multilabel),
        classes=tuple(meta["classes"]),
        groups=columns["group"].astype(np.int64),
        parts=columns["part"],
        hashes=columns["hash"],
        metadata={k.removeprefix(META): v for k, v in columns.items() if k.startswith(META)},
        # Of sets of labels the first ones were kept under the digest of classes in the same cells.
        digest=_digest(body, multilabel=True) if multilabel else meta["digest"],
        white=meta.get("white", WHITE),
        unit=meta.get("unit", "group"),
        made=tuple(str(meta[name]) for name in MADE if name in meta),
    )


def describe(prepared: Prepared) -> dict[str, Any]:
    """What a reader of `bench data info` wants to know."""
    counts = label_sets.counts(prepared.labels, len(prepared.classes))
    names = (*prepared.classes, *(["none of them"] if prepared.multilabel else []))
    copies = Counter(prepared.hashes.tolist())
    return {
        "name": prepared.name,
        "images": len(prepared.labels),
        "size": list(prepared.images.shape[1:3]),
        "classes": dict(zip(names, counts, strict=True)),
        **({"multilabel": True} if prepared.multilabel else {}),
        "groups": len(np.unique(prepared.groups)),
        "duplicates": sum(n - 1 for n in copies.values()),
        "columns": list(prepared.metadata),
        "digest": prepared.digest,
    }


@dataclass(frozen=True)
class _Job:
    """How the images of one set are decoded; processes that do it open the set anew by this."""

    name: str
    where: Mapping[str, Any]  # a file or folder of the user's own, as the registry takes them
    folder: Path  # of images.npy
    size: tuple[int, int]
    constancy: bool
    drawn: str
    workers: int
    white: int = WHITE


def _decode_all(
    job: _Job, component: Source, root: Path, made: dict[str, Any], progress: Progress | None
) -> None:
    records = list(component.records(root))
    _check(records, job.name)
    component.white = _white(component, records)
    job = replace(job, white=component.white)
    named = any(record.group for record in records)
    unit = getattr(component.card, "group", "") if named else ""
    made = {**made, "white": component.white, "unit": unit}
    path = job.folder / "images.npy"
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (len(records), *job.size, 3))
    if hasattr(os, "posix_fallocate"):
        # A mapped file is sparse: on a full disk, writing to a page would end the process.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    hashes, done = [""] * len(records), 0
    for start, found in _decode_chunks(job, component, records):
        hashes[start : start + len(found)] = found
        done += len(found)
        if progress:
            progress(done, len(records))
    pixels.flush()
    _write_table(job.folder, component, records, hashes, made)
    if component.card.show:
        _write_samples(job.folder, component, job.name, pixels)


def _white(component: Source, records: list[Sample]) -> int:
    """What the set's images of 16 bits count as white: one rule for all of them."""
    highest = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(records), CHUNK):
            part = pool.map(component.brightest, records[start : start + CHUNK])
            highest = max(highest, *part)
            if images.white_of(highest) == WHITE:
                break
    return images.white_of(highest) if highest else WHITE


def _write_samples(folder: Path, component: Source, name: str, pixels: np.ndarray) -> None:
    """Three random images for the gallery of a report, where the licence allows to show them."""
    rows = np.random.default_rng(seed_of("samples", name)).permutation(len(pixels))[:3]
    for i, row in enumerate(rows):
        (folder / f"sample-{i}.png").write_bytes(images.to_png_bytes(pixels[row]))
    facts = {"name": name, "title": component.card.title, "license": component.card.license}
    write(folder / "samples.json", json.dumps(facts))


def _decode_chunks(
    job: _Job, component: Source, records: list[Sample]
) -> Iterator[tuple[int, list[str]]]:
    """The first row and the hashes of each chunk, as they are done."""
    starts = range(0, len(records), CHUNK)
    if len(records) < FEW or job.workers == 1:
        for i in starts:
            yield i, _decode_chunk(job, component, records[i : i + CHUNK], i)
        return
    spawn = get_context("spawn")
    with ProcessPoolExecutor(job.workers, spawn, initializer=_open, initargs=(job,)) as pool:
        try:
            chunks = {pool.submit(_decode_here, records[i : i + CHUNK], i): i for i in starts}
            for chunk in as_completed(chunks):
                yield chunks[chunk], chunk.result()
        except BrokenProcessPool as error:
            raise Died(
                f"A process that decodes the images of {job.name} was killed.",
                "Where memory was short, take fewer: --workers 1. The same command tries again.",
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_here: tuple[_Job, Source] | None = None  # of this decoding process


def _open(job: _Job) -> None:
    global _here
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    component = registry.load("source", job.name, **job.where)
    component.white, component.drawn = job.white, job.drawn
    _here = job, component


def _decode_here(records: list[Sample], start: int) -> list[str]:
    assert _here is not None
    return _decode_chunk(*_here, records, start)


def _leave_with_parent() -> None:
    """A command that is killed cannot end its decoders, which would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _decode_chunk(job: _Job, component: Source, records: list[Sample], start: int) -> list[str]:
    pixels = np.load(job.folder / "images.npy", mmap_mode="r+")
    hashes = []
    for i, record in enumerate(records, start):
        try:
            pixels[i], text = component.decode(record, job.size, constancy=job.constancy)
        except BenchError as error:
            raise type(error)(f"Image {i + 1} of the set: {error.what}", error.todo) from error
        except Exception as error:
            what = f"Image {i + 1} of the set, {private(record.name)}, cannot be read"
            raise BenchError(f"{what}: {private(error)}.", "Mend it or take it out.") from error
        hashes.append(text)
    return hashes


def _check(records: list[Sample], name: str) -> None:
    """A set that cannot be classified is refused before any decoding."""
    if not records:
        raise BenchError(f"{name} has no images.", "Check the folder given by --data.")
    twice = [text for text, n in Counter(r.name for r in records).items() if n > 1]
    if twice:
        raise BenchError(f"{name} names {private(twice[0])} twice.", "Image names must be unique.")
    label_sets.check(name, [r.label for r in records], [r.name for r in records])


def _write_table(
    folder: Path, component: Source, records: list[Sample], hashes: list[str], made: dict[str, Any]
) -> None:
    labels = [record.label for record in records]
    classes = label_sets.names_of(labels, getattr(component.card, "labels", ()))
    index = {label: i for i, label in enumerate(classes)}
    groups: dict[str, int] = {}
    columns = sorted({column for record in records for column in record.metadata})
    rows = []
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["name", "label", "group", "part", "hash", *(META + c for c in columns)])
        for i, record in enumerate(records):
            # An image without a group stands alone; groups lose their names here.
            group = groups.setdefault(record.group or f"\x00{i}", len(groups))
            values = [str(record.metadata.get(column, "")) for column in columns]
            cell = label_sets.to_cell(record.label, index)
            rows.append([record.name, cell, group, record.part, hashes[i], *values])
        out.writerows(rows)
    kind = {"multilabel": True} if label_sets.several(labels) else {}
    digest = _digest(rows, multilabel=bool(kind))
    facts = {"digest": digest, "images": len(records), **made}
    write(folder / "meta.json", json.dumps({"classes": classes, **kind, **facts}))


def _digest(rows: Sequence[Sequence[Any]], *, multilabel: bool) -> str:
    """What a prepared set is known by: every cell of its table, and what its labels are."""
    found = hashlib.sha256()
    for row in rows:
        found.update(canonical([str(cell) for cell in row]).encode())
    if multilabel:  # the cells of sets of one name each are those of classes
        found.update(b"multilabel")
    return found.hexdigest()[:16]
