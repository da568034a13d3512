"""Stores that several tests of the reports read and none writes."""

import pytest
from boards import fill, varied

from benchmark.store import Store


@pytest.fixture
def many_kinds(made_once) -> Store:
    """As `varied` makes it."""
    return Store(made_once("many-kinds", varied))


@pytest.fixture
def evaluated(made_once) -> Store:
    """Two truly evaluated folds of every arm."""
    return Store(made_once("evaluated", lambda root: fill(root, true=True, folds=2)))
