"""Runs cells on a Ray cluster: a task per batch, a fraction of a GPU each.

Ray only places tasks: outcomes come through the store, which every node must see. A task runs the
worker command as a process of its own, so a cell that crashes does not crash Ray's.
"""

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.engine import node, schedule
from benchmark.engine.local import GRACE, Listener
from benchmark.engine.schedule import Batch
from benchmark.errors import BenchError
from benchmark.spec import Cell, Runtime


def run(
    cells: Sequence[Cell],
    runtime: Runtime,
    *,
    listener: Listener = lambda event, cell, facts: None,
    slots: int = 1,
    address: str = "auto",
    size: int | None = None,
) -> bool:
    """Run every cell on the cluster at `address`; False when the user stopped it.

    `slots` cells share a GPU; without GPUs a cell takes as many CPUs as its recipe has threads.
    `address` is `auto`, `ray://host:10001`, `host:6379`, or `local` for a cluster of one's own.
    """
    ray = _connect(address)
    try:
        runtime = schedule.absolute(runtime)
        executor = _Ray(ray, runtime, slots, max((cell.threads for cell in cells), default=1))
        return schedule.run(cells, runtime, executor, listener=listener, size=size)
    finally:
        ray.shutdown()


@dataclass
class _Ray:
    """Tasks by the batch they run."""

    ray: Any
    runtime: Runtime
    per_gpu: int
    threads: int
    every: float = 0.5
    tasks: dict[str, Any] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """How many batches the cluster takes at once, by what it has now."""
        found = self.ray.cluster_resources()
        if self.gpus:
            return int(found["GPU"] * self.per_gpu)
        return max(1, int(found.get("CPU", 1)) // self.cpus)

    @property
    def gpus(self) -> float:
        """What a task takes of a GPU."""
        there = self.runtime.device != "cpu" and self.ray.cluster_resources().get("GPU", 0)
        return 1 / self.per_gpu if there else 0

    @property
    def cpus(self) -> int:
        """What a task takes of a node, were it the whole of the largest."""
        nodes = [node["Resources"].get("CPU", 0) for node in self.ray.nodes() if node["Alive"]]
        return max(1, min(self.threads, int(max(nodes, default=1))))

    def start(self, batches: Sequence[Batch]) -> None:
        # Ray is not to retry: it would for ever after an out-of-memory kill. We do, from the store.
        task = self.ray.remote(_task).options(
            num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0, name="bench cell"
        )
        for batch in batches:
            self.tasks[batch.id] = task.remote(str(batch.file), self.runtime.model_dump_json())

    def gone(self) -> Mapping[str, str]:
        names = {task: name for name, task in self.tasks.items()}
        if names:
            done, _ = self.ray.wait(list(names), num_returns=len(names), timeout=0)
            for task in done:
                del self.tasks[names[task]]
                self.lost[names[task]] = self._why(task)
        return self.lost

    def known(self, jobs: Mapping[str, str]) -> set[str]:
        return set()  # the tasks of a driver end with it

    def stop(self) -> None:
        tasks = list(self.tasks.values())
        for task in tasks:
            self.ray.cancel(task)
        if tasks:
            _, left = self.ray.wait(tasks, num_returns=len(tasks), timeout=GRACE + 15)
            for task in left:
                self.ray.cancel(task, force=True)

    def _why(self, task: Any) -> str:
        """What Ray knows of a task that ended; nothing is wrong with most."""
        from ray.exceptions import RayError, RayTaskError

        try:
            blind = self.ray.get(task)
        except RayError as error:
            lines = str(error).strip().splitlines()  # of a task, a traceback
            return f"Ray says: {lines[-1 if isinstance(error, RayTaskError) else 0]}"
        if blind:
            raise BenchError(
                f"The node {blind} does not see the store {self.runtime.store}.",
                "Put --store and --data on a file system that every node mounts at this path.",
            )
        return ""


def _task(file: str, runtime: str) -> str:
    """Run a batch on this node; the answer is the node's name if it cannot see the store."""
    path = Path(file)
    if not path.parent.is_dir():
        return socket.gethostname()
    if not path.is_file():  # called off while it waited for room
        return ""
    process = node.begin(path, Runtime.model_validate_json(runtime))
    try:
        code = node.wait(process)
    finally:  # cancelled
        node.halt(process)
    node.note_end(path, code)
    return ""


def _connect(address: str) -> Any:
    """Join a cluster; who may is up to Ray's own authentication, which stays as it is."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing phones home
    try:
        import ray
    except ImportError as error:
        raise BenchError("Ray is not installed.", "Install transfer-bench[ray].") from error
    from ray.exceptions import RayError

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        if "AuthenticationError" in f"{error!r} {error.__cause__}":
            raise BenchError(
                f"The Ray cluster at {address} does not know us.",
                "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token to its token.",
            ) from error
        raise BenchError(
            f"No Ray cluster answers at {address}: {str(error).strip().splitlines()[0]}",
            "Start one (ray start --head), or name one with --address.",
        ) from error
    return ray
