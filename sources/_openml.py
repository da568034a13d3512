"""openml-python at work for sources/openml.py, without a trace of it in the home or in our logs."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def library(cache: Path, fresh: Path) -> Iterator[Any]:
    """openml-python at work in a folder; its settings and ours are as before afterwards."""
    openml = _imported(cache)
    config, quiet = openml.config, logging.NullHandler()
    before = config.get_config_as_dict()
    logging.root.addHandler(quiet)  # the library's own logging would set up the root for good
    config.set_root_cache_directory(fresh)
    config.connection_n_retries = min(2, int(before["connection_n_retries"]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # fetching images is "experimental"
            yield openml
    finally:
        config.connection_n_retries = before["connection_n_retries"]
        config.set_root_cache_directory(before["cachedir"])
        logging.root.removeHandler(quiet)


def _imported(cache: Path) -> Any:
    """openml-python. Its import makes folders in the home, where they are not wanted.

    Its settings (server, key) are the user's where there are any, else those in `cache`/config.
    """
    names = ("OPENML_CACHE_DIR", "XDG_CONFIG_HOME")
    before = {name: os.environ.get(name) for name in names}
    settings = Path(before["XDG_CONFIG_HOME"] or Path.home() / ".config") / "openml"
    os.environ["OPENML_CACHE_DIR"] = str(cache)
    if not settings.is_dir():
        os.environ["XDG_CONFIG_HOME"] = str(cache.parent)
    try:
        import openml
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    return openml
