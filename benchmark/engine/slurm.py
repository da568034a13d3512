"""Runs cells on a Slurm cluster: an array of jobs through submitit, a batch of cells each.

Slurm sends its signals to a job's every process: the worker notes where it is and ends. What
follows is up to the sender: ahead of a time limit or a preemption submitit requeues the job, and
it goes on from the last checkpoints; a cancelled job is killed.
"""

import math
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.engine import node, schedule
from benchmark.engine.local import Listener
from benchmark.engine.schedule import Batch
from benchmark.engine.worker import stopped
from benchmark.errors import BenchError
from benchmark.files import read_json, write_json
from benchmark.spec import Cell, Runtime

#: How often a job may reach its time limit; each time it goes on where it was.
REQUEUES = 100

#: How long a job whose worker was told to stop waits for its own end, which Slurm brings.
PATIENCE = 300.0  # seconds

#: Slurm's controller serves everyone: it is asked this often at most.
ASKED_EVERY = 10.0  # seconds


def run(
    cells: Sequence[Cell],
    runtime: Runtime,
    *,
    listener: Listener = lambda event, cell, facts: None,
    slots: int = 16,
    options: Mapping[str, Any] | None = None,
    size: int | None = None,
    cluster: str = "slurm",
) -> bool:
    """Run every cell in jobs of which `slots` run at once; False when the user stopped it.

    `options` are sbatch's long ones: partition, account, qos, mem, gpus-per-node, …; `time` is in
    minutes, 240 if not given. `cluster="local"` runs the jobs on this machine, for tests.
    """
    runtime = schedule.absolute(runtime)
    cores = max((cell.threads for cell in cells), default=1)
    executor = _executor(cluster, runtime, slots=slots, cores=cores, options=options or {})
    jobs = _Jobs(executor, runtime, slots)
    return schedule.run(cells, runtime, jobs, listener=listener, size=size)


@dataclass
class _Jobs:
    """submitit's jobs by the batch they run."""

    executor: Any
    runtime: Runtime
    slots: int
    jobs: dict[str, Any] = field(default_factory=dict)
    asked: float = -math.inf
    queue: set[str] | None = None

    def start(self, batches: Sequence[Batch]) -> None:
        from submitit.core.utils import FailedSubmissionError, UncompletedJobError

        text = self.runtime.model_dump_json()
        try:
            with self.executor.batch():
                jobs = [self.executor.submit(Job(str(batch.file), text)) for batch in batches]
        except (FailedSubmissionError, UncompletedJobError, OSError) as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise BenchError(
                f"Slurm took no job: {why}", "Look at the options given for Slurm."
            ) from error
        for batch, job in zip(batches, jobs, strict=True):
            self.jobs[batch.id] = job
            write_json(batch.file, {**read_json(batch.file), "job": job.job_id})
        self.asked = -math.inf  # what squeue said before knows nothing of these

    def gone(self) -> Mapping[str, str]:
        if self.local:
            return {name: "" for name, job in self.jobs.items() if job.done()}
        queue = self._queue()
        if queue is None:  # the controller is busy: nobody knows
            return {}
        left = {name for name, job in self.jobs.items() if job.job_id not in queue}
        return dict.fromkeys(left, "Slurm does not know the job any more.")

    def known(self, jobs: Mapping[str, str]) -> set[str]:
        if self.local:
            return set()
        from submitit import SlurmJob

        queue = self._queue()
        if queue is None:
            raise BenchError("squeue does not answer.", "Try again when Slurm is up.")
        found = {name: job for name, job in jobs.items() if job in queue}
        folder = self.executor.folder
        self.jobs.update({name: SlurmJob(folder, job) for name, job in found.items()})
        return set(found)

    def stop(self) -> None:
        for job in self.jobs.values():
            job.cancel(check=False)
        until = time.monotonic() + PATIENCE
        while len(self.gone()) < len(self.jobs) and time.monotonic() < until:
            time.sleep(1)
            self.asked = -math.inf

    @property
    def local(self) -> bool:
        return self.executor.name() == "local"

    @property
    def every(self) -> float:
        return 0.2 if self.local else 2.0

    def _queue(self) -> set[str] | None:
        """Our jobs that wait, run or end; squeue, as sacct needs a data base not all have."""
        if time.monotonic() - self.asked > ASKED_EVERY:
            self.asked = time.monotonic()
            words = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
            found = subprocess.run(words, capture_output=True, text=True, check=False)
            self.queue = set(found.stdout.split()) if found.returncode == 0 else None
        return self.queue


class Job:
    """What runs on a node: the worker command, with this process between it and Slurm."""

    def __init__(self, file: str, runtime: str) -> None:
        self.file, self.runtime = Path(file), runtime
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Run the batch to its end."""
        if not self.file.is_file():  # called off while it waited in the queue
            return
        self.process = node.begin(self.file, Runtime.model_validate_json(self.runtime))
        try:
            code = node.wait(self.process)
        finally:
            node.halt(self.process)
        until = time.monotonic() + PATIENCE
        while stopped(code) and self.file.is_file() and time.monotonic() < until:
            time.sleep(0.5)  # a preempted job that ended now would not be requeued
        node.note_end(self.file, code)

    def checkpoint(self) -> Any:
        """What submitit runs after the requeue; the worker must be gone before."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            node.halt(self.process)
        return DelayedSubmission(Job(str(self.file), self.runtime))


def _executor(
    cluster: str, runtime: Runtime, *, slots: int, cores: int, options: Mapping[str, Any]
) -> Any:
    """submitit's executor, told what a job needs."""
    try:
        import submitit
    except ImportError as error:
        raise BenchError("submitit is not installed.", "Install transfer-bench[slurm].") from error
    folder = runtime.store / "batches" / "jobs"
    needs: dict[str, Any] = {"time": 240, "cpus_per_task": cores, "requeue": True}
    if runtime.device != "cpu":
        needs["gpus_per_node"] = 1
    needs.update({name.replace("-", "_"): value for name, value in options.items()})
    try:
        minutes = int(needs.pop("time"))
    except ValueError as error:
        raise BenchError("A job's time is a number of minutes.", "Write time=240.") from error
    if cluster == "local":
        here = submitit.LocalExecutor(folder, max_num_timeout=REQUEUES)
        here.update_parameters(timeout_min=minutes, gpus_per_node=needs.get("gpus_per_node", 0))
        return here
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=REQUEUES)
    except RuntimeError as error:
        raise BenchError(
            "There is no Slurm here: srun was not found.", "Start it on a login node."
        ) from error
    executor.update_parameters(
        job_name="bench",
        time=minutes,
        array_parallelism=slots,
        srun_args=[f"--cpus-per-task={needs['cpus_per_task']}"],  # srun does not inherit it
        additional_parameters=needs,
    )
    return executor
