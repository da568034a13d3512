"""Correlations against published values, paired tests against scipy, ranks by simulation."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from benchmark.errors import BenchError
from benchmark.metrics import evaluate
from benchmark.stats import (
    Correlation,
    ceiling,
    clustered,
    correlate,
    holm,
    interval,
    normal_p,
    paired_bootstrap,
    power_warning,
    simultaneous_ranks,
    static_baseline,
    weighted_tau_by_target,
    wilcoxon,
)

PUBLISHED = np.load(Path(__file__).parent / "data" / "published_transfer.npz")
SCORES = ("logme", "sfda", "leep", "parc", "ncti", "nleep", "lp", "fu")


def cats(distance, **options):
    names = (distance, "score_mean", "target", "source")
    return correlate(*(PUBLISHED[f"cats__{name}"] for name in names), **options)


def medmnist(name):
    """The score, AUC, target and source of every pair, NaN for the self pairs."""
    sources, targets = PUBLISHED["medmnist__sources"], PUBLISHED["medmnist__targets"]
    shape = (len(sources), len(targets))
    return (
        PUBLISHED[f"medmnist__score__{name}"].ravel(),
        PUBLISHED["medmnist__auc"].ravel(),
        np.broadcast_to(targets, shape).ravel(),
        np.broadcast_to(sources[:, None], shape).ravel(),
    )


# --- published values -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "pearson", "spearman"),
    [("expert_distance", 0.23808, 0.2913), ("t2v_published_mean5", -0.10884, 0.01352)],
)
def test_cats_published_correlations(distance, pearson, spearman):
    result = cats(distance)
    assert result.n == 24
    assert result.pearson == pytest.approx(pearson, abs=5e-6)
    assert result.spearman == pytest.approx(spearman, abs=5e-5)
    assert result.low < result.spearman < result.high
    assert "24 pairs cannot tell" in power_warning(result)


@pytest.mark.parametrize(
    ("distance", "rho"),
    [
        ("t2v_mean100", -0.2704),
        ("t2v_published_mean5", -0.2314),
        ("t2v_task2veccosine_mean100", 0.6799),
    ],
)
def test_cats_within_target(distance, rho):
    result = cats(distance, pairs="within_target")
    assert result.n == 21
    assert result.spearman == pytest.approx(rho, abs=5e-5)
    assert cats(distance, pairs="without_self").n == 21


def test_three_targets_do_not_carry_even_a_strong_correlation():
    result = cats("t2v_task2veccosine_mean100", pairs="within_target")
    assert 0.01 < result.p < 0.05
    assert result.low < 0
    assert "21 pairs cannot tell" in power_warning(result)
    assert "would have to" not in power_warning(result)


@pytest.mark.parametrize("name", SCORES)
def test_medmnist_published_correlations(name):
    score, auc, target, source = medmnist(name)
    taus = weighted_tau_by_target(score, auc, target)
    assert math.isnan(taus["chestmnist"])  # it has no scores
    rows = zip(
        PUBLISHED["medmnist__targets"], PUBLISHED[f"medmnist__published__{name}"], strict=True
    )
    for where, published in rows:
        here = target == where
        options = {"draws": 0, "permutations": 0}
        result = correlate(score[here], auc[here], target[here], source[here], **options)
        got = (result.weighted_tau, result.spearman, result.kendall)
        assert got == pytest.approx(published.tolist(), abs=5e-6, nan_ok=True)
        assert taus[where] == pytest.approx(published[0], abs=5e-6, nan_ok=True)
        assert math.isnan(published[0]) or result.n == 14


def test_static_baseline_beats_every_published_score():
    _, auc, target, source = medmnist("logme")
    taus = weighted_tau_by_target(static_baseline(auc, target, source), auc, target)
    value = np.mean([tau for name, tau in taus.items() if name != "chestmnist"])
    assert value == pytest.approx(0.561, abs=5e-4)
    means = [np.nanmean(PUBLISHED[f"medmnist__published__{name}"][:, 0]) for name in SCORES]
    assert value > max(means)


def test_static_baseline_by_hand():
    #           t1   t2   t3
    # a          3    1    -        a's place: 3/4, 1/4, -
    # b          1    2    5        b's place: 1/4, 3/4, 1/2
    gain, target = [3, 1, 1, 2, 5], ["t1", "t2", "t1", "t2", "t3"]
    source = ["a", "a", "b", "b", "b"]
    assert static_baseline(gain, target, source).tolist() == [1 / 4, 3 / 4, 5 / 8, 3 / 8, 1 / 2]
    alone = static_baseline([1.0, 2.0], ["t", "t"], ["a", "b"])
    assert np.isnan(alone).all()
    with pytest.raises(BenchError, match="more than once"):
        static_baseline([1, 2], ["t", "t"], ["a", "a"])


# --- correlate ------------------------------------------------------------------------------


def grid(sources, targets):
    source = [f"s{i}" for i in range(sources) for _ in range(targets)]
    return np.array([f"t{i}" for i in range(targets)] * sources), np.array(source)


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=30),
)
def test_point_values_equal_scipy(pairs):
    x, y = np.array(pairs, dtype=float).T
    target, source = ["t"] * len(x), [f"s{i}" for i in range(len(x))]
    result = correlate(x, y, target, source, draws=0, permutations=0)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert all(math.isnan(value) for value in result[:7])
        return
    expected = [
        scipy_stats.spearmanr(x, y)[0],
        scipy_stats.pearsonr(x, y)[0],
        scipy_stats.kendalltau(x, y)[0],
        scipy_stats.weightedtau(x, y)[0],
    ]
    assert list(result[:4]) == pytest.approx(expected, abs=1e-12)


def test_interval_is_the_crossed_bootstrap_with_ties():
    """The same draws by repeating pairs and asking scipy."""
    rng = np.random.default_rng(4)
    target, source = grid(6, 3)
    x, y = rng.integers(0, 4, 18).astype(float), rng.integers(0, 5, 18).astype(float)
    result = correlate(x, y, target, source, draws=300, permutations=0, seed=9)
    again = np.random.default_rng(9)
    again_sources = again.multinomial(6, [1 / 6] * 6, size=300)
    again_targets = again.multinomial(3, [1 / 3] * 3, size=300)
    draws = []
    for by_source, by_target in zip(again_sources, again_targets, strict=True):
        times = [
            by_source[int(s[1:])] * by_target[int(t[1:])]
            for s, t in zip(source, target, strict=True)
        ]
        rows = np.repeat(np.arange(18), times)
        if np.ptp(x[rows]) and np.ptp(y[rows]) and len(set(rows)) > 2:
            draws.append(scipy_stats.spearmanr(x[rows], y[rows])[0])
    assert (result.low, result.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=1e-9)


def test_same_seed_same_result():
    assert cats("t2v_mean100", seed=3) == cats("t2v_mean100", seed=3)
    assert cats("t2v_mean100", seed=3).low != cats("t2v_mean100", seed=4).low


def test_permutation_p_against_all_permutations():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=6), rng.normal(size=6)
    target, source = grid(6, 1)
    exact = scipy_stats.permutation_test(
        (x,),
        lambda z: scipy_stats.spearmanr(z, y)[0],
        permutation_type="pairings",
        n_resamples=1000,
    )  # all 720 orders
    result = correlate(x, y, target, source, draws=0)
    assert result.p == pytest.approx(exact.pvalue, abs=0.02)


def levelled(rng, sources, targets, share):
    """Numbers of every pair of which a share of the variance belongs to the source."""
    own, level = rng.normal(size=(sources, targets)), rng.normal(size=(sources, 1))
    return ((1 - share) ** 0.5 * own + share**0.5 * level).ravel()


@pytest.mark.parametrize(("sources", "targets"), [(5, 3), (8, 12)])
@pytest.mark.parametrize("holes", [False, True])
def test_sources_with_a_level_of_their_own_are_no_evidence(sources, targets, holes):
    target, source = grid(sources, targets)
    rng, small = np.random.default_rng(4), []
    for trial in range(150):
        x, y = levelled(rng, sources, targets, 0.5), levelled(rng, sources, targets, 0.5)
        if holes:
            x[:2] = math.nan
        how = "within_target" if trial % 2 else "all"
        options = {"pairs": how, "draws": 0, "permutations": 400, "seed": trial}
        small.append(correlate(x, y, target, source, **options).p < 0.05)
    assert 0.0 <= np.mean(small) <= 0.09


def test_what_goes_with_the_gain_is_found_though_sources_have_levels():
    target, source = grid(8, 12)
    rng, found = np.random.default_rng(5), []
    for _ in range(20):
        x, rest = levelled(rng, 8, 12, 0.5), levelled(rng, 8, 12, 0.5)
        y = -0.7 * x + 0.51**0.5 * rest
        found.append(correlate(x, y, target, source, draws=0, permutations=999).p < 0.05)
    assert np.mean(found) >= 0.9


def test_fewer_than_five_sources_get_no_verdict():
    target, source = grid(4, 12)
    rng = np.random.default_rng(6)
    x = rng.normal(size=48)
    result = correlate(x, x, target, source)
    assert result.spearman == pytest.approx(1)
    assert all(math.isnan(value) for value in (result.p, result.low, result.high))
    assert "Too few sources" in power_warning(result)


def test_the_ceiling_is_what_a_perfect_distance_reaches():
    rng = np.random.default_rng(7)
    target, _ = grid(200, 15)
    level = np.array([int(name[1:]) for name in target], dtype=float)
    true = rng.normal(size=3000)
    gains, errors = true + rng.normal(size=3000), np.ones(3000)
    assert ceiling(gains, errors) == pytest.approx(np.corrcoef(true, gains)[0, 1], abs=0.03)
    centred = ceiling(gains + level, errors, target)
    assert centred == pytest.approx(ceiling(gains, errors), abs=0.01)
    assert ceiling(gains, 9 * errors) == 0
    assert math.isnan(ceiling([1.0], [0.1]))


def test_hard_targets_are_no_evidence():
    """Distance and gain that differ between targets only: a high rho, and no small p."""
    rng = np.random.default_rng(1)
    target, source = grid(8, 5)
    level = np.array([int(name[1:]) for name in target], dtype=float)
    small = []
    for trial in range(100):
        x, y = level + 0.1 * rng.normal(size=40), level + 0.1 * rng.normal(size=40)
        result = correlate(x, y, target, source, draws=0, permutations=400, seed=trial)
        assert result.spearman > 0.9
        small.append(result.p < 0.05)
    assert sum(small) <= 11
    linked = rng.normal(size=40)
    x, y = level + 0.1 * linked, level + 0.1 * linked + 0.02 * rng.normal(size=40)
    assert correlate(x, y, target, source, draws=0).p < 0.001


def test_within_target_takes_the_level_of_a_target_out():
    target, source = grid(5, 4)
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=20), rng.normal(size=20)
    shift = np.array([int(name[1:]) for name in target]) * 10.0
    plain = correlate(x, y, target, source, pairs="within_target", draws=100, permutations=100)
    moved = correlate(
        x + shift, y - 3 * shift, target, source, pairs="within_target", draws=100, permutations=100
    )
    assert moved == pytest.approx(plain, abs=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "n"),
    [
        ([], [], 0),
        ([1.0, 2.0], [1.0, 2.0], 2),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], 3),
        ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], 3),
        ([1.0, 2.0, math.nan], [1.0, 2.0, 3.0], 2),
    ],
)
@pytest.mark.parametrize("pairs", ["all", "without_self", "within_target"])
def test_degenerate_correlations_are_nan(x, y, n, pairs):
    result = correlate(x, y, ["t"] * len(x), ["a", "b", "c"][: len(x)], pairs=pairs)
    assert result.n == n
    assert all(math.isnan(value) for value in result[:7])
    assert "not defined" in power_warning(result)


def test_one_source_per_target_leaves_nothing_to_permute():
    names = [f"t{i}" for i in range(5)]
    result = correlate([1, 2, 3, 5, 4], [1, 2, 3, 4, 5], names, ["s"] * 5)
    assert result.spearman == pytest.approx(0.9)
    assert math.isnan(result.p)
    assert "Too few sources" in power_warning(result)
    pooled = correlate([1, 2, 3, 5, 4], [1, 2, 3, 4, 5], names, ["s"] * 5, pairs="within_target")
    assert math.isnan(pooled.spearman)


def test_correlate_refuses_arrays_of_different_lengths():
    with pytest.raises(BenchError, match="shapes"):
        correlate([1, 2, 3], [1, 2], ["t"] * 3, ["a", "b", "c"])


def test_power_warning_is_silent_when_the_correlation_holds():
    assert power_warning(Correlation(0.6, 0.6, 0.5, 0.5, 0.001, 0.3, 0.8, 40)) == ""
    assert power_warning(Correlation(0.6, 0.6, 0.5, 0.5, 0.001, -0.1, 0.8, 40))
    assert power_warning(Correlation(0.6, 0.6, 0.5, 0.5, 0.2, 0.3, 0.8, 40))


# --- comparing arms -------------------------------------------------------------------------


def test_interval():
    assert interval([math.nan, *range(101)]) == pytest.approx((2.5, 97.5))
    assert np.isnan(interval([math.nan])).all()
    assert np.isnan(interval([])).all()


def test_paired_bootstrap_by_hand():
    a, b = np.arange(1000) / 1000, np.full(1000, 0.0095)
    result = paired_bootstrap(a, b, 0.5, 0.0095, n=12)
    assert result.difference.value == pytest.approx(0.4905)
    assert result.difference.low == pytest.approx(0.025 * 0.999 - 0.0095)
    assert result.difference.n == 12
    assert result.p == pytest.approx(2 * 11 / 1001)  # ten draws lie below zero
    back = paired_bootstrap(b, a, 0.0095, 0.5)
    assert back.p == result.p
    assert back.difference.high == pytest.approx(-result.difference.low)


def test_paired_bootstrap_of_equal_and_undefined_arms():
    a = np.random.default_rng(0).normal(size=100)
    assert paired_bootstrap(a, a, 0.5, 0.5).p == 1
    hole = a.copy()
    hole[:50] = math.nan
    assert paired_bootstrap(hole, a - 5, 5, 0).p == pytest.approx(2 / 51)
    nothing = paired_bootstrap(np.full(3, math.nan), np.ones(3), math.nan, 1)
    assert math.isnan(nothing.p)
    with pytest.raises(BenchError, match="not paired"):
        paired_bootstrap(a, a[:50], 0, 0)


@given(st.permutations(range(5)), st.integers(0, 100))
def test_ranks_follow_their_rows(order, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=5)
    draws = values[:, None] + rng.normal(size=(5, 200))
    for ranks, moved in zip(
        simultaneous_ranks(values, list(draws)),
        simultaneous_ranks(values[list(order)], list(draws[list(order)])),
        strict=True,
    ):
        assert [ranks[i] for i in order] == moved
        assert ranks[int(values.argmax())] <= min(ranks) + 4
    assert simultaneous_ranks(values, list(draws))[0][int(values.argmax())] == 1


#: The shift that costs an arm of 150 patients one standard error of the paired difference
#: (measured once over 6,000 pairs of arms: 3.0 errors at 0.54).
LIFT_OF_ONE_ERROR = 0.18


def boards(difference_in_errors, simulations=100, patients=150):
    """The share of two-row boards with one rank; the arms share noise of the patients."""
    shared = 0
    for trial in range(simulations):
        rng = np.random.default_rng(trial)
        labels = np.arange(patients) % 2
        common = rng.normal(size=patients) + 1.2 * labels
        arms = [common + 0.7 * rng.normal(size=patients) for _ in range(2)]
        if difference_in_errors:
            arms[1] = arms[1] - difference_in_errors * LIFT_OF_ONE_ERROR * labels
        results = [
            evaluate(labels, 1 / (1 + np.exp(-arm)), np.arange(patients), draws=300, seed=trial)
            for arm in arms
        ]
        values = [result.overall["auroc"].value for result in results]
        ranks, _ = simultaneous_ranks(values, [one.draws["auroc"] for one in results])
        shared += ranks == [1, 1]
    return shared / simulations


def test_equal_arms_share_a_rank():
    assert boards(0) >= 0.91


def test_three_standard_errors_separate():
    assert boards(3) <= 0.20


def test_wilcoxon():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.5, 1, 12)
    assert wilcoxon(differences) == pytest.approx(scipy_stats.wilcoxon(differences).pvalue)
    assert wilcoxon([*differences, 0, math.nan]) == pytest.approx(wilcoxon(differences))
    assert wilcoxon([1, 2, 3, 4, 5]) == pytest.approx(2 / 32)
    assert wilcoxon([0, 0, 0]) == 1
    assert wilcoxon([0.3]) == 1
    assert math.isnan(wilcoxon([]))


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm([0.02, math.nan, 0.5]).tolist() == pytest.approx([0.04, math.nan, 0.5], nan_ok=True)
    assert holm([]).tolist() == []


def slow_delong(labels, a, b):
    """DeLong's own definition, pair by pair."""
    positive, negative = labels == 1, labels == 0
    placements = []
    for scores in (a, b):
        gap = scores[positive][:, None] - scores[negative]
        wins = (gap > 0) + 0.5 * (gap == 0)
        placements.append((wins.mean(axis=1), wins.mean(axis=0)))
    difference = placements[0][0].mean() - placements[1][0].mean()
    parts = [
        np.var(placements[0][k] - placements[1][k], ddof=1) / len(placements[0][k])
        for k in range(2)
    ]
    return difference, sum(parts)


