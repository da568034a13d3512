"""What files hold, by hash; a file that looks untouched is not read again."""

import hashlib
import json
import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from benchmark.errors import BenchError, DataMissing, private
from benchmark.files import write

#: A file changed less than this before it was hashed may change again within the same tick.
SETTLED = 2.0  # seconds


def plain_file(path: Path, root: Path) -> os.stat_result:
    """The facts of a plain file; what is none is refused: a pipe would be waited for."""
    name, todo = private(path.relative_to(root).as_posix()), "Mend it or take it out."
    try:
        seen = path.stat()
    except OSError as error:
        what = "a link to nothing" if path.is_symlink() else f"out of reach ({error.strerror})"
        raise DataMissing(f"{name} below {root} is {what}.", todo) from error
    if stat.S_ISREG(seen.st_mode):
        return seen
    raise BenchError(f"{name} below {root} is no plain file.", todo)


def digests(root: Path, files: Sequence[Path]) -> list[str]:
    """The blake2 of each file below `root`, from memory where size and times are as they were."""
    memory = _place(root)
    known: dict[str, list[int | str]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(memory.read_text(encoding="utf-8"))

    def look(path: Path) -> tuple[str, list[int | str], bool]:
        name = hashlib.blake2b(path.relative_to(root).as_posix().encode(), digest_size=8)
        seen, began = plain_file(path, root), time.time()
        quick = [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]
        old = known.get(name.hexdigest(), [])
        if old[:3] == quick:
            return name.hexdigest(), old, True
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        settled = began - max(seen.st_mtime, seen.st_ctime) > SETTLED
        return name.hexdigest(), [*quick, found], settled

    with ThreadPoolExecutor() as pool:
        looks = list(pool.map(look, files))
    keep = {name: facts for name, facts, settled in looks if settled}
    if keep != known:
        with suppress(BenchError):  # without a memory it only takes longer
            write(memory, json.dumps(keep), durable=False)
    return [str(facts[3]) for _, facts, _ in looks]


def cache() -> Path:
    """Where this user's machine keeps what it found out."""
    from platformdirs import user_cache_path

    named = os.environ.get("BENCH_CACHE")
    return Path(named) if named else user_cache_path("transfer-bench")


def _place(root: Path) -> Path:
    """Beside no data and in no store: names of files are kept as hashes, for this user alone."""
    mark = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return cache() / f"files-{mark}.json"
