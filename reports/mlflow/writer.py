"""Writes runs into one MLflow: each cell, grid and correlation once."""

import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from benchmark.errors import BenchError
from benchmark.spec import canonical
from benchmark.store import Store
from reports.mlflow import entry as entries
from reports.mlflow.entry import Entry
from reports.mlflow.server import client_of, gist, of_all, own_uri, troubles

if TYPE_CHECKING:
    from mlflow.entities import Run

    from reports.distances import Measure
    from reports.leaderboard.gains import Pair, Place

KINDS = ("pretrain", "run", "distance")
KEY, GRID, CORRELATION = "bench.key", "bench.grid", "bench.correlation"
COMPLETE, PARENT = "bench.complete", "mlflow.parentRunId"
POOLED_FROM = "bench.pooled"  # a tag of an experiment
LONGEST = 5000  # characters of a tag or a param
WAIT = 60.0  # seconds for another process that writes

Shown = tuple[str | None, str | None]  # what a cell's run was made from, and its parent


class Writer:
    """One MLflow, and what this process knows of it."""

    def __init__(self, store: Store, uri: str) -> None:
        from filelock import FileLock

        self.store, self.uri = store, uri
        # Two grids on one store may write at once, and neither may make what the other makes.
        self.lock = FileLock(store.root / "mlflow.lock", timeout=WAIT)
        with self.lock:  # the first one makes the tables of a new database
            self.client = client_of(uri)
            self.client.search_experiments(max_results=1)
        self.written = self.unchanged = 0
        self.refused: list[str] = []
        self.touched: set[str] = set()  # experiments of the cells that were written
        self.experiments: dict[str, str] = {}  # name -> id
        self.listed: dict[str, dict[str, Shown | None]] = {}
        self.parents: dict[tuple[str, str], str] = {}  # (experiment, grid) -> run id
        self.grids = {facts["grid"]: facts for facts in store.grids()}
        # A cell stands under the largest grid that asked for it: a retry of a few takes none away.
        self.grid_of = {
            cell: facts["grid"]
            for facts in sorted(self.grids.values(), key=lambda f: (len(f["cells"]), f["grid"]))
            for cell in facts["cells"]
        }

    def cell(self, kind: str, key: str, *, listed: bool = False) -> None:
        """Mirror one cell; `listed` first reads all of its experiment, which pays for many cells.

        A cell that MLflow refuses costs itself; an MLflow that does not answer is raised.
        """
        state = entries.state_of(self.store, kind, key)
        cell = self.store.summary(kind, key)
        if cell is None:
            return
        try:
            experiment = entries.experiment_of(cell)
            parent = self._parent(experiment, self.grid_of.get(f"{kind}/{key}"))
            if listed and self._list(experiment).get(key) == (state, parent):
                self.unchanged += 1
                return
            outcome = self.store.outcome(kind, key)
            if outcome is None:
                return
            self._put(
                experiment,
                (KEY, key),
                state,
                lambda: entries.of_cell(self.store, outcome),
                parent=parent,
            )
            self.touched.add(experiment)
        except troubles() as error:
            if of_all(error):
                raise
            self.client.search_experiments(max_results=1)  # raises where nobody answers
            self.refused.append(f"MLflow refused the cell {key}: {gist(error, self.uri)}.")

    def finish(self, *, every: bool = True) -> None:
        """What is said of many cells: the grids, and how distances go with gains.

        Unless `every` is wanted, only on the targets of the cells that were written.
        """
        rows = [row for kind in KINDS for row in self.store.summaries(kind)]
        statuses = {f"{row.spec.kind}/{row.key}": row.status for row in rows}
        for experiment, grid in self.parents:
            facts = self.grids[grid]
            counts = Counter(statuses.get(cell, "left") for cell in facts["cells"])
            state = entries.digest_of(facts["began"], sorted(counts.items()))

            def entry(facts: dict[str, Any] = facts, counts: Counter[str] = counts) -> Entry:
                arms = entries.over_folds(self.store, facts["cells"])
                return entries.of_grid(facts, counts, arms)

            self._put(experiment, (GRID, grid), state, entry, lasting=True)
        rows = [row for row in rows if row.status == "ok" and row.spec.fusion in ("", "none")]
        targets = {entries.experiment_of(row) for row in rows if row.spec.kind == "run"}
        targets &= {entries.experiment_of(row) for row in rows if row.spec.kind == "distance"}
        if not every:
            self._correlations(targets & self.touched, pooled=False)
        elif targets:
            state = entries.digest_of(sorted((row.key, row.stamp) for row in rows))
            where = self._experiment(min(targets))
            if self.client.get_experiment(where).tags.get(POOLED_FROM) != state:
                self._correlations(targets, pooled=True)
                self.client.set_experiment_tag(where, POOLED_FROM, state)

    def _correlations(self, targets: set[str], *, pooled: bool) -> None:
        """A run for each distance and each protocol, mode and network: by target, and pooled."""
        from reports import distances, own
        from reports.leaderboard import gains, table

        if not targets:
            return
        names = [] if pooled else [name.partition("#")[0] for name in sorted(targets)]
        boards = table.boards(self.store, fusions=("none",), targets=names)
        outcomes = self.store.outcomes("distance")
        parts = [
            (own.marked(made.target, made.versions["target"]), [made])
            for made, _ in gains.of_one_partition(boards)
        ]
        for where, part in [*parts, (entries.POOLED, boards)] if pooled else parts:
            many = where == entries.POOLED
            for place, group in gains.gather(part, "none", "scratch").items():
                hows, _ = distances.measured(
                    self.store, outcomes, place.arch, group.weights, (), group.split
                )
                for how in hows:
                    pairs = [
                        pair
                        for pair in group.pairs
                        if (pair.source, pair.target) in how.values
                        and (many or pair.source != pair.target)
                    ]
                    if len({pair.target for pair in pairs}) > many:
                        self._correlation(where, place, pairs, how, group.noise)

    def _correlation(
        self,
        where: str,
        place: "Place",
        pairs: "list[Pair]",
        how: "Measure",
        noise: dict[str, dict[str, float]],
    ) -> None:
        name = "/".join((where, how.label, *place)).replace("'", "_")
        values = [[*pair.gain, *how.values[pair.source, pair.target]] for pair in pairs]
        names = [(pair.source, pair.target) for pair in pairs]
        self._put(
            where,
            (CORRELATION, name),
            entries.digest_of(names, repr(values), how.about, noise),
            lambda: entries.of_correlation(where, place, pairs, how, noise),
            lasting=True,
        )

    def _parent(self, experiment: str, grid: str | None) -> str | None:
        """The run of a grid in this experiment, made if it is not there."""
        if grid is None:
            return None
        if (experiment, grid) not in self.parents:
            where = self._experiment(experiment)
            with self.lock:
                found = self._find(where, GRID, grid)
                entry = entries.of_grid(self.grids[grid], Counter())
                run = found[0] if found else self._create(where, (GRID, grid), entry)
            self.parents[experiment, grid] = run.info.run_id
        return self.parents[experiment, grid]

    def _put(
        self,
        experiment: str,
        identity: tuple[str, str],
        state: str,
        make: Callable[[], Entry],
        *,
        lasting: bool = False,
        parent: str | None = None,
    ) -> None:
        """One whole run of this identity; a `lasting` one keeps its id when its numbers change."""
        where = self._experiment(experiment)
        with self.lock:
            found = self._find(where, *identity)
            tags = found[0].data.tags if found else {}
            if len(found) == 1 and tags.get(COMPLETE) == state:
                self.unchanged += 1
                if parent and tags.get(PARENT) != parent:
                    self.client.set_tag(found[0].info.run_id, PARENT, parent)
                return
            entry = make()
            keep = found[0] if lasting and found and _can_become(found[0], entry) else None
            for old in found:
                if old is not keep:
                    self.client.delete_run(old.info.run_id)
            run = keep or self._create(where, identity, entry, parent)
            self._fill(run, entry, tagged=keep is None)
            self.client.set_tag(run.info.run_id, COMPLETE, state)
            self.written += 1

    def _fill(self, run: "Run", entry: Entry, *, tagged: bool) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        client, run_id = self.client, run.info.run_id
        metrics = [Metric(n, v, entry.ended, s) for n, v, s in entry.metrics if math.isfinite(v)]
        params = [Param(name, text[:LONGEST]) for name, text in entry.params.items()]
        tags = [RunTag(name, text[:LONGEST]) for name, text in entry.tags.items()]
        told = [] if tagged else tags
        client.log_batch(run_id, metrics=metrics, params=params, tags=told, synchronous=True)
        if entry.data:
            inputs = [
                DatasetInput(
                    Dataset(name, digest, "transfer-bench", canonical({"name": name})),
                    [InputTag("mlflow.data.context", use)],
                )
                for name, digest, use in entry.data
            ]
            client.log_inputs(run_id, datasets=inputs)
        for path, folder in entry.files:
            client.log_artifact(run_id, str(path), folder)
        for name, text in entry.texts.items():
            client.log_text(run_id, text, name)
        if entry.model is not None:
            self._register(run, *entry.model)
        client.set_terminated(run_id, entry.status, end_time=entry.ended)

    def _register(self, run: "Run", name: str, tags: dict[str, str]) -> None:
        """The weights of a run as the one version of a registered model that has this key."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for old in self.client.search_model_versions(f"name = '{name}'"):
            if old.tags.get(KEY) == tags[KEY]:
                self.client.delete_model_version(name, old.version)
        source = f"{run.info.artifact_uri}/weights"
        self.client.create_model_version(name, source, run.info.run_id, tags=tags)

    def _create(
        self, where: str, identity: tuple[str, str], entry: Entry, parent: str | None = None
    ) -> "Run":
        tags = {name: text[:LONGEST] for name, text in entry.tags.items()} | dict([identity])
        tags |= {PARENT: parent} if parent else {}
        return self.client.create_run(where, entry.began, tags, run_name=entry.name)

    def _find(self, where: str, tag: str, value: str) -> "list[Run]":
        return list(self.client.search_runs([where], f"tags.`{tag}` = '{value}'"))

    def _list(self, experiment: str) -> dict[str, Shown | None]:
        """Of each key in an experiment the state that is shown, and its parent; None if doubled."""
        if experiment not in self.listed:
            found: dict[str, Shown | None] = {}
            for key, state, parent in self._shown(self._experiment(experiment)):
                found[key] = None if key in found else (state, parent)
            self.listed[experiment] = found
        return self.listed[experiment]

    def _shown(self, where: str) -> list[tuple[str, *Shown]]:
        """Key, state and parent of every cell's run in an experiment.

        MLflow gives them with all metrics alone, milliseconds a run: a database is asked itself.
        """
        from sqlalchemy import create_engine, text

        column = "MAX(CASE WHEN t.key = '{}' THEN t.value END)"
        query = (
            f"SELECT {', '.join(map(column.format, (KEY, COMPLETE, PARENT)))} FROM tags t "
            "JOIN runs r ON r.run_uuid = t.run_uuid WHERE r.experiment_id = :where "
            "AND r.lifecycle_stage = 'active' GROUP BY t.run_uuid"
        )
        try:
            engine = create_engine(self.uri)
            with engine.connect() as connection:
                rows = connection.execute(text(query), {"where": int(where)}).all()
            engine.dispose()
            return [(row[0], row[1], row[2]) for row in rows if row[0]]
        except troubles():  # it is a server, or of another layout
            found, token = [], None
        while token != "":
            page = self.client.search_runs(
                [where], f"tags.`{KEY}` LIKE '%'", max_results=1000, page_token=token
            )
            tags = [run.data.tags for run in page]
            found += [(one[KEY], one.get(COMPLETE), one.get(PARENT)) for one in tags]
            token = page.token or ""
        return found

    def _experiment(self, name: str) -> str:
        """The experiment's id, made or taken out of the bin if need be."""
        if name not in self.experiments:
            with self.lock:
                found = self.client.get_experiment_by_name(name)
                home = self._home()
                if found is None:
                    self.experiments[name] = self.client.create_experiment(name, home)
                    return self.experiments[name]
                if self.uri == own_uri(self.store) and found.artifact_location != home:
                    raise BenchError(
                        "The store has moved, and its MLflow database names the old place.",
                        "Delete mlflow.db and mlflow-artifacts in the store, then run "
                        "`bench mlflow sync`.",
                    )
                if found.lifecycle_stage == "deleted":
                    self.client.restore_experiment(found.experiment_id)
                self.experiments[name] = found.experiment_id
        return self.experiments[name]

    def _home(self) -> str | None:
        """Where artefacts lie: beside the store's database, or as a server decides."""
        if urlsplit(self.uri).scheme in ("http", "https") or self.uri.startswith("databricks"):
            return None
        return (self.store.root.resolve() / "mlflow-artifacts").as_uri()


def _can_become(run: "Run", entry: Entry) -> bool:
    """MLflow takes no number out of a run and changes no param."""
    names = {name for name, value, _ in entry.metrics if math.isfinite(value)}
    return names >= set(run.data.metrics) and run.data.params.items() <= entry.params.items()