@pytest.mark.parametrize("decimals", [1, 9])
def test_delong_of_patients_with_one_image_equals_its_definition(decimals):
    rng = np.random.default_rng(decimals)
    labels = rng.integers(0, 2, 2000)
    a = (rng.normal(size=2000) + labels).round(decimals)
    b = (a / 2 + rng.normal(size=2000)).round(decimals)
    difference, variance = slow_delong(labels, a, b)
    found = clustered(labels == 1, a, b, np.arange(2000))
    assert found == (pytest.approx(difference, abs=1e-12), pytest.approx(variance, rel=2e-3))
    assert clustered(labels == 1, b, a, np.arange(2000))[0] == -found[0]


def test_delong_and_bootstrap_agree():
    rng = np.random.default_rng(3)
    labels = np.arange(300) % 2
    arms = [1 / (1 + np.exp(-(rng.normal(size=300) + lift * labels))) for lift in (1.5, 1.1)]
    results = [evaluate(labels, arm, np.arange(300), seed=0) for arm in arms]
    test = paired_bootstrap(
        *(result.draws["auroc"] for result in results),
        *(result.overall["auroc"].value for result in results),
    )
    difference, variance = clustered(labels == 1, *arms, np.arange(300))
    width = 2 * 1.96 * math.sqrt(variance)
    assert test.difference.high - test.difference.low == pytest.approx(width, rel=0.08)
    assert test.p == pytest.approx(normal_p(difference, math.sqrt(variance)), abs=0.05)


