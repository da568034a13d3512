"""Keys are stable and mean what they should; seeds come from names; outcomes survive JSON."""

import math
import subprocess
import sys
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmark.spec import (
    NEUTRAL,
    Augment,
    Cell,
    DistanceSpec,
    Outcome,
    PretrainSpec,
    Recipe,
    RecordMap,
    RunSpec,
    Runtime,
    Scalar,
    Split,
    key_of,
    seed_of,
)
from benchmark.stats import Estimate

LATE: dict[str, Scalar] = {"record": "best"}
ONCE = Split(kind="image", folds=1, test=0.15, validation=0.2)
TURNED = Recipe(augment=Augment(rotation=90, shift=30))
TYPES = {"age": "numeric", "sex": "categorical"}
PROBE = "0123456789abcdef"
KEYS = {
    "f998d92966284222": RunSpec(source="dtd", target="isic"),
    "ef72fc7b7232829f": RunSpec(
        source="none", target="isic", fusion="concat", columns=("age", "sex"), types=TYPES,
        record=RecordMap(),
    ),
    "da6be2cee25895a5": RunSpec(
        source="none", target="isic", fusion="metadata:boosting", arch="none", mode="frozen",
        columns=("age",), record=RecordMap(encoder="ordinal", standardise=False),
    ),
    "9a051dd909e2c0e5": RunSpec(
        source="imagenet", target="ptbxl", fusion="late:product", options=LATE, base=PROBE,
        weights="fedcba9876543210",
    ),
    "adc4025a5d02c902": RunSpec(
        source="imagenet", target="ptbxl", mode="tuned", protocol="thomas", split=ONCE,
        recipe=TURNED,
    ),
    "8a2ebdebea0e79a5": RunSpec(source="dtd", target="isic", fold=3, seed=2),
    "555ae29dd96a5648": RunSpec(source="dtd", target="isic", partition=1),
    "e3864ff395b763db": RunSpec(source="dtd", target="isic", pretrain_seed=1),
    "47514f175ea8a4fc": RunSpec(
        source="none", target="folder:mine", headline="mcr",
        recipe=Recipe(size=(32, 48), limit=100),
    ),
    "7a1b54ba5917b0b2": PretrainSpec(source="dtd", recipe=Recipe()),
    "8f5a9ee26d35c403": PretrainSpec(
        source="dtd", arch="resnet18", seed=1, recipe=Recipe(size=(300, 300), batch=12)
    ),
    "c41fb9bf3d27f0ad": DistanceSpec(source="dtd", target="isic", method="otdd"),
    "dc495f6e4cbc4b64": DistanceSpec(
        source="dtd", target="isic", method="task2vec", seed=1, limit=500,
        options={"exact": True}, weights=PROBE,
    ),
    "e1d9633d4a1f5ac5": DistanceSpec(
        source="dtd", target="isic", method="scores:logme", pretrain_seed=1
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_what_it_was(key: str):
    # A changed key would orphan every stored outcome: mark a new field NEUTRAL instead.
    assert key_of(KEYS[key], {"core": "1"}) == key


def test_a_field_that_says_nothing_is_in_no_key():
    class Later(Recipe):
        tune: Annotated[tuple[float, ...], NEUTRAL] = ()

    class Asked(RunSpec):
        shuffled: Annotated[bool, NEUTRAL] = False
        recipe: Later = Later()  # pyright: ignore[reportIncompatibleVariableOverride]

    plain, new = RunSpec(source="dtd", target="isic"), Asked(source="dtd", target="isic")
    assert key_of(new, {}) == key_of(plain, {})
    changed = [{"shuffled": True}, {"recipe": Later(tune=(0.1,))}]
    keys = {key_of(new.model_copy(update=change), {}) for change in changed}
    assert len(keys | {key_of(plain, {})}) == 3


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
    st.sampled_from(
        ["fold", "seed", "partition", "pretrain_seed", "fusion", "source", "lr", "versions"]
    ),
    st.integers(1, 10**6),
)
def test_whatever_changes_the_numbers_changes_the_key(field: str, value: int):
    base = RunSpec(source="a", target="b")
    changed, versions = base, {"core": "1"}
    if field == "lr":
        changed = base.model_copy(update={"recipe": Recipe(lr=value / 1e7)})
    elif field == "versions":
        versions = {"core": str(value + 1)}
    elif field in ("fold", "seed", "partition", "pretrain_seed"):
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
