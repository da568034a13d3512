"""Where MLflow is, and how this process talks to it: to nobody else, and not for long."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from benchmark.errors import FULL, BenchError
from benchmark.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient


def default_uri(store: Store) -> str:
    """Where MLflow is: as MLFLOW_TRACKING_URI says, else a database in the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or own_uri(store)


def own_uri(store: Store) -> str:
    """The database in the store."""
    return f"sqlite:///{(store.root.resolve() / 'mlflow.db').as_posix()}"


def address(uri: str) -> str:
    """The URI without a password, to be shown."""
    scheme, _, rest = uri.partition("://")
    if scheme == "sqlite" or not rest:  # a file: nothing secret
        return uri
    # A password may hold any sign unescaped, so all before the last @ goes, and what is asked.
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0].partition('#')[0]}"


def client_of(uri: str) -> "MlflowClient":
    """A client that tells nobody else, and gives up on a dead server in seconds."""
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    for name, value in {"TIMEOUT": "10", "MAX_RETRIES": "1"}.items():
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # results alone go there
    from mlflow import MlflowClient

    # Errors reach us as errors; MLflow writes the traceback of a full disk before it raises one.
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient(uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)


def troubles() -> tuple[type[Exception], ...]:
    """What comes of an MLflow that is away, full, locked or of another version."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, CommandError, OSError, ImportError)


def of_all(error: Exception) -> bool:
    """Whether no other cell could be written either: the database or its disk refuses."""
    code = getattr(error, "error_code", "")
    return code == "TEMPORARILY_UNAVAILABLE" or getattr(error, "errno", None) in FULL


@contextmanager
def reached(uri: str) -> Iterator[None]:
    """Trouble with MLflow, said in two plain sentences."""
    try:
        yield
    except troubles() as error:
        raise BenchError(
            f"MLflow at {address(uri)} could not be written: {gist(error, uri)}.",
            "No result is lost: `bench mlflow sync` mirrors the store when that is mended.",
        ) from error


def gist(error: Exception, uri: str) -> str:
    """The first line of an error, without a password."""
    if "failed with exception" in str(error):
        return "it does not answer"
    if "disk is full" in str(error) or getattr(error, "errno", None) in FULL:
        return "the disk is full"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text, login = lines[0].replace(uri, address(uri)), uri.partition("://")[2].rpartition("@")[0]
    for secret in (login, login.partition(":")[2]):
        for form in (secret, unquote(secret), quote(secret, safe="")):
            text = text.replace(form, "…") if form else text
    return text[:200].rstrip(".")
