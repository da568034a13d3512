"""Intervals, paired comparisons, shared ranks and rank correlations; all randomness is seeded."""

from benchmark.stats.correlation import (
    SOURCES,
    Correlation,
    Pairs,
    ceiling,
    correlate,
    places,
    places_elsewhere,
    power_warning,
    static_baseline,
    weighted_tau_by_target,
)
from benchmark.stats.delong import clustered, normal_p
from benchmark.stats.estimates import (
    Array,
    Comparison,
    Estimate,
    Z,
    defined,
    holm,
    interval,
    not_worse,
    paired_bootstrap,
    unpaired,
    wilcoxon,
)
from benchmark.stats.ranks import Extremes, chosen_excess, extremes, simultaneous_ranks

__all__ = [
    "SOURCES",
    "Array",
    "Comparison",
    "Correlation",
    "Estimate",
    "Extremes",
    "Pairs",
    "Z",
    "ceiling",
    "chosen_excess",
    "clustered",
    "correlate",
    "defined",
    "extremes",
    "holm",
    "interval",
    "normal_p",
    "not_worse",
    "paired_bootstrap",
    "places",
    "places_elsewhere",
    "power_warning",
    "simultaneous_ranks",
    "static_baseline",
    "unpaired",
    "weighted_tau_by_target",
    "wilcoxon",
]
