"""Encoders of the patient's record: golden cases, types, unseen values, and forbidden columns."""

import io
import json
import warnings
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from benchmark.errors import BenchError
from benchmark.metadata import Encoder, OneHotEncoder, OrdinalEncoder, check_columns, kind_of

MIXED_TRAIN = """age,sex,site,recorded,height,flag,code,nurse
45,male,back,2001-05-28 12:49:25,170.5,True,001,A
,female,face,1999-12-31 23:59:59,,False,010,b
80,male,,2001-05-28 00:00:00,1.8e2,True,001,B
0,,scalp,,165,,100,A
-3,female,back,2000-02-29 06:07:08,NaN,False,,a
"""
MIXED_TEST = """age,sex,site,recorded,height,flag,code,nurse
50,other,ear,2002-01-01,170,true,7,C
,male,back,2001-05-28T01:02:03,abc,False,001,
1e3, female ,Back,not a date,,,,b
"""
MIXED_TRAIN_CODES = [
    [45, 1, 0, 2001, 5, 28, 12, 49, 25, 170.5, 1, 1, 0],
    [-1, 0, 1, 1999, 12, 31, 23, 59, 59, -1, 0, 10, 3],
    [80, 1, -1, 2001, 5, 28, 0, 0, 0, 180, 1, 1, 1],
    [0, -1, 2, -1, -1, -1, -1, -1, -1, 165, -1, 100, 0],
    [-3, 0, 0, 2000, 2, 29, 6, 7, 8, -1, 0, -1, 2],
]
MIXED_TEST_CODES = [
    [50, -1, -1, 2002, 1, 1, 0, 0, 0, 170, 1, 7, -1],
    [-1, 1, 0, 2001, 5, 28, 1, 2, 3, -1, 0, 1, -1],
    [1000, 0, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 3],
]
HAM_TRAIN = """age,sex,localization
45,male,trunk
,female,back
80,unknown,back
0,male,unknown
85,female,face
50,male,acral
"""
HAM_TEST = "age,sex,localization\n90,male,genital\n-5,unknown,back\n,diverse,\n42.5,female,face\n"
HAM_SCHEMA = {
    "num": ["age"], "cat": ["sex", "localization"], "missing_extra": ["unknown"],
    "order": ["sex", "localization", "age"],
}  # fmt: skip


def table(text: str, *, typed: bool = False) -> pd.DataFrame:
    if typed:
        return pd.read_csv(io.StringIO(text))
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def quietly(encoder: Encoder, frame: pd.DataFrame) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return encoder.transform(frame)


@pytest.mark.parametrize("typed", [False, True])
def test_ordinal_golden(typed: bool) -> None:
    encoder = OrdinalEncoder().fit(table(MIXED_TRAIN, typed=typed))
    assert quietly(encoder, table(MIXED_TRAIN, typed=typed)).to_numpy().tolist() == (
        MIXED_TRAIN_CODES
    )
    assert encoder.counts["unseen"] == {}
    found = quietly(encoder, table(MIXED_TEST, typed=typed))
    assert found.to_numpy().tolist() == MIXED_TEST_CODES
    assert list(found.columns) == list(encoder.columns_out)
    assert list(found.columns[3:9]) == [
        "recorded__year", "recorded__month", "recorded__day",
        "recorded__hour", "recorded__minute", "recorded__second",
    ]  # fmt: skip
    assert encoder.counts == {
        "unseen": {"sex": 1, "site": 2, "nurse": 1},
        "unparsable": {"recorded": 1, "height": 1},
        "missing": {"age": 1, "height": 1, "flag": 1, "code": 1, "nurse": 1},
    }


