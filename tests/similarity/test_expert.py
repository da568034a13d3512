"""The expert distance against published answers, a worked kappa and its own rules."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.errors import BenchError, DataMissing
from similarity.expert import (
    Answer,
    distances,
    fleiss_kappa,
    hamming,
    kappas,
    leave_one_out,
    majority,
    profiles,
    read_answers,
)

SURVEY = Path(__file__).parents[1] / "data" / "expert_14obs.csv"  # van den Brandt et al. 2021


@pytest.fixture(scope="module")
def survey() -> list[Answer]:
    return read_answers(SURVEY)


def test_majority_and_its_tie_rule():
    assert majority(["CT", "X-Ray", "X-Ray"]) == "X-Ray"
    assert majority(["b", "a"]) == majority(["a", "b"]) == "a"
    assert majority(["b", "a", "B", "c", "c", "b"]) == "b"
    assert majority(["z", "Z"]) == "Z"  # by code point capitals come first
    with pytest.raises(BenchError, match="no answer"):
        majority([])


@given(st.lists(st.sampled_from("abc"), min_size=1), st.randoms())
def test_majority_is_blind_to_the_order(answers, random):
    first = majority(answers)
    random.shuffle(answers)
    assert majority(answers) == first
    assert answers.count(first) == max(answers.count(answer) for answer in "abc")


@given(st.lists(st.tuples(*[st.sampled_from("xyz")] * 3), max_size=8))
def test_hamming_is_a_distance(rows):
    a, b, c = ([row[i] for row in rows] for i in range(3))
    assert hamming(a, a) == 0
    assert hamming(a, b) == hamming(b, a) <= hamming(a, c) + hamming(c, b)
    assert hamming(a, b) == sum(one != other for one, other, _ in rows)


def test_hamming_refuses_unequal_lengths():
    with pytest.raises(BenchError, match="2 answers cannot be compared with 3"):
        hamming("ab", "abc")


def test_the_survey_gives_the_profiles_that_its_counts_say(survey):
    assert len(survey) == 5 * 10 * 14
    known = profiles(survey)
    assert known["chest"] == {
        "1": "Yes",
        "2": "X-Ray",
        "3": "Chest",
        "4": "Yes",
        "5": "Multiple objects",
        "6": "Yes",
        "7": "Does not apply",
        "8": "Not diverse",
        "9": "This dataset suits binary classification (2 classes)",
        "10": "Both",
    }
    assert known["isic"]["2"] == "Does not apply"
    assert known["textures"]["5"] == "One main object"  # 7 of 14, the rest divided
    found = distances(known)
    assert found["chest", "isic"] == found["isic", "chest"] == 6
    assert found["chest", "pcam"] == 6
    assert found["stl10", "textures"] == 3
    assert all(found[name, name] == 0 for name in known)


def test_kappa_of_the_example_in_fleiss_manner():
    # Ten subjects, fourteen raters, five categories: kappa 0.210 (P̄ 0.378, P̄e 0.213).
    counts = """0 0 0 0 14/0 2 6 4 2/0 0 3 5 6/0 3 9 2 0/2 2 8 1 1
                7 7 0 0 0/3 2 6 3 0/2 5 3 2 2/6 5 2 1 0/0 2 2 3 7"""
    rows = [row.split() for line in counts.splitlines() for row in line.split("/")]
    answers = [["abcde"[k] for k in range(5) for _ in range(int(row[k]))] for row in rows]
    assert fleiss_kappa(answers) == pytest.approx(0.20993, abs=1e-5)


def test_kappas_of_the_survey(survey):
    found = kappas(survey)
    assert list(found) == [str(k) for k in range(1, 11)]
    assert found["1"] == 1.0  # medical or not: nobody differs
    answers = sorted({row.answer for row in survey if row.property == "10"})
    names = ("chest", "isic", "pcam", "stl10", "textures")
    counts = np.array(
        [
            [sum(row[1:] == (name, "10", answer) for row in survey) for answer in answers]
            for name in names
        ]
    )
    observed = ((counts**2).sum(axis=1) - 14) / (14 * 13)
    chance = ((counts.sum(axis=0) / counts.sum()) ** 2).sum()
    assert found["10"] == pytest.approx((observed.mean() - chance) / (1 - chance))
    assert all(-1 / 13 <= kappa <= 1 for kappa in found.values())


def test_kappa_at_its_edges():
    assert math.isnan(fleiss_kappa([["a", "a"], ["a", "a", "a"]]))
    assert fleiss_kappa([["a", "b"], ["a", "b"]]) == pytest.approx(-1)
    assert fleiss_kappa([["a", "a"], ["b", "b"], ["b"]]) == 1
    with pytest.raises(BenchError, match="two answers"):
        fleiss_kappa([["a"], []])


def test_leaving_one_out_gives_the_range():
    answers = [
        Answer(observer, dataset, "kind", answer)
        for dataset, given in {"one": "aab", "two": "abb"}.items()
        for observer, answer in zip("xyz", given, strict=True)
    ]

    def apart(rest: list[Answer]) -> float:
        return distances(profiles(rest))["one", "two"]

    found = leave_one_out(answers, apart)
    # without x: {a, b}, {b, b} -> a, b; without y: {a, b}, {a, b} -> a, a; without z: a, {a, b}
    assert found == (1, 0, 1, {"x": 1, "y": 0, "z": 0})
    with pytest.raises(BenchError, match="leaves nobody"):
        leave_one_out(answers[:1], apart)


def test_a_csv_of_answers_is_read_in_the_ways_people_write_it(tmp_path):
    path = tmp_path / "answers.csv"
    path.write_text("Dataset, Observer ,property,answer\r\nisic,1,kind, skin \r\nisic,2,kind,\r\n")
    assert read_answers(path) == [Answer("1", "isic", "kind", "skin")]
    path.write_text("\ufeffobserver,dataset,question,answer\n1,isic,kind,skin\n", encoding="utf-8")
    assert read_answers(path) == [Answer("1", "isic", "kind", "skin")]


def test_a_csv_that_is_wrong_says_how(tmp_path):
    path = tmp_path / "answers.csv"
    with pytest.raises(DataMissing, match="No file"):
        read_answers(path)
    path.write_text("observer,dataset\n1,isic\n")
    with pytest.raises(BenchError, match="no column property, answer"):
        read_answers(path)
    path.write_text("observer,dataset,property,answer\n1,isic,kind,skin\n1,isic,kind,moles\n")
    with pytest.raises(BenchError, match="Observer 1 answers kind of isic 2 times"):
        read_answers(path)
    path.write_text("")
    with pytest.raises(BenchError, match="no column"):
        read_answers(path)


def test_profiles_must_answer_the_same_questions():
    answers = [Answer("1", "isic", "kind", "skin"), Answer("1", "chest", "colour", "grey")]
    with pytest.raises(BenchError, match="Nobody answered"):
        distances(profiles(answers))
