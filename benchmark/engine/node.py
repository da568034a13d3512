"""What runs on the node that was given a batch: the worker command, held by its caller."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

from benchmark import heartbeat
from benchmark.engine.local import GRACE
from benchmark.engine.worker import decode, settled
from benchmark.errors import Damaged
from benchmark.files import read_json, write
from benchmark.spec import Runtime
from benchmark.store import Store


def begin(file: Path, runtime: Runtime) -> subprocess.Popen[bytes]:
    """Start the worker command on a batch, on the node that is to run it.

    It ends when its standard input does: it cannot outlive the process that called this.
    """
    command = [sys.executable, "-m", "benchmark.cli", "cell", runtime.model_dump_json()]
    with file.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--batch", str(file)], stdin=subprocess.PIPE, stdout=log, stderr=log
        )


def wait(process: subprocess.Popen[bytes]) -> int:
    """The worker's exit code; looks up often, for Ray cannot interrupt a process that sleeps."""
    while (code := process.poll()) is None:
        time.sleep(0.2)
    return code


def halt(process: subprocess.Popen[bytes]) -> int:
    """Let the worker note where it is, and see that it is gone."""
    process.terminate()
    until = time.monotonic() + GRACE + 10  # it gives its own worker that grace
    while (code := process.poll()) is None and time.monotonic() < until:
        time.sleep(0.1)
    if code is None:
        process.kill()
        code = process.wait()
    return code


def note_end(file: Path, code: int) -> None:
    """Tell whoever waits that the worker is gone, and which cells it left.

    This node knows what its worker wrote; on a network file system others may see it later. Nobody
    waits once the batch was called off.
    """
    try:
        raw = read_json(file)["cells"]
    except (FileNotFoundError, Damaged):
        return
    store, left, at = Store(file.parent.parent), [], []
    for one in raw:
        cell = decode(one)
        if settled(store, cell, one["before"]) is None:
            left.append(cell.key)
            if heartbeat.stamp(store.of(cell)) not in (None, one["mark"]):
                at.append(cell.key)
    facts = {"code": code, "host": socket.gethostname(), "left": left, "at": at}
    write(file.with_suffix(".end"), json.dumps(facts), durable=False)