@pytest.mark.parametrize("typed", [False, True])
def test_one_hot_golden(typed: bool) -> None:
    encoder = OneHotEncoder(HAM_SCHEMA).fit(table(HAM_TRAIN, typed=typed))
    assert list(encoder.columns_out) == [
        "sex_female", "sex_male", "localization_acral", "localization_back",
        "localization_face", "localization_trunk", "age",
    ]  # fmt: skip
    train = encoder.transform(table(HAM_TRAIN, typed=typed)).to_numpy()
    assert_allclose(train[:, 6], [45 / 85, 52 / 85, 80 / 85, 0, 1, 50 / 85], atol=1e-12)
    assert train[2:4, :6].tolist() == [[0, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0]]
    test = quietly(encoder, table(HAM_TEST, typed=typed)).to_numpy()
    expected = [
        [0, 1, 0, 0, 0, 0, 1],
        [0, 1, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 52 / 85],
        [1, 0, 0, 0, 1, 0, 0.5],
    ]
    assert_allclose(test, expected, atol=1e-12)
    assert encoder.counts["unseen"] == {"sex": 1, "localization": 1}


def test_unseen_is_warned_about_by_column() -> None:
    encoder = OrdinalEncoder().fit(table("s\nmale\nfemale\n"))
    with pytest.warns(UserWarning, match=r"not seen in training.*s \(2\)"):
        found = encoder.transform(table("s\ndiverse\nmale\nMALE\n"))
    assert found["s"].tolist() == [-1, 1, -1]


def test_nothing_is_learnt_from_test_rows() -> None:
    encoder = OneHotEncoder().fit(table("age\n10\n20\n\n", typed=True))
    again = quietly(encoder, pd.DataFrame({"age": ["1000", ""]}))
    assert again["age"].tolist() == [1.0, 0.5]
    assert quietly(encoder, pd.DataFrame({"age": ["15"]}))["age"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("cells", "kind", "codes"),
    [
        (["007", "7", "070"], "numeric", [7, 7, 70]),
        (["1", "2", "x"], "categorical", [0, 1, 2]),
        (["1", " 2 ", "N/A", "inf"], "numeric", [1, 2, -1, -1]),
        ([".5", "5.", "-1E-2", "+3"], "numeric", [0.5, 5, -0.01, 3]),
        (["1,5", "2"], "categorical", [0, 1]),
        (["1_000"], "categorical", [0]),
        (["None", "nat", "NULL", "", "na"], "numeric", [-1] * 5),
        (["True", "FALSE", "", "true"], "boolean", [1, 0, -1, 1]),
        (["yes", "no"], "categorical", [1, 0]),
        (["b", "B", "a", "Z", "é", "a b"], "categorical", [4, 0, 2, 1, 5, 3]),
        (["2001-05-28", "soon"], "categorical", [0, 1]),
        (["2001-02-30"], "categorical", [0]),
        (["28.05.2001"], "categorical", [0]),
    ],
)
def test_inference(cells: list[str], kind: str, codes: list[float]) -> None:
    frame = pd.DataFrame({"x": cells}, dtype=object)
    encoder = OrdinalEncoder().fit(frame)
    assert encoder.columns is not None and [c.kind for c in encoder.columns] == [kind]
    assert quietly(encoder, frame)["x"].tolist() == codes


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        ("2001-05-28", [2001, 5, 28, 0, 0, 0]),
        ("2024/2/29", [2024, 2, 29, 0, 0, 0]),
        ("2001-05-28 12:49", [2001, 5, 28, 12, 49, 0]),
        ("2001-05-28T01:02:03Z", [2001, 5, 28, 1, 2, 3]),
        ("2001-05-28 01:02:03.5+02:00", [2001, 5, 28, 1, 2, 3.5]),
        (datetime(2001, 5, 28, 1, 2, 3), [2001, 5, 28, 1, 2, 3]),
        (date(2001, 5, 28), [2001, 5, 28, 0, 0, 0]),
        (None, [-1] * 6),
        ("2001-13-01", [-1] * 6),
        ("", [-1] * 6),
    ],
)
def test_dates(cell: object, parts: list[float]) -> None:
    encoder = OrdinalEncoder().fit(table("d\n1999-12-31\n"))
    frame = pd.DataFrame({"d": [cell]}, dtype=object)
    assert quietly(encoder, frame).to_numpy().tolist() == [parts]


