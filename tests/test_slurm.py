"""Slurm's jobs: through submitit on this machine, and on a real Slurm of one node."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from stores import driver as driven
from stores import results

from benchmark import heartbeat
from benchmark.engine import local, slurm
from benchmark.engine.schedule import Batch
from benchmark.errors import BenchError
from benchmark.plan import plan
from benchmark.spec import Cell, RunSpec, Runtime
from benchmark.store import Store

if find_spec("submitit") is None:
    pytest.skip("the extra [slurm] is not installed", allow_module_level=True)

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmctldPort={port}
SlurmdPort={next}
AuthType=auth/munge
AuthInfo=socket={here}/munge.sock
StateSaveLocation={here}
SlurmdSpoolDir={here}
SlurmctldPidFile={here}/slurmctld.pid
SlurmdPidFile={here}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
KillWait=5
SchedulerParameters=sched_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""


@pytest.fixture
def cells(request: pytest.FixtureRequest, runtime: Runtime, request_tiny) -> list[Cell]:
    """Three cells of a second, or six that a real Slurm has the time to hit."""
    asked = {"recipe": {"epochs": 60}}
    if request.node.get_closest_marker("slow"):
        asked = {"recipe": {"epochs": 200}, "seeds": (0, 1)}
    made = plan.make(request_tiny(**asked), runtime)
    return [planned.cell for planned in made.of("to run")]


@pytest.fixture
def alone(tmp_path: Path, runtime: Runtime, cells: list[Cell]) -> dict[str, tuple]:
    """The numbers of a run in this very process; its caches are handed on."""
    apart = runtime.model_copy(update={"store": tmp_path / "alone"})
    assert local.run(cells, apart, slots=0)
    for part in ("features", "prepared"):
        shutil.copytree(apart.store / part, runtime.store / part)
    return results(apart.store)


def logs(store: Path) -> str:
    return "".join(p.read_text() for p in (store / "batches" / "jobs").glob("*_log.*"))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_preempted_job_is_requeued_and_a_local_run_agrees(
    runtime: Runtime, cells: list[Cell], alone: dict[str, tuple]
):
    store, hits = Store(runtime.store), []

    def listen(event, cell, facts):
        mark = heartbeat.read(store.of(cell))
        if event == "epoch" and mark is not None and not hits:
            job = parent(parent(mark.pid))
            assert b"submitit" in Path(f"/proc/{job}/cmdline").read_bytes()
            hits.append(mark.pid)
            os.kill(job, signal.SIGUSR2)

    assert slurm.run(cells, runtime, cluster="local", size=3, listener=listen)
    assert results(runtime.store) == alone
    assert len(hits) == 1
    assert "Requeued job" in logs(runtime.store)
    assert [p.name for p in (runtime.store / "batches").iterdir()] == ["jobs"]


# A Slurm of paper: scripts in its commands' places.


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands that stand before all others; each writes down how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    tell(folder, "srun", "exit 1")
    tell(folder, "sbatch", "echo Submitted batch job 7")
    tell(folder, "squeue", "echo 7_0; echo 7_1")
    tell(folder, "scancel", "exit 0")
    return folder


def tell(folder: Path, command: str, what: str) -> None:
    path = folder / command
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/{command}.called\n{what}\n')
    path.chmod(0o755)


def jobs_of(runtime: Runtime, **options) -> slurm._Jobs:
    executor = slurm._executor("slurm", runtime, slots=1, cores=4, options=options)
    return slurm._Jobs(executor, runtime, 1)


def batch_of(runtime: Runtime, name: str) -> Batch:
    file = runtime.store / "batches" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    return Batch(name, file, [Cell.of(RunSpec(source="a", target="b"))], {}, {})


def test_batches_become_one_array(runtime: Runtime, commands: Path):
    jobs = jobs_of(runtime, partition="gpu", time="90", mem="8G")
    jobs.start([batch_of(runtime, "x"), batch_of(runtime, "y")])
    assert len((commands / "sbatch.called").read_text().splitlines()) == 1
    (script,) = (runtime.store / "batches" / "jobs").glob("*_submission.sh")
    text = script.read_text()
    for line in ("--array=0-1%1", "--partition=gpu", "--time=90", "--cpus-per-task=4", "--requeue",
                 "--job-name=bench", "--mem=8G", "--signal=USR2@90"):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert "srun" in text
    assert "--cpus-per-task=4" in text.partition("srun")[2]
    assert "--gpus" not in text
    assert json.loads((runtime.store / "batches" / "y.json").read_text())["job"] == "7_1"
    assert jobs.gone() == {}
    tell(commands, "squeue", "echo 7_1; echo 8")
    assert jobs.gone() == {}  # it was asked just now
    jobs.asked = -1e9
    assert set(jobs.gone()) == {"x"}
    tell(commands, "squeue", "exit 1")
    jobs.asked = -1e9
    assert jobs.gone() == {}  # nobody knows


def test_a_gpu_is_asked_for_where_the_device_is_not_the_cpu(runtime: Runtime, commands: Path):
    jobs = jobs_of(runtime.model_copy(update={"device": "auto"}))
    jobs.start([batch_of(runtime, "x")])
    (script,) = (runtime.store / "batches" / "jobs").glob("*_submission.sh")
    assert "#SBATCH --gpus-per-node=1\n" in script.read_text()


def test_jobs_of_an_earlier_command_are_known_and_can_be_cancelled(
    runtime: Runtime, commands: Path, monkeypatch: pytest.MonkeyPatch
):
    jobs = jobs_of(runtime)
    assert jobs.known({"x": "7_0", "y": "6_1"}) == {"x"}
    tell(commands, "squeue", "")
    jobs.stop()
    assert (commands / "scancel.called").read_text().split() == ["7_0"]
    tell(commands, "squeue", "exit 1")
    jobs.asked = -1e9
    with pytest.raises(BenchError, match="squeue"):
        jobs.known({"x": "7_0"})


def test_errors_say_what_to_do(
    runtime: Runtime, commands: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with pytest.raises(BenchError, match="minutes"):
        jobs_of(runtime, time="4:00:00")
    tell(commands, "sbatch", "echo 'sbatch: error: invalid partition specified: no' >&2; exit 1")
    with pytest.raises(BenchError, match="invalid partition specified: no"):
        jobs_of(runtime, partition="no").start([batch_of(runtime, "x")])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="srun was not found"):
        slurm.run([], runtime)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(BenchError, match=r"transfer-bench\[slurm\]"):
        slurm.run([], runtime)


def test_a_job_whose_batch_was_called_off_does_nothing(runtime: Runtime, tmp_path: Path):
    slurm.Job(str(tmp_path / "gone.json"), runtime.model_dump_json())()
    assert not list(tmp_path.iterdir())


# A real Slurm of one node.


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [name for name in DAEMONS if shutil.which(name, path=path) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"no {', '.join(missing)}" if missing else "slurmd wants root")
    here = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())  # sockets: short
    host = subprocess.check_output(["hostname", "-s"], text=True).strip()
    port = 20000 + os.getpid() % 20000
    config = CONFIG.format(
        here=here, host=host, user="root", port=port, next=port + 1, cpus=os.cpu_count()
    )
    (here / "slurm.conf").write_text(config)
    (here / "key").write_bytes(os.urandom(1024))
    (here / "key").chmod(0o600)
    munge = [f"--{name}={here}/{value}" for name, value in
             (("key-file", "key"), ("socket", "munge.sock"), ("pid-file", "munge.pid"),
              ("log-file", "munge.log"), ("seed-file", "seed"))]  # fmt: skip
    daemons = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(here / "slurm.conf"))
        patch.setenv("PATH", path)
        for words in (["munged", "--force", "--foreground", *munge], ["slurmctld", "-D"],
                      ["slurmd", "-D"]):  # fmt: skip
            log = (here / f"{words[0]}.out").open("w")
            daemons.append(subprocess.Popen(words, stdout=log, stderr=log))
            time.sleep(2)
        until = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo"], capture_output=True, text=True).stdout:
            assert time.monotonic() < until, (here / "slurmctld.out").read_text()
            time.sleep(0.5)
        yield
        subprocess.run(["scancel", f"--user={os.getuid()}"], check=False)
        time.sleep(2)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)
    shutil.rmtree(here)


def submissions(store: Path) -> int:
    return len(list((store / "batches" / "jobs").glob("*_submission.sh")))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_jobs_are_cancelled_and_preempted(
    cluster, runtime: Runtime, cells: list[Cell], alone: dict[str, tuple]
):
    """One job is cancelled in the middle, another gets the signal of a time limit."""
    hits = {}

    def listen(event, cell, facts):
        texts = [path.read_text() for path in (runtime.store / "batches").glob("*.json")]
        mine = next(json.loads(text)["job"] for text in texts if cell.key in text)
        if event == "epoch" and mine not in hits and len(hits) < 2:
            words = ["--signal=USR2"] if hits else []
            hits[mine] = words
            subprocess.run(["scancel", *words, mine], check=True)

    assert slurm.run(cells, runtime, size=3, options={"time": 30}, listener=listen)
    assert len(hits) == 2
    assert results(runtime.store) == alone
    assert "Requeued job" in logs(runtime.store)
    assert submissions(runtime.store) == 2
    assert [p.name for p in (runtime.store / "batches").iterdir()] == ["jobs"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_jobs_outlive_their_command_and_are_taken_over(
    cluster, runtime: Runtime, cells: list[Cell], alone: dict[str, tuple]
):
    call = "slurm.run(cells, runtime, size=3, options={'time': 30}, listener=listener)"
    command = driven(call, cells, runtime)
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline()
    driver.kill()
    driver.communicate()
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    assert results(runtime.store) == alone
    assert submissions(runtime.store) == 1
    assert [p.name for p in (runtime.store / "batches").iterdir()] == ["jobs"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ctrl_c_cancels_the_jobs(cluster, runtime: Runtime, cells: list[Cell], alone):
    began, options = [], {"time": 30}

    def listen(event, cell, facts):
        began.append(time.monotonic())
        raise KeyboardInterrupt

    assert not slurm.run(cells, runtime, size=3, options=options, listener=listen)
    took = time.monotonic() - began[0]
    squeue = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert not squeue.stdout
    assert took < 90
    kinds = {o.failure.kind for o in Store(runtime.store).outcomes() if o.failure}
    assert kinds == {"interrupted"}
    assert slurm.run(cells, runtime, size=3, options=options)
    assert results(runtime.store) == alone