def test_delong_without_variance():
    labels = np.array([False, True, False, True])
    one = np.array([0.1, 0.9, 0.2, 0.8])
    assert clustered(labels, one, np.array([1, 4, 2, 3]), np.arange(4)) == (0, 0)
    assert normal_p(0.0, 0.0) == 1
    assert math.isnan(normal_p(0.5, 0.0))
    assert math.isnan(clustered(labels & False, one, one, np.arange(4))[0])


def equal_rows(rng, rows=10, lift=0.0):
    """Estimates that share half of their noise, with draws to match; the first is better."""
    common, own = 0.7 * rng.normal(), 0.51**0.5 * rng.normal(size=rows)
    draws = 0.7 * rng.normal(size=1000) + 0.51**0.5 * rng.normal(size=(rows, 1000))
    values = common + own
    values[0] += lift * (2 * 0.51) ** 0.5
    return values, list(draws + values[:, None])


@pytest.mark.parametrize(("lift", "least", "most"), [(0.0, 0.0, 0.08), (3.0, 0.8, 1.0)])
def test_someone_among_equals_rarely_loses_rank_one(lift: float, least: float, most: float):
    rng = np.random.default_rng(0)
    boards = [simultaneous_ranks(*equal_rows(rng, lift=lift))[0] for _ in range(300)]
    lost = [max(ranks) > 1 and (lift == 0 or ranks[0] == 1) for ranks in boards]
    assert least <= np.mean(lost) <= most


def test_ranks_by_hand():
    noise = np.random.default_rng(0).normal(size=(5, 2000))
    values = [0.5, 0.9, math.nan, 0.89, 0.7]
    draws = np.nan_to_num(values)[:, None] + 0.01 * noise
    assert simultaneous_ranks(values, list(draws)) == ([4, 1, None, 1, 3], [4, 2, None, 2, 3])
    turned = simultaneous_ranks([-v for v in values], list(-draws), higher=False)
    assert turned == simultaneous_ranks(values, list(draws))
    assert simultaneous_ranks([], []) == ([], [])
    certain = [np.full(9, 0.1), np.full(9, 0.1), np.full(9, 0.2)]
    assert simultaneous_ranks([0.1, 0.1, 0.2], certain) == ([2, 2, 1], [3, 3, 1])