def test_column_types_of_pandas_are_read_as_their_text() -> None:
    times = pd.DatetimeIndex(["2001-05-28 12:49:25", "NaT", "1999-12-31 00:00:00"])
    train = pd.DataFrame(
        {
            "time": times,
            "aware": times.tz_localize("UTC"),
            "float": [1.5, np.nan, 3],
            "single": np.array([1.5, np.nan, 3], np.float32),
            "integer": pd.array([7, None, 9], dtype="Int64"),
            "flag": [True, False, True],
            "maybe": pd.array([True, None, False], dtype="boolean"),
            "string": pd.array(["b", None, "a"], dtype="string"),
            "category": pd.Categorical(["y", "x", None]),
            "object": ["q", 3, None],
        }
    )
    when = [[2001, 5, 28, 12, 49, 25], [-1] * 6, [1999, 12, 31, 0, 0, 0]]
    rest = [
        [1.5, 1.5, 7, 1, 1, 1, 1, 1],
        [-1, -1, -1, 0, -1, -1, 0, 0],
        [3, 3, 9, 1, 0, 0, -1, -1],
    ]
    encoder = OrdinalEncoder().fit(train)
    expected = [w * 2 + r for w, r in zip(when, rest, strict=True)]
    assert encoder.transform(train).to_numpy().tolist() == expected
    assert encoder.transform(train.astype(object)).to_numpy().tolist() == expected
    assert encoder.transform(train.astype("string")).to_numpy().tolist() == expected


def test_forced_categories_survive_a_change_to_floats() -> None:
    encoder = OrdinalEncoder({"types": {"id": "categorical"}})
    encoder.fit(pd.DataFrame({"id": ["007", "7", "12"]}))
    assert encoder.transform(pd.DataFrame({"id": [7, 12]}))["id"].tolist() == [2, 1]
    assert encoder.transform(pd.DataFrame({"id": [7, np.nan]}))["id"].tolist() == [2, -1]


def test_schema() -> None:
    frame = table("age,sex,id,x\n3,unknown,1,a\n4,m,2,b\n")
    schema = {"types": {"id": "cat"}, "missing_extra": ["Unknown"], "base": 1}
    found = OrdinalEncoder(schema).fit(frame).transform(frame)
    assert found.to_numpy().tolist() == [[3, -1, 1, 1], [4, 1, 2, 2]]
    found = OrdinalEncoder({"order": ["x", "age"]}).fit(frame).transform(frame)
    assert list(found.columns) == ["x", "age"]
    one = OneHotEncoder({"order": ["age"], "clip": False}).fit(frame)
    assert one.transform(table("age\n14\n"))["age"].tolist() == [11.0]
    golden = {"options": {"missing_extra": ["m"]}, "spec": [["sex", "cat", ["unknown"]]]}
    found = OrdinalEncoder({**golden, "unseen_cells": 0}).fit(frame).transform(frame)
    assert found.to_numpy().tolist() == [[0], [-1]]


def test_rules_for_unseen_categories() -> None:
    train, test = table("s\nb\nb\na\n"), table("s\nz\n")
    assert quietly(OneHotEncoder().fit(train), test).to_numpy().tolist() == [[0, 0]]
    mode = OneHotEncoder({"unseen": "mode"}).fit(train)
    assert quietly(mode, test).to_numpy().tolist() == [[0, 1]]
    with pytest.raises(BenchError, match=r"s \(1\)"):
        OrdinalEncoder({"unseen": "error"}).fit(train).transform(test)


def test_the_first_of_equally_frequent_categories() -> None:
    encoder = OneHotEncoder().fit(pd.DataFrame({"s": ["b", "a", ""]}))
    assert encoder.transform(pd.DataFrame({"s": ["", "b"]})).to_numpy().tolist() == [[1, 0], [0, 1]]


