"""Keys are stable and mean what they should; seeds come from names; outcomes survive JSON."""

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmark.spec import (
    Cell,
    Outcome,
    PretrainSpec,
    Recipe,
    RunSpec,
    Runtime,
    key_of,
    seed_of,
)
from benchmark.stats import Estimate


def test_a_key_is_what_it_was_when_the_schema_was_made():
    # A changed key would orphan every stored outcome: raise SCHEMA_VERSION and say so instead.
    assert key_of(RunSpec(source="dtd", target="isic"), {"core": "1"}) == "f998d92966284222"
    assert key_of(PretrainSpec(source="dtd", recipe=Recipe()), {}) == "dc91a243c4342075"


def test_a_key_is_the_same_in_another_process():
    code = (
        "from benchmark.spec import *; "
        "print(key_of(RunSpec(source='a', target='b', recipe=Recipe(lr=3e-5)), {'x': '1'}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONHASHSEED": "77", "PATH": ""},
    )  # fmt: skip
    spec = RunSpec(source="a", target="b", recipe=Recipe(lr=3e-5))
    assert found.stdout.strip() == key_of(spec, {"x": "1"})


@given(
    st.sampled_from(["fold", "seed", "fusion", "source", "lr", "versions"]),
    st.integers(1, 10**6),
)
def test_whatever_changes_the_numbers_changes_the_key(field: str, value: int):
    base = RunSpec(source="a", target="b")
    changed, versions = base, {"core": "1"}
    if field == "lr":
        changed = base.model_copy(update={"recipe": Recipe(lr=value / 1e7)})
    elif field == "versions":
        versions = {"core": str(value + 1)}
    elif field in ("fold", "seed"):
        changed = base.model_copy(update={field: value})
    else:
        changed = base.model_copy(update={field: f"other{value}"})
    same = changed == base and versions == {"core": "1"}
    assert (key_of(changed, versions) == key_of(base, {"core": "1"})) == same


def test_equal_numbers_have_equal_keys_however_written():
    one = RunSpec.model_validate_json('{"source":"a","target":"b","recipe":{"lr":0.00001}}')
    other = RunSpec(source="a", target="b", recipe=Recipe(lr=1e-5))
    assert Cell.of(one).key == Cell.of(other).key


def test_how_it_runs_is_in_no_key():
    assert not set(Runtime.model_fields) & set(RunSpec.model_fields)


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError, match="surce"):
        RunSpec.model_validate({"surce": "a", "target": "b"})


def test_seeds_tell_names_apart():
    assert seed_of("a", "bc") != seed_of("ab", "c")
    assert seed_of("split", "isic", 0) == seed_of("split", "isic", 0)
    assert 0 <= seed_of("x") < 2**63


@given(st.floats(allow_nan=True, allow_infinity=False), st.integers(0, 10**9))
def test_an_outcome_survives_json(value: float, n: int):
    spec = RunSpec(source="a", target="b")
    outcome = Outcome(
        key="k",
        spec=spec,
        status="ok",
        metrics={"auroc": Estimate(value, math.nan, 1.0, n)},
        per_class=[{"auroc": Estimate(0.5, 0.4, 0.6, n)}],
    )
    text = outcome.model_dump_json()
    assert "NaN" not in text
    again = Outcome.model_validate_json(text)
    found = again.metrics["auroc"]
    assert found.value == value or (math.isnan(found.value) and math.isnan(value))
    assert math.isnan(found.low)
    assert found.n == n
    assert again.spec == spec
