"""The command line: parse, call one function, print.

run: `bench run`, `bench distance`. read: boards, comparisons, pages, pictures. store: data,
weights, results, the store. advise: `bench recommend --budget`. options: what commands share. An
import that costs time is inside the command that needs it.
"""

import atexit
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from benchmark import registry
from benchmark.cli import read, run, store
from benchmark.errors import BenchError, plain

app = typer.Typer(
    name="bench",
    help="Which pretrained weights should I start from, and is the patient's record worth fusing?",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for part in (run, read):  # commands stand in this order in the help
    app.registered_commands += part.app.registered_commands
app.add_typer(store.data_app, name="data")
app.add_typer(store.weights_app, name="weights")
app.add_typer(store.results_app, name="results")
app.add_typer(store.mlflow_app, name="mlflow")
app.add_typer(store.expert_app, name="expert")
app.add_typer(store.store_app, name="store")


@app.command(name="list")
def list_() -> None:
    """The sources, targets, fusions and distances there are."""
    for kind, heading in (("source", "Sources (every target is one too)"), ("target", "Targets"),
                          ("fusion", "Fusions"), ("distance", "Distances")):  # fmt: skip
        found = registry.names(kind)
        sys.stdout.write(heading + "\n")
        for name, line in found.items():
            sys.stdout.write(f"  {name:12} {line}\n")
        for name, where in registry.plugins(kind).items():
            sys.stdout.write(f"  {name:12} (from {where})\n")


@app.command()
def check(
    component: Annotated[str, typer.Argument(help="A name or a file such as ./mine.py.")],
    kind: Annotated[str, typer.Option(help="source, target or fusion.")] = "",
) -> None:
    """Hold a component, yours for instance, to the contract that every built-in one keeps."""
    from benchmark import contract

    sys.stdout.writelines(f"{line}\n" for line in contract.check(component, kind))


@app.command()
def doctor() -> None:
    """Is this installation sound? Each line says what was looked at and what was found."""
    from benchmark import contract

    code = 0
    for fine, line in contract.doctor():
        sys.stdout.write(("ok    " if fine else "WRONG ") + line + "\n")
        code = code or (0 if fine else 2)
    if code:
        raise typer.Exit(code)


@app.command()
def version() -> None:
    """The version of this installation."""
    from importlib.metadata import version as installed

    sys.stdout.write(installed("transfer-bench") + "\n")


@app.command(hidden=True)
def cell(
    runtime: Annotated[str, typer.Argument(help="The runtime as JSON.")],
    batch: Annotated[Path | None, typer.Option(help="A file of cells.")] = None,
) -> None:
    """Run the cells that arrive on standard input, or those of a file."""
    from benchmark.engine import worker
    from benchmark.spec import Runtime

    how = Runtime.model_validate_json(runtime)
    raise typer.Exit(worker.run_batch(batch, how) if batch else worker.serve(how))


def main() -> NoReturn:
    """Run a command; an error the user can mend is two sentences and exit code 2."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    for name in ("SIGTERM", "SIGHUP"):  # a scheduler, a terminal that closes: as Ctrl-C
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # `nohup` holds
            signal.signal(number, signal.default_int_handler)
    warnings.showwarning = lambda message, *_: sys.stderr.write(plain(f"Note: {message}") + "\n")
    try:
        app()
    except BenchError as error:
        if debug:
            raise
        sys.stderr.write(plain(f"Error: {error.what}\n{error.todo}\n", "\n"))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(0)


def process() -> NoReturn:
    """What the shell starts: a command with a process of its own."""
    # Threads that wait must sleep: where others want the cores too, spinning made training 15 to 20
    # times slower. Those of NumPy's linear algebra never do, so it gets one: heads were solved 70
    # times faster, and numbers are the same on any number of cores. Workers inherit both.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        main()
    except SystemExit as error:
        if "triton" in sys.modules and isinstance(error.code, int):
            # Torn down with the interpreter, it fills the screen with complaints about itself.
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.code)
        raise