def test_columns_without_any_or_with_one_value() -> None:
    train = pd.DataFrame({"x": ["", "NA"], "c": ["5", "5"], "d": ["", ""]}, dtype=object)
    schema = {"types": {"d": "date"}}
    codes = OrdinalEncoder(schema).fit(train)
    assert codes.transform(train).to_numpy().tolist() == [[-1, 5] + [-1] * 6] * 2
    one = OneHotEncoder(schema).fit(train)
    assert (one.transform(train).to_numpy() == 0).all()
    assert np.isfinite(quietly(one, train.assign(x="3", c="9", d="2001-01-01")).to_numpy()).all()


def test_one_hot_of_booleans_and_dates() -> None:
    train = table("b,d\nTrue,2000-01-01\nfalse,2002-03-01\nTrue,\n")
    found = OneHotEncoder().fit(train).transform(train)
    assert list(found.columns[:2]) == ["b_False", "b_True"]
    assert found["b_True"].tolist() == [1, 0, 1]
    assert found["d__year"].tolist() == [0, 1, 0.5]


@pytest.mark.parametrize("kind", [OneHotEncoder, OrdinalEncoder])
def test_gaps_are_left_as_they_are_and_come_back_from_json(kind: type[Encoder]) -> None:
    train, test = table("n,s\n1,a\n2,b\n3,b\n"), table("n,s\n,a\n2,\nx,c\n")
    filled = kind().fit(train)
    encoder = kind({"gaps": True}).fit(train)
    want = quietly(filled, test)
    want.iloc[[0, 2], 0], want.iloc[1, 1:] = np.nan, np.nan  # what is unseen is not missing
    for one in (encoder, Encoder.from_json(encoder.to_json())):
        pd.testing.assert_frame_equal(quietly(one, test), want)
    pd.testing.assert_frame_equal(encoder.transform(train), filled.transform(train))


@pytest.mark.parametrize("kind", [OrdinalEncoder, OneHotEncoder])
def test_indicators_tell_what_was_made_up(kind: type[Encoder]) -> None:
    encoder = kind(indicator=True).fit(table("n,s\n1,a\n2,b\n"))
    found = quietly(encoder, table("n,s\n,a\nx,z\n3,\n"))
    assert list(found.columns) == list(encoder.columns_out)
    assert found["n__missing"].tolist() == [1, 1, 0]
    assert found["s__missing"].tolist() == [0, 0, 1]


cell = st.one_of(
    st.none(), st.text(max_size=4), st.integers(-99, 99).map(str), st.floats(-1e99, 1e99).map(repr),
    st.sampled_from(["True", "false", "2001-05-28", "unknown", "1e3", "NaT", "inf"]),
)  # fmt: skip


