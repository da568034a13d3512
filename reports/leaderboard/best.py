"""The best run of a target whose network can be asked again."""

from benchmark.errors import BenchError
from benchmark.store import FILE, Store
from reports.leaderboard.table import boards


def best_run(store: Store, target: str) -> str:
    """The key of the best run of a target whose network was kept: one that leaks comes last."""
    found = boards(store, targets=(target,))
    if len(names := {made.target for made in found}) > 1:
        raise BenchError(
            f"{len(names)} sets are named {target}: {', '.join(sorted(names))}.",
            "Give one of these names, or the key of a run.",
        )
    kept = [
        (made.leaky or row.leaky, made.train_size != "", made.protocol != "standard", key)
        for made in found
        for row in made.rows
        for key in (run.outcome.key for run in row.runs)
        if row.identity.arch != "none" and (store.folder("run", key) / FILE).is_file()
    ]
    if not kept:
        raise BenchError(f"No network of {target} was kept.", "Run one without --no-keep.")
    return min(kept, key=lambda found: found[:3])[3]