@given(
    train=st.lists(st.tuples(cell, cell), min_size=1, max_size=8),
    test=st.lists(st.tuples(cell, cell), max_size=5),
    kind=st.sampled_from([OrdinalEncoder, OneHotEncoder]),
    indicator=st.booleans(),
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_json_brings_back_the_same_numbers(train, test, kind, indicator: bool) -> None:
    frame = pd.DataFrame(train, columns=["a", "b"], dtype=object)
    other = pd.DataFrame(test, columns=["a", "b"], dtype=object)
    encoder = kind({"missing_extra": ["unknown"]}, indicator=indicator).fit(frame)
    text = encoder.to_json()
    json.loads(text)
    for again in (kind.from_json(text), Encoder.from_json(text)):
        assert type(again) is kind
        assert again.to_json() == text
        assert again.columns_out == encoder.columns_out
        for rows in (frame, other):
            expected = quietly(encoder, rows)
            found = quietly(again, rows)
            assert np.isfinite(found.to_numpy()).all()
            pd.testing.assert_frame_equal(found, expected, check_exact=True)
            assert again.counts == encoder.counts


def test_rows_keep_their_index_and_other_columns_are_ignored() -> None:
    encoder = OrdinalEncoder().fit(table("n\n1\n"))
    found = encoder.transform(pd.DataFrame({"z": ["?", "!"], "n": ["4", "5"]}, index=[7, 9]))
    assert found.index.tolist() == [7, 9]
    assert found["n"].tolist() == [4, 5]
    assert encoder.transform(table("n\n")).shape == (0, 1)


def test_encoder_errors() -> None:
    frame = table("n,s\n1,a\n")
    with pytest.raises(BenchError, match="Call fit first"):
        OrdinalEncoder().transform(frame)
    with pytest.raises(BenchError, match="column s exactly once"):
        OrdinalEncoder().fit(frame).transform(table("n\n1\n"))
    with pytest.raises(BenchError, match="column age exactly once"):
        OrdinalEncoder({"types": {"age": "num"}}).fit(frame)
    with pytest.raises(BenchError, match="column n exactly once"):
        OrdinalEncoder().fit(pd.DataFrame([[1, 2]], columns=["n", "n"]))
    with pytest.raises(BenchError, match="'colour'"):
        OrdinalEncoder({"types": {"n": "colour"}})
    with pytest.raises(BenchError, match="'typos'"):
        OrdinalEncoder({"typos": {}})
    with pytest.raises(BenchError, match="unseen"):
        OneHotEncoder({"unseen": "guess"})
    with pytest.raises(BenchError, match="not an encoder"):
        OneHotEncoder.from_json(OrdinalEncoder().fit(frame).to_json())


@pytest.mark.parametrize(
    "name",
    ["dx", "dx_type", "diagnosis_confirm", "Diagnosis", "benign_malignant", "report", "scp_codes",
     "heart_axis", "infarction_stadium2", "validated_by", "validated_by_human", "strat_fold",
     "CDR", "cdr", " dx "],
)  # fmt: skip
def test_columns_that_tell_the_answer_are_refused(name: str) -> None:
    with pytest.raises(BenchError, match=name) as caught:
        check_columns(["age", name])
    assert "may not be an input: " in caught.value.what


def test_dx_type_says_why() -> None:
    with pytest.raises(BenchError, match=r"0\.741 to 0\.858"):
        check_columns(["dx_type"])


def test_columns_that_are_only_warned_about() -> None:
    assert check_columns(["age", "sex", "localization", "dxa", "my_report"]) == []
    found = check_columns(["device", "MMSE", "age", "recording_date", "nurse", "site"])
    assert [text.split()[2] for text in found] == [
        "device", "MMSE", "recording_date", "nurse", "site"
    ]  # fmt: skip
    assert check_columns(["device"], {}, {}) == []
    with pytest.raises(BenchError, match="stage2 may not be an input: it is the label"):
        check_columns(["stage2"], {"stage*": "it is the label"}, {})


@pytest.mark.real
def test_real_isic_gives_17_columns(real_data: Path) -> None:
    paths = sorted((real_data / "isic2018").rglob("*etadata*.csv"))
    if not paths:
        pytest.skip("no metadata table")
    frame = pd.read_csv(paths[0], dtype=str, keep_default_na=False)
    columns = ["sex", "localization", "age"]
    assert kind_of(frame["age"]) == "numeric"
    encoder = OneHotEncoder({"missing_extra": ["unknown"], "order": columns}).fit(frame)
    found = encoder.transform(frame)
    assert found.shape[1] == 17
    assert (found.iloc[:, :2].sum(axis=1) == 1).all()
    assert (found.iloc[:, 2:16].sum(axis=1) == 1).all()
    assert found["age"].between(0, 1).all()


@pytest.mark.real
def test_real_ptbxl_table(real_data: Path) -> None:
    frame = pd.read_csv(
        real_data / "ptbxl" / "ptbxl_database.csv", dtype=str, keep_default_na=False
    )
    types = {name: kind_of(frame[name]) for name in frame}
    assert types["age"] == types["height"] == "numeric"
    assert types["recording_date"] == "date"
    found = OrdinalEncoder().fit(frame).transform(frame)
    assert np.isfinite(found.to_numpy()).all()
    assert found["recording_date__year"].between(1980, 2005).all()
